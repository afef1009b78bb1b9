//! The Redis client of one worker thread, as Higress' host has it: per cluster one connection and one set of options,
//! shared by all plugins. Commands are pipelined as raw bytes and answered in order; the timer of a call restarts with
//! every reply; a lost connection fails all that is pending. No redirects, no retries.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until, timeout};

use super::abi::status::{BAD_ARGUMENT, INTERNAL_FAILURE, OK};
use super::resp::{command, first_reply};
use super::route::Clusters;

/// Told once: the raw reply, or `None` for a network failure. Never called within a call to the pool.
pub(super) type Answer = Box<dyn FnOnce(Option<Vec<u8>>)>;

pub(super) struct Pool {
    clusters: RefCell<HashMap<String, Cluster>>,
    connect_timeout: Duration,
}

#[derive(Default)]
struct Cluster {
    addresses: Vec<String>,
    options: Option<Options>,
    connection: Option<UnboundedSender<Request>>,
}

#[derive(Clone)]
struct Options {
    user: String,
    password: String,
    database: u32,
    timeout: Duration,
}

struct Request {
    query: Vec<u8>,
    answer: Answer,
}

impl Pool {
    pub(super) fn new(connect_timeout: Duration) -> Self {
        Self { clusters: RefCell::default(), connect_timeout }
    }

    /// The clusters that exist now. One whose addresses changed is built anew: without options or connection.
    pub(super) fn set_clusters(&self, clusters: &Clusters) {
        let mut known = self.clusters.borrow_mut();
        known.retain(|name, cluster| clusters.0.get(name) == Some(&cluster.addresses));
        for (name, addresses) in &clusters.0 {
            known.entry(name.clone()).or_insert_with(|| Cluster { addresses: addresses.clone(), ..Cluster::default() });
        }
    }

    /// Sets the options of a cluster for all plugins, and closes its connection.
    pub(super) fn init(&self, name: &str, user: &str, password: &str, timeout: Duration) -> i32 {
        let (name, query) = name.split_once('?').unwrap_or((name, ""));
        let database = query.split('&').find_map(|pair| pair.strip_prefix("db="));
        let mut clusters = self.clusters.borrow_mut();
        let Some(cluster) = clusters.get_mut(name) else { return BAD_ARGUMENT };
        let Ok(database) = database.unwrap_or("0").parse() else { return BAD_ARGUMENT };
        cluster.options = Some(Options { user: user.to_owned(), password: password.to_owned(), database, timeout });
        cluster.connection = None;
        OK
    }

    /// Sends a command.
    ///
    /// # Errors
    /// The status of an immediate failure; then no answer follows.
    pub(super) fn call(&self, name: &str, query: Vec<u8>, answer: Answer) -> Result<(), i32> {
        let mut clusters = self.clusters.borrow_mut();
        let cluster = clusters.get_mut(name).ok_or(BAD_ARGUMENT)?;
        let options = cluster.options.clone().ok_or(INTERNAL_FAILURE)?;
        let address = cluster.addresses.first().cloned().ok_or(INTERNAL_FAILURE)?;
        let request = Request { query, answer };
        let request = match &cluster.connection {
            Some(connection) => match connection.send(request) {
                Ok(()) => return Ok(()),
                Err(unsent) => unsent.0,
            },
            None => request,
        };
        let (connection, requests) = unbounded_channel();
        let _ = connection.send(request);
        cluster.connection = Some(connection);
        tokio::task::spawn_local(run(address, options, self.connect_timeout, requests));
        Ok(())
    }
}

/// One connection: until it fails, or the pool lets go of it.
async fn run(address: String, options: Options, connect_timeout: Duration, mut requests: UnboundedReceiver<Request>) {
    let mut waiting = VecDeque::new();
    let connect = timeout(connect_timeout, TcpStream::connect(address));
    tokio::pin!(connect);
    let stream = loop {
        tokio::select! {
            request = requests.recv() => match request {
                Some(request) => waiting.push_back(request),
                None => break None,
            },
            connected = &mut connect => break connected.ok().and_then(Result::ok),
        }
    };
    if let Some(stream) = stream {
        converse(stream, &options, &mut requests, &mut waiting).await;
    }
    requests.close();
    while let Ok(request) = requests.try_recv() {
        waiting.push_back(request);
    }
    for request in waiting {
        (request.answer)(None);
    }
}

/// Sends what comes and answers in order; returns on any failure, with what was not answered left in `pending_calls`.
async fn converse(
    stream: TcpStream,
    options: &Options,
    requests: &mut UnboundedReceiver<Request>,
    pending_calls: &mut VecDeque<Request>,
) {
    let _ = stream.set_nodelay(true);
    let (mut reader, mut writer) = stream.into_split();
    let (mut out, mut silent) = greeting(options);
    for request in pending_calls.iter() {
        out.extend(&request.query);
    }
    let mut received = Vec::new();
    let mut deadline = Instant::now() + options.timeout;
    loop {
        let overdue = async {
            match pending_calls.is_empty() {
                true => pending().await,
                false => sleep_until(deadline).await,
            }
        };
        tokio::select! {
            // What has come is read before anything is late: a machine may have stood still.
            biased;
            read = reader.read_buf(&mut received) => {
                if !matches!(read, Ok(count) if count > 0) {
                    return;
                }
                let mut taken = 0;
                while let Some(length) = match first_reply(&received[taken..]) {
                    Ok(length) => length,
                    Err(_) => return,
                } {
                    let reply = received[taken..taken + length].to_vec();
                    taken += length;
                    if silent > 0 {
                        silent -= 1;
                        continue;
                    }
                    // A reply nobody asked for breaks the order: give the connection up.
                    let Some(request) = pending_calls.pop_front() else { return };
                    deadline = Instant::now() + options.timeout;
                    (request.answer)(Some(reply));
                }
                received.drain(..taken);
            }
            () = overdue => return,
            request = requests.recv() => {
                let Some(request) = request else { return };
                if pending_calls.is_empty() {
                    deadline = Instant::now() + options.timeout;
                }
                out.extend(&request.query);
                pending_calls.push_back(request);
            }
            written = writer.write(&out), if !out.is_empty() => match written {
                Ok(count) if count > 0 => drop(out.drain(..count)),
                _ => return,
            },
        }
    }
}

/// What opens a connection, and how many replies to it are swallowed, whatever they say: a refused password shows in
/// the replies to the commands that follow.
fn greeting(options: &Options) -> (Vec<u8>, usize) {
    let mut out = Vec::new();
    let mut replies = 0;
    if !options.password.is_empty() {
        out.extend(match options.user.as_str() {
            "" => command(&["AUTH", &options.password]),
            user => command(&["AUTH", user, &options.password]),
        });
        replies += 1;
    }
    if options.database != 0 {
        out.extend(command(&["SELECT", &options.database.to_string()]));
        replies += 1;
    }
    (out, replies)
}
