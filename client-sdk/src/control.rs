//! The control socket: how commands on the same machine reach a running kernel.
//!
//! A Unix socket [`SOCKET_FILE`] in the kernel's directory, that only the kernel's user (and root) may use: its mode and
//! the directory's say so, and so do the credentials of whoever connects. One line of JSON asks, one line answers.
//! It is there as long as the kernel is open.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sift_spec::types::{AgentName, AgentScope, Hash, RunId, UnixMillis};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::config::Mode;
use crate::error::Stop;
use crate::halt::{HaltScope, Halted};
use crate::operator::OperatorStatus;
use crate::shared::{RunShared, Shared};
use crate::store::{Erasure, Pruned, Retention, Store, StoreError};

/// Name of the socket in a kernel's directory.
pub const SOCKET_FILE: &str = "kernel.sock";

/// Longest question in bytes: a scope and a few words.
const QUESTION_BYTES_MAX: u64 = 16 << 10;

/// Longest answer in bytes: the status of 100,000 runs.
const ANSWER_BYTES_MAX: u64 = 32 << 20;

/// How long a question may take to arrive, and a halt to be recorded.
const SECONDS_MAX: u64 = 5;

/// How long a command waits for its answer.
const PATIENCE: Duration = Duration::from_secs(2 * SECONDS_MAX);

/// The same where much may have to be erased.
const ERASE_PATIENCE: Duration = Duration::from_secs(3600);

/// Longest path of a socket in bytes, with its end; `sockaddr_un` has no room for more.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// What a kernel may be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// Stop something, now.
    Halt {
        /// What.
        scope: HaltScope,
        /// Why, for the record.
        detail: String,
    },
    /// Say how things are.
    Status,
    /// Erase payload objects that are not to be kept; without `apply`, only say what that would be.
    Prune {
        /// What is to be kept.
        retention: Retention,
        /// Whether to erase.
        apply: bool,
    },
    /// Erase payload objects of a closed run.
    Erase {
        /// The run.
        run: RunId,
        /// The one object; all of the run without.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<Hash>,
    },
}

impl Question {
    const fn patience(&self) -> Duration {
        match self {
            Self::Halt { .. } | Self::Status => PATIENCE,
            Self::Prune { .. } | Self::Erase { .. } => ERASE_PATIENCE,
        }
    }
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// It has stopped what it was to stop.
    Halted(Halted),
    /// How things are.
    Status(Box<KernelStatus>),
    /// What was erased, or would be, because it is not to be kept.
    Pruned(Pruned),
    /// What was erased on request.
    Erasure(Erasure),
    /// The question was not understood, or cannot be answered; why.
    Failed(String),
}

/// A kernel as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelStatus {
    /// Agents that were halted: they open no run until the kernel is opened again.
    pub agents_halted: Vec<AgentScope>,
    /// The bundle by which new runs are decided.
    pub bundle: Hash,
    /// Why the kernel as a whole has stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted: Option<String>,
    /// Whether intents wait for the log's receipt.
    pub mode: Mode,
    /// How far the operator's records are followed.
    pub operator: OperatorStatus,
    /// Age in milliseconds of the oldest record that is not in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_unlogged_ms: Option<u64>,
    /// The open runs, oldest first.
    pub runs: Vec<RunStatus>,
    /// Records that are not in the log.
    pub unlogged: u64,
    /// Bytes of these and of the payload objects that they commit to.
    pub unlogged_bytes: u64,
}

/// An open run as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunStatus {
    /// Its agent.
    pub agent: AgentName,
    /// Why it has stopped, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted: Option<String>,
    /// Time of its `open` record.
    pub opened: UnixMillis,
    /// How many records it has.
    pub records: u64,
    /// The run.
    pub run: RunId,
    /// Calls that were started and have not ended.
    pub under_way: u64,
}

impl KernelStatus {
    pub(crate) fn of(shared: &Shared) -> Self {
        let lag = shared.progress.borrow().lag;
        let now = shared.clock.now();
        let roll = shared.roll();
        Self {
            agents_halted: roll.barred().map(|(scope, _)| scope.clone()).collect(),
            bundle: shared.bundles.status().in_force,
            halted: shared.stopped().map(|stop| stop.to_string()),
            mode: shared.mode,
            operator: shared.revocations.status(&shared.approvers, &shared.kernels),
            oldest_unlogged_ms: lag.oldest.map(|oldest| now.get().saturating_sub(oldest.get())),
            runs: roll.runs().map(|run| RunStatus::of(shared, run)).collect(),
            unlogged: lag.records,
            unlogged_bytes: lag.bytes,
        }
    }
}

impl RunStatus {
    fn of(shared: &Shared, run: &RunShared) -> Self {
        Self {
            agent: run.agent.clone(),
            halted: shared.check(run).err().filter(Stop::is_halt).map(|stop| stop.to_string()),
            opened: run.started,
            records: run.view().next.get(),
            run: run.id,
            under_way: run.under_way(),
        }
    }
}

/// The listening socket; its file goes away with it.
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
    owner: u32,
}

impl Control {
    /// Listens in `dir`. The store is open, so that a socket which is there is a dead kernel's.
    pub(crate) fn bind(dir: &Path) -> io::Result<Self> {
        let path = dir.join(SOCKET_FILE);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (short, _open) = shortened(dir)?;
        let listener = UnixListener::bind(short)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let owner = std::fs::metadata(&path)?.uid();
        Ok(Self { listener, path, owner })
    }

    /// Answers until it is dropped. Each question has a task of its own: nobody waits behind somebody slow.
    pub(crate) async fn serve(self, shared: Arc<Shared>, store: Arc<Store>) {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let allowed = stream.peer_cred().is_ok_and(|peer| peer.uid() == self.owner || peer.uid() == 0);
            if !allowed {
                tracing::warn!("somebody else's process tried the control socket");
                continue;
            }
            // Who asks nothing does not keep the store from being closed.
            let (shared, store) = (Arc::clone(&shared), Arc::downgrade(&store));
            tokio::spawn(async move {
                if let Err(error) = answer(stream, shared, store).await {
                    tracing::warn!(%error, "a question on the control socket was not answered");
                }
            });
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(stream: UnixStream, shared: Arc<Shared>, store: Weak<Store>) -> io::Result<()> {
    let (reading, mut writing) = stream.into_split();
    let limit = Duration::from_secs(SECONDS_MAX);
    let mut line = String::new();
    let mut reading = tokio::io::BufReader::new(reading.take(QUESTION_BYTES_MAX));
    let read = tokio::time::timeout(limit, reading.read_line(&mut line));
    read.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let Some(store) = store.upgrade() else { return Ok(()) };
    let answer = match serde_json::from_str(&line) {
        Err(error) => Answer::Failed(error.to_string()),
        Ok(Question::Status) => Answer::Status(Box::new(KernelStatus::of(&shared))),
        Ok(Question::Prune { apply: true, .. }) if shared.stopped().is_some() => Answer::Failed(
            "the kernel has halted, and what it has may be needed to find out why; stop it, then prune"
                .to_owned(),
        ),
        Ok(Question::Prune { retention, apply }) => {
            let pruned = move || {
                let go_on = || shared.stopped().is_none();
                store.prune_while(retention, shared.clock.now(), apply, go_on).map(Answer::Pruned)
            };
            on_disk(pruned).await
        }
        Ok(Question::Erase { run, digest }) => {
            on_disk(move || store.erase(run, digest.as_ref()).map(Answer::Erasure)).await
        }
        Ok(Question::Halt { scope, detail }) => {
            tracing::warn!(?scope, detail, "halted from outside");
            // A disk that hangs delays the records, never the halt or its answer.
            let halted = tokio::time::timeout(limit, shared.halt(&scope, &detail)).await;
            Answer::Halted(
                halted.unwrap_or_else(|_| Halted { recorded: false, runs: shared.pull(&scope, &detail) }),
            )
        }
    };
    let mut text = serde_json::to_vec(&answer).map_err(io::Error::other)?;
    text.push(b'\n');
    writing.write_all(&text).await
}

/// Answers with work that waits for the disk.
async fn on_disk(work: impl FnOnce() -> Result<Answer, StoreError> + Send + 'static) -> Answer {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => Answer::Failed(error.to_string()),
        Err(error) => Answer::Failed(error.to_string()),
    }
}

/// Asks the kernel of a directory. `None` when none runs there.
///
/// # Errors
/// When the socket cannot be used, or the kernel gives no answer.
pub fn ask(dir: &Path, question: &Question) -> io::Result<Option<Answer>> {
    let connected = shortened(dir).and_then(|(short, _open)| std::os::unix::net::UnixStream::connect(short));
    let mut stream = match connected {
        Ok(stream) => stream,
        // No file, or one that a killed kernel left.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(question.patience()))?;
    let mut line = serde_json::to_vec(question).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the kernel ended before it answered"));
    }
    serde_json::from_str(&line).map(Some).map_err(io::Error::other)
}

/// The socket's path, by a detour over the open directory where it is too long for an address.
fn shortened(dir: &Path) -> io::Result<(PathBuf, Option<File>)> {
    let path = dir.join(SOCKET_FILE);
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return Ok((path, None));
    }
    let open = File::open(dir)?;
    Ok((PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_FILE}", open.as_raw_fd())), Some(open)))
}
