//! The one address on which this process is asked how it is: requests in, its health and metrics as text out. Only GET, and
//! nothing that is asked changes anything. I/O: a listening socket.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::health::Health;
use crate::metrics::{self, Metrics};

/// Connections at once: probes and a few scrapers, and no flood of them costs more than this.
const CONNECTIONS: usize = 64;
/// How long a connection may last, whatever its other end does: one request has one answer, and the next probe finds a place.
const LASTS: Duration = Duration::from_secs(3);
/// How long an orderly end waits for answers that are on their way.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// What is told.
pub(crate) struct Pages {
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Listens there; every address of a machine without IPv6 is every address of IPv4.
pub(crate) async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && !is_the_ports(&error) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        listening => listening,
    }
}

/// Whether another kind of address would not help.
fn is_the_ports(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{AddrInUse, PermissionDenied};
    matches!(error.kind(), AddrInUse | PermissionDenied)
}

/// Answers until it is stopped, whatever the rest of the process does.
pub(crate) struct Server {
    stop: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) fn start(listener: TcpListener, pages: Pages) -> Self {
        let stop = watch::Sender::new(());
        let task = tokio::spawn(accept(listener, Arc::new(pages), stop.subscribe()));
        Self { stop, task }
    }

    /// Takes no more requests, and ends with the answers that are on their way.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(());
        let _ = timeout(ENDS_WITHIN, self.task).await;
    }
}

async fn accept(listener: TcpListener, pages: Arc<Pages>, mut stop: watch::Receiver<()>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let mut open = JoinSet::new();
    loop {
        let accepted = async {
            // It fails only when the semaphore is closed, which nobody does.
            let place = free.clone().acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepted => accepted,
            _ = stop.changed() => break,
            Some(_) = open.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = timeout(LASTS, talk(stream, pages.clone(), stop.clone()));
                open.spawn(async move {
                    // Whoever is late is left.
                    let _ = connection.await;
                    drop(place);
                });
            }
            // Too many open files, for example.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

async fn talk(stream: TcpStream, pages: Arc<Pages>, mut stop: watch::Receiver<()>) {
    let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        std::future::ready(Ok::<_, Infallible>(pages.answer(request.method(), request.uri().path())))
    });
    let mut talking = std::pin::pin!(
        http1::Builder::new().timer(TokioTimer::new()).keep_alive(false).serve_connection(TokioIo::new(stream), answer)
    );
    let ended = tokio::select! {
        ended = talking.as_mut() => ended,
        _ = stop.changed() => {
            talking.as_mut().graceful_shutdown();
            talking.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}

impl Pages {
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let page = match path {
            "/healthz" => told(self.health.live()),
            "/readyz" => told(self.health.ready()),
            "/metrics" => measured(self.metrics.encode()),
            _ => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics".to_owned()),
        };
        if page.status() == StatusCode::NOT_FOUND || method == Method::GET {
            return page;
        }
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET".to_owned());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        refused
    }
}

fn told(health: Result<String, String>) -> Response<Full<Bytes>> {
    match health {
        Ok(said) => text(StatusCode::OK, said),
        Err(said) => text(StatusCode::SERVICE_UNAVAILABLE, said),
    }
}

fn measured(metrics: Result<String, std::fmt::Error>) -> Response<Full<Bytes>> {
    let Ok(metrics) = metrics else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written".to_owned());
    };
    let mut response = Response::new(Full::new(Bytes::from(metrics)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
    response
}

fn text(status: StatusCode, line: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(line + "\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::lease::{Leadership, Part};

    fn pages() -> Pages {
        let leadership = Leadership::playing(Part::StandingBy);
        let metrics = Arc::new(Metrics::new(leadership.clone(), 0));
        Pages { health: Arc::new(Health::new(leadership)), metrics }
    }

    #[tokio::test]
    async fn only_what_there_is_and_only_by_get_is_answered() {
        let pages = pages();
        let status = |method: Method, path: &str| pages.answer(&method, path).status().as_u16();
        assert_eq!(status(Method::GET, "/healthz"), 200);
        assert_eq!(status(Method::GET, "/readyz"), 503, "nothing is watched yet");
        assert_eq!(status(Method::GET, "/metrics"), 200);
        for path in ["/", "/healthz/", "/debug"] {
            assert_eq!(status(Method::GET, path), 404, "{path}");
        }
        for method in [Method::POST, Method::HEAD, Method::DELETE] {
            let refused = pages.answer(&method, "/healthz");
            assert_eq!((refused.status().as_u16(), &refused.headers()[ALLOW]), (405, &HeaderValue::from_static("GET")));
        }
    }

    #[tokio::test]
    async fn a_server_that_is_stopped_ends_with_its_idle_connections_and_frees_its_address() {
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::start(listener, pages());
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut told = vec![0; 12];
        client.read_exact(&mut told).await.unwrap();
        assert_eq!(told, b"HTTP/1.1 200");
        server.stop().await;
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert!(rest.ends_with(b"ok\n"), "{}", String::from_utf8_lossy(&rest));
        listen(address).await.unwrap();
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_said_to_be_and_not_replaced_by_another() {
        let taken = listen((Ipv6Addr::UNSPECIFIED, 0).into()).await.unwrap();
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, taken.local_addr().unwrap().port()));
        let again = if taken.local_addr().unwrap().is_ipv6() { address } else { taken.local_addr().unwrap() };
        assert_eq!(listen(again).await.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    }
}
