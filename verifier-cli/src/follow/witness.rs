//! The witness's decision (C2SP tlog-witness): a request in, an answer out. Whatever is cosigned is durable before it is
//! answered, and two callers never get cosignatures of which neither extends the other: one decision at a time.
//!
//! A witness checks the log's signature and consistency, and nothing else: a quorum is for those who believe heads.

use sift_spec::checkpoint::{Checkpoint, CheckpointError, parse_size};
use sift_spec::note::{NOTE_BYTES_MAX, Note, NoteError, VerifierKey};
use sift_spec::proof::{Proof, TreeHead, verify_consistency};
use sift_spec::types::{Hash, KeyName, TreeSize, UnixMillis};

use super::book::{Book, Deciding, Known, NewHead, Place, Split, Taken, signed_by};
use super::evidence::Files;
use crate::error::CannotCheck;

/// Most hashes of a consistency proof in a request.
const HASHES_MAX: usize = 63;

/// What a head is said to come from that was sent to the witness.
pub(super) const ADD_CHECKPOINT: &str = "add-checkpoint";

/// What the caller is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// 200: the signature line; and what it is of, where it is new.
    Cosigned { line: String, new: Option<(KeyName, TreeHead)> },
    /// 400: not a request.
    Malformed(&'static str),
    /// 403: no trusted key of the log signed it.
    NotSigned,
    /// 404: a log that this witness does not know.
    UnknownLog,
    /// 409: the size that was cosigned last.
    Conflict(TreeSize),
    /// 503: this witness has forgotten what it signed. It is not the log's fault, and must not be taken for that.
    Forgot,
    /// 422: the tree does not extend the last one, or that is not shown.
    Inconsistent(Refused),
}

/// Why a tree is not cosigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// The proof does not prove it. The head is handed on, to be looked into: it may be a fork, or the proof is bad.
    Unproven(String),
    /// The log signed another tree of this size: proof of two histories.
    Split { ours: TreeHead, theirs: TreeHead, origin: KeyName, evidence: Option<std::path::PathBuf> },
    /// It has shown two histories before.
    AfterSplit,
    /// Size 0 and a root, or a proof that starts from nothing.
    Empty(&'static str),
}

/// Decides about a request of `add-checkpoint`.
///
/// # Errors
/// When the memory cannot be written. Then nothing was cosigned.
pub(super) fn add_checkpoint(book: &Book, body: &[u8], now: UnixMillis) -> Result<Answer, CannotCheck> {
    // 1. A request.
    let Some(request) = Request::parse(body) else {
        return Ok(Answer::Malformed(
            "not \"old <size>\", at most 63 hashes, an empty line and a checkpoint",
        ));
    };
    let Ok(note) = Note::parse(request.note.as_bytes(), NOTE_BYTES_MAX) else {
        return Ok(Answer::Malformed("the checkpoint is not a signed note"));
    };
    // 2. Of a known log, which signed it. Lines of others are nobody's business.
    let origin = note.text.lines().next().unwrap_or_default();
    let Ok(origin) = origin.parse::<KeyName>() else {
        return Ok(Answer::Malformed("the origin is not a key name"));
    };
    let Some(log) = book.log(&origin) else { return Ok(Answer::UnknownLog) };
    let keys: Vec<VerifierKey> = log.logs().iter().map(|log| log.key.clone()).collect();
    match note.verify(&keys) {
        Ok(_) => {}
        Err(NoteError::NoKnownSignature | NoteError::SignatureInvalid(_)) => return Ok(Answer::NotSigned),
        Err(_) => return Ok(Answer::Malformed("the checkpoint is not a signed note")),
    }
    let head = match Checkpoint::parse(note.text) {
        Ok(checkpoint) => checkpoint.head,
        Err(CheckpointError::EmptyRoot) => {
            return Ok(Answer::Inconsistent(Refused::Empty("a tree of size 0 has the empty root")));
        }
        Err(_) => return Ok(Answer::Malformed("the note is not a checkpoint")),
    };
    // 3. That does not go back.
    if request.old > head.size {
        return Ok(Answer::Malformed("the old size is larger than that of the checkpoint"));
    }
    let Some(signed) = signed_by(request.note, log) else {
        return Ok(Answer::Malformed("the checkpoint is not a signed note"));
    };
    let old = request.old;
    let found = book.decide(|deciding| {
        decide(
            deciding,
            &origin,
            &NewHead { head, note: &signed, believed: false, from: ADD_CHECKPOINT },
            &request,
            now,
        )
    })?;
    match found {
        Decision::Answer(answer) => Ok(answer),
        Decision::Split { ours, note } => {
            debug_assert_eq!(old, head.size);
            let split = Split { from: ADD_CHECKPOINT, ours: &note, theirs: &signed, tiles: &Files::new() };
            let evidence = book.split(&origin, &split, now)?;
            Ok(Answer::Inconsistent(Refused::Split { ours, theirs: head, origin, evidence }))
        }
    }
}

enum Decision {
    Answer(Answer),
    /// The log signed another tree of the anchor's size.
    Split {
        ours: TreeHead,
        note: String,
    },
}

/// 4. to 6.: with the memory held still from the comparison to the durable write.
fn decide(
    deciding: &mut Deciding<'_>,
    origin: &KeyName,
    new: &NewHead<'_>,
    request: &Request<'_>,
    now: UnixMillis,
) -> Result<Decision, CannotCheck> {
    let answer = |answer| Ok(Decision::Answer(answer));
    let refuse = |refused| answer(Answer::Inconsistent(refused));
    let known = deciding.known(origin);
    // 4. The caller knows what was cosigned last.
    let last = known.anchor.as_ref().map_or(TreeSize::ZERO, |anchor| anchor.head.size);
    if request.old != last {
        return answer(Answer::Conflict(last));
    }
    // 5. The tree extends it.
    if request.old == TreeSize::ZERO && !request.proof.0.is_empty() {
        return refuse(Refused::Empty("nothing is proven from a tree of size 0"));
    }
    if let Some(anchor) = &known.anchor {
        let (ours, same_size) = (anchor.head, anchor.head.size == new.head.size);
        if same_size && ours.root != new.head.root {
            return Ok(Decision::Split { ours, note: anchor.note.clone() });
        }
        if let Err(error) = verify_consistency(&ours, &new.head, &request.proof) {
            return refuse(Refused::Unproven(error.to_string()));
        }
        if known.is_over() {
            return answer(over(&known));
        }
        // The same head again changes nothing but the time, and is not written: else anybody could fill the disk.
        if same_size {
            let line = deciding.cosign_again(origin, now);
            return answer(line.map_or(Answer::NotSigned, |line| Answer::Cosigned { line, new: None }));
        }
    }
    if known.is_over() {
        return answer(over(&known));
    }
    // 6. Durable first, then answered.
    let place = Place::Extends(known.anchor.as_ref().map(|anchor| anchor.head));
    match deciding.take(origin, new, place, now)? {
        Taken::Moved => answer(Answer::Conflict(last)),
        Taken::Done => match deciding.known(origin).cosigned {
            Some((line, _)) => answer(Answer::Cosigned { line, new: Some((origin.clone(), new.head)) }),
            None => answer(over(&known)),
        },
    }
}

/// Why nothing more of a log is cosigned.
const fn over(known: &Known) -> Answer {
    if known.split { Answer::Inconsistent(Refused::AfterSplit) } else { Answer::Forgot }
}

/// A request, read and not believed.
struct Request<'a> {
    old: TreeSize,
    proof: Proof,
    note: &'a str,
}

impl<'a> Request<'a> {
    fn parse(body: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(body).ok()?;
        let (head, note) = text.split_once("\n\n")?;
        let mut lines = head.split('\n');
        let old = parse_size(lines.next()?.strip_prefix("old ")?)?;
        let hashes = lines.map(str::parse).collect::<Result<Vec<Hash>, _>>().ok()?;
        (hashes.len() <= HASHES_MAX).then_some(Self { old, proof: Proof(hashes), note })
    }
}
