//! Why something could not be checked: missing files, an unusable trust file, the network. Never the evidence's
//! fault; what the evidence is guilty of is a [`crate::finding::Finding`].

use std::io;
use std::path::PathBuf;

use sift_spec::trust::PolicyError;
use sift_spec::types::RunId;

/// Why something could not be checked, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum CannotCheck {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Two files that are both to come from standard input.
    #[error("standard input was read already: of all files only one can be \"-\"")]
    StdinTwice,
    /// A file is larger than anything of its kind.
    #[error("{} is larger than {bytes_max} bytes, the most that {what} can have: is it another file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// The limit.
        bytes_max: u64,
    },
    /// The trust file is none.
    #[error("{} is not a trust file: {source}", path.display())]
    Trust {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: PolicyError,
    },
    /// The trust file is no text.
    #[error("{} is not a trust file: byte {at} is no UTF-8, and a trust file is text. Is it another file?", path.display())]
    TrustNotText {
        /// The file.
        path: PathBuf,
        /// Offset of the first byte that is none.
        at: usize,
    },
    /// A folder is no policy bundle.
    #[error("{} is not a policy bundle: {why}", path.display())]
    Bundle {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A folder holds no packs.
    #[error("{} holds no evidence packs: no file in it is named *.sift", .0.display())]
    NoPacks(PathBuf),
    /// The trust file has no operator.
    #[error(
        "{} names no operator, and without one nobody's key counts: add the line \
         \"#sift:operator <vkey>\" with the vkey that the operator gave you", path.display()
    )]
    NoOperator {
        /// The file.
        path: PathBuf,
    },
    /// Where a log should be there is none.
    #[error(
        "{0} holds no checkpoint: a log is a directory that holds `checkpoint` and `tile/`, or a URL that \
         begins with https:// or http://"
    )]
    NoCheckpoint(String),
    /// The log lacks a resource.
    #[error("{log} has no {path}: the copy is incomplete, or older than the checkpoint")]
    Missing {
        /// Directory or URL.
        log: String,
        /// The resource.
        path: String,
    },
    /// A resource of the log cannot be fetched.
    #[error("cannot fetch {path} from {log}: {why}")]
    Fetch {
        /// Directory or URL.
        log: String,
        /// The resource.
        path: String,
        /// Why.
        why: String,
    },
    /// Two checkpoints of different logs.
    #[error("the checkpoints are of two logs, {0} and {1}: only heads of one log can be compared")]
    TwoLogs(String, String),
    /// Packs of two runs.
    #[error("the packs are of two runs, {0} and {1}: there is nothing to compare")]
    TwoRuns(RunId, RunId),
    /// A pack and a log.
    #[error("{pack} is a file and {log} is a log: give two packs, or two directories or URLs of tiles")]
    PackAndLog {
        /// The file.
        pack: String,
        /// Directory or URL.
        log: String,
    },
    /// Neither a proof nor a log to make one from.
    #[error(
        "the heads have {0} and {1} entries, and comparing them takes a proof: \
         give --proof FILE, or --log DIR|URL to make one"
    )]
    NoProof(u64, u64),
    /// The file of a consistency proof is not one.
    #[error("{} is not a consistency proof: one hash in base64 on each line", .0.display())]
    ProofFile(PathBuf),
    /// The operating system gives no random bytes.
    #[error("the operating system gives no random bytes, which checking signatures in batches needs: {0}")]
    Random(String),
    /// A durable file of a follower is not what it wrote.
    #[error(
        "{} is damaged at byte {offset}: {why}. A witness that forgets must never sign again: keep this directory as \
         it is, follow in a new one, and give a witness in it a new key", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong there.
        why: &'static str,
    },
    /// Another process has the directory.
    #[error("{} is in use by another sift-verify follow: one at a time has a history", .0.display())]
    InUse(PathBuf),
    /// Nobody can say which log to follow, or how.
    #[error("{0}")]
    Setup(String),
    /// What was to be compared cannot be proven now.
    #[error("the head of {0} entries cannot be proven to be of the history seen so far: {1}")]
    Unproven(u64, String),
    /// A copy of a log is not extended.
    #[error("the mirror is behind: {0}")]
    Mirror(String),
    /// A witness's key has signed what its memory does not hold.
    #[error(
        "the witness's key has cosigned a tree of {0} that this directory does not know: it is an old copy, or the key is \
         used elsewhere too. Nothing of that log is cosigned with it any more; make a new key, and have its users put it \
         in the place of this one"
    )]
    Forgot(String),
}
