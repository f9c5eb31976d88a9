//! Following a log: its answers are checked against the trust file, and against what it said before.

use sift_spec::api::{BatchAnswer, BatchResult, ConsistencyAnswer};
use sift_spec::checkpoint::Checkpoint;
use sift_spec::hash::leaf_hash;
use sift_spec::note::Note;
use sift_spec::proof::{Proof, ProofError, TreeHead, verify_consistency, verify_multi_inclusion};
use sift_spec::trust::{TrustError, TrustPolicy};
use sift_spec::types::{Hash, LeafIndex, TreeSize};

/// Why an answer of the log is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    /// Not the answer to what was sent.
    #[error("the answer does not fit the request: {0}")]
    Misfit(&'static str),
    /// The checkpoint is not believed.
    #[error("the checkpoint is not believed: {0}")]
    Checkpoint(#[from] TrustError),
    /// The records are not where the log says.
    #[error("the records are not in the tree: {0}")]
    Inclusion(ProofError),
    /// Another tree than the one seen before, or no proof that it is the same.
    #[error("the tree does not extend the one seen before: {0}")]
    Consistency(ProofError),
    /// A checkpoint from before the last one.
    #[error("the checkpoint is older than one seen before")]
    Stale,
}

/// What a log has proven so far.
#[derive(Debug)]
pub struct Follower {
    trust: TrustPolicy,
    /// The last checkpoint that was verified, as note and as head.
    seen: Option<(String, TreeHead)>,
}

/// An answer whose checkpoint and inclusion proof hold; whether it extends what was seen is not known yet.
#[derive(Debug, Clone)]
pub struct Proven {
    note: String,
    head: TreeHead,
}

impl Follower {
    /// Follows the logs of `trust` from a checkpoint that was verified before, if there is one.
    ///
    /// # Errors
    /// When that checkpoint is not one.
    pub fn new(trust: TrustPolicy, seen: Option<String>) -> Result<Self, String> {
        let seen = seen.map(|note| head_of(&note).map(|head| (note, head))).transpose()?;
        Ok(Self { trust, seen })
    }

    /// The note of the last checkpoint that was verified.
    #[must_use]
    pub fn seen(&self) -> Option<&str> {
        self.seen.as_ref().map(|(note, _)| note.as_str())
    }

    /// Checks checkpoint and inclusion proof of an answer to these entries.
    ///
    /// # Errors
    /// When they do not hold.
    pub fn check(&self, entries: &[&[u8]], answer: &BatchAnswer) -> Result<Proven, FollowError> {
        // 1. One result for each entry.
        if answer.results.len() != entries.len() {
            return Err(FollowError::Misfit("there is not one result for each record"));
        }
        // 2. A checkpoint that is believed.
        let checkpoint = self.trust.verify(answer.checkpoint.as_bytes())?;
        let head = checkpoint.checkpoint().head;
        // 3. Every entry stands at its index, each index once.
        let mut leaves: Vec<(LeafIndex, Hash)> = entries
            .iter()
            .zip(&answer.results)
            .filter_map(|(entry, result)| match result {
                BatchResult::Index(index) => Some((*index, leaf_hash(entry))),
                BatchResult::Problem(_) => None,
            })
            .collect();
        leaves.sort_unstable_by_key(|(index, _)| *index);
        verify_multi_inclusion(&leaves, &head, &Proof(answer.proof.clone()))
            .map_err(FollowError::Inclusion)?;
        Ok(Proven { note: answer.checkpoint.clone(), head })
    }

    /// A head that was believed before this process started, and never reconciled with the last one seen.
    ///
    /// # Errors
    /// When the note is no checkpoint.
    pub fn resume(note: String) -> Result<Proven, String> {
        head_of(&note).map(|head| Proven { note, head })
    }

    /// The two sizes between which a proof of consistency is needed before [`Follower::advance`]; `None` when none is.
    #[must_use]
    pub fn needs(&self, proven: &Proven) -> Option<(TreeSize, TreeSize)> {
        let (_, seen) = self.seen.as_ref()?;
        between(seen, &proven.head)
    }

    /// Whether the new checkpoint and the last one seen cannot both be true, whatever the log may answer.
    #[must_use]
    pub fn contradicts(&self, proven: &Proven) -> bool {
        self.seen.as_ref().is_some_and(|(_, seen)| seen.size == proven.head.size && *seen != proven.head)
    }

    /// Whether the tree of the last checkpoint seen has an entry at `index`.
    #[must_use]
    pub fn covers(&self, index: LeafIndex) -> bool {
        self.seen.as_ref().is_some_and(|(_, seen)| index.get() < seen.size.get())
    }

    /// Takes the new checkpoint as the last one seen, if it extends that.
    ///
    /// # Errors
    /// [`FollowError::Consistency`] when nothing proves that the two are of one tree, and [`FollowError::Stale`] when
    /// they are and the new one is older.
    pub fn advance(&mut self, proven: &Proven, answer: Option<ConsistencyAnswer>) -> Result<(), FollowError> {
        if let Some((_, seen)) = &self.seen {
            let proof = Proof(answer.map(|answer| answer.hashes).unwrap_or_default());
            verify_either_way(seen, &proven.head, &proof).map_err(FollowError::Consistency)?;
            if proven.head.size < seen.size {
                return Err(FollowError::Stale);
            }
        }
        self.seen = Some((proven.note.clone(), proven.head));
        Ok(())
    }
}

impl Proven {
    /// The checkpoint's note.
    #[must_use]
    pub fn note(&self) -> &str {
        &self.note
    }
}

/// The sizes between which it takes a proof to show that two heads are of one tree, the smaller first.
pub(crate) fn between(one: &TreeHead, other: &TreeHead) -> Option<(TreeSize, TreeSize)> {
    let (old, new) = (one.size.min(other.size), one.size.max(other.size));
    (old.get() > 0 && old < new).then_some((old, new))
}

/// Checks that two heads are of one tree, whichever is older.
pub(crate) fn verify_either_way(one: &TreeHead, other: &TreeHead, proof: &Proof) -> Result<(), ProofError> {
    let (old, new) = if one.size <= other.size { (one, other) } else { (other, one) };
    verify_consistency(old, new, proof)
}

/// The head in a checkpoint's note, unverified.
pub(crate) fn head_of(note: &str) -> Result<TreeHead, String> {
    let parsed = Note::parse(note.as_bytes(), sift_spec::note::NOTE_BYTES_MAX);
    let parsed = parsed.map_err(|error| error.to_string())?;
    Checkpoint::parse(parsed.text).map(|checkpoint| checkpoint.head).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sift_spec::note::{KeyType, SignerKey};
    use sift_spec::proof::{prove_consistency, prove_multi_inclusion};
    use sift_spec::tree::MemoryTree;

    struct Log {
        key: SignerKey,
        entries: Vec<Vec<u8>>,
    }

    impl Log {
        fn new(entries: &[&[u8]]) -> Self {
            let key = SignerKey::from_seed("log.example".parse().unwrap(), KeyType::Ed25519, &[5; 32]);
            Self { key: key.unwrap(), entries: entries.iter().map(|entry| entry.to_vec()).collect() }
        }

        fn tree(&self) -> MemoryTree {
            MemoryTree::of_entries(self.entries.iter().map(Vec::as_slice))
        }

        fn answer(&self, indices: &[u64]) -> BatchAnswer {
            let tree = self.tree();
            let head = TreeHead { size: tree.size(), root: tree.root(tree.size()).unwrap() };
            let checkpoint = Checkpoint::new(self.key.verifier().name().clone(), head).unwrap();
            let indices: Vec<_> = indices.iter().map(|index| LeafIndex::new(*index).unwrap()).collect();
            BatchAnswer {
                checkpoint: checkpoint.sign(&self.key),
                proof: prove_multi_inclusion(&indices, tree.size(), &tree).unwrap().0,
                results: indices.into_iter().map(BatchResult::Index).collect(),
            }
        }

        fn consistency(&self, old: u64) -> ConsistencyAnswer {
            let (tree, old) = (self.tree(), TreeSize::new(old).unwrap());
            let hashes = prove_consistency(old, tree.size(), &tree).unwrap().0;
            ConsistencyAnswer { old, new: tree.size(), hashes }
        }

        fn follower(&self) -> Follower {
            Follower::new(TrustPolicy::of_log(self.key.verifier().clone(), None), None).unwrap()
        }
    }

    #[test]
    fn a_log_that_grows_is_followed() {
        let small = Log::new(&[b"a", b"b", b"c"]);
        let mut follower = small.follower();
        let proven = follower.check(&[b"b", b"c"], &small.answer(&[1, 2])).unwrap();
        assert!(follower.needs(&proven).is_none());
        follower.advance(&proven, None).unwrap();
        let large = Log::new(&[b"a", b"b", b"c", b"d", b"e"]);
        let proven = follower.check(&[b"d"], &large.answer(&[3])).unwrap();
        assert!(follower.needs(&proven).is_some());
        follower.advance(&proven, Some(large.consistency(3))).unwrap();
        // A duplicate is answered with its place.
        let proven = follower.check(&[b"a"], &large.answer(&[0])).unwrap();
        follower.advance(&proven, None).unwrap();
        // An answer that comes again is told from another history.
        let proven = follower.check(&[b"b", b"c"], &small.answer(&[1, 2])).unwrap();
        assert_eq!(follower.advance(&proven, Some(large.consistency(3))), Err(FollowError::Stale));
    }

    #[test]
    fn a_log_that_lies_is_not() {
        let small = Log::new(&[b"a", b"b", b"c"]);
        let mut follower = small.follower();
        let answer = small.answer(&[1, 2]);
        assert!(matches!(follower.check(&[b"b"], &answer), Err(FollowError::Misfit(_))));
        assert!(matches!(follower.check(&[b"b", b"x"], &answer), Err(FollowError::Inclusion(_))));
        assert!(matches!(follower.check(&[b"c", b"b"], &answer), Err(FollowError::Inclusion(_))));
        let twice = BatchAnswer {
            results: vec![answer.results[0].clone(), answer.results[0].clone()],
            ..answer.clone()
        };
        assert!(matches!(follower.check(&[b"b", b"b"], &twice), Err(FollowError::Inclusion(_))));
        let mut forged = answer.clone();
        forged.checkpoint = forged.checkpoint.replacen("\n3\n", "\n4\n", 1);
        assert!(matches!(follower.check(&[b"b", b"c"], &forged), Err(FollowError::Checkpoint(_))));

        let proven = follower.check(&[b"b", b"c"], &answer).unwrap();
        follower.advance(&proven, None).unwrap();
        // Another history of the same size, a longer one, and a shorter one.
        for entries in [&[&b"a"[..], b"b", b"x"][..], &[b"a", b"b", b"x", b"d"], &[b"a", b"b"]] {
            let other = Log::new(entries);
            let proven = follower.check(&[b"b"], &other.answer(&[1])).unwrap();
            let answer = (entries.len() > 3).then(|| other.consistency(3));
            assert!(matches!(follower.advance(&proven, answer), Err(FollowError::Consistency(_))));
            assert_eq!(follower.contradicts(&proven), entries.len() == 3);
        }
    }
}
