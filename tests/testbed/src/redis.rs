//! A real Redis server on a free port, empty and without persistence. It can be protected by ACL users, killed,
//! restarted on the same port, and paused so that it accepts connections but answers nothing.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;

use crate::process::{self, Process, find};
use crate::wait::eventually;

/// The user as whom [`Redis::connect`] works; it may do everything, whatever the options say.
const ADMIN: &str = "testbed";
const ADMIN_PASSWORD: &str = "testbed-only";

const PATIENCE: Duration = Duration::from_secs(30);

/// How to start a Redis server.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// An ACL user with its password, allowed everything. The default user is then switched off unless it has a
    /// password of its own.
    pub user: Option<(String, String)>,
    /// The password of the default user (what `requirepass` sets).
    pub password: Option<String>,
    /// More lines for the configuration file, such as `appendonly yes` to survive [`Redis::kill`].
    pub config: Vec<String>,
}

/// A running Redis server.
pub struct Redis {
    port: u16,
    options: Mutex<RedisOptions>,
    program: PathBuf,
    folder: TempDir,
    process: Mutex<Option<Process>>,
}

impl Redis {
    /// Starts a server and waits until it answers.
    ///
    /// # Errors
    /// When `redis-server` is not installed or does not start.
    pub async fn start(options: RedisOptions) -> Result<Self> {
        let Some(program) = find("redis-server") else {
            bail!("there is no redis-server on the PATH: `apt-get install redis-server`");
        };
        let folder = tempfile::Builder::new().prefix("aiquota-redis-").tempdir()?;
        let port = process::free_port()?;
        std::fs::write(folder.path().join("redis.conf"), configuration(port, &options)?)?;
        let redis = Self { port, options: Mutex::new(options), program, folder, process: Mutex::new(None) };
        redis.launch().await?;
        Ok(redis)
    }

    /// The port on `127.0.0.1`.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port`, as an McpBridge registry wants it.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The URL with the credentials of the options. The default user is named: redis-cli before 7.2 takes an empty
    /// name literally.
    pub fn url(&self) -> String {
        let credentials = match &*self.options.lock().unwrap_or_else(PoisonError::into_inner) {
            RedisOptions { user: Some((name, password)), .. } => format!("{}:{}@", escaped(name), escaped(password)),
            RedisOptions { password: Some(password), .. } => format!("default:{}@", escaped(password)),
            RedisOptions { .. } => String::new(),
        };
        format!("redis://{credentials}{}", self.addr())
    }

    /// A connection as a user who may do everything.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn connect(&self) -> Result<MultiplexedConnection> {
        let url = format!("redis://{ADMIN}:{ADMIN_PASSWORD}@{}", self.addr());
        // The library's own timeouts are below a second: a busy machine would fail tests that are right.
        let patient =
            AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
        Ok(redis::Client::open(url)?.get_multiplexed_async_connection_with_config(&patient).await?)
    }

    /// Deletes every key of every database.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn flush(&self) -> Result<()> {
        Ok(redis::cmd("FLUSHALL").query_async(&mut self.connect().await?).await?)
    }

    /// The text of `key`, or `None` when there is none.
    ///
    /// # Errors
    /// When the server does not answer or the key holds no string.
    pub async fn get(&self, key: &str) -> Result<Option<String>> {
        Ok(redis::cmd("GET").arg(key).query_async(&mut self.connect().await?).await?)
    }

    /// Sets `key`.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn set(&self, key: &str, value: impl std::fmt::Display + Send) -> Result<()> {
        Ok(redis::cmd("SET").arg(key).arg(value.to_string()).query_async(&mut self.connect().await?).await?)
    }

    /// Kills the server: connections break, new ones are refused, the data is lost.
    pub fn kill(&self) {
        drop(self.process.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Starts a killed server again on the same port.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&self) -> Result<()> {
        self.kill();
        self.launch().await
    }

    /// Starts a killed server again on the same port, with another password of the default user.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart_with_password(&self, password: &str) -> Result<()> {
        self.kill();
        let configuration = {
            let mut options = self.options.lock().unwrap_or_else(PoisonError::into_inner);
            options.password = Some(password.to_owned());
            configuration(self.port, &options)?
        };
        std::fs::write(self.folder.path().join("redis.conf"), configuration)?;
        self.launch().await
    }

    /// Kills the server and starts it again on the same port, and does not wait until it has loaded its data.
    ///
    /// # Errors
    /// When it does not start.
    pub fn relaunch(&self) -> Result<()> {
        self.kill();
        self.spawn()
    }

    /// Waits until the server answers and has loaded its data.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ready(&self) -> Result<()> {
        eventually("Redis answers PING", async || {
            let mut connection = self.connect().await?;
            Ok(redis::cmd("PING").query_async::<()>(&mut connection).await?)
        })
        .await
        .with_context(|| format!("the log of Redis ends:\n{}", process::tail(&self.log(), 20)))
    }

    /// Freezes the server: connections stay open and are accepted, nothing is answered.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets a paused server go on; it answers what it was asked meanwhile.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    async fn launch(&self) -> Result<()> {
        self.spawn()?;
        self.ready().await
    }

    fn spawn(&self) -> Result<()> {
        let started = Process::spawn("redis-server", &self.program, &self.log(), |command| {
            command.arg("redis.conf").current_dir(self.folder.path())
        })?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        process.as_ref().context("Redis was killed and not restarted")?.signal(signal)
    }
}

fn configuration(port: u16, options: &RedisOptions) -> Result<String> {
    let mut lines = format!("bind 127.0.0.1\nport {port}\nsave \"\"\n");
    writeln!(lines, "user {ADMIN} on >{ADMIN_PASSWORD} ~* &* +@all")?;
    match (&options.user, &options.password) {
        (_, Some(password)) => writeln!(lines, "user default on >{password} ~* &* +@all")?,
        (Some(_), None) => writeln!(lines, "user default off")?,
        (None, None) => {}
    }
    if let Some((name, password)) = &options.user {
        writeln!(lines, "user {name} on >{password} ~* &* +@all")?;
    }
    for line in &options.config {
        writeln!(lines, "{line}")?;
    }
    Ok(lines)
}

/// A user name or password as it stands in a URL.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}
