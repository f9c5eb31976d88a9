//! Which code a broken chain gets: the same for a run in a pack and for a run in a log.

use sift_spec::chain::ChainError;
use sift_spec::types::Seq;

use crate::finding::Code;

/// The code of a record that does not follow, where `seq` is the record's and `last` that of its chain's end.
pub(crate) fn code_of(error: &ChainError, seq: Seq, last: Option<Seq>) -> Code {
    match error {
        // Whatever else is wrong with it, it stands where another record stands already.
        _ if last.is_some_and(|last| seq <= last) => Code::ChainFork,
        ChainError::Gap { .. } => Code::ChainGap,
        ChainError::Prev { .. } => Code::PrevDiffers,
        ChainError::Time { .. } => Code::TimeBackwards,
        ChainError::Closed => Code::AfterClose,
        ChainError::Open | ChainError::Log(_) | ChainError::Agent(_) | ChainError::Signer(_) => {
            Code::RunMismatch
        }
    }
}
