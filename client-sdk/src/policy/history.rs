//! Recorded history: what was proposed, decided and done, in the order in which it happened.
//!
//! From a kernel's store, from evidence packs of one log, or from recorded conversations, which know of no decisions.
//! Nothing is verified here: a pack says what it says, and `sift-verify run` whether that is so.

use std::path::PathBuf;

use sift_spec::entry::Entry;
use sift_spec::evidence::Pack;
use sift_spec::payload::{Commitment, Object};
use sift_spec::record::Record;
use sift_spec::types::LeafIndex;

use crate::store::{Store, StoreError};

mod conversations;

pub use conversations::{Told, conversations};
pub use sift_rules::history::{Came, Decided, Event, Happened, Proposed};

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record in the store does not parse: the disk, or another program, changed it.
    #[error("record {position} of the store: {why}; keep a copy and restore from a backup")]
    Record {
        /// Its position.
        position: u64,
        /// What is wrong.
        why: String,
    },
    /// A file is no evidence pack.
    #[error("{path}: {why}")]
    Pack {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Packs of several logs have no order.
    #[error("{path}: a pack of the log {origin}, and the first one is of {first}: simulate them apart")]
    Logs {
        /// The file.
        path: PathBuf,
        /// Its log.
        origin: String,
        /// The log of the first pack.
        first: String,
    },
}

/// Gives what a kernel's store holds, record by record in the order in which they were made.
///
/// # Errors
/// When the store cannot be read, or a record in it does not parse.
pub fn store(store: &Store, mut each: impl FnMut(Happened)) -> Result<(), HistoryError> {
    let mut failed = None;
    store.records_from(0, |position, entry| {
        if failed.is_some() {
            return;
        }
        match of_position(store, position, entry) {
            Ok(happened) => happened.into_iter().for_each(&mut each),
            Err(error) => failed = Some(error),
        }
    })?;
    failed.map_or(Ok(()), Err)
}

/// How many records a store holds.
///
/// # Errors
/// When it cannot be read.
pub fn store_len(store: &Store) -> Result<u64, HistoryError> {
    Ok(store.next_position()?)
}

fn of_position(store: &Store, position: u64, entry: Vec<u8>) -> Result<Option<Happened>, HistoryError> {
    let entry =
        Entry::parse(entry).map_err(|error| HistoryError::Record { position, why: error.to_string() })?;
    let Some(record) = entry.record() else { return Ok(None) };
    let objects = store.objects(position)?;
    Ok(happened(record, |commitment| objects.get(&commitment.digest).map(Vec::as_slice)))
}

/// Reads packs of one log.
///
/// # Errors
/// When a file is no pack, or the packs are of several logs.
pub fn packs(files: Vec<(PathBuf, Vec<u8>)>) -> Result<Vec<Happened>, HistoryError> {
    let mut found: Vec<(LeafIndex, Happened)> = Vec::new();
    let mut first: Option<String> = None;
    for (path, bytes) in files {
        let wrong = |why: String| HistoryError::Pack { path: path.clone(), why };
        let pack = Pack::read(&bytes).map_err(|error| wrong(error.to_string()))?;
        let origin = pack.checkpoint.lines().next().unwrap_or_default().to_owned();
        let of_first = first.get_or_insert_with(|| origin.clone()).clone();
        if of_first != origin {
            return Err(HistoryError::Logs { path, origin, first: of_first });
        }
        for (index, entry) in &pack.entries {
            let entry = Entry::parse(entry.clone());
            let entry = entry.map_err(|error| wrong(format!("entry {index}: {error}")))?;
            let Some(record) = entry.record().filter(|record| record.run == pack.run) else { continue };
            let objects = |commitment: &Commitment| pack.objects.get(&commitment.digest).map(Vec::as_slice);
            found.extend(happened(record, objects).map(|happened| (*index, happened)));
        }
    }
    // The order of the log; a pack that is given twice counts once.
    found.sort_by_key(|(index, _)| *index);
    found.dedup_by_key(|(index, _)| *index);
    Ok(found.into_iter().map(|(_, happened)| happened).collect())
}

/// A record as history, with what is at hand of its payload objects.
fn happened<'a>(record: &Record, object: impl Fn(&Commitment) -> Option<&'a [u8]>) -> Option<Happened> {
    // The salt stands before the content; an object that is not the one committed to counts as missing.
    Happened::of(record, |commitment| {
        let object = Object::from_bytes(object(commitment)?.to_vec()).ok()?;
        object.check(commitment).ok()?;
        Some(object.content().to_vec())
    })
}
