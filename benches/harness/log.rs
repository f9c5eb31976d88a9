//! A log of one's own: `sift-server` as it is built beside this program, in a process of its own, so that what is
//! measured is what an operator runs, and its memory and processor time are not mixed up with those of whoever
//! measures it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sift_client::{Clock as _, SystemClock};
use sift_server::init::{OPERATOR_KEY_FILE, TRUST_FILE, init};
use sift_server::key_file::read_key;
use sift_server::operator::Operator;
use sift_spec::note::SignerKey;
use sift_spec::record::{Grant, KeyChange, KeyRole, OperatorBody, Policy};
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{Hash, KeyName, Text};

use crate::AnyError;

/// Name of the program.
const SERVER: &str = "sift-server";

/// Path of another build of it in the environment, to compare with.
const OTHER_SERVER: &str = "SIFT_SERVER";

/// A log, served by another process until this is dropped, stopped or killed.
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
    /// From the start of the process to the line that says it serves.
    pub started_in: Duration,
    process: Child,
}

impl ServedLog {
    /// Makes a new log in `dir` and serves it on a free port of this machine.
    ///
    /// # Errors
    /// When it cannot be made or does not start.
    pub fn start(dir: &Path) -> Result<Self, AnyError> {
        init(dir, &"bench.example/log".parse()?, "127.0.0.1:0".parse()?)?;
        Self::again(dir)
    }

    /// Serves the log that is in `dir`.
    ///
    /// # Errors
    /// With what it printed, when it does not start.
    pub fn again(dir: &Path) -> Result<Self, AnyError> {
        let operator = read_key(&dir.join(OPERATOR_KEY_FILE))?;
        let trust = TrustPolicy::parse(&std::fs::read_to_string(dir.join(TRUST_FILE))?)?;
        let start = Instant::now();
        let server =
            std::env::var_os(OTHER_SERVER).map_or_else(|| program(SERVER), |other| Ok(other.into()))?;
        let mut process = Command::new(server)
            .args(["serve".as_ref(), "--dir".as_ref(), dir.as_os_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = process.stderr.take().map(BufReader::new).ok_or("no standard error")?.lines();
        let mut printed = String::new();
        for line in lines.by_ref().map_while(Result::ok) {
            if let Some((_, rest)) = line.split_once("address=") {
                let started_in = start.elapsed();
                let host = rest.split_whitespace().next().unwrap_or_default().to_owned();
                // Whoever writes a diary must find a reader, or it stalls.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(Self { dir: dir.to_owned(), host, trust, operator, started_in, process });
            }
            printed.push_str(&line);
            printed.push('\n');
        }
        let _ = process.wait();
        Err(format!("{SERVER} did not start: {printed}").into())
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

    /// Folder of its store.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The process that serves it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Stops the log as an operator does, and gives its folder.
    ///
    /// # Errors
    /// When it did not end as it should.
    pub fn stop(mut self) -> Result<PathBuf, AnyError> {
        terminate(&self.process)?;
        let status = self.process.wait()?;
        if status.success() {
            Ok(self.dir.clone())
        } else {
            Err(format!("the log ended with {status}").into())
        }
    }

    /// SIGKILL, in the middle of whatever it does; gives its folder.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(mut self) -> Result<PathBuf, AnyError> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(self.dir.clone())
    }
}

impl Drop for ServedLog {
    fn drop(&mut self) {
        // After `stop` and `kill` it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Path of a program as it is built beside this one: programs are in `debug`, benchmarks in `debug/deps`.
///
/// # Errors
/// When it is not built.
pub fn program(name: &str) -> Result<PathBuf, AnyError> {
    let this = std::env::current_exe()?;
    let found = this.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.exists());
    found.ok_or_else(|| format!("{name} is not built: run `cargo build --workspace` first").into())
}

/// SIGTERM. The standard library knows SIGKILL only, and a program is told to stop by `kill` everywhere.
fn terminate(process: &Child) -> Result<(), AnyError> {
    let status = Command::new("kill").args(["-TERM", &process.id().to_string()]).status()?;
    if status.success() { Ok(()) } else { Err("the log could not be told to stop".into()) }
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
