//! A whole log, checked from nothing: the one check that every crash and every attack ends with.

use sift_spec::chain::{OperatorHead, RunHead};
use sift_spec::checkpoint::Checkpoint;
use sift_spec::entry::{Content, Entry};
use sift_spec::hash::leaf_hash;
use sift_spec::keys::KeyRing;
use sift_spec::tile::{TILE_WIDTH, TileId, TilePath, parse_entries, parse_hashes};
use sift_spec::tree::MemoryTree;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{LeafIndex, RunId};

use crate::http::Http;

/// Reads a log through its tiles alone and checks checkpoint, every tile, every entry, every signature, every
/// chain and every grant. Gives the checkpoint and the entries.
///
/// This is written apart from `sift-verify`, on purpose: it is what that program is compared with.
///
/// # Panics
/// With what is wrong.
pub async fn check_log(http: &Http, trust: &TrustPolicy) -> (Checkpoint, Vec<Vec<u8>>) {
    let note = http.get("/checkpoint").await.expect("a checkpoint").body;
    let checkpoint = trust.verify(&note).expect("a checkpoint to believe").checkpoint().clone();
    let size = checkpoint.head.size;
    let mut entries = Vec::new();
    let mut tree = MemoryTree::default();
    for index in 0..size.get().div_ceil(TILE_WIDTH) {
        let tile = TileId { level: 0, index };
        let width = tile.width(size);
        let bundle = get(http, TilePath::Entries { index, width }).await;
        let bundle = parse_entries(&bundle, usize::from(width)).expect("an entry bundle");
        assert_eq!(bundle.len(), usize::from(width));
        let hashes = parse_hashes(&get(http, TilePath::Hashes { tile, width }).await).expect("a tile");
        let leaves: Vec<_> = bundle.iter().map(|entry| leaf_hash(entry)).collect();
        assert!(leaves == hashes, "tile {index} of level 0 is not that of its entries");
        leaves.into_iter().for_each(|leaf| tree.push(leaf));
        entries.extend(bundle.into_iter().map(<[u8]>::to_vec));
    }
    assert_eq!(tree.root(size), Some(checkpoint.head.root), "the root");
    for level in 1..8 {
        for index in 0.. {
            let tile = TileId { level, index };
            let width = tile.width(size);
            if width == 0 {
                break;
            }
            let hashes = parse_hashes(&get(http, TilePath::Hashes { tile, width }).await).expect("a tile");
            let nodes: Vec<_> = (0..u64::from(width))
                .map(|n| sift_spec::tree::NodeId { level: level * 8, index: index * TILE_WIDTH + n })
                .collect();
            let expected = sift_spec::tree::Nodes::read(&tree, &nodes).expect("complete nodes");
            assert!(hashes == expected, "tile {index} of level {level} is not that of the entries");
        }
    }
    check_entries(&entries, trust);
    (checkpoint, entries)
}

async fn get(http: &Http, path: TilePath) -> Vec<u8> {
    let answer = http.get(&format!("/{path}")).await.expect("an answer");
    assert_eq!((answer.status, answer.media.as_str()), (200, "application/octet-stream"), "{path}");
    answer.body
}

fn check_entries(entries: &[Vec<u8>], trust: &TrustPolicy) {
    let log = trust.logs()[0].key.name();
    let operator = trust.operator().expect("an operator");
    let mut keys = KeyRing::new(log.clone(), operator.clone());
    let mut chain = OperatorHead::default();
    let mut heads: std::collections::BTreeMap<RunId, RunHead> = std::collections::BTreeMap::new();
    for (index, bytes) in (0..).map(|n| LeafIndex::new(n).expect("small")).zip(entries) {
        let entry = Entry::parse(bytes.clone()).expect("an entry");
        match entry.content() {
            Content::Operator(record) => {
                entry.verify(operator).expect("the operator's signature");
                chain.extend(record, entry.leaf(), log).expect("the operator's chain");
                keys.apply(index, &record.body).expect("an operator's record that applies");
            }
            Content::Run(record) => {
                let key =
                    keys.kernel(entry.signer(), entry.key_id(), &record.agent, index).expect("a granted key");
                entry.verify(key).expect("a signature");
                match heads.get_mut(&record.run) {
                    Some(head) => head.extend(record, entry.signer(), entry.leaf()).expect("a chain"),
                    None => {
                        let head = RunHead::open(record, entry.signer(), entry.leaf(), log).expect("an open");
                        heads.insert(record.run, head);
                    }
                }
            }
        }
    }
}
