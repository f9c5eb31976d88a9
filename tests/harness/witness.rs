//! A witness (C2SP tlog-witness) over real HTTP: strict where it is honest, and with a switch for each way not to be.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use sift_spec::checkpoint::{Checkpoint, cosign, parse_size};
use sift_spec::note::{KeyType, NOTE_BYTES_MAX, Note, SignerKey, VerifierKey};
use sift_spec::proof::{Proof, TreeHead, verify_consistency};
use sift_spec::types::TreeSize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What a witness does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// What C2SP tlog-witness says.
    Honest,
    /// Answers 409 with this size, whatever it was sent.
    States(u64),
    /// Answers 409 with what is no size.
    StatesNonsense,
    /// Answers with this status and nothing else.
    Status(u16),
    /// Takes the request and never answers.
    Hangs,
    /// Ends the connection in the middle of its answer.
    Breaks,
    /// Answers 200 and one megabyte.
    Megabyte,
    /// Its good line stands behind lines in its name that do not verify, and lines that are none.
    Forges,
    /// Only lines in its name that do not verify.
    ForgesOnly,
    /// Only the good line of another witness.
    Others,
    /// Its good line stands behind a thousand others.
    Thousand,
    /// A cosignature at time 0.
    TimeZero,
    /// A good cosignature of another checkpoint.
    AnotherCheckpoint,
}

/// What a witness remembers of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The last tree that it cosigned.
    pub head: TreeHead,
    /// How many cosignatures it gave.
    pub cosigned: u64,
    /// How many requests it got.
    pub requests: u64,
}

struct State {
    manner: Manner,
    seen: Seen,
}

/// A witness of one log, in this process, with a port of its own.
pub struct Witness {
    key: Arc<SignerKey>,
    log: Arc<Vec<VerifierKey>>,
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    task: Option<JoinHandle<()>>,
}

impl Witness {
    /// Starts a witness of the log with one of these keys.
    ///
    /// # Panics
    /// When no port is to be had.
    pub async fn start(name: &str, log: &[VerifierKey]) -> Self {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).expect("randomness");
        let key = SignerKey::from_seed(name.parse().expect("a key name"), KeyType::Cosignature, &seed);
        let head = TreeHead { size: TreeSize::ZERO, root: sift_spec::hash::EMPTY_ROOT };
        let seen = Seen { head, cosigned: 0, requests: 0 };
        let mut witness = Self {
            key: Arc::new(key.expect("a key")),
            log: Arc::new(log.to_vec()),
            state: Arc::new(Mutex::new(State { manner: Manner::Honest, seen })),
            address: "127.0.0.1:0".parse().expect("an address"),
            task: None,
        };
        witness.restart().await;
        witness
    }

    /// Starts it again after [`Witness::stop`], at the same address and with what it remembers.
    ///
    /// # Panics
    /// When the port is taken.
    pub async fn restart(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("a port");
        self.address = listener.local_addr().expect("an address");
        let (key, log, state) = (Arc::clone(&self.key), Arc::clone(&self.log), Arc::clone(&self.state));
        self.task = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (key, log, state) = (Arc::clone(&key), Arc::clone(&log), Arc::clone(&state));
                connections.spawn(async move {
                    let _ = serve(stream, &key, &log, &state).await;
                });
            }
        }));
    }

    /// Stops it: its port is closed, and open requests get no answer.
    pub async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// From now on it behaves like this.
    ///
    /// # Panics
    /// When another thread panicked.
    pub fn set(&self, manner: Manner) {
        self.state.lock().expect("no panic").manner = manner;
    }

    /// What it remembers.
    ///
    /// # Panics
    /// When another thread panicked.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.state.lock().expect("no panic").seen
    }

    /// Makes it remember another tree, as if another copy of the log had shown it.
    ///
    /// # Panics
    /// When another thread panicked.
    pub fn remember(&self, head: TreeHead) {
        self.state.lock().expect("no panic").seen.head = head;
    }

    /// Its public key.
    #[must_use]
    pub fn key(&self) -> &VerifierKey {
        self.key.verifier()
    }

    /// Its line of a policy.
    #[must_use]
    pub fn line(&self, name: &str) -> String {
        format!("witness {name} {} http://{}/\n", self.key.verifier(), self.address)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// Reads one request and answers it.
async fn serve(
    mut stream: TcpStream,
    key: &SignerKey,
    log: &[VerifierKey],
    state: &Mutex<State>,
) -> io::Result<()> {
    let mut request = Vec::new();
    let (line, body) = loop {
        if stream.read_buf(&mut request).await? == 0 || request.len() > 1 << 20 {
            return Ok(());
        }
        let Some(end) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        if let Some(body) = request.get(end + 4..end + 4 + length.unwrap_or(0_usize)) {
            break (head.lines().next().unwrap_or_default().to_owned(), body.to_vec());
        }
    };
    let manner = {
        let mut state = state.lock().expect("no panic");
        state.seen.requests += 1;
        state.manner
    };
    if !line.starts_with("post /add-checkpoint ") {
        return write(&mut stream, 404, "text/plain", b"").await;
    }
    let (status, media, answer) = match manner {
        Manner::Hangs => std::future::pending().await,
        Manner::States(size) => (409, "text/x.tlog.size", format!("{size}\n")),
        Manner::StatesNonsense => (409, "text/x.tlog.size", "-1 or so\n".repeat(100)),
        Manner::Status(status) => (status, "text/plain", String::new()),
        Manner::Breaks => {
            return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n\xe2\x80\x94 w").await;
        }
        Manner::Megabyte => (200, "text/plain", "\u{2014} x AAAA\n".repeat(100_000)),
        manner => match add_checkpoint(&body, key, log, state) {
            Ok(text) => (200, "text/plain", spoil(manner, &text, key)),
            Err((status, body)) => (status, "text/x.tlog.size", body),
        },
    };
    write(&mut stream, status, media, answer.as_bytes()).await
}

async fn write(stream: &mut TcpStream, status: u16, media: &str, body: &[u8]) -> io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {media}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    stream.shutdown().await
}

/// `add-checkpoint`: the text that may be cosigned, remembered before it is; or status and body of the refusal.
fn add_checkpoint(
    body: &[u8],
    key: &SignerKey,
    log: &[VerifierKey],
    state: &Mutex<State>,
) -> Result<String, (u16, String)> {
    let refuse = |status: u16| (status, String::new());
    let body = std::str::from_utf8(body).map_err(|_| refuse(400))?;
    let (request, note) = body.split_once("\n\n").ok_or(refuse(400))?;
    let mut lines = request.split('\n');
    let old = lines.next().and_then(|line| parse_size(line.strip_prefix("old ")?)).ok_or(refuse(400))?;
    let hashes = lines.map(str::parse).collect::<Result<Vec<_>, _>>().map_err(|_| refuse(400))?;
    if hashes.len() > 63 {
        return Err(refuse(400));
    }
    let parsed = Note::parse(note.as_bytes(), NOTE_BYTES_MAX).map_err(|_| refuse(400))?;
    let checkpoint = Checkpoint::parse(parsed.text).map_err(|_| refuse(400))?;
    if !log.iter().any(|key| *key.name() == checkpoint.origin) {
        return Err(refuse(404));
    }
    parsed.verify(log).map_err(|_| refuse(403))?;
    // A witness reads no cosignature, not even its own.
    if parsed.signatures.iter().any(|line| key.verifier().matches(line)) {
        return Err(refuse(400));
    }
    let head = checkpoint.head;
    if old > head.size {
        return Err(refuse(400));
    }
    let mut state = state.lock().expect("no panic");
    let last = state.seen.head;
    if old != last.size {
        return Err((409, format!("{}\n", last.size)));
    }
    if old == TreeSize::ZERO && !hashes.is_empty() {
        return Err(refuse(422));
    }
    if old > TreeSize::ZERO {
        verify_consistency(&last, &head, &Proof(hashes)).map_err(|_| refuse(422))?;
    }
    state.seen.head = head;
    state.seen.cosigned += 1;
    Ok(parsed.text.to_owned())
}

/// The lines of an answer, as this manner has them.
fn spoil(manner: Manner, text: &str, key: &SignerKey) -> String {
    let seconds = crate::now().get() / 1000;
    let line = |text: &str, key: &SignerKey, time| cosign(text, key, time).expect("a cosignature");
    let good = line(text, key, seconds);
    // A valid cosignature of another text has the form of one of this.
    let forged = line(&format!("{text}x\n"), key, seconds);
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).expect("randomness");
    let name = "other.example/witness".parse().expect("a key name");
    let other = SignerKey::from_seed(name, KeyType::Cosignature, &seed).expect("a key");
    let strange = line(text, &other, seconds);
    match manner {
        Manner::Forges => format!("{forged}{strange}not a line\n\u{2014} \n\n{forged}{good}{strange}"),
        Manner::ForgesOnly => format!("{forged}{forged}"),
        Manner::Others => strange,
        Manner::Thousand => format!("{}{good}", strange.repeat(1000)),
        Manner::TimeZero => line(text, key, 0),
        Manner::AnotherCheckpoint => line("test.sift.example/log\n1\nAAAA\n", key, seconds),
        _ => good,
    }
}
