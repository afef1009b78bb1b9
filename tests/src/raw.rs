//! A plain connection to Redis that speaks through `enforcement::redis` only, as a module does: its encoder, its
//! reader of replies. Commands go out, the bytes of replies come back.

use anyhow::{Context as _, Result};
use enforcement::redis::{Command, Invocation, Malformed, Reply, ReplyError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub struct Raw(TcpStream);

impl Raw {
    /// Connects as the default user.
    ///
    /// # Errors
    /// When nobody listens at `addr`.
    pub async fn connect(addr: &str) -> Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// Sends one command and reads one reply.
    ///
    /// # Errors
    /// When the connection ends or the bytes are no reply.
    pub async fn send(&mut self, command: &Command) -> Result<Vec<u8>> {
        self.forward(&command.encode()).await
    }

    /// Sends the bytes of one command and reads one reply.
    ///
    /// # Errors
    /// When the connection ends or the bytes are no reply.
    pub async fn forward(&mut self, command: &[u8]) -> Result<Vec<u8>> {
        self.0.write_all(command).await?;
        let mut bytes = Vec::new();
        loop {
            anyhow::ensure!(self.0.read_buf(&mut bytes).await? > 0, "Redis closed the connection");
            match Reply::parse(&bytes) {
                Err(Malformed::Truncated) => {}
                Err(other) => return Err(other).context(bytes.escape_ascii().to_string()),
                Ok(_) => return Ok(bytes),
            }
        }
    }

    /// Calls the library and reads its outcome with `of`; Redis is told the library if it does not know it.
    ///
    /// # Errors
    /// When the connection ends or the reply is no outcome.
    pub async fn call<T>(&mut self, call: &Invocation, of: impl Fn(&Reply<'_>) -> Result<T, ReplyError>) -> Result<T> {
        let first = self.send(&call.evalsha()).await?;
        match of(&Reply::parse(&first)?) {
            Err(ReplyError::NoScript) => Ok(of(&Reply::parse(&self.send(&call.eval()).await?)?)?),
            other => Ok(other?),
        }
    }
}
