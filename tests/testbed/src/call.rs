//! An HTTP client for tests: one connection per call, so that leaving is closing it, and nothing is pooled or retried.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Longer than any answer takes that is not held on purpose: a test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request to be sent.
///
/// ```no_run
/// # async fn f(gateway: &str) -> anyhow::Result<()> {
/// let reply = testbed::post(format!("{gateway}/v1/chat/completions"))
///     .header("x-api-key", "user1-key")
///     .json(&serde_json::json!({"model": "qwen-max", "messages": []}))
///     .send()
///     .await?;
/// assert_eq!((reply.status, reply.json()?["usage"]["total_tokens"].as_i64()), (200, Some(30)));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    url: String,
    headers: HeaderMap,
    body: Bytes,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An answer whose body is still coming. Dropping it closes the connection, as a client does that leaves.
pub struct OpenReply {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
    connection: Connection,
}

struct Connection(JoinHandle<()>);

/// A GET of `url`, which is `http://host:port/path`.
pub fn get(url: impl Into<String>) -> Call {
    Call::new(Method::GET, url)
}

/// A POST to `url`.
pub fn post(url: impl Into<String>) -> Call {
    Call::new(Method::POST, url)
}

impl Call {
    pub fn new(method: Method, url: impl Into<String>) -> Self {
        Self { method, url: url.into(), headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// Adds a header; the same name twice is sent twice.
    ///
    /// # Panics
    /// When HTTP knows no such name or value.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let name: HeaderName = name.parse().unwrap_or_else(|_| panic!("{name:?} is no header name"));
        let value = HeaderValue::from_bytes(value.as_ref());
        self.headers.append(name, value.unwrap_or_else(|error| panic!("a value no header can have: {error}")));
        self
    }

    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the body and its content type.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    /// Sets the body and its content type: `form("consumer=user1&quota=100")`.
    #[must_use]
    pub fn form(self, body: &str) -> Self {
        self.header("content-type", "application/x-www-form-urlencoded").body(body.to_owned())
    }

    /// The request in one line, for people: `POST /path body`.
    pub fn shown(&self) -> String {
        let path = self.url.parse::<Uri>().ok().and_then(|uri| uri.path_and_query().map(ToString::to_string));
        let body = String::from_utf8_lossy(&self.body);
        format!("{} {} {body}", self.method, path.as_deref().unwrap_or(&self.url)).trim_end().to_owned()
    }

    /// Sends it and reads the whole answer.
    ///
    /// # Errors
    /// When the connection fails or breaks before the end, or the answer takes longer than a minute.
    pub async fn send(self) -> Result<Reply> {
        let what = format!("{} {}", self.method, self.url);
        let whole = async {
            let OpenReply { status, headers, body, connection: _connection } = self.open().await?;
            Ok(Reply { status, headers, body: body.collect().await?.to_bytes() })
        };
        tokio::time::timeout(PATIENCE, whole).await.with_context(|| format!("no answer to {what}"))?
    }

    /// Sends it and returns when the head of the answer is there.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn open(self) -> Result<OpenReply> {
        let uri: Uri = self.url.parse().with_context(|| format!("{:?} is no URL", self.url))?;
        let authority = uri.authority().with_context(|| format!("{:?} names no host", self.url))?.clone();
        let stream =
            TcpStream::connect(authority.as_str()).await.with_context(|| format!("connecting to {authority}"))?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = Connection(tokio::spawn(async move {
            // What breaks a connection is reported by the body or the head that waits for it.
            let _ = connection.await;
        }));
        let mut request =
            Request::builder().method(self.method).uri(uri.path_and_query().map_or("/", |path| path.as_str()));
        if !self.headers.contains_key(header::HOST) {
            request = request.header(header::HOST, authority.as_str());
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let (head, body) = sender.send_request(request.body(Full::new(self.body))?).await?.into_parts();
        Ok(OpenReply { status: head.status.as_u16(), headers: head.headers, body, connection })
    }
}

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("the body is no JSON: {:?}", self.text()))
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl OpenReply {
    /// The next bytes of the body; `None` at its end.
    ///
    /// # Errors
    /// When the connection breaks before the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// Reads to the end of the body; what was left of it, as text.
    ///
    /// # Errors
    /// When the connection breaks before the end.
    pub async fn rest(&mut self) -> Result<String> {
        let mut rest = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            rest.extend_from_slice(&chunk);
        }
        Ok(String::from_utf8_lossy(&rest).into_owned())
    }

    /// Reads until `text` has been seen, and returns all that was read.
    ///
    /// # Errors
    /// When the body ends before.
    pub async fn read_until(&mut self, text: &str) -> Result<String> {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(text) {
            let so_far = || format!("the body ended before {text:?}: {}", String::from_utf8_lossy(&seen));
            let chunk = self.chunk().await?.with_context(so_far)?;
            seen.extend_from_slice(&chunk);
        }
        Ok(String::from_utf8_lossy(&seen).into_owned())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}
