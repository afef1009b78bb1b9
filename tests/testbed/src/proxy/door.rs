//! Where connections arrive: it accepts them as the mode says, and begins anew after a cut. What was waiting to be
//! accepted then is refused as well: it may be of a program that is gone.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::Mode;
use super::operations::{Operation, Operations};
use crate::process::free_port;

pub(super) struct Door {
    addr: SocketAddr,
    mode: watch::Sender<Mode>,
    serving: JoinHandle<()>,
}

/// What a connection may ask for.
#[derive(Clone)]
pub(super) struct Line {
    mode: watch::Receiver<Mode>,
    operations: Operations,
    cuts: u64,
}

impl Line {
    /// Lets an operation through; nothing comes back where the connection is to be closed.
    pub(super) async fn pass<T>(&self, operation: Operation, forward: impl Future<Output = T>) -> Option<T> {
        self.operations.pass(self.cuts, operation, forward).await
    }

    /// Returns when things may pass; never for what was swallowed.
    pub(super) async fn open(&self) {
        let mut mode = self.mode.clone();
        let found = mode.wait_for(|mode| matches!(mode, Mode::Pass | Mode::Swallow)).await.map(|mode| *mode);
        if !matches!(found, Ok(Mode::Pass)) {
            std::future::pending::<()>().await;
        }
    }

    /// Whether what comes is thrown away.
    pub(super) fn swallows(&self) -> bool {
        *self.mode.borrow() == Mode::Swallow
    }
}

impl Door {
    /// Serves each connection by `serve`, in a task that ends with the door.
    pub(super) async fn open<S, F>(operations: &Operations, serve: S) -> Result<Self>
    where
        S: Fn(TcpStream, Line) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", free_port()?)).await?;
        let addr = listener.local_addr()?;
        let (mode, modes) = watch::channel(Mode::Pass);
        let serving = tokio::spawn(accept(listener, addr, modes, operations.clone(), serve));
        Ok(Self { addr, mode, serving })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Its connections are tasks of a set inside, and end with it.
        self.serving.abort();
    }
}

async fn accept<S, F>(
    listener: TcpListener,
    addr: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    operations: Operations,
    serve: S,
) where
    S: Fn(TcpStream, Line) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (mut cuts, anew) = operations.attend();
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let refuses = *mode.borrow_and_update() == Mode::Refuse;
        if refuses {
            listener = None;
            connections.shutdown().await;
        } else if listener.is_none() {
            // A port that is gone refuses connections, and the test fails.
            let Ok(again) = TcpListener::bind(addr).await else { return };
            listener = Some(again);
        }
        let line = Line { mode: mode.clone(), operations: operations.clone(), cuts: *cuts.borrow_and_update() };
        anew.send_replace(line.cuts);
        let arrival = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = cuts.changed() => {
                if changed.is_err() {
                    return;
                }
                listener = None;
                connections.shutdown().await;
            }
            changed = mode.changed() => if changed.is_err() {
                return;
            },
            Ok((stream, _)) = arrival => {
                let _ = stream.set_nodelay(true);
                while connections.try_join_next().is_some() {}
                connections.spawn(serve(stream, line));
            }
        }
    }
}
