//! The log's HTTP interface as types: what server and clients exchange (SPEC §10).
//!
//! What is signed or hashed never travels as JSON here: notes, checkpoints, tiles and packs are sent as the
//! bytes they are.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::types::{AgentName, Hash, KeyName, LeafIndex, RunId, Seq, TreeSize, UnixMillis, ValueError};

/// Media type of a note, a checkpoint or a receipt.
pub const MEDIA_NOTE: &str = "text/plain; charset=utf-8";
/// Media type of tiles, entry bundles and bundles of records to be added.
pub const MEDIA_BYTES: &str = "application/octet-stream";
/// Media type of an evidence pack.
pub const MEDIA_PACK: &str = "application/zip";
/// Media type of errors (RFC 9457).
pub const MEDIA_PROBLEM: &str = "application/problem+json";

/// Most records in one request.
pub const BATCH_RECORDS_MAX: usize = 1024;
/// Largest body of a request that adds records, in bytes: 8 MiB.
pub const BATCH_BYTES_MAX: usize = 8 << 20;
/// Most runs in one page of `GET /v1/runs`.
pub const RUNS_PAGE_MAX: u64 = 1000;
/// Most records in one page of `GET /v1/operator/records`.
pub const OPERATOR_PAGE_MAX: u64 = 1000;
/// Most checkpoints in one page of `GET /v1/checkpoints`.
pub const CHECKPOINTS_PAGE_MAX: u64 = 1000;
/// Most equivocations in one page of `GET /v1/equivocations`: each holds two entries of up to 64 KiB.
pub const EQUIVOCATIONS_PAGE_MAX: u64 = 32;

/// Answer to a bundle of records: one result for each, in their order, and one proof for all that are in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BatchAnswer {
    /// The checkpoint's note under which the indices are proven.
    pub checkpoint: String,
    /// Multi-inclusion proof (SPEC §7.3) for the distinct indices among the results, in ascending order.
    pub proof: Vec<Hash>,
    /// One result for each record.
    pub results: Vec<BatchResult>,
}

/// What became of one record of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BatchResult {
    /// It is in the log, now or since an earlier request.
    Index(LeafIndex),
    /// It was refused.
    Problem(Box<Problem>),
}

/// An error (RFC 9457). `type` is stable and says what to do; the other members help to do it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// What kind of problem, as `urn:sift:problem:<kind>`.
    #[serde(rename = "type")]
    pub kind: ProblemKind,
    /// HTTP status.
    pub status: u16,
    /// The kind in a few words.
    pub title: String,
    /// What is wrong with this request.
    pub detail: String,
    /// Seq that would have followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub expected_seq: Option<Seq>,
    /// `prev` that would have followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub expected_prev: Option<Hash>,
    /// Index of the entry that stands in the way, or that is to be witnessed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub index: Option<LeafIndex>,
    /// Seconds after which the same may be taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl Problem {
    /// A problem of this kind.
    #[must_use]
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            status: kind.status(),
            title: kind.title().to_owned(),
            detail: detail.into(),
            expected_seq: None,
            expected_prev: None,
            index: None,
            retry_after: None,
        }
    }
}

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident = $kind:literal, $status:literal, $title:literal;)*) => {
        /// The closed list of problem types.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum ProblemKind {
            $($(#[$doc])* #[serde(rename = $kind)] $name,)*
        }

        impl ProblemKind {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The URN that stands in `type`.
            #[must_use]
            pub const fn urn(self) -> &'static str {
                match self { $(Self::$name => $kind,)* }
            }

            /// The HTTP status.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// A few words for people.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

problems! {
    /// The bytes are not an entry. Nothing was stored; fix the sender.
    MalformedRecord = "urn:sift:problem:malformed-record", 400, "Not a record";
    /// The body or a parameter is not what this path takes.
    MalformedRequest = "urn:sift:problem:malformed-request", 400, "Not a request this path takes";
    /// The path needs a bearer token, and there is none or not one that is known.
    Unauthorized = "urn:sift:problem:unauthorized", 401, "A token is needed";
    /// Requests that write need a client certificate here.
    CertificateNeeded = "urn:sift:problem:certificate-needed", 403, "A client certificate is needed";
    /// The signature does not verify.
    SignatureInvalid = "urn:sift:problem:signature-invalid", 403, "The signature does not verify";
    /// The signing key is not granted, or revoked, or granted for something else.
    KeyNotGranted = "urn:sift:problem:key-not-granted", 403, "The key does not count here";
    /// The run's policy bundle was not published by the operator.
    PolicyNotPublished = "urn:sift:problem:policy-not-published", 403, "The policy bundle is not published";
    /// The record is for another log.
    WrongLog = "urn:sift:problem:wrong-log", 403, "The record is for another log";
    /// No such entry, run, tile or path.
    NotFound = "urn:sift:problem:not-found", 404, "Not found";
    /// The path exists, but not for this method.
    MethodNotAllowed = "urn:sift:problem:method-not-allowed", 405, "Not a method of this path";
    /// Seq, `prev`, time, agent or key name do not follow the run's last record.
    ChainBroken = "urn:sift:problem:chain-broken", 409, "The record does not continue its chain";
    /// Another record with this run and seq is in the log; both are kept as evidence.
    Equivocation = "urn:sift:problem:equivocation", 409, "Another record has this run and seq";
    /// The operator has not erased this payload object, so it is not deleted.
    NotErased = "urn:sift:problem:not-erased", 409, "The operator has not erased this object";
    /// The operator has erased this payload object: it is not given out, and not taken again.
    Erased = "urn:sift:problem:erased", 410, "The operator has erased this object";
    /// What was sent is not the payload object that the path names.
    PayloadDiffers = "urn:sift:problem:payload-differs", 422, "Not the object that the path names";
    /// No room is left for payload objects.
    StorageFull = "urn:sift:problem:storage-full", 507, "No room for payload objects";
    /// The operator's record contradicts the state of keys and bundles.
    GrantRefused = "urn:sift:problem:grant-refused", 409, "The operator's record cannot be applied";
    /// The body is larger than this path takes.
    TooLarge = "urn:sift:problem:too-large", 413, "The body is too large";
    /// The request did not arrive in time.
    TooSlow = "urn:sift:problem:too-slow", 408, "The request did not arrive in time";
    /// The body's media type or content coding is not one that this path takes.
    UnsupportedMedia = "urn:sift:problem:unsupported-media", 415, "Not a media type this path takes";
    /// There is no room for this request now. Try again after the time in `Retry-After`.
    Busy = "urn:sift:problem:busy", 429, "The log is busy";
    /// The key adds records faster than it may, or the address sends too many that are nobody's. Try again after the
    /// time in `retry_after`.
    RateLimited = "urn:sift:problem:rate-limited", 429, "Faster than allowed";
    /// The log is shutting down, or stopped writing after a failure. Reads may still work.
    NotWriting = "urn:sift:problem:not-writing", 503, "The log does not accept records now";
    /// The log's disk is full: it is read, and not written, until there is space. Try again after the time in
    /// `Retry-After`.
    DiskFull = "urn:sift:problem:disk-full", 503, "The log's disk is full";
    /// The records are in the log and durable, up to `index`, and too few witnesses have cosigned that in time. Sending
    /// the same again is answered with the same places.
    NotWitnessed = "urn:sift:problem:not-witnessed", 504, "Not cosigned yet";
    /// The server failed. It says so in its own log.
    Internal = "urn:sift:problem:internal", 500, "The server failed";
}

/// Answer of `GET /v1/proof/inclusion`: the leaf at `index` is in the tree of `size`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InclusionAnswer {
    /// Index of the entry.
    pub index: LeafIndex,
    /// Size of the tree.
    pub size: TreeSize,
    /// The proof, from the leaf's sibling up.
    pub hashes: Vec<Hash>,
}

/// Answer of `GET /v1/proof/consistency`: the tree of `new` extends that of `old`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConsistencyAnswer {
    /// Size of the earlier tree.
    pub old: TreeSize,
    /// Size of the later tree.
    pub new: TreeSize,
    /// The proof.
    pub hashes: Vec<Hash>,
}

/// A run in `GET /v1/runs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunSummary {
    /// The run.
    pub run: RunId,
    /// Its agent.
    pub agent: AgentName,
    /// Key name that the run belongs to.
    pub signer: KeyName,
    /// How many records it has.
    pub records: u64,
    /// Time of its last record.
    pub time: UnixMillis,
    /// Whether it has its `close`.
    pub closed: bool,
}

/// Answer of `GET /v1/runs`: runs in the order of their identifiers, which is that of their start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunsAnswer {
    /// The page.
    pub runs: Vec<RunSummary>,
    /// Pass as `after` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub next: Option<RunId>,
}

/// Answer of `GET /v1/runs/{run}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunAnswer {
    /// The run.
    #[serde(flatten)]
    pub summary: RunSummary,
    /// Leaf hash of its last record: the `prev` of the next.
    pub head: Hash,
    /// Index of each record, by seq.
    pub indices: Vec<LeafIndex>,
}

/// Answer of `GET /v1/operator`: what the operator's next record must say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OperatorAnswer {
    /// Origin of the log.
    pub log: KeyName,
    /// Seq of the next record.
    pub next_seq: Seq,
    /// Index of the last record, for its receipt; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub index: Option<LeafIndex>,
    /// `prev` of the next record; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub prev: Option<Hash>,
    /// Time of the last record.
    pub time: UnixMillis,
}

/// Answer of `GET /v1/operator/records`: where the operator's records stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OperatorRecordsAnswer {
    /// Seq of the first.
    pub from: Seq,
    /// Index of each, by seq; none beyond the published tree.
    pub indices: Vec<LeafIndex>,
}

/// Answer of `GET /v1/policies/{digest}`: where the operator has published a policy bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PolicyAnswer {
    /// Digest of the bundle.
    pub bundle: Hash,
    /// Index of the operator's record, for the record itself and its receipt.
    pub index: LeafIndex,
}

/// What a checkpoint carries when it is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Publish {
    /// The log's own signature.
    Signed,
    /// Also the cosignatures that satisfy the log's quorum of witnesses.
    Quorum,
}

/// A published checkpoint: an item of `GET /v1/checkpoints`, and the data of an event of
/// `GET /v1/checkpoints/stream`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CheckpointItem {
    /// Size of its tree.
    pub size: TreeSize,
    /// Its signed note.
    pub note: String,
}

/// Answer of `GET /v1/checkpoints`: what the log keeps of its checkpoints, oldest first, and the newest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CheckpointsAnswer {
    /// The page.
    pub checkpoints: Vec<CheckpointItem>,
    /// Pass as `after` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub next: Option<TreeSize>,
    /// Size of the newest checkpoint, which is on the last page.
    pub newest: TreeSize,
    /// What is published.
    pub publish: Publish,
}

/// A place in a chain, as text: a run or `operator`, a slash, and a seq.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Place {
    /// The run; absent for the operator's chain.
    pub run: Option<RunId>,
    /// The seq.
    pub seq: Seq,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.run {
            Some(run) => write!(f, "{run}/{}", self.seq),
            None => write!(f, "operator/{}", self.seq),
        }
    }
}

impl FromStr for Place {
    type Err = ValueError;
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let no_place = ValueError { what: "place", why: "not a run or \"operator\", a slash and a seq" };
        let (chain, seq) = text.split_once('/').ok_or(no_place.clone())?;
        let run = if chain == "operator" { None } else { Some(chain.parse()?) };
        let size = crate::checkpoint::parse_size(seq).ok_or(no_place)?;
        Ok(Self { run, seq: Seq::new(size.get())? })
    }
}

impl TryFrom<String> for Place {
    type Error = ValueError;
    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> String {
        place.to_string()
    }
}

/// Two signed records for one place of a chain: an item of `GET /v1/equivocations`. SPEC §10.4 says how to check it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Equivocation {
    /// The run; absent for the operator's chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub run: Option<RunId>,
    /// The place that both records claim.
    pub seq: Seq,
    /// Index of the entry that the log admitted.
    pub index: LeafIndex,
    /// The admitted entry, exactly.
    pub admitted: String,
    /// The first other entry that was offered for this place, exactly.
    pub refused: String,
    /// Indices of the operator's entries that granted the keys which signed, ascending; none for the operator's key.
    pub grants: Vec<LeafIndex>,
}

/// Answer of `GET /v1/equivocations`, in the order of runs and seqs; the operator's come first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EquivocationsAnswer {
    /// The page.
    pub equivocations: Vec<Equivocation>,
    /// Pass as `after` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub next: Option<Place>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_one_text_form() {
        for text in ["operator/0", "019ab697-e800-7a5a-9a5a-5a5a5a5a5a5a/9007199254740991"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        for bad in ["", "operator", "operator/", "operator/01", "operator/-1", "operator/1/2", "/1", "x/1"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    /// SPEC §10 documents exactly the problems that there are, each with its status.
    #[test]
    fn the_specification_lists_the_problem_types() {
        let spec = include_str!("../SPEC.md");
        let (_, table) = spec.split_once("each after `urn:sift:problem:`").unwrap();
        let rows = table.lines().skip_while(|line| !line.starts_with("| `"));
        let listed: Vec<(String, u16)> = rows
            .take_while(|line| line.starts_with('|'))
            .map(|line| {
                let mut cells = line.split('|').skip(1).map(str::trim);
                let name = cells.next().unwrap().trim_matches('`');
                (format!("urn:sift:problem:{name}"), cells.next().unwrap().parse().unwrap())
            })
            .collect();
        let mut known: Vec<_> =
            ProblemKind::ALL.iter().map(|kind| (kind.urn().to_owned(), kind.status())).collect();
        let mut sorted = listed.clone();
        known.sort();
        sorted.sort();
        assert_eq!(sorted, known);
        assert!(listed.is_sorted_by_key(|(_, status)| *status), "in the order of their statuses");
    }

    #[test]
    fn problem_types_are_their_urns() {
        for kind in ProblemKind::ALL {
            assert_eq!(serde_json::to_string(kind).unwrap(), format!("\"{}\"", kind.urn()));
            assert!((400..600).contains(&kind.status()));
        }
    }
}
