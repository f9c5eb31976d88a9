//! Recorded history: what was proposed, decided and done, in the order in which it happened.
//!
//! From a kernel's store, from evidence packs of one log, or from recorded conversations, which know of no decisions.
//! Nothing is verified here: a pack says what it says, and `sift-verify run` whether that is so.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sift_rules::{CallInput, identity};
use sift_spec::entry::Entry;
use sift_spec::evidence::Pack;
use sift_spec::meter::{Amounts, Usage};
use sift_spec::payload::Commitment;
use sift_spec::record::{Body, Call, Effect, Intent, Outcome, Record, Refusal, Status};
use sift_spec::types::{AgentName, Hash, LeafIndex, RunId, Seq, Text, UnixMillis, Word};

use crate::store::{Store, StoreError};

mod conversations;

pub use conversations::{Told, conversations};

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

/// Something that happened in a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Happened {
    /// The run.
    pub run: RunId,
    /// Its place in the run.
    pub seq: Seq,
    /// When.
    pub time: UnixMillis,
    /// What.
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The run started.
    Open {
        /// Its agent.
        agent: AgentName,
        /// Nesting depth: 0 for a run without parent.
        depth: u32,
        /// Its labels.
        labels: BTreeMap<Word, Text<256>>,
        /// The run above it.
        parent: Option<RunId>,
        /// The bundle that decided, where one did.
        policy: Option<Hash>,
        /// What it is called, where it has a name besides its identifier.
        name: Option<String>,
    },
    /// A call was proposed.
    Call(Box<Proposed>),
    /// It came back.
    Outcome(Box<Came>),
    /// The run ended.
    Close,
}

/// A call as it was proposed and decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposed {
    /// The tool, model or agent.
    pub name: String,
    /// The call as a policy sees it; `None` where its arguments are withheld or erased.
    pub call: Option<CallInput>,
    /// What identical tool calls share.
    pub identity: Option<Hash>,
    /// What was decided; `None` where nobody decided.
    pub decided: Option<Decided>,
}

/// A recorded decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// What became of the call; a refusal by the budget is a denial.
    pub effect: Effect,
    /// The policy's rules that decided.
    pub rules: Vec<String>,
    /// Its reasons.
    pub reasons: Vec<String>,
    /// Why the budget refused.
    pub refusal: Option<Refusal>,
    /// What was held.
    pub reserved: Amounts,
    /// The policy's input as it was stated; `None` where it is withheld or erased.
    pub input: Option<Vec<u8>>,
}

impl Decided {
    /// The rules that decided; the limit, where the budget did.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.refusal.as_ref().map_or_else(|| self.rules.clone(), |refusal| vec![super::refusal_name(refusal)])
    }
}

/// What came back from a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Came {
    /// Seq of the call.
    pub intent: Seq,
    /// How it ended.
    pub status: Status,
    /// The exact bytes of the result, empty where there is none; `None` where they are withheld or erased.
    pub result: Option<Vec<u8>>,
    /// What the provider billed.
    pub usage: Option<Usage>,
    /// What was settled; `None` where nobody settled.
    pub settled: Option<Amounts>,
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

/// A record as history; `None` for kinds that no decision rests on.
fn happened<'a>(record: &Record, object: impl Fn(&Commitment) -> Option<&'a [u8]>) -> Option<Happened> {
    // The salt stands before the content; an object that is not the one committed to counts as missing.
    let content = |commitment: &Commitment| {
        let object = sift_spec::payload::Object::from_bytes(object(commitment)?.to_vec()).ok()?;
        object.check(commitment).ok()?;
        Some(object.content().to_vec())
    };
    let event = match &record.body {
        Body::Open(open) => Event::Open {
            agent: record.agent.clone(),
            depth: open.parent.as_ref().map_or(0, |parent| parent.depth),
            labels: open.labels.clone(),
            parent: open.parent.as_ref().map(|parent| parent.run),
            policy: Some(open.policy),
            name: None,
        },
        Body::Intent(intent) => Event::Call(Box::new(proposed(intent, content))),
        Body::Outcome(outcome) => Event::Outcome(Box::new(came(outcome, content))),
        Body::Close(_) => Event::Close,
        Body::Approval(_) | Body::Beat(_) | Body::Halt(_) => return None,
    };
    Some(Happened { run: record.run, seq: record.seq, time: record.time, event })
}

fn proposed(intent: &Intent, content: impl Fn(&Commitment) -> Option<Vec<u8>>) -> Proposed {
    let (name, args) = match &intent.call {
        Call::Agent(call) => (call.agent.to_string(), Some(Vec::new())),
        Call::Model(call) => (call.model.to_string(), Some(Vec::new())),
        Call::Tool(call) => (call.name.to_string(), content(&call.args)),
    };
    let is_tool = matches!(intent.call, Call::Tool(_));
    let decided = Decided {
        effect: intent.effect(),
        rules: intent.decision.rules.iter().map(ToString::to_string).collect(),
        reasons: intent.decision.reasons.iter().map(ToString::to_string).collect(),
        refusal: intent.refusal.clone(),
        reserved: intent.reserved,
        input: content(&intent.decision.input),
    };
    Proposed {
        identity: args.as_ref().filter(|_| is_tool).map(|args| identity(&name, args)),
        call: args.map(|args| CallInput::of(&intent.call, &args)),
        name,
        decided: Some(decided),
    }
}

fn came(outcome: &Outcome, content: impl Fn(&Commitment) -> Option<Vec<u8>>) -> Came {
    Came {
        intent: outcome.intent,
        status: outcome.status,
        result: outcome.result.as_ref().map_or(Some(Vec::new()), content),
        usage: outcome.model.as_ref().map(|model| model.usage),
        settled: Some(outcome.settled),
    }
}
