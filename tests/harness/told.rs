//! What a log told its clients, to be held against it for ever.

use std::collections::BTreeMap;
use std::sync::Mutex;

use sift_spec::api::{BatchAnswer, BatchResult, ConsistencyAnswer, MEDIA_BYTES, MEDIA_NOTE, Problem};
use sift_spec::hash::leaf_hash;
use sift_spec::proof::{Proof, TreeHead, verify_consistency, verify_multi_inclusion};
use sift_spec::receipt::Receipt;
use sift_spec::tile::push_entry;
use sift_spec::tree::MemoryTree;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{Hash, LeafIndex, TreeSize};

use crate::check::check_log;
use crate::http::Http;

/// Consistency proofs that the log is asked for in one check; the other heads are compared with its entries only.
const PROOFS: usize = 16;

/// A client that believes nothing without proof and forgets nothing.
pub struct Told {
    trust: TrustPolicy,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    leaves: BTreeMap<LeafIndex, Hash>,
    indices: BTreeMap<Hash, LeafIndex>,
    heads: BTreeMap<TreeSize, Hash>,
}

/// What became of a request.
#[derive(Debug)]
pub enum Sent {
    /// Every entry has its answer.
    Answered(Vec<Result<LeafIndex, Box<Problem>>>),
    /// The request was refused as a whole.
    Refused(Box<Problem>),
    /// No answer: nothing was promised.
    Silent,
}

impl Told {
    /// Nothing yet.
    #[must_use]
    pub fn new(trust: TrustPolicy) -> Self {
        Self { trust, heard: Mutex::default() }
    }

    /// Sends one entry as a note, or several as a bundle, and verifies what is answered.
    ///
    /// # Panics
    /// When the answer proves less than it says, or contradicts what was heard before.
    pub async fn send(&self, http: &Http, entries: &[Vec<u8>]) -> Sent {
        let answer = if let [entry] = entries {
            http.post("/v1/records", MEDIA_NOTE, entry.clone()).await
        } else {
            let mut bundle = Vec::new();
            entries.iter().for_each(|entry| assert!(push_entry(&mut bundle, entry)));
            http.post("/v1/records", MEDIA_BYTES, bundle).await
        };
        let Ok(answer) = answer else { return Sent::Silent };
        if answer.status != 200 {
            return Sent::Refused(Box::new(answer.problem()));
        }
        if let [entry] = entries {
            let receipt = Receipt::parse(&answer.body).expect("a receipt");
            let verified = receipt.verify(leaf_hash(entry), &self.trust).expect("a receipt that verifies");
            self.hear_head(verified.checkpoint().checkpoint().head);
            self.hear(verified.index(), verified.leaf());
            return Sent::Answered(vec![Ok(verified.index())]);
        }
        let BatchAnswer { checkpoint, proof, results } =
            serde_json::from_slice(&answer.body).expect("a batch answer");
        let head = self.trust.verify(checkpoint.as_bytes()).expect("believed").checkpoint().head;
        self.hear_head(head);
        let results: Vec<_> = results
            .into_iter()
            .map(|result| match result {
                BatchResult::Index(index) => Ok(index),
                BatchResult::Problem(problem) => Err(problem),
            })
            .collect();
        assert_eq!(results.len(), entries.len());
        let admitted =
            results.iter().zip(entries).filter_map(|(result, entry)| Some((result.as_ref().ok()?, entry)));
        let leaves: BTreeMap<LeafIndex, Hash> =
            admitted.map(|(index, entry)| (*index, leaf_hash(entry))).collect();
        let sorted: Vec<_> = leaves.iter().map(|(index, leaf)| (*index, *leaf)).collect();
        verify_multi_inclusion(&sorted, &head, &Proof(proof)).expect("a proof of the whole bundle");
        leaves.into_iter().for_each(|(index, leaf)| self.hear(index, leaf));
        Sent::Answered(results)
    }

    /// Reads the checkpoint, where the log answers.
    ///
    /// # Panics
    /// When it is not the log's, or contradicts what was heard before.
    pub async fn look(&self, http: &Http) -> Option<TreeHead> {
        let answer = http.get("/checkpoint").await.ok()?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let head = self.trust.verify(&answer.body).expect("believed").checkpoint().head;
        self.hear_head(head);
        Some(head)
    }

    fn hear(&self, index: LeafIndex, leaf: Hash) {
        let mut heard = self.heard.lock().expect("no panic");
        let before = heard.leaves.insert(index, leaf);
        assert!(before.is_none_or(|before| before == leaf), "index {index} was given twice");
        let before = heard.indices.insert(leaf, index);
        assert!(
            before.is_none_or(|before| before == index),
            "an entry has the indices {before:?} and {index}"
        );
    }

    fn hear_head(&self, head: TreeHead) {
        let before = self.heard.lock().expect("no panic").heads.insert(head.size, head.root);
        assert!(before.is_none_or(|before| before == head.root), "two heads of size {}", head.size);
    }

    /// How many entries were acknowledged, and how many heads were seen.
    ///
    /// # Panics
    /// When another check failed.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let heard = self.heard.lock().expect("no panic");
        (heard.leaves.len(), heard.heads.len())
    }

    /// Checks the log from nothing, and everything that was ever told against it: each acknowledged entry is at its
    /// index with its bytes, and each head is one of the final tree, computed from its entries and proven by the log.
    ///
    /// # Panics
    /// When anything is not.
    pub async fn check(&self, http: &Http) -> TreeHead {
        let (checkpoint, entries) = check_log(http, &self.trust).await;
        let tree = MemoryTree::of_entries(entries.iter().map(Vec::as_slice));
        let last = checkpoint.head;
        let heads: Vec<TreeHead> = {
            let heard = self.heard.lock().expect("no panic");
            for (index, leaf) in &heard.leaves {
                let entry = usize::try_from(index.get()).ok().and_then(|index| entries.get(index));
                let entry = entry.unwrap_or_else(|| panic!("entry {index} was acknowledged and is lost"));
                assert_eq!(leaf_hash(entry), *leaf, "entry {index} was acknowledged with other bytes");
            }
            heard.heads.iter().map(|(size, root)| TreeHead { size: *size, root: *root }).collect()
        };
        for head in &heads {
            assert_eq!(
                tree.root(head.size),
                Some(head.root),
                "a head of size {} is not of this tree",
                head.size
            );
        }
        let every = heads.len().div_ceil(PROOFS).max(1);
        for old in heads.iter().rev().step_by(every).filter(|head| head.size > TreeSize::ZERO) {
            let path = format!("/v1/proof/consistency?old={}&new={}", old.size, last.size);
            let answer = http.get(&path).await.expect("an answer");
            let proof: ConsistencyAnswer = serde_json::from_slice(&answer.body).expect("a proof");
            verify_consistency(old, &last, &Proof(proof.hashes)).expect("a consistent log");
        }
        last
    }
}
