//! The built `aiquota run`, started as its users start it, with its log kept.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use ring::digest::{SHA256, digest};
use tempfile::TempDir;

use crate::api_server::ApiServer;
use crate::paths::{controller_binary, module};
use crate::process::Process;
use crate::wait::eventually;

/// How to start the controller.
#[derive(Clone, Debug, Default)]
pub struct ControllerOptions {
    /// Where the gateway is to load the module from; without it, the built modules as files with their checksums, of
    /// which `args` may name another for token rate limits.
    pub module_url: Option<String>,
    /// Whether it runs with `--flavor=upstream`. Upstream's module is played by ours, which its guard is anyway.
    pub upstream: bool,
    /// Whether it takes part in an election, which costs a restart the time of the lease. Without it, it is told that
    /// it is the only one.
    pub elected: bool,
    /// More arguments of `aiquota run`, such as `--guard=off`.
    pub args: Vec<String>,
    /// Which kubeconfig it gets, such as that of an [`crate::ApiProxy`]; without it, that of the chart's service account.
    pub kubeconfig: Option<PathBuf>,
}

/// A running controller.
pub struct Controller {
    program: PathBuf,
    arguments: Vec<String>,
    kubeconfig: PathBuf,
    folder: TempDir,
    process: Mutex<Option<Process>>,
    /// Where the log of its last start begins.
    began: AtomicUsize,
}

impl Controller {
    /// Starts the controller; what it then does is seen in the API server.
    ///
    /// # Errors
    /// When the binary or the module has not been built.
    pub fn start(api: &ApiServer, options: ControllerOptions) -> Result<Self> {
        let mut arguments = vec!["run".to_owned()];
        match options.module_url {
            Some(url) => arguments.push(format!("--module-url={url}")),
            None => {
                arguments.extend(module_arguments("module", "ai-quota")?);
                if !options.args.iter().any(|argument| argument.starts_with("--limit-module-url")) {
                    arguments.extend(module_arguments("limit-module", "ai-token-ratelimit")?);
                }
            }
        }
        if options.upstream {
            arguments.push("--flavor=upstream".to_owned());
            arguments.extend(module_arguments("guard-module", "ai-quota")?);
        }
        if !options.elected {
            arguments.push("--leader-election=off".to_owned());
        }
        arguments.extend(options.args);
        Self::run(arguments, options.kubeconfig.unwrap_or_else(|| api.controllers_kubeconfig()))
    }

    /// Starts it with exactly these arguments, such as a Deployment has them, but for the address it listens on: there
    /// it has one of its own, and here a free port.
    ///
    /// # Errors
    /// When the binary has not been built.
    pub fn run(mut arguments: Vec<String>, kubeconfig: PathBuf) -> Result<Self> {
        arguments.retain(|argument| !argument.starts_with("--listen="));
        arguments.push("--listen=127.0.0.1:0".to_owned());
        let controller = Self {
            program: controller_binary()?,
            arguments,
            kubeconfig,
            folder: tempfile::Builder::new().prefix("aiquota-controller-").tempdir()?,
            process: Mutex::new(None),
            began: AtomicUsize::new(0),
        };
        controller.restart()?;
        Ok(controller)
    }

    /// What it has logged, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Where it says how it is, since its last start.
    ///
    /// # Errors
    /// When it has not said yet where that is.
    pub fn serves(&self) -> Result<SocketAddr> {
        const SAYS: &str = "serving /healthz, /readyz and /metrics on ";
        let log = self.log();
        let since = log.get(self.began.load(Ordering::Acquire)..).unwrap_or_default();
        let (_, rest) = since.split_once(SAYS).context("it does not say yet where it serves")?;
        let end = rest.find(|c: char| !c.is_ascii_digit() && !".:[]".contains(c)).unwrap_or(rest.len());
        rest[..end].parse().with_context(|| format!("no address: {}", &rest[..end]))
    }

    /// Fails with the end of its log when it is not running.
    ///
    /// # Errors
    /// When it was killed or has ended by itself.
    pub fn ensure_running(&self) -> Result<()> {
        self.process().as_ref().context("the controller was stopped")?.ensure_running()
    }

    /// The running process, as `/proc` names it.
    ///
    /// # Errors
    /// When it was killed or has ended by itself.
    pub fn process_id(&self) -> Result<u32> {
        self.ensure_running()?;
        Ok(self.process().as_ref().context("the controller was stopped")?.id())
    }

    /// Kills it at once, as a lost node would.
    pub fn kill(&self) {
        drop(self.process().take());
    }

    /// Starts it again, with the same arguments; kills it before if it runs.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn restart(&self) -> Result<()> {
        self.kill();
        self.began.store(self.log().len(), Ordering::Release);
        let started = Process::spawn("aiquota", &self.program, &self.log_file(), |command| {
            command.args(&self.arguments).env("KUBECONFIG", &self.kubeconfig).current_dir(self.folder.path())
        })?;
        *self.process() = Some(started);
        Ok(())
    }

    /// Asks it to end (SIGTERM), as Kubernetes does, and waits until it has.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub async fn terminate(&self) -> Result<ExitStatus> {
        let running = self.process().take().context("the controller was stopped before")?;
        running.signal(Signal::SIGTERM)?;
        eventually("the controller ends when it is asked to", async || running.exit_status()?.context("it still runs"))
            .await
    }

    /// Stops it where it is (SIGSTOP), until it is resumed.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<()> {
        self.process().as_ref().context("the controller was stopped")?.signal(Signal::SIGSTOP)
    }

    /// Lets it go on where it was paused.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<()> {
        self.process().as_ref().context("the controller was stopped")?.signal(Signal::SIGCONT)
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// When it was killed before, or does not end.
    pub async fn ended(&self) -> Result<ExitStatus> {
        eventually("the controller ends by itself", async || {
            let process = self.process();
            process.as_ref().context("the controller was stopped")?.exit_status()?.context("it still runs")
        })
        .await
    }

    /// Where it logs to.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The arguments that name a built module and pin what it is.
fn module_arguments(flag: &str, name: &str) -> Result<[String; 2]> {
    let (url, sha256) = built_module(name)?;
    Ok([format!("--{flag}-url={url}"), format!("--{flag}-sha256={sha256}")])
}

/// A built module as a url, and its checksum.
///
/// # Errors
/// When it has not been built.
pub fn built_module(name: &str) -> Result<(String, String)> {
    let path = module(name)?;
    let sum = digest(&SHA256, &std::fs::read(&path)?);
    let sum: String = sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let path = path.to_str().with_context(|| format!("{} is no UTF-8", path.display()))?;
    ensure!(path.starts_with('/'), "{path} is no absolute path");
    Ok((format!("file://{path}"), sum))
}
