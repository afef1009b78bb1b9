//! A proxy in front of Redis: commands in, one at a time to the server, its replies back. Commands that may write are
//! operations. RESP2; no subscriptions, no blocking commands.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::Mode;
use super::door::{Door, Line};
use super::operations::{Operation, Operations};
use crate::gateway::first_reply;

/// Commands that change no data. All others, scripts above all, may.
const READS: [&str; 31] = [
    "AUTH",
    "CLIENT",
    "COMMAND",
    "CONFIG",
    "DBSIZE",
    "ECHO",
    "EVALSHA_RO",
    "EVAL_RO",
    "EXISTS",
    "GET",
    "HELLO",
    "HGET",
    "HGETALL",
    "HMGET",
    "HSCAN",
    "INFO",
    "KEYS",
    "MGET",
    "PING",
    "PTTL",
    "SCAN",
    "SCARD",
    "SELECT",
    "SISMEMBER",
    "SMEMBERS",
    "SSCAN",
    "TIME",
    "TTL",
    "TYPE",
    "ZRANGE",
    "ZSCAN",
];

/// A proxy in front of a Redis. It ends with its handle.
pub struct RedisProxy {
    door: Door,
    replies: watch::Sender<Replies>,
}

/// What becomes of replies. What they answer was done, and so is what was sent just behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replies {
    #[default]
    Whole,
    /// The first half of one arrives, then the connection breaks.
    Cut,
    /// The first half of one arrives, and nothing more on that connection.
    Stuck,
    /// None arrives: the connection breaks.
    Lost,
    /// Each is delivered so much later.
    Late(Duration),
}

/// How long a connection that is to break still takes commands.
const AFTERMATH: Duration = Duration::from_millis(20);

impl RedisProxy {
    /// Starts it on a free port of loopback, in front of the Redis at `target`, which need not run yet.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(target: impl Into<String>, operations: &Operations) -> Result<Self> {
        let target = target.into();
        let (replies, told) = watch::channel(Replies::Whole);
        let serve = move |client, line| {
            let (target, told) = (target.clone(), told.clone());
            async move {
                // What ends a connection is seen at its other end.
                let _ = serve(client, &target, &line, &told).await;
            }
        };
        Ok(Self { door: Door::open(operations, serve).await?, replies })
    }

    pub fn addr(&self) -> SocketAddr {
        self.door.addr()
    }

    pub fn set(&self, mode: Mode) {
        self.door.set(mode);
    }

    /// What becomes of replies from now on.
    pub fn replies(&self, replies: Replies) {
        self.replies.send_replace(replies);
    }
}

async fn serve(client: TcpStream, target: &str, line: &Line, replies: &watch::Receiver<Replies>) -> Result<()> {
    let mut client = Peer::new(client);
    line.open().await;
    let mut server = Peer::new(TcpStream::connect(target).await?);
    // Set once a reply was not delivered whole.
    let mut spoiled = None;
    let mut late: VecDeque<(Instant, Bytes)> = VecDeque::new();
    loop {
        let due = late.front().map(|(due, _)| *due);
        let command = match spoiled {
            Some(Replies::Cut | Replies::Lost) => match timeout(AFTERMATH, client.message()).await {
                Ok(command) => command?,
                Err(_) => return Ok(()),
            },
            _ => tokio::select! {
                command = client.message() => command?,
                // A server that ends, ends its connections also while nobody asks anything.
                gone = server.gone() => return gone,
                () = async { sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {
                    if let Some((_, reply)) = late.pop_front() {
                        client.stream.write_all(&reply).await?;
                    }
                    continue;
                }
            },
        };
        if line.swallows() {
            continue;
        }
        line.open().await;
        let operation = operation(&command)?;
        let forward = async {
            server.stream.write_all(&command).await?;
            server.message().await
        };
        let reply = match operation {
            Some(operation) => line.pass(operation, forward).await.context("cut off")??,
            None => forward.await?,
        };
        line.open().await;
        if spoiled.is_some() {
            continue;
        }
        let replies = *replies.borrow();
        let delivered = match replies {
            // In their order, also behind late ones.
            Replies::Whole if late.is_empty() => &reply[..],
            Replies::Whole => {
                late.push_back((Instant::now(), reply));
                continue;
            }
            Replies::Late(by) => {
                late.push_back((Instant::now() + by, reply));
                continue;
            }
            Replies::Cut | Replies::Stuck => &reply[..reply.len() / 2],
            Replies::Lost => &[],
        };
        client.stream.write_all(delivered).await?;
        spoiled = (delivered.len() < reply.len()).then_some(replies);
    }
}

/// One end of a connection.
struct Peer {
    stream: TcpStream,
    read: BytesMut,
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        Self { stream, read: BytesMut::new() }
    }

    /// The next whole command or reply; both have the same form. Nothing is lost when it is not waited for any more.
    async fn message(&mut self) -> Result<Bytes> {
        loop {
            if let Some(length) = first_reply(&self.read).ok().context("no RESP")? {
                return Ok(self.read.split_to(length).freeze());
            }
            ensure!(self.stream.read_buf(&mut self.read).await? > 0, "the connection ended");
        }
    }

    /// Returns when the other end closes. What it says unasked stays to be read.
    async fn gone(&self) -> Result<()> {
        let read = self.stream.peek(&mut [0]).await?;
        ensure!(read == 0, "Redis speaks unasked");
        Ok(())
    }
}

/// What a command is as an operation; nothing where it only reads.
fn operation(command: &[u8]) -> Result<Option<Operation>> {
    let words = words(command).context("no command: an array of bulk strings")?;
    let text = |at: usize| words.get(at).map(|word| String::from_utf8_lossy(word).into_owned()).unwrap_or_default();
    let mut verb = text(0).to_ascii_uppercase();
    if READS.contains(&verb.as_str()) {
        return Ok(None);
    }
    let is_script = matches!(verb.as_str(), "EVAL" | "EVALSHA");
    let name = if is_script { text(3) } else { text(1) };
    if is_script {
        let keys: usize = text(2).parse().context("a script without the number of its keys")?;
        verb = format!("{verb} {}", text(3 + keys)).trim_end().to_owned();
    }
    Ok(Some(Operation { verb, kind: "redis".to_owned(), name }))
}

/// The words of a command that is known to be complete.
fn words(command: &[u8]) -> Option<Vec<&[u8]>> {
    let (count, mut rest) = number(command, b'*')?;
    let mut words = Vec::with_capacity(count.min(64));
    for _ in 0..count {
        let (length, after) = number(rest, b'$')?;
        words.push(after.get(..length)?);
        rest = after.get(length + 2..)?;
    }
    Some(words)
}

fn number(bytes: &[u8], kind: u8) -> Option<(usize, &[u8])> {
    let rest = bytes.strip_prefix(&[kind])?;
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    Some((std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?, &rest[end + 2..]))
}
