//! A log in this process, on a port of its own.

use std::path::Path;

use sift_connect::Connect;
use sift_server::config::Config;
use sift_server::init::{OPERATOR_KEY_FILE, init};
use sift_server::key_file::read_key;
use sift_server::{Log, LogError};
use sift_spec::note::{SignerKey, VerifierKey};
use sift_spec::trust::TrustPolicy;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::http::Http;
use crate::writer::{Operator, Writer};

/// Origin of every test log.
pub(crate) const ORIGIN: &str = "test.sift.example/log";

/// A running log, stopped when dropped.
pub struct TestLog {
    dir: TempDir,
    config: Config,
    log: VerifierKey,
    operator: VerifierKey,
    trust: Option<TrustPolicy>,
    running: Option<Running>,
    /// How the running log is reached from the next start on.
    pub connect: Connect,
    /// Client of the running log.
    pub http: Http,
}

struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), LogError>>,
}

impl TestLog {
    /// Makes and starts a new log.
    ///
    /// # Panics
    /// When it cannot be made or started.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let listen = "127.0.0.1:0".parse().expect("an address");
        let new = init(dir.path(), &ORIGIN.parse().expect("an origin"), listen).expect("a log");
        let config = Config::read(&new.config).expect("a configuration");
        let (log, operator) = (new.log, new.operator);
        let (trust, running) = (None, None);
        let (connect, http) = (Connect::default(), Http::new("http://unused"));
        let mut test = Self { dir, config, log, operator, trust, running, connect, http };
        test.restart().await.expect("a running log");
        test
    }

    /// Opens the log again, after [`TestLog::stop`].
    ///
    /// # Errors
    /// When the log refuses to start.
    ///
    /// # Panics
    /// When no port is to be had.
    pub async fn restart(&mut self) -> Result<(), LogError> {
        let mut log = Log::open(&self.config)?;
        log.ask_witnesses().await?;
        let listener = TcpListener::bind(self.config.listen).await.expect("a port");
        let scheme = if self.config.tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().expect("an address"));
        self.http = Http::with(&url, &self.connect);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(log.serve(listener, async move {
            let _ = stopped.await;
        }));
        self.running = Some(Running { stop, task });
        Ok(())
    }

    /// Stops the log gracefully.
    ///
    /// # Panics
    /// When it stopped for another reason.
    pub async fn stop(&mut self) {
        if let Some(Running { stop, task }) = self.running.take() {
            let _ = stop.send(());
            task.await.expect("no panic").expect("a graceful stop");
        }
    }

    /// Writes the configuration to its file, for a process.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_config(&self) {
        let text = toml::to_string(&self.config).expect("a configuration");
        std::fs::write(self.dir.path().join(sift_server::config::CONFIG_FILE), text).expect("written");
    }

    /// The folder that `init` made.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The folder of the store.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.config.data
    }

    /// The log's configuration, to be changed before a restart.
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    /// The log's key.
    #[must_use]
    pub const fn key(&self) -> &VerifierKey {
        &self.log
    }

    /// The log's private key.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn signer(&self) -> SignerKey {
        read_key(&self.config.log_key).expect("the log's key")
    }

    /// What a verifier of this log believes.
    #[must_use]
    pub fn trust(&self) -> TrustPolicy {
        let plain = || TrustPolicy::of_log(self.log.clone(), Some(self.operator.clone()));
        self.trust.clone().unwrap_or_else(plain)
    }

    /// Gives verifiers, and the operator, another trust file from here on.
    pub fn set_trust(&mut self, trust: TrustPolicy) {
        self.trust = Some(trust);
    }

    /// The operator's key.
    #[must_use]
    pub const fn operator_key(&self) -> &VerifierKey {
        &self.operator
    }

    /// Waits until the log stops for a reason of its own.
    ///
    /// # Panics
    /// When it does not run, or stops without an error.
    pub async fn stopped(&mut self) -> LogError {
        let running = self.running.take().expect("a running log");
        running.task.await.expect("no panic").expect_err("a reason")
    }

    /// The operator, who signs by hand.
    ///
    /// # Panics
    /// When the key cannot be read.
    #[must_use]
    pub fn operator(&self) -> Operator {
        let key = read_key(&self.dir.path().join(OPERATOR_KEY_FILE)).expect("the operator's key");
        Operator::new(key, self.trust(), self.dir.path().join("operator.last"), self.http.clone())
    }

    /// A kernel's key, granted for all agents, and a published policy that its runs name.
    pub async fn writer(&self, name: &str) -> Writer {
        let writer = Writer::new(crate::new_key(name), ORIGIN);
        self.operator().enrol(&writer).await;
        writer
    }
}
