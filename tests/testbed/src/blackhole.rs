//! An address that answers nothing, not even that nobody listens: the queue of its listener is full, so the kernel drops
//! every attempt to connect, as a firewall or a route into nowhere does.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::process::free_port;

/// On loopback a connection is there at once, or never.
const AT_ONCE: Duration = Duration::from_millis(200);

/// Far more than the shortest queue holds.
const ATTEMPTS: usize = 16;

/// Such an address, as long as this lives.
pub struct Blackhole {
    addr: SocketAddr,
    _listener: tokio::net::TcpListener,
    _queue: Vec<TcpStream>,
}

impl Blackhole {
    /// Takes a free port of loopback and fills its queue.
    ///
    /// # Errors
    /// When no port can be had, or its queue takes every connection.
    pub async fn open() -> Result<Self> {
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let socket = TcpSocket::new_v4()?;
        socket.bind(addr)?;
        let listener = socket.listen(0)?;
        let mut queue = Vec::new();
        for _ in 0..ATTEMPTS {
            match timeout(AT_ONCE, TcpStream::connect(addr)).await {
                Ok(connected) => queue.push(connected?),
                Err(_) => return Ok(Self { addr, _listener: listener, _queue: queue }),
            }
        }
        bail!("the queue of {addr} takes more than {ATTEMPTS} connections")
    }

    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }
}
