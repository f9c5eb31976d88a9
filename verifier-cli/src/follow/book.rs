//! What is known of each log: one memory for everybody who asks, durable before it is told.
//!
//! For each origin of the trust file: the **anchor**, the largest head that was ever proven to be of this history, signed
//! by the log and cosigned by us where we are a witness; and the **believed** head, the largest of those that the quorum
//! vouches for. Every head that comes later is compared with the anchor, wherever it comes from, so that nothing is
//! cosigned that does not extend all that was.
//!
//! Once two histories are proven, nothing of that log is ever cosigned again. Nor is it once a head carries our own
//! cosignature that we do not remember: then this memory is an old copy, and another one may have signed anything.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sift_spec::checkpoint::{Checkpoint, cosign, verify_cosignature};
use sift_spec::hash::origin_digest;
use sift_spec::note::{NOTE_BYTES_MAX, Note, SignatureLine, SignerKey, VerifierKey};
use sift_spec::proof::TreeHead;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{Hash, KeyName, TreeSize, UnixMillis};

use super::evidence;
use super::history::{Event, History};
use crate::error::CannotCheck;

/// The history's file, in the directory of a follower.
const HISTORY_FILE: &str = "history";

/// Heads that are found again without reading the history.
const RECENT_MAX: usize = 1024;

/// Where evidence is kept, below it.
pub(super) const EVIDENCE_DIR: &str = "evidence";

/// A head with the note that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) head: TreeHead,
    /// The checkpoint, exactly.
    pub(super) note: String,
    /// When it was first seen.
    pub(super) time: UnixMillis,
}

/// What is known of a log.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// The largest head that is proven to be of this history.
    pub(super) anchor: Option<Seen>,
    /// The largest of them that the quorum vouches for.
    pub(super) believed: Option<Seen>,
    /// Our cosignature of the anchor, and its time in seconds.
    pub(super) cosigned: Option<(String, u64)>,
    /// The log showed two histories.
    pub(super) split: bool,
    /// We cosigned a tree that we do not remember.
    pub(super) forgot: bool,
}

impl Known {
    /// Whether nothing of this log is ever to be cosigned again.
    pub(super) const fn is_over(&self) -> bool {
        self.split || self.forgot
    }
}

/// A head that is to be remembered.
pub(super) struct NewHead<'a> {
    pub(super) head: TreeHead,
    pub(super) note: &'a str,
    pub(super) believed: bool,
    pub(super) from: &'a str,
}

/// Where a head was proven to belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It extends the anchor, which has this head; or it is the first.
    Extends(Option<TreeHead>),
    /// It is the anchor, or part of it.
    Within,
}

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is remembered.
    Done,
    /// The anchor moved meanwhile: compare again.
    Moved,
}

/// Two heads of which neither extends the other.
pub(super) struct Split<'a> {
    pub(super) from: &'a str,
    pub(super) ours: &'a str,
    pub(super) theirs: &'a str,
    /// Tiles that show it, where the sizes differ.
    pub(super) tiles: &'a evidence::Files,
}

/// The memory of a follower.
pub(super) struct Book {
    evidence: PathBuf,
    key: Option<SignerKey>,
    logs: BTreeMap<KeyName, TrustPolicy>,
    inner: Mutex<Inner>,
}

struct Inner {
    history: History,
    known: Memory,
}

/// What was read from the history, and what was added since.
#[derive(Default)]
struct Memory {
    logs: BTreeMap<KeyName, Known>,
    /// The heads that came last, of all logs: what is published now was mostly sent to the witness just before.
    recent: VecDeque<(KeyName, Seen)>,
}

impl Book {
    /// Opens the memory in a directory that nobody else has.
    pub(super) fn open(
        dir: &Path,
        trust: &TrustPolicy,
        key: Option<SignerKey>,
        now: UnixMillis,
    ) -> Result<Self, CannotCheck> {
        let mut keys: BTreeMap<KeyName, Vec<VerifierKey>> = BTreeMap::new();
        for log in trust.logs() {
            keys.entry(log.key.name().clone()).or_default().push(log.key.clone());
        }
        let logs =
            keys.into_iter().map(|(origin, keys)| (origin, TrustPolicy::of_keys(keys, None))).collect();
        let (mut known, mut unread) = (Memory::default(), false);
        let path = dir.join(HISTORY_FILE);
        let history = History::open(&path, |event| unread |= known.remember(event).is_none())?;
        if unread {
            let why = "a line of it holds no checkpoint";
            return Err(CannotCheck::Damaged { path, offset: 0, why });
        }
        let inner = Mutex::new(Inner { history, known });
        let book = Self { evidence: dir.join(EVIDENCE_DIR), key, logs, inner };
        book.cosign_anchors(now)?;
        Ok(book)
    }

    /// What is known of a log now.
    pub(super) fn known(&self, origin: &KeyName) -> Known {
        self.lock().known.logs.get(origin).cloned().unwrap_or_default()
    }

    /// Whether any log showed two histories.
    pub(super) fn any_split(&self) -> bool {
        self.lock().known.logs.values().any(|known| known.split)
    }

    /// Whether anything that was cosigned was forgotten.
    pub(super) fn any_forgot(&self) -> bool {
        self.lock().known.logs.values().any(|known| known.forgot)
    }

    /// The keys of a log, and nothing about witnesses.
    pub(super) fn log(&self, origin: &KeyName) -> Option<&TrustPolicy> {
        self.logs.get(origin)
    }

    /// The origins of the trust file's logs.
    pub(super) fn origins(&self) -> impl Iterator<Item = &KeyName> {
        self.logs.keys()
    }

    /// The root and note that the history has for this size of a log, where it saw one.
    pub(super) fn seen_at(
        &self,
        origin: &KeyName,
        size: TreeSize,
    ) -> Result<Option<(Hash, String)>, CannotCheck> {
        let inner = self.lock();
        let is_it = |(of, seen): &&(KeyName, Seen)| of == origin && seen.head.size == size;
        if let Some((_, seen)) = inner.known.recent.iter().rev().find(is_it) {
            return Ok(Some((seen.head.root, seen.note.clone())));
        }
        let mut seen = None;
        inner.history.events(|event| {
            if let Event::Head { note, .. } = event
                && let Some(checkpoint) = parse(&note)
                && checkpoint.origin == *origin
                && checkpoint.head.size == size
            {
                seen = Some((checkpoint.head.root, note));
            }
        })?;
        Ok(seen)
    }

    /// Remembers a head that was proven to belong where `place` says, and cosigns it where it becomes the anchor.
    pub(super) fn take(
        &self,
        origin: &KeyName,
        new: &NewHead<'_>,
        place: Place,
        now: UnixMillis,
    ) -> Result<Taken, CannotCheck> {
        self.lock().take(origin, new, place, self.key.as_ref(), now)
    }

    /// Remembers that a log showed two histories, and keeps the evidence. Gives the directory.
    pub(super) fn split(
        &self,
        origin: &KeyName,
        split: &Split<'_>,
        now: UnixMillis,
    ) -> Result<Option<PathBuf>, CannotCheck> {
        let mut inner = self.lock();
        let Some((evidence, is_new)) = evidence::keep_split(&self.evidence, split)? else { return Ok(None) };
        // Evidence without its event is that of a process that ended in between.
        if is_new || !inner.known.logs.get(origin).is_some_and(|known| known.split) {
            let event = Event::Split {
                time: now,
                from: split.from.to_owned(),
                evidence: evidence.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                ours: split.ours.to_owned(),
                theirs: split.theirs.to_owned(),
            };
            inner.history.append(&event)?;
            inner.known.logs.entry(origin.clone()).or_default().split = true;
        }
        Ok(Some(evidence))
    }

    /// Remembers that we cosigned a head that we do not remember, where this is one: larger than the anchor, and by our key.
    pub(super) fn forgot(
        &self,
        origin: &KeyName,
        new: &NewHead<'_>,
        now: UnixMillis,
    ) -> Result<bool, CannotCheck> {
        let Some(key) = self.key.as_ref().map(SignerKey::verifier) else { return Ok(false) };
        let mut inner = self.lock();
        let known = inner.known.logs.entry(origin.clone()).or_default();
        let is_larger = known.anchor.as_ref().is_none_or(|anchor| anchor.head.size < new.head.size);
        let is_ours = || {
            let note = Note::parse(new.note.as_bytes(), NOTE_BYTES_MAX).ok();
            note.is_some_and(|note| {
                let mut lines = note.signatures.iter();
                lines.any(|line| verify_cosignature(note.text, key, line).is_some())
            })
        };
        if !is_larger || known.forgot || !is_ours() {
            return Ok(known.forgot);
        }
        known.forgot = true;
        let (from, note) = (new.from.to_owned(), new.note.to_owned());
        inner.history.append(&Event::Forgot { time: now, from, note })?;
        Ok(true)
    }

    /// Keeps a smaller head than the one before, which is no proof of anything.
    pub(super) fn keep_older(&self, ours: &str, theirs: &str) -> Result<Option<PathBuf>, CannotCheck> {
        evidence::keep_older(&self.evidence, ours, theirs)
    }

    /// Decides about a head with everything else held still. `decide` is told what is known.
    pub(super) fn decide<T>(
        &self,
        decide: impl FnOnce(&mut Deciding<'_>) -> Result<T, CannotCheck>,
    ) -> Result<T, CannotCheck> {
        decide(&mut Deciding { inner: self.lock(), key: self.key.as_ref() })
    }

    /// The largest head that we cosigned of the log with this digest of its origin, in hexadecimal.
    pub(super) fn cosigned_note(&self, digest: &str) -> Option<String> {
        let origin = self.logs.keys().find(|origin| origin_digest(origin.as_str()).hex() == digest)?;
        let known = self.known(origin);
        let (anchor, (line, _)) = (known.anchor?, known.cosigned?);
        let lines = signed_by(&anchor.note, self.logs.get(origin)?)?;
        Some(lines + &line)
    }

    /// A history that was begun without a key has an anchor that the witness would have to deny.
    fn cosign_anchors(&self, now: UnixMillis) -> Result<(), CannotCheck> {
        let Some(key) = &self.key else { return Ok(()) };
        let mut inner = self.lock();
        for origin in self.logs.keys() {
            let Some(known) = inner.known.logs.get_mut(origin) else { continue };
            let Some(anchor) = known.anchor.clone() else { continue };
            let ours = known.cosigned.take().filter(|(line, _)| is_by(&anchor.note, line, key.verifier()));
            known.cosigned = ours;
            if known.cosigned.is_none() && !known.is_over() {
                let new = NewHead { head: anchor.head, note: &anchor.note, believed: false, from: "key" };
                inner.take(origin, &new, Place::Extends(Some(anchor.head)), Some(key), now)?;
            }
        }
        Ok(())
    }

    /// Why nothing more can be remembered, where a write failed.
    pub(super) fn is_broken(&self) -> Option<CannotCheck> {
        self.lock().history.is_broken()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memory, held still.
pub(super) struct Deciding<'a> {
    inner: MutexGuard<'a, Inner>,
    key: Option<&'a SignerKey>,
}

impl Deciding<'_> {
    pub(super) fn known(&self, origin: &KeyName) -> Known {
        self.inner.known.logs.get(origin).cloned().unwrap_or_default()
    }

    pub(super) fn take(
        &mut self,
        origin: &KeyName,
        new: &NewHead<'_>,
        place: Place,
        now: UnixMillis,
    ) -> Result<Taken, CannotCheck> {
        self.inner.take(origin, new, place, self.key, now)
    }

    /// Our cosignature of the anchor, as of now. Nothing is written: nothing changes but the time.
    pub(super) fn cosign_again(&mut self, origin: &KeyName, now: UnixMillis) -> Option<String> {
        let known = self.inner.known.logs.get_mut(origin).filter(|known| !known.is_over())?;
        let line = cosign_at(&known.anchor.as_ref()?.note, self.key?, known.cosigned.as_ref(), now)?;
        known.cosigned = Some(line.clone());
        Some(line.0)
    }
}

impl Inner {
    fn take(
        &mut self,
        origin: &KeyName,
        new: &NewHead<'_>,
        place: Place,
        key: Option<&SignerKey>,
        now: UnixMillis,
    ) -> Result<Taken, CannotCheck> {
        let known = self.known.logs.entry(origin.clone()).or_default();
        let cosigned = match place {
            Place::Extends(from) if known.anchor.as_ref().map(|anchor| anchor.head) != from => {
                return Ok(Taken::Moved);
            }
            Place::Extends(_) if !known.is_over() => {
                key.and_then(|key| cosign_at(new.note, key, known.cosigned.as_ref(), now))
            }
            Place::Extends(_) | Place::Within => None,
        };
        let event = Event::Head {
            time: now,
            from: new.from.to_owned(),
            believed: new.believed,
            cosignature: cosigned.map(|(line, _)| line),
            note: new.note.to_owned(),
        };
        self.history.append(&event)?;
        let _ = self.known.remember(event);
        Ok(Taken::Done)
    }
}

impl Memory {
    /// Takes an event in; `None` where it holds no checkpoint.
    fn remember(&mut self, event: Event) -> Option<()> {
        match event {
            Event::Head { time, believed, cosignature, note, .. } => {
                let checkpoint = parse(&note)?;
                let head = checkpoint.head;
                if self.recent.len() == RECENT_MAX {
                    self.recent.pop_front();
                }
                self.recent.push_back((checkpoint.origin.clone(), Seen { head, note: note.clone(), time }));
                let known = self.logs.entry(checkpoint.origin).or_default();
                let is_past =
                    |seen: &Option<Seen>| seen.as_ref().is_some_and(|seen| seen.head.size >= head.size);
                if believed && !is_past(&known.believed) {
                    // A head is as old as its first sight, whoever vouched for it then.
                    let first =
                        known.anchor.as_ref().filter(|anchor| anchor.head == head).map(|anchor| anchor.time);
                    let time = first.unwrap_or(time);
                    known.believed = Some(Seen { head, note: note.clone(), time });
                }
                if let Some(line) = cosignature {
                    let time = SignatureLine::parse(line.trim_end()).and_then(|line| {
                        line.signature.first_chunk().map(|time: &[u8; 8]| u64::from_be_bytes(*time))
                    });
                    known.cosigned = Some((line, time?));
                } else if !is_past(&known.anchor) {
                    known.cosigned = None;
                }
                if !is_past(&known.anchor) {
                    known.anchor = Some(Seen { head, note, time });
                }
            }
            Event::Forgot { note, .. } => {
                self.logs.entry(parse(&note)?.origin).or_default().forgot = true;
            }
            Event::Split { ours, .. } => {
                self.logs.entry(parse(&ours)?.origin).or_default().split = true;
            }
        }
        Some(())
    }
}

pub(super) fn parse(note: &str) -> Option<Checkpoint> {
    Checkpoint::parse(Note::parse(note.as_bytes(), NOTE_BYTES_MAX).ok()?.text).ok()
}

/// Our cosignature of a note, and its time: never before that of the one we gave last.
fn cosign_at(
    note: &str,
    key: &SignerKey,
    last: Option<&(String, u64)>,
    now: UnixMillis,
) -> Option<(String, u64)> {
    let text = Note::parse(note.as_bytes(), NOTE_BYTES_MAX).ok()?.text;
    let time = (now.get() / 1000).max(last.map_or(1, |(_, time)| *time));
    Some((cosign(text, key, time)?, time))
}

/// Whether a line is a cosignature of this note by this key.
fn is_by(note: &str, line: &str, key: &VerifierKey) -> bool {
    let text = Note::parse(note.as_bytes(), NOTE_BYTES_MAX).ok().map(|note| note.text);
    let line = SignatureLine::parse(line.trim_end());
    text.zip(line).and_then(|(text, line)| verify_cosignature(text, key, &line)).is_some()
}

/// The note with the signatures of these logs alone: what others added is not ours to pass on.
pub(super) fn signed_by(note: &str, logs: &TrustPolicy) -> Option<String> {
    let parsed = Note::parse(note.as_bytes(), NOTE_BYTES_MAX).ok()?;
    let keys = logs.logs();
    let kept = note.get(parsed.text.len() + 1..)?.lines().filter(|line| {
        SignatureLine::parse(line).is_some_and(|line| keys.iter().any(|log| log.key.matches(&line)))
    });
    let lines: String = kept.map(|line| format!("{line}\n")).collect();
    Some(format!("{}\n{lines}", parsed.text))
}
