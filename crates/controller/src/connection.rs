//! One Redis connection of a store: script calls and a check in, replies or an error text without secrets out.
//! I/O: Redis.

use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use enforcement::redis::{Command, Invocation, Reply, ReplyError, database, loaded};
use plan::{Access, MODULES, Words};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionAddr, IntoConnectionInfo, Pipeline, ProtocolVersion, Value};
use redis::{RedisConnectionInfo, RedisError};
use tokio::time::Instant;

use crate::metrics::StoreMeter;

/// The gateway's deadline for one call may be shorter than a controller's burst of calls takes.
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(1);
/// The most that is waited for anything of one store: all other objects wait as long.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// `host:port`, for messages.
pub(crate) fn address(Access { host, port, .. }: &Access) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Why Redis did not do what it was asked. The text carries no credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Failure {
    text: String,
    /// Nothing was answered, because the connection broke.
    broke: bool,
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        if error.is_timeout() {
            return Self::late();
        }
        match error.code() {
            // What the server itself said, as it said it.
            Some(code) => Self::said(format!("{code} {}", error.detail().unwrap_or_default()).trim_end().to_owned()),
            None => Self { broke: error.is_connection_dropped() || error.is_io_error(), text: error.to_string() },
        }
    }
}

impl From<ReplyError> for Failure {
    fn from(error: ReplyError) -> Self {
        Self::said(error.to_string())
    }
}

impl Failure {
    pub(crate) fn late() -> Self {
        Self::said("no answer in time".to_owned())
    }

    const fn said(text: String) -> Self {
        Self { text, broke: false }
    }

    /// Whether another connection may fare better.
    pub(crate) const fn is_of_the_connection(&self) -> bool {
        self.broke
    }
}

/// An open, authenticated connection to the store's database.
pub(crate) struct Connection {
    inner: MultiplexedConnection,
    run_id: Option<String>,
    evicts: Option<String>,
    meter: StoreMeter,
}

impl Connection {
    pub(crate) async fn open(access: &Access, meter: StoreMeter) -> Result<Self, Failure> {
        let mut settings =
            RedisConnectionInfo::default().set_db(access.database.into()).set_protocol(ProtocolVersion::RESP2);
        if let Some(username) = &access.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &access.password {
            settings = settings.set_password(password);
        }
        let address = ConnectionAddr::Tcp(access.host.clone(), access.port);
        let client = Client::open(address.into_connection_info()?.set_redis_settings(settings))?;
        let timeout = Some(access.timeout.clamp(SHORTEST_TIMEOUT, LONGEST_WAIT));
        let config = AsyncConnectionConfig::new().set_connection_timeout(timeout).set_response_timeout(timeout);
        let inner = client.get_multiplexed_async_connection_with_config(&config).await?;
        let mut connection = Self { inner, run_id: None, evicts: None, meter };
        connection.ping().await?;
        connection.run_id = connection.info("server", "run_id").await;
        connection.look_at_memory().await;
        Ok(connection)
    }

    /// Which run of the server this is: another one may have lost what was written. Unknown where `INFO` is not allowed.
    pub(crate) fn run_id(&self) -> Option<&str> {
        self.run_id.as_deref()
    }

    pub(crate) async fn ping(&self) -> Result<(), Failure> {
        match redis::cmd("PING").query_async::<Value>(&mut self.inner.clone()).await? {
            Value::ServerError(error) => Err(RedisError::from(error).into()),
            _ => Ok(()),
        }
    }

    /// Which database this leads to, by the text that it has or is given now.
    pub(crate) async fn database(&self) -> Result<String, Failure> {
        if let Some(id) = self.one(database::ask(), database::id).await? {
            return Ok(id);
        }
        // The standard library's hash maps are seeded at random: enough to tell databases apart, and no dependency.
        let random = || std::hash::RandomState::new().build_hasher().finish();
        self.one(database::name(&format!("{:016x}{:016x}", random(), random())), database::named).await?;
        let id = self.one(database::ask(), database::id).await?;
        id.ok_or_else(|| Failure::said("what was written is gone at once".to_owned()))
    }

    /// What the modules say of themselves that are told so for `whose`.
    pub(crate) async fn words(&self, whose: &str) -> Result<Words, Failure> {
        let lists = MODULES.map(|(_, kind)| loaded::list(whose, kind));
        let replies = self.send([loaded::time()].into_iter().chain(lists)).await?;
        let [now, quotas, limits] = replies.as_slice() else {
            return Err(Failure::said("a reply is missing".to_owned()));
        };
        let now = with_reply(now, loaded::now)?;
        let said = |reply| with_reply(reply, |reply| loaded::said(reply, now));
        Ok([said(quotas)?, said(limits)?])
    }

    async fn one<T>(
        &self,
        command: Command,
        read: impl FnOnce(&Reply<'_>) -> Result<T, ReplyError>,
    ) -> Result<T, Failure> {
        let replies = self.send(std::iter::once(command)).await?;
        let reply = replies.first().map(|reply| with_reply(reply, read));
        Ok(reply.ok_or_else(|| Failure::said("a reply is missing".to_owned()))??)
    }

    /// Its maxmemory-policy as last looked at, where that lets keys go. Unknown where `INFO` is not allowed.
    pub(crate) fn evicts(&self) -> Option<&str> {
        self.evicts.as_deref()
    }

    pub(crate) async fn look_at_memory(&mut self) {
        self.evicts = self.info("memory", "maxmemory_policy").await.filter(|policy| policy != "noeviction");
    }

    async fn info(&self, section: &str, field: &str) -> Option<String> {
        let info: String = redis::cmd("INFO").arg(section).query_async(&mut self.inner.clone()).await.ok()?;
        let value = |line: &str| Some(line.strip_prefix(field)?.strip_prefix(':')?.trim().to_owned());
        info.lines().find_map(value)
    }

    pub(crate) const fn meter(&self) -> &StoreMeter {
        &self.meter
    }

    /// Calls the script once for each of `calls`, in one round trip where Redis knows the script already, and gives
    /// the replies in the same order.
    pub(crate) async fn call(&self, calls: &[Invocation]) -> Result<Vec<Value>, Failure> {
        let mut replies = self.send(calls.iter().map(Invocation::evalsha)).await?;
        let unknown: Vec<usize> = (0..replies.len()).filter(|&at| is_noscript(&replies[at])).collect();
        let Some((&first, rest)) = unknown.split_first() else { return Ok(replies) };
        // The first one brings the script, so that the others find it.
        let mut again = self.send(std::iter::once(calls[first].eval())).await?;
        again.extend(self.send(rest.iter().map(|&at| calls[at].evalsha())).await?);
        for (at, reply) in unknown.into_iter().zip(again) {
            replies[at] = reply;
        }
        Ok(replies)
    }

    /// Sends commands in one round trip, and gives the replies in the same order.
    pub(crate) async fn send(&self, commands: impl Iterator<Item = Command>) -> Result<Vec<Value>, Failure> {
        let mut pipeline = Pipeline::new();
        for command in commands {
            let mut words = Cmd::new();
            command.words().for_each(|word| {
                words.arg(word);
            });
            pipeline.add_command(words);
        }
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let asked = Instant::now();
        let replies = self.inner.clone().req_packed_commands(&pipeline, 0, pipeline.len()).await?;
        self.meter.answered(asked.elapsed());
        if replies.len() == pipeline.len() { Ok(replies) } else { Err(Failure::said("replies are missing".to_owned())) }
    }
}

fn is_noscript(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if error.code() == "NOSCRIPT")
}

/// Looks at a reply of the client library as the core reads replies.
pub(crate) fn with_reply<T>(value: &Value, read: impl FnOnce(&Reply<'_>) -> T) -> T {
    match value {
        // The library splits the error's first word off.
        Value::ServerError(error) => {
            let text = [error.code(), error.details().unwrap_or_default()].join(" ");
            read(&Reply::Error(text.trim_end().as_bytes()))
        }
        other => read(&borrowed(other)),
    }
}

/// Kinds that RESP2 does not have cannot arrive; they would be no answer to any question of ours.
fn borrowed(value: &Value) -> Reply<'_> {
    match value {
        Value::Int(number) => Reply::Integer(*number),
        Value::BulkString(bytes) => Reply::Bulk(bytes),
        Value::SimpleString(text) => Reply::Simple(text.as_bytes()),
        Value::Okay => Reply::Simple(b"OK"),
        Value::Array(values) => Reply::Array(values.iter().map(borrowed).collect()),
        _ => Reply::Nil,
    }
}
