//! The admin socket: how commands on the same machine ask a running log for what only it can do.
//!
//! A Unix socket beside the store, `<data>.sock`, that only the user of the server (and root) may use: its mode says so,
//! and so do the credentials of whoever connects. One line of JSON asks, one line answers. Nothing on the network leads
//! here.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::backup;
use crate::store::Store;

/// Longest line that is read: a path and a few words.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// How long a question may take to arrive.
const LINE_SECONDS_MAX: u64 = 5;

/// What may be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Question {
    /// A copy of the store in a folder that does not exist yet.
    Copy(PathBuf),
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Answer {
    Done,
    Failed(String),
}

/// Path of the socket of the store in `data`.
pub(crate) fn path(data: &Path) -> PathBuf {
    let mut name = data.file_name().unwrap_or_default().to_owned();
    name.push(".sock");
    data.with_file_name(name)
}

/// The listening socket; its file goes away with it.
pub(crate) struct Admin {
    listener: UnixListener,
    path: PathBuf,
    owner: u32,
}

impl Admin {
    /// Listens beside the store in `data`. The store is open, so that a file which is there is a dead server's.
    pub(crate) fn bind(data: &Path) -> io::Result<Self> {
        let path = path(data);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let owner = std::fs::metadata(&path)?.uid();
        Ok(Self { listener, path, owner })
    }

    /// Answers until it is dropped. One at a time: whoever comes meanwhile waits.
    pub(crate) async fn serve(self, store: Arc<Store>) {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let allowed = stream.peer_cred().is_ok_and(|peer| peer.uid() == self.owner || peer.uid() == 0);
            if !allowed {
                tracing::warn!("somebody else's process tried the admin socket");
                continue;
            }
            if let Err(error) = answer(stream, &store).await {
                tracing::warn!(%error, "a question on the admin socket was not answered");
            }
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(stream: UnixStream, store: &Arc<Store>) -> io::Result<()> {
    let (reading, mut writing) = stream.into_split();
    let mut line = String::new();
    let mut reading = tokio::io::BufReader::new(reading.take(LINE_BYTES_MAX));
    let read = tokio::time::timeout(Duration::from_secs(LINE_SECONDS_MAX), reading.read_line(&mut line));
    read.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let answer = match serde_json::from_str(&line) {
        Err(error) => Answer::Failed(error.to_string()),
        Ok(Question::Copy(to)) => {
            tracing::info!(to = %to.display(), "copying the store for a backup");
            let store = Arc::clone(store);
            let copied = tokio::task::spawn_blocking(move || backup::copy_store(&store, &to));
            match copied.await.map_err(io::Error::other)? {
                Ok(()) => Answer::Done,
                Err(error) => Answer::Failed(error.to_string()),
            }
        }
    };
    let mut text = serde_json::to_vec(&answer).map_err(io::Error::other)?;
    text.push(b'\n');
    writing.write_all(&text).await
}

/// Asks the server of the store in `data`. No server at all is `None`.
pub(crate) fn ask(data: &Path, question: &Question) -> io::Result<Option<Answer>> {
    let mut stream = match std::os::unix::net::UnixStream::connect(path(data)) {
        Ok(stream) => stream,
        // No file, or one that a killed server left.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut line = serde_json::to_vec(question).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server ended before it answered"));
    }
    serde_json::from_str(&line).map(Some).map_err(io::Error::other)
}
