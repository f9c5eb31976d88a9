//! A log of one's own, in a scratch directory and in a process of its own, so that its memory and processor time are
//! not mixed up with those of whoever measures it.
//!
//! The process is this same program once more: every `main` here calls [`serve_if_asked`] first.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sift_client::{Clock as _, SystemClock};
use sift_server::Log;
use sift_server::config::{CONFIG_FILE, Config};
use sift_server::init::init;
use sift_server::key_file::read_key;
use sift_server::operator::Operator;
use sift_spec::note::SignerKey;
use sift_spec::record::{Grant, KeyChange, KeyRole, OperatorBody, Policy};
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{Hash, KeyName, Text};

use crate::AnyError;

/// Set in the environment of the process that is to serve a log: the log's folder.
const SERVE: &str = "SIFT_BENCHES_SERVE";

/// Serves a log, if this process was started for that: prints its address, ends when its standard input does.
/// Gives `false`, at once, in every other process.
///
/// # Errors
/// When the log cannot be served.
pub fn serve_if_asked() -> Result<bool, AnyError> {
    let Some(dir) = std::env::var_os(SERVE) else { return Ok(false) };
    let config = Config::read(&PathBuf::from(dir).join(CONFIG_FILE))?;
    let log = Log::open(&config)?;
    // The same runtime as `sift-server serve`.
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async move {
        let listener = tokio::net::TcpListener::bind(config.listen).await?;
        let mut out = std::io::stdout();
        writeln!(out, "{}", listener.local_addr()?)?;
        out.flush()?;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            let _ = stop.send(());
        });
        log.serve(listener, async {
            let _ = stopped.await;
        })
        .await?;
        Ok(true)
    })
}

/// A new log, served by another process until this is dropped or stopped.
#[derive(Debug)]
pub struct ServedLog {
    /// Folder of the log.
    pub dir: PathBuf,
    /// `host:port`.
    pub host: String,
    /// Whom to believe.
    pub trust: TrustPolicy,
    /// The operator's key.
    pub operator: SignerKey,
    process: Child,
}

impl ServedLog {
    /// Makes a new log in `dir` and serves it on a free port of this machine.
    ///
    /// # Errors
    /// When it cannot be made or does not start.
    pub fn start(dir: &Path) -> Result<Self, AnyError> {
        let new = init(dir, &"bench.example/log".parse()?, "127.0.0.1:0".parse()?)?;
        let operator = read_key(&new.operator_key)?;
        let trust = TrustPolicy::parse(&std::fs::read_to_string(&new.trust)?)?;
        let mut process = Command::new(std::env::current_exe()?)
            .env(SERVE, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut host = String::new();
        if let Some(out) = process.stdout.take() {
            BufReader::new(out).read_line(&mut host)?;
        }
        let host = host.trim_end().to_owned();
        let log = Self { dir: dir.to_owned(), host, trust, operator, process };
        if log.host.is_empty() { Err("the log did not start".into()) } else { Ok(log) }
    }

    /// Where the log is served.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.host)
    }

    /// Origin of the log.
    #[must_use]
    pub fn origin(&self) -> KeyName {
        // A trust file that `init` wrote lists one log.
        self.trust
            .logs()
            .first()
            .map_or_else(|| self.operator.verifier().name().clone(), |log| log.key.name().clone())
    }

    /// The process that serves it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Stops the log and gives its folder.
    ///
    /// # Errors
    /// When it did not end as it should.
    pub fn stop(mut self) -> Result<PathBuf, AnyError> {
        drop(self.process.stdin.take());
        let status = self.process.wait()?;
        if status.success() {
            Ok(self.dir.clone())
        } else {
            Err(format!("the log ended with {status}").into())
        }
    }
}

impl Drop for ServedLog {
    fn drop(&mut self) {
        // Without its standard input it ends by itself; after `stop` it is gone already.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Grants the keys to sign for every agent and publishes a bundle, as the operator.
///
/// # Errors
/// When the log refuses.
pub async fn enrol(
    url: &str,
    operator: &SignerKey,
    trust: &TrustPolicy,
    keys: &[SignerKey],
    bundle: (Hash, usize),
) -> Result<(), AnyError> {
    let grants = keys.iter().map(|key| -> Result<OperatorBody, AnyError> {
        let (agents, vkey) = (vec!["*".parse()?], key.verifier().to_string().parse()?);
        Ok(OperatorBody::Key(KeyChange::Grant(Grant { agents, role: KeyRole::Kernel, vkey })))
    });
    let (bundle, size) = bundle;
    let policy = Policy { bundle, name: Text::cut("bench"), size: size as u64 };
    // The operator's memory of what it signed last is of no use after the benchmark.
    let memory = tempfile::tempdir()?;
    let operator = Operator {
        key: operator,
        trust,
        last: memory.path().join("operator.last"),
        connect: Default::default(),
    };
    for body in grants.chain([Ok(OperatorBody::Policy(policy))]) {
        operator.submit(url, body?, SystemClock.now()).await?;
    }
    Ok(())
}
