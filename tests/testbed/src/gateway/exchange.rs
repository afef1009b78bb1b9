//! One request of a client from its first byte to its last: moves pieces between client, chain and upstream, one at a
//! time, so that whoever is slow holds up the others; redirects refused requests to a fallback, where the chain runs
//! anew; ends the stream for all filters whoever leaves first.

use std::cell::RefCell;
use std::future::pending;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Either;
use http_body_util::Empty;
use hyper::body::{Body as _, Incoming};
use hyper::{Request, Response};
use tokio::sync::{mpsc, oneshot};

use super::abi::{Headers, Way};
use super::board::Exchange;
use super::chain::{Chain, Piece};
use super::host::{LocalReply, StreamState};
use super::route::{DERIVED_ROUTE_HEADER, FALLBACK_HEADER, Route};
use super::upstream::{Aborted, Came, Failure, Pieces, Upstream, append, data, plain};
use super::worker::Worker;

/// What a client is answered with.
pub(super) type Answer = Response<Either<Empty<Bytes>, Pieces<Aborted>>>;

/// How often one request may be redirected.
const REDIRECTS: usize = 10;

/// How much of a request body is kept for a redirect.
const KEPT_BODY: usize = 1 << 20;

const UPSTREAM_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs until the client has its answer or left.
pub(super) async fn run(
    worker: Rc<Worker>,
    request: Request<Incoming>,
    peer: SocketAddr,
    head: oneshot::Sender<Answer>,
) {
    let (parts, body) = request.into_parts();
    let mut headers = Headers::default();
    let authority = parts.uri.authority().map(ToString::to_string);
    let host = parts.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    headers.add(":authority", authority.as_deref().or(host).unwrap_or_default());
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    headers.add(":path", path.as_str());
    headers.add(":method", parts.method.as_str());
    headers.add(":scheme", "http");
    append(&mut headers, &parts.headers);
    headers.remove("host");
    if headers.get("x-request-id").is_none() {
        headers.add("x-request-id", request_id());
    }
    let mut client = Client { head: Some(head), out: None, fallback_from: None };
    let mut source = Source { none: body.is_end_stream(), body, kept: Vec::new(), at: 0, over: false, size: 0 };
    for redirects in 0..=REDIRECTS {
        let leg = Leg::new(&worker, headers, peer, redirects < REDIRECTS);
        match leg.run(&worker, &mut source, &mut client).await {
            None => return,
            Some(redirected) => {
                headers = redirected;
                headers.set(":path", path.as_str());
                source.at = 0;
            }
        }
    }
}

/// One run of the chain.
struct Leg {
    chain: Chain,
    log: Exchange,
    may_redirect: bool,
    upstream: Option<Upstream>,
}

impl Leg {
    fn new(worker: &Worker, headers: Headers, peer: SocketAddr, may_redirect: bool) -> Self {
        let log = Exchange {
            request_id: headers.text("x-request-id"),
            method: headers.text(":method"),
            path: headers.text(":path"),
            worker: worker.index,
            generation: worker.snapshot().generation,
            ..Exchange::default()
        };
        let routes = std::sync::Arc::clone(&worker.snapshot().routes);
        let stream = Rc::new(RefCell::new(StreamState::new(headers, routes, peer)));
        Self { chain: Chain::new(stream, worker.plugins()), log, may_redirect, upstream: None }
    }

    /// The headers to begin anew with, after a redirect.
    async fn run(mut self, worker: &Worker, source: &mut Source, client: &mut Client) -> Option<Headers> {
        let redirected = self.converse(worker, source, client).await;
        self.upstream = None;
        {
            let mut stream = self.chain.stream.borrow_mut();
            let route = stream.route();
            self.log.route = route.as_ref().map(|route| route.name.clone());
            self.log.cluster = route.map(|route| route.cluster.clone());
            if self.log.details.is_empty() {
                self.log.details.clone_from(&stream.details);
            }
            // What filters are told of a stream that begins anew, as by Envoy's `recreateStream`.
            if redirected.is_some() {
                stream.details = "internal_redirect".to_owned();
            }
        }
        self.log.redirected = redirected.is_some();
        self.chain.close();
        self.log.ended_in = worker.snapshot().generation;
        worker.board.record(self.log);
        redirected
    }

    async fn converse(&mut self, worker: &Worker, source: &mut Source, client: &mut Client) -> Option<Headers> {
        self.chain.request_headers(source.none);
        let mut request_over = source.none;
        loop {
            if self.chain.replied {
                self.upstream = None;
            }
            while let Some(Piece::Head { end }) = self.chain.to_upstream.front() {
                let end = *end;
                self.chain.to_upstream.pop_front();
                self.connect(worker, end);
            }
            let sends_on = self.upstream.as_ref().is_some_and(|upstream| upstream.body.is_some());
            if !sends_on {
                self.chain.to_upstream.clear();
            }
            if let Some(Piece::Head { end }) = self.chain.to_client.front() {
                let end = *end;
                let headers = self.chain.stream.borrow().response.clone().unwrap_or_default();
                self.log.status = headers.text(":status").parse().unwrap_or_default();
                if let Some(from) = self.fallback(source) {
                    client.fallback_from = Some(from.clone());
                    return Some(self.again(FALLBACK_HEADER, &from));
                }
                self.chain.to_client.pop_front();
                client.send_head(&headers, end);
                if end {
                    return None;
                }
            }
            if self.chain.reset {
                client.abort().await;
                return None;
            }
            let reads = !request_over && !self.chain.replied && self.chain.to_upstream.is_empty();
            let reads = reads && !self.chain.paused(Way::Request);
            let answers = self.chain.to_client.is_empty() && !self.chain.paused(Way::Response);
            let (has_upstream_piece, has_client_piece) =
                (!self.chain.to_upstream.is_empty(), !self.chain.to_client.is_empty());
            let upstream_body = self.upstream.as_ref().and_then(|upstream| upstream.body.clone());
            let out = client.out.clone();
            let gone = Client::gone(&mut client.head, out.as_ref());
            tokio::select! {
                event = self.chain.next_event() => {
                    if let Some(event) = event {
                        self.chain.handle(event);
                    }
                }
                piece = source.next(), if reads => match piece {
                    Ok((bytes, end)) => {
                        request_over = end;
                        self.chain.request_body(bytes, end);
                    }
                    Err(_) => return self.left(),
                },
                permit = reserve(upstream_body.as_ref()), if has_upstream_piece => {
                    let Some(Piece::Body { bytes, end }) = self.chain.to_upstream.pop_front() else { continue };
                    if let (Some(permit), false) = (permit, bytes.is_empty()) {
                        permit.send(Ok(bytes));
                    }
                    if let Some(upstream) = self.upstream.as_mut().filter(|_| end) {
                        upstream.body = None;
                    }
                }
                came = next_of(self.upstream.as_mut()), if answers => {
                    if let Came::Head { headers, .. } = &came
                        && let Some(name) = self.derived(headers, source)
                    {
                        return Some(self.again(DERIVED_ROUTE_HEADER, &name));
                    }
                    self.answered(came);
                }
                permit = reserve(out.as_ref()), if has_client_piece => {
                    let Some(Piece::Body { bytes, end }) = self.chain.to_client.pop_front() else { continue };
                    self.log.sent += bytes.len() as u64;
                    let Some(permit) = permit else { return self.left() };
                    if bytes.is_empty() {
                        drop(permit);
                    } else {
                        permit.send(Ok(bytes));
                    }
                    if end {
                        client.out = None;
                        return None;
                    }
                }
                () = gone => return self.left(),
            }
        }
    }

    fn connect(&mut self, worker: &Worker, end: bool) {
        let route = self.chain.stream.borrow_mut().route();
        let refuse = |chain: &mut Chain, status, details: &str, body: &str| {
            let (details, body) = (details.to_owned(), body.as_bytes().to_vec());
            chain.reply(LocalReply { status, details, body, ..LocalReply::default() });
        };
        let Some(route) = route else {
            self.log.flags = "NR";
            return refuse(&mut self.chain, 404, "route_not_found", "");
        };
        let snapshot = worker.snapshot();
        let Some(address) = snapshot.clusters.0.get(&route.cluster).and_then(|addresses| addresses.first()) else {
            self.log.flags = "UH";
            return refuse(&mut self.chain, 503, "no_healthy_upstream", "no healthy upstream");
        };
        let request = self.chain.stream.borrow().request.clone();
        match Upstream::new(address.clone(), UPSTREAM_CONNECT_TIMEOUT, &request, end) {
            Ok(upstream) => self.upstream = Some(upstream),
            Err(error) => refuse(&mut self.chain, 502, "invalid_upstream_request", &format!("{error:#}")),
        }
    }

    fn answered(&mut self, came: Came) {
        match came {
            Came::Head { headers, end } => self.chain.response_headers(headers, end),
            Came::Body { bytes, end } => self.chain.response_body(bytes, end),
            Came::Failed(failure) => {
                self.upstream = None;
                let (flags, reason) = match failure {
                    Failure::Connect => ("UF", "remote connection failure"),
                    Failure::Reset => ("UC", "connection termination"),
                };
                self.log.flags = flags;
                let reset =
                    |when: &str| format!("upstream_reset_{when}_response_started{{{}}}", reason.replace(' ', "_"));
                if self.log.status != 0 {
                    self.log.details = reset("after");
                    self.chain.reset = true;
                    return;
                }
                let text = "upstream connect error or disconnect/reset before headers. reset reason:";
                self.chain.reply(LocalReply {
                    status: 503,
                    details: reset("before"),
                    body: format!("{text} {reason}").into_bytes(),
                    ..LocalReply::default()
                });
            }
        }
    }

    fn left(&mut self) -> Option<Headers> {
        self.log.flags = "DC";
        self.log.details = "downstream_remote_disconnect".to_owned();
        None
    }

    /// The route whose answer is to be replaced by its fallback's.
    fn fallback(&self, source: &Source) -> Option<String> {
        let route = self.redirecting(source)?;
        route.fallback_on.contains(&(self.log.status / 100)).then(|| route.name.clone())
    }

    /// The route derived for failed answers of the upstream.
    fn derived(&self, answer: &Headers, source: &Source) -> Option<String> {
        let status = answer.text(":status").parse().ok()?;
        let route = self.redirecting(source)?;
        route.errors.contains(&status).then(|| format!("{}-fallback", route.name))
    }

    fn redirecting(&self, source: &Source) -> Option<std::sync::Arc<Route>> {
        let whole = self.may_redirect && source.size <= KEPT_BODY;
        whole.then(|| self.chain.stream.borrow_mut().route()).flatten()
    }

    fn again(&self, header: &str, value: &str) -> Headers {
        let mut headers = self.chain.stream.borrow().request.clone();
        headers.set(header, value);
        headers
    }
}

/// A place in a channel; `None` when nobody reads it any more.
async fn reserve<T>(channel: Option<&mpsc::Sender<T>>) -> Option<mpsc::Permit<'_, T>> {
    match channel {
        Some(channel) => channel.reserve().await.ok(),
        None => None,
    }
}

async fn next_of(upstream: Option<&mut Upstream>) -> Came {
    match upstream {
        Some(upstream) => upstream.next().await,
        None => pending().await,
    }
}

/// The request body, kept so that a redirect can send it again.
struct Source {
    body: Incoming,
    none: bool,
    kept: Vec<Bytes>,
    at: usize,
    over: bool,
    size: usize,
}

impl Source {
    async fn next(&mut self) -> Result<(Bytes, bool), Aborted> {
        if let Some(kept) = self.kept.get(self.at) {
            self.at += 1;
            return Ok((kept.clone(), self.over && self.at == self.kept.len()));
        }
        if self.over {
            return Ok((Bytes::new(), true));
        }
        let piece = data(&mut self.body).await.transpose().map_err(|_| Aborted)?;
        self.over = piece.is_none() || self.body.is_end_stream();
        let bytes = piece.unwrap_or_default();
        self.size += bytes.len();
        if self.size <= KEPT_BODY {
            self.kept.push(bytes.clone());
            self.at += 1;
        }
        Ok((bytes, self.over))
    }
}

/// Where the answer goes: first its head, then its body.
struct Client {
    head: Option<oneshot::Sender<Answer>>,
    out: Option<mpsc::Sender<Result<Bytes, Aborted>>>,
    fallback_from: Option<String>,
}

impl Client {
    fn send_head(&mut self, headers: &Headers, end: bool) {
        let body = match end {
            true => Either::Left(Empty::new()),
            false => {
                let (out, pieces) = Pieces::new();
                self.out = Some(out);
                Either::Right(pieces)
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = headers.text(":status").parse().unwrap_or(http::StatusCode::BAD_GATEWAY);
        response.headers_mut().extend(plain(headers).map(|(name, value)| (Some(name), value)));
        let from = self.fallback_from.as_deref().and_then(|from| http::HeaderValue::from_str(from).ok());
        if let Some(from) = from {
            response.headers_mut().insert(FALLBACK_HEADER, from);
        }
        if let Some(head) = self.head.take() {
            let _ = head.send(response);
        }
    }

    /// Breaks the connection off. Without a head, dropping its sender does.
    async fn abort(&mut self) {
        self.head = None;
        if let Some(out) = self.out.take() {
            let _ = out.send(Err(Aborted)).await;
        }
    }

    async fn gone(head: &mut Option<oneshot::Sender<Answer>>, out: Option<&mpsc::Sender<Result<Bytes, Aborted>>>) {
        match (head, out) {
            (Some(head), _) => head.closed().await,
            (None, Some(out)) => out.closed().await,
            (None, None) => pending().await,
        }
    }
}

/// Looks like Envoy's, and is as unique as this needs.
fn request_id() -> String {
    use std::hash::{BuildHasher, RandomState};
    let (a, b) = (RandomState::new().hash_one(0), RandomState::new().hash_one(1));
    format!("{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}", a >> 32, a >> 16 & 0xffff, a & 0xfff, b >> 48, b & 0xffff_ffff_ffff)
}
