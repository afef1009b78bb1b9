//! A server that answers as model APIs do: OpenAI chat, completions, embeddings and Responses, Anthropic messages and
//! Gemini, plain and streamed, chosen by the path and the request's `stream`. It records what it receives.
//!
//! Tests steer it by request headers, which the gateway passes through, or by scripted answers:
//!
//! | header | effect |
//! |---|---|
//! | `x-answer: <id>` | the answer registered by [`ModelServer::script`] under that id |
//! | `x-test-usage: <input>,<output>` or `none` | the usage reported; without it 10,20 |
//! | `x-test-usage-asked: <input>,<output>` | the same, in a stream of completions only if its request asks for it |
//! | `x-test-words: <n>` | so many generated words, one per streamed event; without it 5 |
//! | `x-test-status: <code>` | an error answer with this status |
//! | `x-test-border: <n>` | the body in chunks of n bytes, instead of one per event |
//! | `x-test-chunks: <n>` | only the first n chunks are sent, then `x-test-after` happens |
//! | `x-test-after: stall, hang-up or end` | what comes after the last chunk that is sent; without it `end` |
//! | `x-test-gate: <name>` | waits at [`ModelServer::gate`] before the status line |
//! | `x-test-gate-after: <n>` | waits there after n chunks instead |

mod gate;
mod shapes;

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

pub use gate::Gate;
use shapes::Asked;
pub use shapes::Tokens;

/// A running model server.
pub struct ModelServer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: Method,
    /// The path with its query.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A scripted answer. Chunk borders reach the gateway as they are here.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub chunks: Vec<Bytes>,
    pub after: After,
}

/// What comes after the last chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum After {
    /// The answer ends as it should.
    #[default]
    End,
    /// Nothing more comes, and the connection stays open until the other side leaves.
    Stall,
    /// The connection breaks.
    HangUp,
}

impl Answer {
    /// 200 with this content type and these chunks.
    pub fn ok(content_type: &str, chunks: impl IntoIterator<Item = impl Into<Bytes>>) -> Self {
        Self {
            status: 200,
            headers: vec![("content-type".to_owned(), content_type.to_owned())],
            chunks: chunks.into_iter().map(Into::into).collect(),
            after: After::End,
        }
    }

    /// The same body with a border after every `size` bytes.
    #[must_use]
    pub fn cut(mut self, size: usize) -> Self {
        let whole = Bytes::from(self.chunks.concat());
        self.chunks = whole.chunks(size.max(1)).map(|part| whole.slice_ref(part)).collect();
        self
    }

    #[must_use]
    pub fn then(mut self, after: After) -> Self {
        self.after = after;
        self
    }
}

#[derive(Default)]
struct Shared {
    scripts: Mutex<HashMap<String, Answer>>,
    gates: Mutex<HashMap<String, Gate>>,
    received: Mutex<Vec<Received>>,
    in_flight: AtomicUsize,
}

/// Counts an answer that is being sent, until it has ended or its reader has left.
struct InFlight(Arc<Shared>);

impl ModelServer {
    /// Starts it on a free port of loopback.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", crate::process::free_port()?)).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let serving = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { addr, shared, serving })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Registers what a request with `x-answer: <id>` is answered.
    pub fn script(&self, id: impl Into<String>, answer: Answer) {
        lock(&self.shared.scripts).insert(id.into(), answer);
    }

    /// The gate of this name; closed until it is opened.
    pub fn gate(&self, name: &str) -> Gate {
        self.shared.gate(name)
    }

    /// Every request so far, oldest first.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.shared.received).clone()
    }

    /// The requests so far, and forgets them.
    pub fn take_received(&self) -> Vec<Received> {
        std::mem::take(&mut lock(&self.shared.received))
    }

    /// How many answers are being sent now; one that stalls counts until its reader leaves.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::SeqCst)
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        // Its connections are tasks of a set inside, and end with it.
        self.serving.abort();
    }
}

impl Shared {
    fn gate(&self, name: &str) -> Gate {
        lock(&self.gates).entry(name.to_owned()).or_insert_with(Gate::closed).clone()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // Chunks leave when they are written, as tokens do.
        let _ = stream.set_nodelay(true);
        while connections.try_join_next().is_some() {}
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(|request| answer(Arc::clone(&shared), request));
            // A peer that leaves is nothing to report.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Body = http_body_util::combinators::BoxBody<Bytes, std::io::Error>;

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return Ok(Response::default()); // the sender left: nobody reads this
    };
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let received = Received { method: head.method, path, headers: head.headers, body: body.to_bytes() };
    lock(&shared.received).push(received.clone());
    shared.in_flight.fetch_add(1, Ordering::SeqCst);
    let in_flight = InFlight(Arc::clone(&shared));

    let mut answer = choose(&shared, &received);
    let number = |name: &str| header(&received.headers, name).and_then(|text| text.parse::<usize>().ok());
    if let Some(size) = number("x-test-border") {
        answer = answer.cut(size);
    }
    if let Some(count) = number("x-test-chunks") {
        answer.chunks.truncate(count);
    }
    match header(&received.headers, "x-test-after") {
        Some("stall") => answer.after = After::Stall,
        Some("hang-up") => answer.after = After::HangUp,
        _ => {}
    }
    let gate = header(&received.headers, "x-test-gate").map(|name| shared.gate(name));
    let gate_after = number("x-test-gate-after");
    if let (Some(gate), None) = (&gate, gate_after) {
        gate.pass().await;
    }
    Ok(send(answer, gate.zip(gate_after), in_flight))
}

fn choose(shared: &Shared, received: &Received) -> Answer {
    if let Some(id) = header(&received.headers, "x-answer") {
        let scripted = lock(&shared.scripts).get(id).cloned();
        return scripted.unwrap_or_else(|| refusal(500, &format!("no answer is scripted under {id:?}")));
    }
    let Some(mut asked) = Asked::read(&received.path, &received.body) else {
        return refusal(404, &format!("no model API has the path {:?}", received.path));
    };
    let usage = match header(&received.headers, "x-test-usage-asked") {
        None => header(&received.headers, "x-test-usage"),
        Some(_) if asked.is_quiet() => Some("none"),
        usage => usage,
    };
    match usage {
        None => {}
        Some("none") => asked.tokens = None,
        Some(usage) => {
            let parsed = usage.split_once(',').and_then(|(input, output)| {
                Some(Tokens { input: input.trim().parse().ok()?, output: output.trim().parse().ok()? })
            });
            let Some(tokens) = parsed else { return refusal(500, &format!("x-test-usage is {usage:?}")) };
            asked.tokens = Some(tokens);
        }
    }
    if let Some(words) = header(&received.headers, "x-test-words").and_then(|text| text.parse().ok()) {
        asked.words = words;
    }
    let status = header(&received.headers, "x-test-status").and_then(|text| text.parse().ok());
    let body = match status {
        Some(status) => asked.error(status),
        None => asked.answer(),
    };
    Answer { status: status.unwrap_or(200), ..Answer::ok(body.content_type, body.parts) }
}

fn refusal(status: u16, message: &str) -> Answer {
    Answer { status, ..Answer::ok("text/plain", [message.to_owned()]) }
}

fn send(answer: Answer, gate: Option<(Gate, usize)>, in_flight: InFlight) -> Response<Body> {
    let Answer { status, headers, chunks, after } = answer;
    let ending = futures::stream::once(async move {
        match after {
            After::End => None,
            After::Stall => std::future::pending().await,
            After::HangUp => {
                // hyper sends what it has when it must wait, but not when a body fails.
                tokio::task::yield_now().await;
                Some(Err(std::io::Error::other("the test hangs up")))
            }
        }
    });
    let chunks = futures::stream::iter(chunks.into_iter().enumerate()).then(move |(index, chunk)| {
        let gate = gate.clone().filter(|(_, after)| *after == index);
        async move {
            if let Some((gate, _)) = gate {
                gate.pass().await;
            }
            Some(Ok(Frame::data(chunk)))
        }
    });
    let body = chunks.chain(ending).filter_map(std::future::ready).inspect(move |_| {
        // Lives and dies with the body.
        let _ = &in_flight;
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(body)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
            response.headers_mut().append(name, value);
        }
    }
    response.headers_mut().insert(header::SERVER, HeaderValue::from_static("model-server"));
    response
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
