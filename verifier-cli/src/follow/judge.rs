//! One head: is it the log's, is it of the history seen so far, and who vouches for it? (SPEC §11.6)

use std::path::PathBuf;

use sift_spec::note::{NOTE_BYTES_MAX, Note};
use sift_spec::proof::TreeHead;
use sift_spec::trust::{TrustError, TrustPolicy};
use sift_spec::types::{KeyName, TreeSize, UnixMillis};

use super::book::{Book, Known, NewHead, Place, Split, Taken};
use super::evidence::{Files, Recording};
use super::witness::ADD_CHECKPOINT;
use crate::checkpoint::code_of;
use crate::consistency::{Extension, extension, not_its_tiles};
use crate::error::CannotCheck;
use crate::finding::{Code, Concern, Finding, Severity};
use crate::source::Source;

/// So often a head is compared again because the anchor moved meanwhile.
const ATTEMPTS_MAX: usize = 8;

/// A log that is followed.
pub(super) struct Watch<'a> {
    pub(super) trust: &'a TrustPolicy,
    pub(super) origin: &'a KeyName,
    pub(super) book: &'a Book,
    /// Where its tiles are to be had: the log first, then copies of it.
    pub(super) sources: &'a [&'a dyn Source],
}

/// What was found out about a head.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// The head, where the log signed it.
    pub(super) head: Option<TreeHead>,
    /// The size before it, where it became the largest that was seen, or that is believed.
    pub(super) grown_from: Option<TreeSize>,
    /// Whether the quorum vouches for it.
    pub(super) believed: bool,
    /// Witnesses that cosigned it, with their time in seconds.
    pub(super) witnesses: Vec<(String, u64)>,
    /// What is wrong, and where the evidence is kept.
    pub(super) findings: Vec<(Finding, Option<PathBuf>)>,
    /// What could not be found out.
    pub(super) unproven: Option<CannotCheck>,
}

/// How a head stands to the anchor.
#[derive(Clone)]
enum Relation {
    First,
    Same,
    Extends,
    Within,
    /// It, and this note of the log, with tiles that show it where the sizes differ.
    Split {
        ours: String,
        tiles: Files,
    },
    NotItsTiles(String),
    /// It is smaller than the anchor, and nothing tells whether it is part of it.
    Unproven(String),
}

impl Watch<'_> {
    /// Judges a head that was served, and remembers it where it belongs.
    pub(super) fn judge(&self, note: &[u8], from: &str, now: UnixMillis) -> Result<Judged, CannotCheck> {
        let mut judged = Judged::default();
        let reject =
            |code, detail: String| (Finding::rejects(code, Concern::path("checkpoint"), detail), None);
        // 1. The log signed it. Whoever else did, does not matter for what the log is to be held to.
        let signed = self.book.log(self.origin).map(|log| log.verify(note));
        let signed = match signed {
            Some(Ok(signed)) => signed,
            Some(Err(error)) => {
                judged.findings.push(reject(code_of(&error), error.to_string()));
                return Ok(judged);
            }
            None => return Err(CannotCheck::Setup(format!("{} is no log of the trust file", self.origin))),
        };
        let head = signed.checkpoint().head;
        let text = std::str::from_utf8(note).unwrap_or_default();
        judged.head = Some(head);
        // 2. Who vouches for it.
        match self.trust.verify(note) {
            // To a witness heads are sent before anybody vouches for them.
            _ if from == ADD_CHECKPOINT => {}
            Ok(believed) => {
                judged.believed = true;
                judged.witnesses = believed.witnesses().to_vec();
            }
            Err(error) => judged.findings.push(reject(code_of(&error), unbelieved(&error, head))),
        }
        let new = NewHead { head, note: text, believed: judged.believed, from };
        if self.book.forgot(self.origin, &new, now)? {
            judged.unproven = Some(CannotCheck::Forgot(self.origin.to_string()));
        }
        // 3. It is of one history with the largest head that was ever seen.
        for _ in 0..ATTEMPTS_MAX {
            let known = self.book.known(self.origin);
            let relation = match self.relate(&known, &head) {
                Ok(relation) => relation,
                // What was found before stays found.
                Err(error) => {
                    judged.unproven.get_or_insert(error);
                    return Ok(judged);
                }
            };
            let anchor = known.anchor.as_ref();
            let taken = match relation {
                Relation::First | Relation::Extends => {
                    let place = Place::Extends(anchor.map(|anchor| anchor.head));
                    let taken = self.book.take(self.origin, &new, place, now)?;
                    judged.grown_from = Some(anchor.map_or(TreeSize::ZERO, |anchor| anchor.head.size));
                    taken
                }
                Relation::Same | Relation::Within => {
                    self.older(&known, &new, &mut judged, "the smaller tree is the start of the larger")?;
                    self.within(&known, &new, &mut judged, now)?
                }
                Relation::Split { ours, tiles } => {
                    self.split(&ours, &new, &tiles, &mut judged, now)?;
                    Taken::Done
                }
                Relation::Unproven(why) => {
                    self.older(
                        &known,
                        &new,
                        &mut judged,
                        "nothing tells yet whether the larger tree starts with it",
                    )?;
                    judged.unproven.get_or_insert(CannotCheck::Unproven(head.size.get(), why));
                    Taken::Done
                }
                Relation::NotItsTiles(detail) => {
                    judged.findings.push(reject(Code::TileDiffers, detail));
                    Taken::Done
                }
            };
            match taken {
                Taken::Done => return Ok(judged),
                Taken::Moved => judged.grown_from = None,
            }
        }
        Err(CannotCheck::Unproven(head.size.get(), "others add heads all the time".to_owned()))
    }

    fn relate(&self, known: &Known, head: &TreeHead) -> Result<Relation, CannotCheck> {
        let relation = self.relate_to_anchor(known, head)?;
        // A believed head that came while the anchor was ahead of what was published could not be held against the anchor
        // then. What is published now tells.
        let (Some(anchor), Some(believed)) = (&known.anchor, &known.believed) else { return Ok(relation) };
        let apart = believed.head != anchor.head && believed.head.size > TreeSize::ZERO;
        match relation {
            Relation::Same | Relation::Extends | Relation::Within
                if apart && believed.head.size < head.size =>
            {
                self.by_tiles(&believed.head, head, || believed.note.clone(), || relation.clone())
            }
            relation => Ok(relation),
        }
    }

    fn relate_to_anchor(&self, known: &Known, head: &TreeHead) -> Result<Relation, CannotCheck> {
        let Some(anchor) = &known.anchor else { return Ok(Relation::First) };
        let (old, new) =
            if head.size < anchor.head.size { (*head, anchor.head) } else { (anchor.head, *head) };
        let ours = || anchor.note.clone();
        if old.size == new.size {
            let split = || Relation::Split { ours: ours(), tiles: Files::new() };
            return Ok(if old.root == new.root { Relation::Same } else { split() });
        }
        if old.size == TreeSize::ZERO {
            return Ok(if head.size > anchor.head.size { Relation::Extends } else { Relation::Within });
        }
        if head.size > anchor.head.size {
            return self.by_tiles(&old, &new, ours, || Relation::Extends);
        }
        // A smaller head: one of a size that was seen is known; of another, the tiles of the larger tree tell.
        if let Some((root, note)) = self.book.seen_at(self.origin, head.size)? {
            let split = || Relation::Split { ours: note, tiles: Files::new() };
            return Ok(if root == head.root { Relation::Within } else { split() });
        }
        let why = match self.by_tiles(&old, &new, ours, || Relation::Within) {
            Ok(Relation::NotItsTiles(why)) => why,
            Ok(relation) => return Ok(relation),
            Err(error) => error.to_string(),
        };
        // The anchor may be ahead of what the log has published: then this head is held against what is.
        match &known.believed {
            Some(believed) if believed.head.size == TreeSize::ZERO => Ok(Relation::Within),
            Some(believed) if believed.head.size < head.size => {
                let ours = || believed.note.clone();
                Ok(self
                    .by_tiles(&believed.head, head, ours, || Relation::Within)
                    .unwrap_or(Relation::Unproven(why)))
            }
            _ => Ok(Relation::Unproven(why)),
        }
    }

    /// Asks each source for the tiles that tell; the first whose tiles are those of the larger tree counts.
    fn by_tiles(
        &self,
        old: &TreeHead,
        new: &TreeHead,
        ours: impl Fn() -> String,
        consistent: impl Fn() -> Relation,
    ) -> Result<Relation, CannotCheck> {
        let mut answer = None;
        for &source in self.sources {
            let recording = Recording::new(source);
            let found = extension(&recording, old, new);
            match found {
                Ok(Extension::Proven(_)) => return Ok(consistent()),
                Ok(Extension::Split(_)) => {
                    return Ok(Relation::Split { ours: ours(), tiles: recording.into_files() });
                }
                Ok(Extension::NotItsTiles) if answer.is_none() => {
                    answer = Some(Ok(Relation::NotItsTiles(not_its_tiles(source, new))));
                }
                Err(error) if answer.is_none() => answer = Some(Err(error)),
                Ok(Extension::NotItsTiles) | Err(_) => {}
            }
        }
        let nowhere = || Err(CannotCheck::Unproven(new.size.get(), "there is no copy of the log".to_owned()));
        answer.unwrap_or_else(nowhere)
    }

    /// Says so where a head is smaller than one that was served before.
    fn older(
        &self,
        known: &Known,
        new: &NewHead<'_>,
        judged: &mut Judged,
        proven: &str,
    ) -> Result<(), CannotCheck> {
        let Some(before) = known.believed.as_ref().filter(|before| new.head.size < before.head.size) else {
            return Ok(());
        };
        let kept = self.book.keep_older(&before.note, new.note)?;
        let (theirs, ours) = (new.head.size, before.head.size);
        let detail = format!("a head of {theirs} entries, after one of {ours}: {proven}");
        let (severity, concern) = (Severity::Warns, Concern::path("checkpoint"));
        judged.findings.push((Finding { code: Code::HeadOlder, severity, concern, detail }, kept));
        Ok(())
    }

    /// Remembers a head that is the anchor or before it, where the quorum vouches for no larger one.
    fn within(
        &self,
        known: &Known,
        new: &NewHead<'_>,
        judged: &mut Judged,
        now: UnixMillis,
    ) -> Result<Taken, CannotCheck> {
        let before = known.believed.as_ref().map(|believed| believed.head.size);
        if !new.believed || before.is_some_and(|before| before >= new.head.size) {
            return Ok(Taken::Done);
        }
        judged.grown_from = Some(before.unwrap_or_default());
        self.book.take(self.origin, new, Place::Within, now)
    }

    fn split(
        &self,
        ours: &str,
        new: &NewHead<'_>,
        tiles: &Files,
        judged: &mut Judged,
        now: UnixMillis,
    ) -> Result<(), CannotCheck> {
        let split = Split { from: new.from, ours, theirs: new.note, tiles };
        let kept = self.book.split(self.origin, &split, now)?;
        let detail = claims(ours.as_bytes()).map(|(_, ours)| split_detail(&ours, &new.head));
        let concern = Concern::path("checkpoint");
        let finding = Finding::rejects(Code::HeadsInconsistent, concern, detail.unwrap_or_default());
        judged.findings.push((finding, kept));
        Ok(())
    }
}

/// Two heads that do not fit.
pub(super) fn split_detail(ours: &TreeHead, theirs: &TreeHead) -> String {
    format!(
        "the log signed a tree of {} with root {}, and a tree of {} with root {}",
        ours.size, ours.root, theirs.size, theirs.root
    )
}

fn unbelieved(error: &TrustError, head: TreeHead) -> String {
    format!("{error}; the log signed a tree of {} with root {}", head.size, head.root)
}

/// Origin and head that a note claims, believed or not.
pub(super) fn claims(note: &[u8]) -> Option<(KeyName, TreeHead)> {
    let text = Note::parse(note, NOTE_BYTES_MAX).ok()?.text;
    let checkpoint = sift_spec::checkpoint::Checkpoint::parse(text).ok()?;
    Some((checkpoint.origin, checkpoint.head))
}
