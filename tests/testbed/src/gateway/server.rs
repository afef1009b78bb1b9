//! The threads: two workers, each with a runtime, VMs and Redis connections of its own. The first accepts connections
//! and deals them out in turn. A thread ends when it is told to, with all it started.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};
use tokio::task::LocalSet;

use super::board::Board;
use super::config::Snapshot;
use super::exchange;
use super::upstream::Aborted;
use super::worker::Worker;

pub(super) const WORKERS: usize = 2;

/// What a worker runs: the generation, and what each of its plugins fails with.
#[derive(Clone, Debug, Default)]
pub(super) struct Applied {
    pub(super) generation: u64,
    pub(super) failures: Vec<Option<String>>,
}

/// What all threads are given.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) board: Arc<Board>,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) applied: Arc<watch::Sender<[Applied; WORKERS]>>,
    pub(super) redis_connect_timeout: Duration,
    pub(super) deadline: Duration,
}

/// The running threads; dropping them waits for their end.
pub(super) struct Threads {
    stop: Option<watch::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(super) fn start(listener: TcpListener, shared: &Shared) -> Result<Self> {
        listener.set_nonblocking(true)?;
        let (stop, stopped) = watch::channel(());
        let mut threads = Self { stop: Some(stop), threads: Vec::new() };
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..WORKERS).map(|_| unbounded_channel()).unzip();
        let mut listening = Some((listener, senders));
        for (index, connections) in receivers.into_iter().enumerate() {
            let (shared, stopped, listening) = (shared.clone(), stopped.clone(), listening.take());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let work = move || {
                let local = LocalSet::new();
                let work = work(index, shared, listening, connections, stopped);
                local.block_on(&runtime, work);
                drop(local);
                runtime.shutdown_background();
            };
            threads.threads.push(std::thread::Builder::new().name(format!("worker-{index}")).spawn(work)?);
        }
        Ok(threads)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

type Connections = (TcpListener, Vec<UnboundedSender<TcpStream>>);

async fn work(
    index: usize,
    mut shared: Shared,
    listening: Option<Connections>,
    mut connections: UnboundedReceiver<TcpStream>,
    mut stopped: watch::Receiver<()>,
) {
    let snapshot = shared.snapshots.borrow_and_update().clone();
    let board = Arc::clone(&shared.board);
    let worker = Worker::new(index, board, shared.redis_connect_timeout, shared.deadline, Arc::clone(&snapshot));
    let apply = |snapshot: Arc<Snapshot>| {
        let generation = snapshot.generation;
        let failures = worker.apply(snapshot);
        shared.applied.send_modify(|applied| applied[index] = Applied { generation, failures });
    };
    apply(snapshot);
    if let Some(listening) = listening {
        tokio::task::spawn_local(accept(listening));
    }
    loop {
        tokio::select! {
            // Only ever closed.
            _ = stopped.changed() => return,
            changed = shared.snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
                apply(shared.snapshots.borrow_and_update().clone());
            }
            Some(connection) = connections.recv() => {
                tokio::task::spawn_local(serve(Rc::clone(&worker), connection));
            }
        }
    }
}

async fn accept((listener, workers): Connections) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let mut turn = 0;
    loop {
        if let Ok(connection) = listener.accept().await.and_then(|(connection, _)| connection.into_std()) {
            let _ = workers[turn % workers.len()].send(connection);
            turn += 1;
        }
    }
}

async fn serve(worker: Rc<Worker>, connection: TcpStream) {
    let _ = connection.set_nodelay(true);
    let peer = connection.peer_addr().unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 0)));
    let Ok(connection) = tokio::net::TcpStream::from_std(connection) else { return };
    let service = service_fn(move |request| {
        let worker = Rc::clone(&worker);
        async move {
            let (head, answer) = oneshot::channel();
            tokio::task::spawn_local(exchange::run(worker, request, peer, head));
            answer.await.map_err(|_| Aborted)
        }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(connection), service).await;
}
