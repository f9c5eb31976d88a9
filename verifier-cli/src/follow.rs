//! Following a log over time, as a regulator does: every head is proven to extend the last, and nothing seen is ever
//! forgotten (SPEC §11.6).
//!
//! ```text
//! poll ──────────┐
//! feed ──────────┼─▶ judge: signed? of one history, by the log's own tiles? vouched for? ─▶ book ─▶ history (disk)
//! add-checkpoint ┘                                                                          │
//!                                                    mirror ◀── believed heads ◀────────────┴─▶ cosignatures
//! ```
//! Polling never ends, whatever the feed does: the feed only makes it faster. A finding never ends a follower, and it is
//! loud about it for as long as it lasts: whoever watches must not stop when there is something to see.
//!
//! Out of scope: what entries say. [`crate::log`] audits the mirror.

mod book;
mod clock;
mod evidence;
mod feed;
mod follower;
mod history;
mod judge;
mod mirror;
mod server;
mod tell;
mod witness;

use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use sift_connect::Connect;
use sift_spec::note::{KeyType, SignerKey, VerifierKey};
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{KeyName, TreeSize};
use tokio::signal::unix::{SignalKind, signal};

use crate::error::CannotCheck;
use crate::exit::Exit;
use crate::files::make_dir;
use crate::http::{HttpSource, Patience};
use crate::source::{Directory, Source};

use book::Book;
use clock::now;
use feed::Feed;
use follower::Follower;
use mirror::Failure;
use server::Door;
use tell::Told;

pub use tell::{EVENT_FORMAT, Teller};

/// Name of the mirror, in the directory of a follower.
const MIRROR_DIR: &str = "mirror";

/// Name of the lock.
const LOCK_FILE: &str = "lock";

/// Longest checkpoint in bytes: sixteen post-quantum signatures, and to spare.
const CHECKPOINT_BYTES_MAX: usize = 128 << 10;

/// Heads that wait to be judged.
const WAITING_MAX: usize = 64;

/// What is said where nothing else is known.
const BROKEN: &str = "the history cannot be written";

/// How long a follower that is told to stop may take to finish what it does.
const GRACE: Duration = Duration::from_secs(3);

/// How a log is followed.
#[derive(Debug)]
pub struct Options {
    /// Directory or URL of the log; without it, the one URL of the trust file.
    pub log: Option<String>,
    /// Where everything is kept.
    pub dir: PathBuf,
    /// Time between two polls.
    pub every: Duration,
    /// For how long a log may neither grow nor be cosigned again; for ever when absent.
    pub stale: Option<Duration>,
    /// For how long a log may send nothing when it is asked.
    pub patience: Duration,
    /// Whether the log's feed is listened to, where it has one.
    pub feed: bool,
    /// Whether a full copy of the log is held.
    pub mirror: bool,
    /// Poll once and end.
    pub once: bool,
    /// The key of a witness, and where it listens.
    pub witness: Option<(SignerKey, SocketAddr)>,
}

/// What a follower is told.
enum Message {
    /// A head from the feed.
    Fed(Vec<u8>),
    /// A head that was sent to the witness with a proof that does not prove it.
    Suspect(Vec<u8>),
    /// What is durable cannot be written any more.
    Broken,
    /// How far the copy is, or why it is not.
    Mirrored(TreeSize, Result<u64, Failure>),
    /// To end.
    Stop,
}

/// Follows a log until it is told to stop, or once. The answer is that of the exit code: a rejection where two histories
/// were ever proven; and, of a single round, what the round found.
///
/// # Errors
/// When the directory is not to be used, or what is durable cannot be written.
pub fn run(
    mut options: Options,
    trust: TrustPolicy,
    connect: &Connect,
    teller: Teller,
) -> Result<Exit, CannotCheck> {
    make_dir(&options.dir).map_err(|source| CannotCheck::Write { path: options.dir.clone(), source })?;
    let _lock = lock(&options.dir)?;
    let (key, listen) = options.witness.take().unzip();
    check_key(key.as_ref(), &trust)?;
    // A witness may do nothing else.
    let watched = match which_log(options.log.as_deref(), &trust) {
        Err(_) if options.log.is_none() && key.is_some() => None,
        which => Some(which?),
    };
    let witness = key.as_ref().map(|key| key.verifier().clone());
    let book = Arc::new(Book::open(&options.dir, &trust, key, now())?);
    let once = options.once;
    let hears = options.feed && !once;
    let feed = watched.clone().filter(|(place, _)| hears && is_url(place));
    let feed = feed.map(|(place, origin)| (place, origin, options.patience));
    let mut follower = match watched {
        None => None,
        Some((place, origin)) => {
            let (log, book) = (open(&place, connect, options.patience)?, Arc::clone(&book));
            Some(Follower::new(options, trust, origin, book, log, teller))
        }
    };
    if let (true, Some(follower)) = (once, &mut follower) {
        return follower.poll().map(|round| round.exit());
    }
    let (messages, inbox) = sync_channel(WAITING_MAX);
    let (end, ended) = sync_channel(2);
    let stopping = Arc::new(AtomicBool::new(false));
    on_signal({
        let (messages, end) = (messages.clone(), end.clone());
        let (stopping, book) = (Arc::clone(&stopping), Arc::clone(&book));
        move || {
            stopping.store(true, Ordering::Relaxed);
            let _ = messages.try_send(Message::Stop);
            // Whoever waits for a log that hangs is not waited for: nothing is lost by ending now.
            std::thread::sleep(GRACE);
            let _ = end.send(Ok(verdict(&book)));
        }
    })?;
    if let Some(follower) = &mut follower {
        follower.copy_in_thread(messages.clone());
    }
    let feed = feed.map(|(place, origin, patience)| {
        let (book, messages) = (Arc::clone(&book), messages.clone());
        Feed::new(&place, connect, patience, origin, book, teller, messages)
    });
    let feed = feed.transpose()?;
    let door = Door { book: Arc::clone(&book), teller, messages };
    let closed = listen.map(server::Closed::at).transpose()?;
    let listen = closed.as_ref().map(|closed| closed.address);
    begin(follower.as_ref(), &book, witness.as_ref().zip(listen), teller);
    feed.map_or(Ok(()), Feed::listen)?;
    std::thread::spawn(move || {
        // What the log serves may say that this memory is an old copy: nothing is cosigned before that is looked at.
        let first = follower.as_mut().map_or(Ok(()), |follower| follower.poll().map(drop));
        if let (Some(closed), true) = (closed, first.is_ok()) {
            closed.open(door);
        }
        end.send(first.and_then(|()| match follower {
            Some(follower) => follower.run(&inbox, &stopping),
            None => stand_by(&book, &inbox),
        }))
    });
    let exit = ended.recv().unwrap_or(Ok(Exit::CouldNotCheck));
    if exit.is_ok() {
        teller.tell(&Told::Stopped { detail: "as it was told to" });
    }
    exit
}

/// A witness's key is one for cosignatures, and nobody else's.
fn check_key(key: Option<&SignerKey>, trust: &TrustPolicy) -> Result<(), CannotCheck> {
    let Some(key) = key.map(SignerKey::verifier) else { return Ok(()) };
    let setup = |why: String| Err(CannotCheck::Setup(why));
    if key.key_type() != KeyType::Cosignature {
        return setup(format!("{key} is no key of a witness: make one with sift-verify witness-key"));
    }
    match trust.logs().iter().find(|log| log.key.public() == key.public()) {
        Some(log) => {
            setup(format!("a log must not be its own witness: this key is that of {}", log.key.name()))
        }
        None => Ok(()),
    }
}

/// Says what begins.
fn begin(
    follower: Option<&Follower>,
    book: &Book,
    witness: Option<(&VerifierKey, SocketAddr)>,
    teller: Teller,
) {
    let origin = follower.map(Follower::origin);
    let size = origin.and_then(|origin| book.known(origin).anchor).map(|anchor| anchor.head.size);
    let mut doing: Vec<String> = follower.map(|follower| follower.describe(size)).into_iter().collect();
    if let Some((key, listen)) = witness {
        let logs: Vec<&str> = book.origins().map(KeyName::as_str).collect();
        doing.push(format!("cosigning for {} at http://{listen}/ as {key}", logs.join(", ")));
    }
    let (detail, listen) = (doing.join("; "), witness.map(|(_, listen)| listen));
    teller.tell(&Told::Started { origin, size, listen, detail });
}

/// What a witness does that follows no log: its door does everything.
fn stand_by(book: &Book, inbox: &Receiver<Message>) -> Result<Exit, CannotCheck> {
    while let Ok(message) = inbox.recv() {
        match message {
            Message::Stop => break,
            Message::Broken => return Err(book.is_broken().unwrap_or(CannotCheck::Setup(BROKEN.to_owned()))),
            Message::Fed(_) | Message::Suspect(_) | Message::Mirrored(..) => {}
        }
    }
    Ok(verdict(book))
}

/// Two histories that were ever proven stay proven, and what was forgotten stays so.
fn verdict(book: &Book) -> Exit {
    match (book.any_split(), book.any_forgot()) {
        (true, _) => Exit::Rejected,
        (false, true) => Exit::CouldNotCheck,
        (false, false) => Exit::Verified,
    }
}

/// One process at a time has a directory.
fn lock(dir: &Path) -> Result<File, CannotCheck> {
    let path = dir.join(LOCK_FILE);
    let fail = |source| CannotCheck::Write { path: path.clone(), source };
    let file = File::options().create(true).append(true).open(&path).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(CannotCheck::InUse(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(fail(source)),
    }
}

/// Where the log is, and which of the trust file's it is.
fn which_log(named: Option<&str>, trust: &TrustPolicy) -> Result<(String, KeyName), CannotCheck> {
    let same = |one: &str, other: &str| one.trim_end_matches('/') == other.trim_end_matches('/');
    let setup = |why: &str| Err(CannotCheck::Setup(why.to_owned()));
    let mut urls: Vec<&str> = trust.logs().iter().filter_map(|log| log.url.as_deref()).collect();
    urls.dedup();
    let place = match (named, urls.as_slice()) {
        (Some(place), _) => place,
        (None, [url]) => url,
        (None, []) => return setup("no log line of the trust file ends in a URL: give --log DIR|URL"),
        (None, _) => {
            return setup("the log lines of the trust file have several URLs: give one as --log URL");
        }
    };
    let by_url = trust.logs().iter().find(|log| log.url.as_deref().is_some_and(|url| same(url, place)));
    match by_url.map(|log| log.key.name()).or(trust.origin()) {
        Some(origin) => Ok((place.to_owned(), origin.clone())),
        None => setup("the trust file has several logs: end the line of the one to follow with its URL"),
    }
}

fn open(place: &str, connect: &Connect, patience: Duration) -> Result<Arc<dyn Source + Send>, CannotCheck> {
    if is_url(place) {
        Ok(Arc::new(HttpSource::with(place, connect, Patience::daemon(patience))?))
    } else {
        Ok(Arc::new(Directory::new(place)))
    }
}

fn is_url(place: &str) -> bool {
    place.starts_with("http://") || place.starts_with("https://")
}

/// Does something once, in a thread of its own, when the process is told to end.
fn on_signal(end: impl FnOnce() + Send + 'static) -> Result<(), CannotCheck> {
    let fail = |error: std::io::Error| CannotCheck::Setup(format!("signals cannot be waited for: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
    let entered = runtime.enter();
    let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
    drop(entered);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        end();
    });
    Ok(())
}
