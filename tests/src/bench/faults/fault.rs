//! The faults: how each is brought about on the real Redis, and how it is healed. A bed comes in; I/O.

use anyhow::Result;
use testbed::{Blackhole, Replies};

use super::Kind;
use super::bed::Bed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Nothing,
    Killed,
    Stopped,
    Blackholed,
    Cut,
    Stuck,
    Lost,
    Late,
    ReadOnly,
    Loading,
    NewPassword,
    Full,
    CannotSave,
    Flushed,
}

impl Fault {
    pub const ALL: [Self; 14] = [
        Self::Nothing,
        Self::Killed,
        Self::Stopped,
        Self::Blackholed,
        Self::Cut,
        Self::Stuck,
        Self::Lost,
        Self::Late,
        Self::ReadOnly,
        Self::Loading,
        Self::NewPassword,
        Self::Full,
        Self::CannotSave,
        Self::Flushed,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Killed => "Redis killed, then started again",
            Self::Stopped => "Redis stopped (SIGSTOP), then continued",
            Self::Blackholed => "its address a black hole: packets to it vanish",
            Self::Cut => "replies cut in the middle, the connection closed",
            Self::Stuck => "replies cut in the middle, the connection open",
            Self::Lost => "commands done, the connection closed before the reply",
            Self::Late => "replies later than the timeout",
            Self::ReadOnly => "a read-only replica (READONLY)",
            Self::Loading => "started again and loading (LOADING)",
            Self::NewPassword => "started again with a new password (NOAUTH)",
            Self::Full => "out of memory (OOM)",
            Self::CannotSave => "cannot save to disk (MISCONF)",
            Self::Flushed => "emptied (FLUSHALL, SCRIPT FLUSH)",
        }
    }

    /// What requests are answered meanwhile.
    #[must_use]
    pub const fn answered(self, kind: &Kind) -> &'static str {
        match self {
            Self::Nothing | Self::Flushed => kind.admitted(),
            _ => kind.failing(),
        }
    }

    /// Whether charges that meet it are not booked, or nobody knows.
    pub(super) const fn loses_charges(self, kind: &Kind) -> bool {
        match self {
            Self::Nothing => false,
            Self::Flushed => !kind.begins_anew(),
            // A script that has dropped a hold may go on to write.
            Self::Full => !kind.reserves(),
            _ => true,
        }
    }

    /// Whether what was booked before is gone.
    pub(super) const fn forgets(self) -> bool {
        matches!(self, Self::Flushed)
    }

    /// Whether it is healed by a configuration for which the gateway replaces the module. Nobody hears the answers to
    /// what the old one has sent.
    pub(super) const fn replaces_module(self) -> bool {
        matches!(self, Self::NewPassword)
    }

    /// More lines for the configuration of Redis.
    pub(super) fn configuration(self, folder: &std::path::Path) -> Vec<String> {
        // What was booked survives a kill: with `everysec` a write may be put off for two seconds after its reply.
        let lines = ["appendonly yes", "appendfsync no", "auto-aof-rewrite-percentage 0"];
        let mut lines = lines.map(str::to_owned).to_vec();
        match self {
            // Answers between any two keys, and takes longer than anybody waits.
            Self::Loading => lines.extend(
                ["rdbcompression no", "loading-process-events-interval-bytes 1024", "key-load-delay 50000"]
                    .map(str::to_owned),
            ),
            Self::CannotSave => {
                lines.push(format!("dir {}", folder.display()));
                lines.push("save 3600 1000000000".to_owned());
            }
            _ => {}
        }
        lines
    }

    /// Brings it about.
    pub(super) async fn strike(self, bed: &mut Bed) -> Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Killed => {
                bed.redis.kill();
                Ok(())
            }
            Self::Stopped => bed.redis.pause(),
            Self::Blackholed => {
                let hole = Blackhole::open().await?;
                bed.lead_to(&hole.addr().to_string()).await?;
                bed.hole = Some(hole);
                Ok(())
            }
            Self::Cut => bed.replies(Replies::Cut),
            Self::Stuck => bed.replies(Replies::Stuck),
            Self::Lost => bed.replies(Replies::Lost),
            Self::Late => bed.replies(Replies::Late(bed.size.timeout * 5)),
            Self::ReadOnly => bed.tell(&["REPLICAOF", "127.0.0.1", "1"]).await,
            Self::Loading => {
                // Something to load, in the part of the file that is loaded piece by piece.
                let fill = "for i = 1, 2000 do redis.call('SET', 'fill:' .. i, string.rep('x', 1024)) end";
                bed.tell(&["EVAL", fill, "0"]).await?;
                bed.tell(&["BGREWRITEAOF"]).await?;
                bed.persisted("aof_rewrite_in_progress:0").await?;
                bed.redis.relaunch()?;
                bed.loads().await
            }
            Self::NewPassword => bed.redis.restart_with_password(NEW_PASSWORD).await,
            Self::Full => bed.tell(&["CONFIG", "SET", "maxmemory", "1"]).await,
            Self::CannotSave => {
                std::fs::create_dir(bed.folder.path().join("dump.rdb"))?;
                bed.tell(&["BGSAVE"]).await?;
                bed.persisted("rdb_last_bgsave_status:err").await
            }
            Self::Flushed => {
                bed.tell(&["FLUSHALL"]).await?;
                bed.tell(&["SCRIPT", "FLUSH"]).await
            }
        }
    }

    /// Ends it.
    pub(super) async fn heal(self, bed: &mut Bed) -> Result<()> {
        match self {
            Self::Nothing | Self::Flushed => Ok(()),
            Self::Killed => bed.redis.restart().await,
            Self::Stopped => bed.redis.resume(),
            Self::Blackholed => {
                let address = bed.redis.addr();
                bed.lead_to(&address).await
            }
            Self::Cut | Self::Stuck | Self::Lost | Self::Late => bed.replies(Replies::Whole),
            Self::ReadOnly => bed.tell(&["REPLICAOF", "NO", "ONE"]).await,
            Self::Loading => {
                bed.tell(&["CONFIG", "SET", "key-load-delay", "0"]).await?;
                bed.redis.ready().await
            }
            Self::NewPassword => bed.configure(Some(NEW_PASSWORD)).await,
            Self::Full => bed.tell(&["CONFIG", "SET", "maxmemory", "0"]).await,
            Self::CannotSave => bed.tell(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]).await,
        }
    }
}

pub(super) const PASSWORD: &str = "old-password";
const NEW_PASSWORD: &str = "new-password";
