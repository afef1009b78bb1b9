//! Child processes that never outlive us, and free ports for them. A child ends with its handle; if this process is
//! killed, the kernel kills the child (the parent-death signal, set by util-linux' `setpriv`).

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError, mpsc};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running program with its log in a file. Dropping it kills it.
pub(crate) struct Process {
    name: &'static str,
    log: PathBuf,
    child: Mutex<Child>,
}

impl Process {
    /// Starts `program`; both its outputs go to the end of `log`.
    pub(crate) fn spawn(
        name: &'static str,
        program: &Path,
        log: &Path,
        configure: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<Self> {
        let output =
            File::options().create(true).append(true).open(log).with_context(|| format!("log {}", log.display()))?;
        let mut command = match SETPRIV.as_deref() {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        configure(&mut command).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // Ctrl-C in a terminal goes to us alone; we then end the children in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = spawn(command).with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { name, log: log.to_owned(), child: Mutex::new(child) })
    }

    /// Fails with the end of its log when it is no longer running.
    pub(crate) fn ensure_running(&self) -> Result<()> {
        match self.exit_status()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}; its log ends:\n{}", self.name, tail(&self.log, 30)),
        }
    }

    pub(crate) fn exit_status(&self) -> Result<Option<ExitStatus>> {
        Ok(self.child().try_wait()?)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child().id()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.ensure_running()?;
        let id = i32::try_from(self.id())?;
        kill(Pid::from_raw(id), signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.child();
        // Both fail only for a child that has already ended, which is what is wanted.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The last lines of a log, for error messages.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A port of loopback that nobody listens on, and that this process gives out once. It lies below the range from which
/// the kernel takes ports of outgoing connections: one of those could take a killed server's port before it restarts.
///
/// # Errors
/// When every candidate is taken.
pub fn free_port() -> Result<u16> {
    const FIRST: u32 = 15_000;
    const COUNT: u32 = 17_000;
    // Test processes run side by side: each begins elsewhere.
    static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(std::process::id().wrapping_mul(7_919)));
    for _ in 0..COUNT {
        let candidate = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = u16::try_from(candidate)?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST} and {}", FIRST + COUNT)
}

static SETPRIV: LazyLock<Option<PathBuf>> = LazyLock::new(|| find("setpriv"));

/// The file that `PATH` gives for a program's name.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Spawns from a thread that lives as long as the process: the kernel sends the death signal when the *thread* that
/// spawned the child ends, and test threads end early.
fn spawn(command: Command) -> Result<Child> {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in orders {
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let (sender, answer) = mpsc::channel();
    SPAWNER.send((command, sender))?;
    Ok(answer.recv()??)
}
