//! A proxy in front of Redis: commands in, one at a time to the server, its replies back. Commands that may write are
//! operations. RESP2; no subscriptions, no blocking commands.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

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
pub struct RedisProxy(Door);

impl RedisProxy {
    /// Starts it on a free port of loopback, in front of the Redis at `target`, which need not run yet.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(target: impl Into<String>, operations: &Operations) -> Result<Self> {
        let target = target.into();
        let serve = move |client, line| {
            let target = target.clone();
            async move {
                // What ends a connection is seen at its other end.
                let _ = serve(client, &target, &line).await;
            }
        };
        Ok(Self(Door::open(operations, serve).await?))
    }

    pub fn addr(&self) -> SocketAddr {
        self.0.addr()
    }

    pub fn set(&self, mode: Mode) {
        self.0.set(mode);
    }
}

async fn serve(client: TcpStream, target: &str, line: &Line) -> Result<()> {
    let mut client = Peer::new(client);
    line.open().await;
    let mut server = Peer::new(TcpStream::connect(target).await?);
    loop {
        let command = tokio::select! {
            command = client.message() => command?,
            // A server that ends, ends its connections also while nobody asks anything.
            gone = server.gone() => return gone,
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
        client.stream.write_all(&reply).await?;
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
