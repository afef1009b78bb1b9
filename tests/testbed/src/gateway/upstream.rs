//! One request to the model server: connects, sends, and hands over head and body pieces with the borders they came
//! with. Dropping it closes the connection.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::abi::Headers;

/// The other side ended in the middle.
#[derive(Debug, thiserror::Error)]
#[error("the stream was reset")]
pub(super) struct Aborted;

/// A body fed piece by piece; each piece is read when the next one is wanted.
pub(super) struct Pieces<E>(mpsc::Receiver<Result<Bytes, E>>);

impl<E> Pieces<E> {
    pub(super) fn new() -> (mpsc::Sender<Result<Bytes, E>>, Self) {
        let (sender, receiver) = mpsc::channel(1);
        (sender, Self(receiver))
    }
}

impl<E> Body for Pieces<E> {
    type Data = Bytes;
    type Error = E;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

pub(super) enum Came {
    Head { headers: Headers, end: bool },
    Body { bytes: Bytes, end: bool },
    Failed(Failure),
}

/// What ended an exchange with the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Connect,
    Reset,
}

pub(super) struct Upstream {
    task: JoinHandle<()>,
    came: mpsc::Receiver<Came>,
    /// Until the request ended.
    pub(super) body: Option<mpsc::Sender<Result<Bytes, Infallible>>>,
}

impl Upstream {
    pub(super) fn new(address: String, timeout: Duration, request: &Headers, end: bool) -> Result<Self> {
        let (sender, pieces) = Pieces::new();
        let request = to_request(request, pieces)?;
        let (report, came) = mpsc::channel(1);
        let task = tokio::task::spawn_local(async move {
            let failure = match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => exchange(stream, request, &report).await.err().map(|_| Failure::Reset),
                _ => Some(Failure::Connect),
            };
            if let Some(failure) = failure {
                let _ = report.send(Came::Failed(failure)).await;
            }
        });
        Ok(Self { task, came, body: (!end).then_some(sender) })
    }

    /// What came next; pending for ever after the end.
    pub(super) async fn next(&mut self) -> Came {
        match self.came.recv().await {
            Some(came) => came,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn exchange(
    stream: TcpStream,
    request: hyper::Request<Pieces<Infallible>>,
    report: &mpsc::Sender<Came>,
) -> Result<()> {
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let conversation = async move {
        let response = sender.send_request(request).await?;
        let (parts, mut body) = response.into_parts();
        let mut headers = Headers::default();
        headers.add(":status", parts.status.as_str());
        append(&mut headers, &parts.headers);
        let mut end = body.is_end_stream();
        report.send(Came::Head { headers, end }).await?;
        while !end {
            let bytes = data(&mut body).await.transpose()?;
            end = bytes.is_none() || body.is_end_stream();
            report.send(Came::Body { bytes: bytes.unwrap_or_default(), end }).await?;
        }
        anyhow::Ok(())
    };
    // The connection is over when the conversation drops its end of it.
    let (done, _) = tokio::join!(conversation, connection);
    done
}

/// The next data of a body; `None` at its end.
pub(super) async fn data(body: &mut Incoming) -> Option<hyper::Result<Bytes>> {
    loop {
        match body.frame().await? {
            Ok(frame) => {
                if let Ok(bytes) = frame.into_data() {
                    return Some(Ok(bytes));
                }
            }
            Err(error) => return Some(Err(error)),
        }
    }
}

/// Headers that belong to one connection only. Filters see of them that a client wants another protocol.
const HOP_BY_HOP: [&str; 7] =
    [UPGRADE, "connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "trailer"];
const UPGRADE: &str = "upgrade";

/// Adds what filters see.
pub(super) fn append(headers: &mut Headers, from: &http::HeaderMap) {
    for (name, value) in from {
        if name == UPGRADE || !HOP_BY_HOP.contains(&name.as_str()) {
            headers.add(name.as_str(), value.as_bytes());
        }
    }
}

/// What of a header map goes on, as far as HTTP allows it: no pseudo headers, nothing of one connection only.
pub(super) fn plain(headers: &Headers) -> impl Iterator<Item = (http::HeaderName, http::HeaderValue)> {
    headers.0.iter().filter(|(name, _)| !name.starts_with(':')).filter_map(|(name, value)| {
        let name = http::HeaderName::try_from(name).ok()?;
        (!HOP_BY_HOP.contains(&name.as_str())).then_some(())?;
        Some((name, http::HeaderValue::from_bytes(value).ok()?))
    })
}

fn to_request(headers: &Headers, body: Pieces<Infallible>) -> Result<hyper::Request<Pieces<Infallible>>> {
    let mut request = hyper::Request::builder()
        .method(headers.text(":method").as_str())
        .uri(headers.text(":path"))
        .header(http::header::HOST, headers.text(":authority"))
        .body(body)
        .context("the request cannot be sent on")?;
    for (name, value) in plain(headers) {
        if name != http::header::HOST {
            request.headers_mut().append(name, value);
        }
    }
    Ok(request)
}
