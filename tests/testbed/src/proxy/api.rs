//! A proxy in front of an API server: plain HTTP from the program, TLS and the token of who the program is to
//! the server. Requests that change something are operations; watches can be made to lag. Bodies of answers pass as they
//! come.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderMap, HeaderName, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::Mode;
use super::door::{Door, Line};
use super::operations::{Operation, Operations};
use crate::api_server::ApiServer;

/// Headers that belong to one connection, or say who the program is.
const NOT_PASSED: [HeaderName; 5] =
    [header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH, header::HOST, header::AUTHORIZATION];

/// A proxy in front of an API server. It ends with its handle.
pub struct ApiProxy {
    door: Door,
    kubeconfig: PathBuf,
    lagging: watch::Sender<Lagging>,
    _folder: TempDir,
}

/// The resources whose watches are held, and how often.
type Lagging = BTreeMap<String, usize>;

/// While it lives, watches of one resource deliver nothing.
#[must_use]
pub struct Held {
    resource: String,
    lagging: watch::Sender<Lagging>,
}

impl ApiProxy {
    /// Starts it on a free port of loopback, for a controller.
    ///
    /// # Errors
    /// When no port can be had or the API server's kubeconfig cannot be read.
    pub async fn start(api: &ApiServer, operations: &Operations) -> Result<Self> {
        Self::start_as(&api.controllers_kubeconfig(), operations).await
    }

    /// [`Self::start`], for a program that is somebody else.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_as(kubeconfig: &Path, operations: &Operations) -> Result<Self> {
        let config = Kubeconfig::read_from(kubeconfig)?;
        let mut config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        // What the API server answers is for the program.
        config.default_retry = false;
        let upstream = Client::try_from(config)?;
        let lagging = watch::Sender::new(Lagging::new());
        let lag = lagging.clone();
        let serve = move |stream, line| serve(stream, line, upstream.clone(), lag.clone());
        let door = Door::open(operations, serve).await?;
        let folder = tempfile::Builder::new().prefix("aiquota-proxy-").tempdir()?;
        let kubeconfig = folder.path().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": format!("http://{}", door.addr())}}],
            "users": [{"name": "proxy", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
        });
        // JSON is YAML.
        std::fs::write(&kubeconfig, serde_json::to_vec_pretty(&config)?)?;
        Ok(Self { door, kubeconfig, lagging, _folder: folder })
    }

    pub fn addr(&self) -> SocketAddr {
        self.door.addr()
    }

    /// The kubeconfig that leads through the proxy.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    pub fn set(&self, mode: Mode) {
        self.door.set(mode);
    }

    /// Makes the watches of a resource (`aiquotas`) deliver nothing, also those that begin meanwhile. What happens
    /// comes when the answer of this is dropped, in order. Lists are answered.
    pub fn hold(&self, resource: &str) -> Held {
        self.lagging.send_modify(|lagging| *lagging.entry(resource.to_owned()).or_default() += 1);
        Held { resource: resource.to_owned(), lagging: self.lagging.clone() }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.lagging.send_modify(|lagging| {
            if let Some(holds) = lagging.get_mut(&self.resource) {
                *holds -= 1;
            }
        });
    }
}

async fn serve(stream: TcpStream, line: Line, upstream: Client, lagging: watch::Sender<Lagging>) {
    let shared = Arc::new((line, upstream, lagging));
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move {
            let (line, upstream, lagging) = &*shared;
            // An error closes the connection without an answer.
            answer(request, line, upstream, lagging).await.map_err(std::io::Error::other)
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

type Streamed = http_body_util::combinators::UnsyncBoxBody<Bytes, kube::Error>;

async fn answer(
    request: Request<Incoming>,
    line: &Line,
    upstream: &Client,
    lagging: &watch::Sender<Lagging>,
) -> Result<Response<Streamed>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    line.open().await;
    let asked = Asked::of(&head.uri);
    let operation = asked.operation(&head.method);
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut forwarded = Request::builder().method(&head.method).uri(path);
    for (name, value) in passed(&head.headers) {
        forwarded = forwarded.header(name, value);
    }
    let forward = upstream.send(forwarded.body(Body::from(body))?);
    let answer = match operation {
        Some(operation) => line.pass(operation, forward).await.context("cut off")??,
        None => forward.await?,
    };
    line.open().await;
    let (answered, body) = answer.into_parts();
    let mut response = Response::builder().status(answered.status);
    for (name, value) in passed(&answered.headers) {
        response = response.header(name, value);
    }
    let resource = asked.watched().map(str::to_owned);
    let (line, lagging) = (line.clone(), lagging.subscribe());
    let body = body.into_data_stream().then(move |chunk| {
        let (line, mut lagging, resource) = (line.clone(), lagging.clone(), resource.clone());
        async move {
            if let Some(resource) = resource {
                let held = |lagging: &Lagging| lagging.get(&resource).is_some_and(|holds| *holds > 0);
                // An error is a proxy that has ended, and this with it.
                let _ = lagging.wait_for(|lagging| !held(lagging)).await;
            }
            line.open().await;
            chunk.map(Frame::data)
        }
    });
    Ok(response.body(StreamBody::new(body).boxed_unsync())?)
}

fn passed(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &http::HeaderValue)> {
    headers.iter().filter(|(name, _)| !NOT_PASSED.contains(name))
}

/// What a URL of the Kubernetes API names.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    /// With the subresource: `aiquotas/status`.
    resource: String,
    /// `namespace/name`, as far as there is one.
    object: String,
    watches: bool,
}

impl Asked {
    fn of(uri: &Uri) -> Self {
        let mut parts = uri.path().split('/').filter(|part| !part.is_empty());
        let versions = match parts.next() {
            Some("api") => 1,
            Some("apis") => 2,
            _ => 0,
        };
        let mut parts = parts.skip(versions).peekable();
        let mut namespace = None;
        let mut resource = parts.next().unwrap_or_default();
        let mut name = parts.next();
        // /namespaces/a is a namespace, /namespaces/a/pods its pods; a namespace's own subresources are two.
        if resource == "namespaces" && parts.peek().is_some_and(|part| !["status", "finalize"].contains(part)) {
            namespace = name;
            resource = parts.next().unwrap_or_default();
            name = parts.next();
        }
        let resource = [resource].into_iter().chain(parts).collect::<Vec<_>>().join("/");
        let object = namespace.into_iter().chain(name).collect::<Vec<_>>().join("/");
        let watches =
            uri.query().is_some_and(|query| query.split('&').any(|word| matches!(word, "watch=true" | "watch=1")));
        Self { resource, object, watches }
    }

    fn operation(&self, method: &Method) -> Option<Operation> {
        let changes = matches!(*method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE);
        changes.then(|| Operation { verb: method.to_string(), kind: self.resource.clone(), name: self.object.clone() })
    }

    fn watched(&self) -> Option<&str> {
        self.watches.then_some(self.resource.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_resource_object_and_whether_it_watches() {
        for (url, resource, object, watches) in [
            ("/api/v1/namespaces/a/secrets/s", "secrets", "a/s", false),
            ("/api/v1/namespaces/a", "namespaces", "a", false),
            ("/api/v1/namespaces/a/status", "namespaces/status", "a", false),
            ("/apis/g.io/v1/namespaces/a/aiquotas/q/status?fieldManager=m", "aiquotas/status", "a/q", false),
            ("/apis/g.io/v1/namespaces/a/aiquotas", "aiquotas", "a", false),
            ("/apis/g.io/v1/aiquotas?watch=true&resourceVersion=7", "aiquotas", "", true),
            ("/api/v1/services?limit=500&resourceVersion=0", "services", "", false),
        ] {
            let asked = Asked::of(&url.parse().unwrap());
            assert_eq!((asked.resource.as_str(), asked.object.as_str(), asked.watches), (resource, object, watches));
        }
    }

    #[test]
    fn what_only_reads_is_no_operation() {
        let asked = Asked::of(&"/api/v1/namespaces/a/secrets/s".parse().unwrap());
        assert_eq!(asked.operation(&Method::GET), None);
        assert_eq!(asked.operation(&Method::DELETE).unwrap().to_string(), "DELETE secrets a/s");
    }
}
