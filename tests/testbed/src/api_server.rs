//! A real Kubernetes API server with its own etcd, data and ports, or a cluster that is already there. No kubelet,
//! scheduler or controller-manager: pods never run, namespaces are never emptied, nothing is garbage-collected.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::audit::{self, Asked};
use crate::components::Component;
use crate::crds;
use crate::process::{self, Process};
use crate::service_account::{self, ServiceAccount};
use crate::wait::eventually;

/// Who does what tests do, in managed fields.
const FIELD_MANAGER: &str = "testbed";
const TOKEN: &str = "testbed-admin";

/// A running API server.
pub struct ApiServer {
    client: Client,
    kubeconfig: PathBuf,
    /// Who controllers are.
    controller: OnceLock<ServiceAccount>,
    own: Option<Own>,
}

/// What we started, and can therefore stop.
struct Own {
    folder: TempDir,
    audited: bool,
    port: u16,
    etcd_port: u16,
    etcd_peer_port: u16,
    running: Mutex<Option<Running>>,
}

/// Dropped in this order: etcd outlives the API server.
struct Running {
    _api_server: Process,
    _etcd: Process,
}

impl ApiServer {
    /// Starts etcd and an API server and waits until it is ready (some seconds). The first call on a machine builds
    /// both (some minutes). With `AIQUOTA_USE_EXISTING_CLUSTER=1` it takes the cluster of `KUBECONFIG` instead.
    ///
    /// # Errors
    /// When a component cannot be built or does not become ready.
    pub async fn start() -> Result<Self> {
        Self::start_with(audit::folder().is_some()).await
    }

    /// [`Self::start`], and what the controller asks is written down for [`Self::asked`].
    ///
    /// # Errors
    /// As [`Self::start`]; and for a cluster that is there already, whose logs are not ours.
    pub async fn start_audited() -> Result<Self> {
        let api = Self::start_with(true).await?;
        ensure!(api.own.is_some(), "a cluster that was there before is not audited");
        Ok(api)
    }

    async fn start_with(audited: bool) -> Result<Self> {
        if std::env::var("AIQUOTA_USE_EXISTING_CLUSTER").is_ok_and(|value| value == "1") {
            let kubeconfig = std::env::var_os("KUBECONFIG").map(PathBuf::from);
            let kubeconfig = kubeconfig.context("AIQUOTA_USE_EXISTING_CLUSTER=1 needs KUBECONFIG, one file")?;
            let client = client(&kubeconfig).await?;
            ready(&client).await?;
            return Ok(Self { client, kubeconfig, controller: OnceLock::new(), own: None });
        }
        let folder = tempfile::Builder::new().prefix("aiquota-api-").tempdir()?;
        let (port, etcd_port, etcd_peer_port) = (process::free_port()?, process::free_port()?, process::free_port()?);
        let own = Own { folder, audited, port, etcd_port, etcd_peer_port, running: Mutex::new(None) };
        own.write_credentials()?;
        own.launch().await?;
        let kubeconfig = own.write_kubeconfig()?;
        let client = client(&kubeconfig).await?;
        ready(&client).await.with_context(|| own.logs())?;
        Ok(Self { client, kubeconfig, controller: OnceLock::new(), own: Some(own) })
    }

    /// A client that may do everything.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The kubeconfig of [`Self::client`], for other programs.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The kubeconfig of controllers: of the service account that the chart makes, with the chart's rights, once our
    /// definitions were installed by [`Self::install_crds`]; before, and in a cluster that is not ours, as
    /// [`Self::kubeconfig`].
    pub fn controllers_kubeconfig(&self) -> PathBuf {
        self.controller.get().map_or_else(|| self.kubeconfig.clone(), ServiceAccount::kubeconfig)
    }

    /// What controllers asked and were answered until now.
    ///
    /// # Errors
    /// When it was not started to be audited.
    pub fn asked(&self) -> Result<BTreeSet<Asked>> {
        let own = self.own.as_ref().filter(|own| own.audited).context("this API server is not audited")?;
        audit::asked(&own.path("audit.log"))
    }

    /// Kills the API server and etcd; what was written stays. Clients see refused connections.
    ///
    /// # Errors
    /// When the cluster is not ours.
    pub fn stop(&self) -> Result<()> {
        let Some(own) = &self.own else { bail!("a cluster that was there before is not stopped") };
        drop(own.running.lock().unwrap_or_else(PoisonError::into_inner).take());
        Ok(())
    }

    /// Starts both again on the same ports and data, and waits until the API server is ready.
    ///
    /// # Errors
    /// When the cluster is not ours, or does not become ready.
    pub async fn restart(&self) -> Result<()> {
        self.stop()?;
        let Some(own) = &self.own else { bail!("a cluster that was there before is not restarted") };
        own.launch().await?;
        ready(&self.client).await.with_context(|| own.logs())
    }

    /// Creates a namespace, if it does not exist.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn namespace(&self, name: &str) -> Result<()> {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let api: Api<Namespace> = Api::all(self.client());
        api.patch(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(namespace)).await?;
        Ok(())
    }

    /// Installs Higress' CRDs and those of ours in `crds/`, and waits until they are served; and makes the service account
    /// that controllers are.
    ///
    /// # Errors
    /// When the API server refuses something.
    pub async fn install_crds(&self) -> Result<()> {
        crds::install(&self.client, &[crds::higress(), crds::ours()?].concat()).await?;
        if self.own.is_some() && self.controller.get().is_none() {
            let _ = self.controller.set(service_account::grant(self).await?);
        }
        Ok(())
    }

    /// Installs Higress' CRDs and none of ours.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub async fn install_higress_crds(&self) -> Result<()> {
        crds::install(&self.client, &crds::higress()).await
    }

    /// Installs the part of the Gateway API that matters here: `HTTPRoute`.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn install_gateway_api(&self) -> Result<()> {
        crds::install(&self.client, &crds::gateway_api()).await
    }

    /// The API of any kind, by name: `api.objects("extensions.higress.io/v1alpha1", "WasmPlugin", "higress-system")`.
    /// An empty namespace is for kinds without one.
    ///
    /// # Errors
    /// When the API server does not serve the kind.
    pub async fn objects(&self, api_version: &str, kind: &str, namespace: &str) -> Result<Api<DynamicObject>> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let kind = GroupVersionKind::gvk(group, version, kind);
        let (resource, _) = kube::discovery::pinned_kind(&self.client, &kind).await?;
        Ok(match namespace {
            "" => Api::all_with(self.client(), &resource),
            _ => Api::namespaced_with(self.client(), namespace, &resource),
        })
    }

    /// Applies an object (server-side apply, forced) and returns it as stored. The refusal of the API server is the
    /// error's root cause, a [`kube::Error`].
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn apply(&self, object: &Value) -> Result<DynamicObject> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (kind, name) = (text("/kind"), text("/metadata/name"));
        ensure!(!kind.is_empty() && !name.is_empty(), "an object needs kind and metadata.name: {object}");
        let api = self.objects(text("/apiVersion"), kind, text("/metadata/namespace")).await?;
        let applied = api.patch(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(object)).await;
        applied.with_context(|| format!("cannot apply {kind} {name}"))
    }

    /// Applies every document of a YAML text, in order.
    ///
    /// # Errors
    /// When the text is no YAML or the API server refuses a document.
    pub async fn apply_yaml(&self, yaml: &str) -> Result<()> {
        for object in serde_yaml::from_multiple::<Value>(yaml)? {
            self.apply(&object).await?;
        }
        Ok(())
    }
}

impl Own {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_credentials(&self) -> Result<()> {
        fs::write(self.path("tokens.csv"), format!("{TOKEN},admin,admin,\"system:masters\"\n"))?;
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let secret = EcdsaKeyPair::generate_pkcs8(algorithm, &random).ok().context("no randomness for a key")?;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, secret.as_ref(), &random).ok().context("a key that is none")?;
        // SubjectPublicKeyInfo of a P-256 key: what comes before its point is always the same (RFC 5480).
        let mut public =
            b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00"
                .to_vec();
        public.extend_from_slice(pair.public_key().as_ref());
        fs::write(self.path("sa.key"), pem::encode(&pem::Pem::new("PRIVATE KEY", secret.as_ref())))?;
        fs::write(self.path("sa.pub"), pem::encode(&pem::Pem::new("PUBLIC KEY", public)))?;
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
            "rules": [{"level": "Metadata", "users": [service_account::ACCOUNT]}, {"level": "None"}],
        });
        fs::write(self.path("audit.json"), serde_json::to_vec(&policy)?)?;
        Ok(())
    }

    fn write_kubeconfig(&self) -> Result<PathBuf> {
        let path = self.path("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "testbed",
            "clusters": [{"name": "testbed", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority": self.path("certs/apiserver.crt"),
            }}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "admin"}}],
        });
        // JSON is YAML.
        fs::write(&path, serde_json::to_vec_pretty(&config)?)?;
        Ok(path)
    }

    /// Starts both; the API server itself waits for etcd. Ready is asked for by the caller.
    async fn launch(&self) -> Result<()> {
        let programs = || anyhow::Ok((Component::Etcd.locate()?, Component::KubeApiserver.locate()?));
        let (etcd, api_server) = tokio::task::spawn_blocking(programs).await??;
        let etcd_url = format!("http://127.0.0.1:{}", self.etcd_port);
        let peer_url = format!("http://127.0.0.1:{}", self.etcd_peer_port);
        let etcd = Process::spawn("etcd", &etcd, &self.path("etcd.log"), |command| {
            command
                .current_dir(self.folder.path())
                .args(["--data-dir=etcd", "--unsafe-no-fsync", "--log-level=warn"])
                .args([
                    format!("--listen-client-urls={etcd_url}"),
                    format!("--advertise-client-urls={etcd_url}"),
                    format!("--listen-peer-urls={peer_url}"),
                    format!("--initial-advertise-peer-urls={peer_url}"),
                    format!("--initial-cluster=default={peer_url}"),
                ])
        })?;
        let api_server = Process::spawn("kube-apiserver", &api_server, &self.path("kube-apiserver.log"), |command| {
            command.current_dir(self.folder.path()).args([
                &format!("--etcd-servers={etcd_url}"),
                &format!("--secure-port={}", self.port),
                "--bind-address=127.0.0.1",
                "--cert-dir=certs",
                "--token-auth-file=tokens.csv",
                "--authorization-mode=RBAC",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-account-key-file=sa.pub",
                "--service-account-signing-key-file=sa.key",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--disable-admission-plugins=ServiceAccount",
            ]);
            match self.audited {
                true => command.args(["--audit-policy-file=audit.json", "--audit-log-path=audit.log"]),
                false => command,
            }
        })?;
        // The certificate is written before the port is opened; clients need it.
        eventually("the API server listens", async || {
            etcd.ensure_running()?;
            api_server.ensure_running()?;
            tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await?;
            Ok(())
        })
        .await?;
        let running = Running { _api_server: api_server, _etcd: etcd };
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
        Ok(())
    }

    fn logs(&self) -> String {
        format!("the API server's log ends:\n{}", process::tail(&self.path("kube-apiserver.log"), 20))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let Some(folder) = audit::folder().filter(|_| self.audited) else { return };
        // So that nothing more is asked.
        drop(self.running.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        if let Err(error) = audit::leave(&folder, &self.path("audit.log"), self.port) {
            eprintln!("what was asked of an API server is lost: {error:#}");
        }
    }
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let config = Kubeconfig::read_from(kubeconfig)?;
    Ok(Client::try_from(Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?)?)
}

async fn ready(client: &Client) -> Result<()> {
    eventually("the API server is ready", async || {
        let answer = client.request_text(http::Request::get("/readyz").body(Vec::new())?).await?;
        ensure!(answer == "ok", "/readyz says {answer}");
        Ok(())
    })
    .await
}
