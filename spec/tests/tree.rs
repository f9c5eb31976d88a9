//! The tree and its proofs: against RFC 6962's recursive definition, `rs_merkle`, `ct-merkle`, `tlog_tiles`,
//! outside vectors and known roots; every small case, and every small change of a proof.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use common::{Random, decimal_leaves, flipped, index, size, tampered};
use sift_spec::hash::{EMPTY_ROOT, leaf_hash, node_hash};
use sift_spec::model::ModelTree;
use sift_spec::proof::{
    Proof, ProofError, ProveError, TreeHead, prove_consistency, prove_inclusion, prove_multi_inclusion,
    verify_consistency, verify_inclusion, verify_multi_inclusion,
};
use sift_spec::tile::{TILE_WIDTH, TileId, TilePath, TiledTree, Tiles};
use sift_spec::tree::{MemoryTree, NodeId, Nodes, RightEdge};
use sift_spec::types::{Hash, LeafIndex, TreeSize};

/// Largest tree of which everything is tried.
const EXHAUSTIVE: u64 = 64;

// RFC 6962 §2.1, written as it stands there.

/// The largest power of two below `n`.
fn k(n: usize) -> usize {
    let mut k = 1;
    while k * 2 < n {
        k *= 2;
    }
    k
}

/// MTH(D[n]) (§2.1), over leaf hashes.
fn mth(d: &[Hash]) -> Hash {
    match d.len() {
        0 => EMPTY_ROOT,
        1 => d[0],
        n => node_hash(&mth(&d[..k(n)]), &mth(&d[k(n)..])),
    }
}

/// PATH(m, D[n]) (§2.1.1).
fn path(m: usize, d: &[Hash]) -> Vec<Hash> {
    let n = d.len();
    if n == 1 {
        return vec![];
    }
    let k = k(n);
    if m < k {
        [path(m, &d[..k]), vec![mth(&d[k..])]].concat()
    } else {
        [path(m - k, &d[k..]), vec![mth(&d[..k])]].concat()
    }
}

/// SUBPROOF(m, D[n], b) (§2.1.2); PROOF(m, D[n]) is SUBPROOF(m, D[n], true).
fn subproof(m: usize, d: &[Hash], b: bool) -> Vec<Hash> {
    let n = d.len();
    if m == n {
        return if b { vec![] } else { vec![mth(d)] };
    }
    let k = k(n);
    if m <= k {
        [subproof(m, &d[..k], b), vec![mth(&d[k..])]].concat()
    } else {
        [subproof(m - k, &d[k..], false), vec![mth(&d[..k])]].concat()
    }
}

/// SPEC §7.3 written recursively: the roots of the largest subtrees without a wanted leaf, left to right.
fn multi(wanted: &BTreeSet<usize>, start: usize, d: &[Hash]) -> Vec<Hash> {
    let n = d.len();
    if !(start..start + n).any(|leaf| wanted.contains(&leaf)) {
        return vec![mth(d)];
    }
    if n == 1 {
        return vec![];
    }
    let k = k(n);
    [multi(wanted, start, &d[..k]), multi(wanted, start + k, &d[k..])].concat()
}

/// Tiles in memory: one row a tile, as a store keeps them.
struct MemoryTiles(BTreeMap<TileId, Vec<Hash>>);

impl MemoryTiles {
    fn new(leaves: &[Hash]) -> Self {
        let mut rows = BTreeMap::new();
        let mut level = leaves.to_vec();
        for height in 0.. {
            if level.is_empty() {
                return Self(rows);
            }
            for (position, row) in level.chunks(256).enumerate() {
                rows.insert(TileId { level: height, index: position as u64 }, row.to_vec());
            }
            level = level.chunks_exact(256).map(mth).collect();
        }
        unreachable!()
    }
}

impl Tiles for MemoryTiles {
    type Error = String;

    fn tile(&self, tile: TileId, width: u16) -> Result<Vec<Hash>, String> {
        let row = self.0.get(&tile).filter(|_| width > 0).ok_or_else(|| format!("{tile:?} is not stored"))?;
        row.get(..usize::from(width)).map(<[Hash]>::to_vec).ok_or_else(|| format!("{tile:?} is narrow"))
    }
}

fn head(root: Hash, n: u64) -> TreeHead {
    TreeHead { size: size(n), root }
}

#[test]
fn known_roots_of_eight_leaves() {
    let leaves =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    let roots = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    };
    let entries: Vec<Vec<u8>> = leaves.into_iter().map(bytes).collect();
    for (n, root) in roots.iter().enumerate() {
        let tree = MemoryTree::of_entries(entries[..n].iter().map(Vec::as_slice));
        assert_eq!(tree.root(size(n as u64)).unwrap().hex(), *root);
    }
}

#[test]
fn known_roots_around_tile_boundaries() {
    let leaves = decimal_leaves(70_000);
    let known = [
        (255, "Mvhbyqh9e80Fco8J6a66NQumovczgwCH8Fl2goSL5cs="),
        (256, "goUV0DPBnYyQHzfsy4rtkZZncDSG+NL/8c9wQDIcXbE="),
        (257, "HtoEmkNR2G92JSvX7At3Rq11t/oDFq1fVB29pFijEsQ="),
        (70_000, "Gkzfy2Y3SgwNy+9JrL1JdtE+6GT7PLJB/JQ8rQTwL34="),
    ];
    let tree = MemoryTree::new(leaves.iter().copied());
    let tiles = MemoryTiles::new(&leaves);
    let mut edge = RightEdge::default();
    let mut roots = BTreeMap::new();
    for leaf in &leaves {
        edge.push(*leaf);
        roots.insert(edge.size().get(), edge.root());
    }
    for (n, root) in known {
        assert_eq!(roots[&n].to_string(), root, "right edge of {n}");
        assert_eq!(tree.root(size(n)).unwrap().to_string(), root, "tree of {n}");
    }

    let mut random = Random::seeded("known_roots_around_tile_boundaries", 7);
    let mut proofs = 0;
    for n in [255, 256, 257, 258, 511, 512, 513, 65_535, 65_536, 65_537, 70_000] {
        let tiled = TiledTree::new(size(n), &tiles);
        // The right edge rebuilt from tiles is the right edge.
        let row = tiled.read(&RightEdge::nodes(size(n))).unwrap();
        let rebuilt = RightEdge::from_row(size(n), row).unwrap();
        assert_eq!(rebuilt.root(), roots[&n], "right edge through tiles at {n}");
        assert_eq!(tree.root(size(n)).unwrap(), mth(&leaves[..n as usize]), "recursive root of {n}");
        let head = head(roots[&n], n);

        let mut indices: Vec<u64> = vec![0, 1, 254, n / 2, n - 1, n - 2];
        indices.extend((0..4).map(|_| random.below(n)));
        indices.extend([255, 256, 257, 65_535, 65_536].into_iter().filter(|at| *at < n));
        for at in indices {
            let proof = prove_inclusion(index(at), size(n), &tiled).unwrap();
            assert_eq!(proof, prove_inclusion(index(at), size(n), &tree).unwrap(), "{at} in {n}");
            verify_inclusion(&leaves[at as usize], index(at), &head, &proof).unwrap();
            for bad in tampered(&proof) {
                assert!(verify_inclusion(&leaves[at as usize], index(at), &head, &bad).is_err());
            }
            proofs += 1;
        }
        for old in
            [1, 2, 3, 254, 255, 256, 257, 512, 65_535, 65_536, n - 1, n].into_iter().filter(|old| *old <= n)
        {
            let proof = prove_consistency(size(old), size(n), &tiled).unwrap();
            assert_eq!(proof, prove_consistency(size(old), size(n), &tree).unwrap(), "{old} to {n}");
            let old = TreeHead { size: size(old), root: roots[&old] };
            verify_consistency(&old, &head, &proof).unwrap();
            for bad in tampered(&proof) {
                assert!(verify_consistency(&old, &head, &bad).is_err());
            }
            proofs += 1;
        }
        let wanted: BTreeSet<u64> = (0..40).map(|_| random.below(n)).collect();
        let wanted: Vec<LeafIndex> = wanted.into_iter().map(index).collect();
        let proof = prove_multi_inclusion(&wanted, size(n), &tiled).unwrap();
        assert_eq!(proof, prove_multi_inclusion(&wanted, size(n), &tree).unwrap());
        let given: Vec<_> = wanted.iter().map(|at| (*at, leaves[at.get() as usize])).collect();
        verify_multi_inclusion(&given, &head, &proof).unwrap();
        proofs += 1;
    }
    println!("{proofs} proofs at tile boundaries agree with the tree in memory and refuse every change");
}

#[test]
fn outside_vectors() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors/merkle");
    if !folder.is_dir() {
        println!("skipped: {} is not here", folder.display());
        return;
    }
    let mut files = Vec::new();
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    let (mut disagree, mut refused) = (Vec::new(), 0);
    for file in &files {
        let case: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let accepted = outside_case(&case).is_some();
        let want_refusal = case["wantErr"].as_bool().unwrap_or(false);
        refused += usize::from(!accepted);
        if accepted == want_refusal {
            disagree.push(file);
        }
    }
    println!("{} outside cases: {} accepted, {refused} refused", files.len(), files.len() - refused);
    assert_eq!(files.len(), 196);
    assert_eq!(disagree, Vec::<&std::path::PathBuf>::new());
}

/// `None` is a refusal, be it that of the types or of the verifier.
fn outside_case(case: &serde_json::Value) -> Option<()> {
    // Cases of equal sizes compare two roots and hash nothing; they write the 12 bytes "don't care 1" for a
    // root, and one of them wants acceptance. Our type holds nothing but 32 bytes, so there, and only there,
    // such a text stands for its leaf hash. Everywhere else a hash of another length is refused.
    let equal_sizes = case.get("size1").is_some() && case["size1"] == case["size2"];
    let hash = |value: &serde_json::Value| match value.as_str()? {
        any @ ("ZG9uJ3QgY2FyZSAx" | "ZG9uJ3QgY2FyZSAy") if equal_sizes => Some(leaf_hash(any.as_bytes())),
        text => text.parse::<Hash>().ok(),
    };
    let number = |name: &str| case[name].as_u64();
    let proof = match &case["proof"] {
        serde_json::Value::Null => Proof::default(),
        list => Proof(list.as_array()?.iter().map(hash).collect::<Option<_>>()?),
    };
    let head = |size: &str, root: &str| {
        Some(TreeHead { size: TreeSize::new(number(size)?).ok()?, root: hash(&case[root])? })
    };
    if case.get("leafIdx").is_some() {
        let at = LeafIndex::new(number("leafIdx")?).ok()?;
        verify_inclusion(&hash(&case["leafHash"])?, at, &head("treeSize", "root")?, &proof).ok()
    } else {
        verify_consistency(&head("size1", "root1")?, &head("size2", "root2")?, &proof).ok()
    }
}

#[test]
fn roots_and_right_edges_to_64() {
    let leaves = decimal_leaves(EXHAUSTIVE);
    let tree = MemoryTree::new(leaves.iter().copied());
    let tiles = MemoryTiles::new(&leaves);
    let mut edge = RightEdge::default();
    assert_eq!(tree.size(), size(EXHAUSTIVE));
    assert_eq!(tree.root(size(EXHAUSTIVE + 1)), None);
    for n in 0..=EXHAUSTIVE {
        let root = mth(&leaves[..n as usize]);
        assert_eq!(edge.root(), root);
        assert_eq!(edge.size(), size(n));
        assert_eq!(tree.root(size(n)), Some(root));
        assert_eq!(ModelTree::new(&leaves[..n as usize]).root(), root);
        let nodes = RightEdge::nodes(size(n));
        let row = TiledTree::new(size(n), &tiles).read(&nodes).unwrap();
        assert_eq!(RightEdge::from_row(size(n), row.clone()), Some(edge.clone()));
        assert_eq!(RightEdge::from_row(size(n), [row, vec![root]].concat()), None);
        if let Some(leaf) = leaves.get(n as usize) {
            edge.push(*leaf);
        }
    }
}

#[test]
fn inclusion_to_64() {
    let leaves = decimal_leaves(EXHAUSTIVE);
    let tree = MemoryTree::new(leaves.iter().copied());
    let tiles = MemoryTiles::new(&leaves);
    let (mut proofs, mut refusals) = (0, 0);
    for n in 1..=EXHAUSTIVE {
        let d = &leaves[..n as usize];
        let (head, model) = (head(mth(d), n), ModelTree::new(d));
        for m in 0..n {
            let leaf = &leaves[m as usize];
            let proof = prove_inclusion(index(m), size(n), &tree).unwrap();
            assert_eq!(proof.0, path(m as usize, d), "PATH({m}, D[{n}])");
            assert_eq!(proof, prove_inclusion(index(m), size(n), &TiledTree::new(size(n), &tiles)).unwrap());
            assert_eq!(proof, model.proof(&[index(m)]), "rs_merkle");
            assert_eq!(verify_inclusion(leaf, index(m), &head, &proof), Ok(()));
            proofs += 1;

            for bad in tampered(&proof) {
                let verdict = verify_inclusion(leaf, index(m), &head, &bad);
                let expected =
                    if bad.0.len() == proof.0.len() { ProofError::Root } else { ProofError::Length };
                assert_eq!(verdict, Err(expected));
                refusals += 1;
            }
            for other in (0..n + 3).filter(|other| *other != m) {
                assert!(verify_inclusion(leaf, index(other), &head, &proof).is_err());
                refusals += 1;
            }
            assert_eq!(verify_inclusion(&flipped(leaf, 9), index(m), &head, &proof), Err(ProofError::Root));
            let wrong = TreeHead { root: flipped(&head.root, 200), ..head };
            assert_eq!(verify_inclusion(leaf, index(m), &wrong, &proof), Err(ProofError::Root));
            refusals += 2;
        }
        let outside = ProofError::IndexOutside { index: index(n), size: size(n) };
        assert_eq!(verify_inclusion(&leaves[0], index(n), &head, &Proof::default()), Err(outside));
        assert!(matches!(
            prove_inclusion(index(n), size(n), &tree),
            Err(ProveError::Request(error)) if error == outside
        ));
    }
    let empty = head(EMPTY_ROOT, 0);
    assert!(verify_inclusion(&EMPTY_ROOT, index(0), &empty, &Proof::default()).is_err());
    println!("{proofs} inclusion proofs to {EXHAUSTIVE} leaves, {refusals} changes refused");
    assert_eq!(proofs, EXHAUSTIVE * (EXHAUSTIVE + 1) / 2);
}

#[test]
fn consistency_to_64() {
    let leaves = decimal_leaves(EXHAUSTIVE);
    let tree = MemoryTree::new(leaves.iter().copied());
    let tiles = MemoryTiles::new(&leaves);
    let (mut proofs, mut refusals) = (0, 0);
    for n in 0..=EXHAUSTIVE {
        let d = &leaves[..n as usize];
        let new = head(mth(d), n);
        for m in 0..=n {
            let old = head(mth(&leaves[..m as usize]), m);
            let proof = prove_consistency(size(m), size(n), &tree).unwrap();
            let expected = if m == 0 { vec![] } else { subproof(m as usize, d, true) };
            assert_eq!(proof.0, expected, "PROOF({m}, D[{n}])");
            assert_eq!(proof, prove_consistency(size(m), size(n), &TiledTree::new(size(n), &tiles)).unwrap());
            assert_eq!(verify_consistency(&old, &new, &proof), Ok(()), "{m} to {n}");
            proofs += 1;

            for bad in tampered(&proof) {
                let verdict = verify_consistency(&old, &new, &bad);
                let expected =
                    if bad.0.len() == proof.0.len() { ProofError::Root } else { ProofError::Length };
                assert_eq!(verdict, Err(expected), "{m} to {n}");
                refusals += 1;
            }
            let bad_old = TreeHead { root: flipped(&old.root, 3), ..old };
            let bad_new = TreeHead { root: flipped(&new.root, 77), ..new };
            assert!(verify_consistency(&bad_old, &new, &proof).is_err());
            // From the empty tree every tree is an extension; only size 0 has a root of its own to check.
            assert_eq!(verify_consistency(&old, &bad_new, &proof).is_ok(), m == 0 && n > 0);
            refusals += 2;
            if m < n {
                assert_eq!(
                    verify_consistency(&new, &old, &proof),
                    Err(ProofError::Shrinks { old: new.size, new: old.size })
                );
                assert!(prove_consistency(size(n), size(m), &tree).is_err());
                refusals += 1;
            }
        }
    }
    println!("{proofs} consistency proofs to {EXHAUSTIVE} leaves, {refusals} changes refused");
}

/// Checks one multi-inclusion proof and every change of it; gives how many changes were refused.
fn check_multi(wanted: &BTreeSet<usize>, leaves: &[Hash], tree: &MemoryTree, model: &ModelTree) -> usize {
    let n = leaves.len() as u64;
    let head = head(mth(leaves), n);
    let indices: Vec<LeafIndex> = wanted.iter().map(|at| index(*at as u64)).collect();
    let given: Vec<(LeafIndex, Hash)> = wanted.iter().map(|at| (index(*at as u64), leaves[*at])).collect();
    let proof = prove_multi_inclusion(&indices, size(n), tree).unwrap();
    assert_eq!(proof.0, multi(wanted, 0, leaves), "{wanted:?} of {n}");
    assert_eq!(verify_multi_inclusion(&given, &head, &proof), Ok(()), "{wanted:?} of {n}");
    if !wanted.is_empty() {
        // rs_merkle needs the same hashes, in another order.
        let sorted = |proof: &Proof| proof.0.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(sorted(&proof), sorted(&model.proof(&indices)), "{wanted:?} of {n}");
    }
    if wanted.len() == 1 {
        let single = prove_inclusion(indices[0], size(n), tree).unwrap();
        assert_eq!(single.0.iter().collect::<BTreeSet<_>>(), proof.0.iter().collect::<BTreeSet<_>>());
    }

    let mut refused = 0;
    for bad in tampered(&proof) {
        let expected = if bad.0.len() == proof.0.len() { ProofError::Root } else { ProofError::Length };
        assert_eq!(verify_multi_inclusion(&given, &head, &bad), Err(expected), "{wanted:?} of {n}");
        refused += 1;
    }
    for at in 0..given.len() {
        let mut wrong = given.clone();
        wrong[at].1 = flipped(&wrong[at].1, at);
        assert_eq!(verify_multi_inclusion(&wrong, &head, &proof), Err(ProofError::Root));
        let mut missing = given.clone();
        missing.remove(at);
        assert!(verify_multi_inclusion(&missing, &head, &proof).is_err());
        let mut twice = given.clone();
        twice.insert(at, given[at]);
        assert_eq!(verify_multi_inclusion(&twice, &head, &proof), Err(ProofError::Order));
        refused += 3;
        for other in (0..=n).filter(|other| !wanted.contains(&(*other as usize))) {
            let mut moved = given.clone();
            moved[at].0 = index(other);
            assert!(verify_multi_inclusion(&moved, &head, &proof).is_err());
            moved.sort();
            assert!(verify_multi_inclusion(&moved, &head, &proof).is_err());
            refused += 2;
        }
    }
    for pair in 1..given.len() {
        let mut swapped = given.clone();
        swapped.swap(pair - 1, pair);
        assert_eq!(verify_multi_inclusion(&swapped, &head, &proof), Err(ProofError::Order));
        let mut exchanged = given.clone();
        (exchanged[pair - 1].1, exchanged[pair].1) = (given[pair].1, given[pair - 1].1);
        assert_eq!(verify_multi_inclusion(&exchanged, &head, &proof), Err(ProofError::Root));
        refused += 2;
    }
    refused
}

#[test]
fn multi_inclusion_of_every_subset_to_10() {
    let leaves = decimal_leaves(10);
    let (mut proofs, mut refused) = (0, 0);
    for n in 1..=10 {
        let d = &leaves[..n];
        let (tree, model) = (MemoryTree::new(d.iter().copied()), ModelTree::new(d));
        for set in 0_u32..1 << n {
            let wanted = (0..n).filter(|at| set >> at & 1 == 1).collect();
            refused += check_multi(&wanted, d, &tree, &model);
            proofs += 1;
        }
    }
    println!("{proofs} multi-inclusion proofs to 10 leaves, {refused} changes refused");
    assert_eq!(proofs, 2046);
}

#[test]
fn multi_inclusion_of_random_subsets_to_64() {
    let leaves = decimal_leaves(EXHAUSTIVE);
    let mut random = Random::seeded("multi_inclusion_of_random_subsets_to_64", 11);
    let (mut proofs, mut refused) = (0, 0);
    for n in 11..=EXHAUSTIVE as usize {
        let d = &leaves[..n];
        let (tree, model) = (MemoryTree::new(d.iter().copied()), ModelTree::new(d));
        for _ in 0..4 {
            let density = 1 + random.below(8);
            let wanted = (0..n).filter(|_| random.below(8) < density).collect();
            refused += check_multi(&wanted, d, &tree, &model);
            proofs += 1;
        }
    }
    println!("{proofs} multi-inclusion proofs to {EXHAUSTIVE} leaves, {refused} changes refused");
}

#[test]
fn multi_inclusion_of_the_empty_tree_and_the_empty_set() {
    let empty = head(EMPTY_ROOT, 0);
    assert_eq!(verify_multi_inclusion(&[], &empty, &Proof::default()), Ok(()));
    let wrong = head(leaf_hash(b""), 0);
    assert_eq!(verify_multi_inclusion(&[], &wrong, &Proof::default()), Err(ProofError::EmptyRoot));
    assert_eq!(verify_multi_inclusion(&[], &empty, &Proof(vec![EMPTY_ROOT])), Err(ProofError::Length));
    assert!(verify_multi_inclusion(&[(index(0), EMPTY_ROOT)], &empty, &Proof::default()).is_err());
    let tree = MemoryTree::default();
    assert_eq!(prove_multi_inclusion(&[], size(0), &tree).unwrap(), Proof::default());
    assert!(prove_multi_inclusion(&[index(0)], size(0), &tree).is_err());
    let tree = MemoryTree::new(decimal_leaves(4));
    assert!(prove_multi_inclusion(&[index(2), index(1)], size(4), &tree).is_err());
    assert!(prove_multi_inclusion(&[index(1), index(1)], size(4), &tree).is_err());
    assert!(prove_multi_inclusion(&[index(4)], size(4), &tree).is_err());
}

#[test]
fn hostile_sizes_end_quickly() {
    // Nothing here may allocate or loop by the size that a stranger claims.
    let head = head(leaf_hash(b"x"), (1 << 53) - 1);
    let proof = Proof(vec![leaf_hash(b"y"); 60]);
    for at in [0, 1, (1 << 53) - 2] {
        assert!(verify_inclusion(&head.root, index(at), &head, &proof).is_err());
        assert!(verify_multi_inclusion(&[(index(at), head.root)], &head, &proof).is_err());
    }
    for old in [1, 2, 3, 1 << 52, (1 << 53) - 2] {
        let old = TreeHead { size: size(old), root: head.root };
        assert!(verify_consistency(&old, &head, &proof).is_err());
    }
}

#[test]
fn ct_merkle_agrees() {
    type CtTree = ct_merkle::mem_backed_tree::MemoryBackedTree<sha2::Sha256, Vec<u8>>;
    let leaves = decimal_leaves(EXHAUSTIVE);
    let ours = MemoryTree::new(leaves.iter().copied());
    let mut theirs = CtTree::new();
    let hashes = |bytes: &[u8]| -> Vec<Hash> {
        bytes.chunks(32).map(|chunk| Hash::try_from(chunk).unwrap()).collect()
    };
    let mut roots = vec![];
    let mut checks = 0;
    for n in 0..=EXHAUSTIVE {
        let root = theirs.root();
        assert_eq!(ours.root(size(n)).unwrap().as_bytes(), root.as_bytes().as_slice());
        for at in 0..n {
            let proof = prove_inclusion(index(at), size(n), &ours).unwrap();
            assert_eq!(proof.0, hashes(theirs.prove_inclusion(at as usize).as_bytes()));
            let bytes = proof.0.iter().flat_map(|hash| *hash.as_bytes()).collect();
            let there = ct_merkle::InclusionProof::try_from_bytes(bytes).unwrap();
            root.verify_inclusion(&at.to_string().into_bytes(), at, &there).unwrap();
            checks += 1;
        }
        for old in 1..n {
            let proof = prove_consistency(size(old), size(n), &ours).unwrap();
            assert_eq!(proof.0, hashes(theirs.prove_consistency((n - old) as usize).as_bytes()));
            let bytes = proof.0.iter().flat_map(|hash| *hash.as_bytes()).collect();
            let there = ct_merkle::ConsistencyProof::try_from_bytes(bytes).unwrap();
            root.verify_consistency(&roots[old as usize], &there).unwrap();
            checks += 1;
        }
        roots.push(root);
        theirs.push(n.to_string().into_bytes());
    }
    println!("{checks} proofs agree with ct-merkle");
}

/// Stored hashes for `tlog_tiles`, in its own numbering.
struct Stored(Vec<tlog_tiles::tlog::Hash>);

impl tlog_tiles::tlog::HashReader for Stored {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::tlog::Hash>, tlog_tiles::tlog::Error> {
        Ok(indexes.iter().map(|at| self.0[*at as usize]).collect())
    }
}

#[test]
fn tlog_tiles_agrees() {
    use tlog_tiles::tlog;
    let count = 300;
    let leaves = decimal_leaves(count);
    let ours = MemoryTree::new(leaves.iter().copied());
    let mut stored = Stored(Vec::new());
    for n in 0..count {
        let more = tlog::stored_hashes(n, n.to_string().as_bytes(), &stored).unwrap();
        stored.0.extend(more);
    }
    let theirs = |hash: Hash| tlog::Hash(*hash.as_bytes());
    let list = |proof: &Proof| proof.0.iter().map(|hash| theirs(*hash)).collect::<Vec<_>>();
    let mut checks = 0;
    for n in (1..=40).chain([128, 255, 256, 257, 299, 300]) {
        let root = ours.root(size(n)).unwrap();
        assert_eq!(tlog::tree_hash(n, &stored).unwrap(), theirs(root));
        for at in 0..n {
            let proof = prove_inclusion(index(at), size(n), &ours).unwrap();
            assert_eq!(list(&proof), tlog::prove_record(n, at, &stored).unwrap());
            tlog::check_record(&list(&proof), n, theirs(root), at, theirs(leaves[at as usize])).unwrap();
            checks += 1;
        }
        for old in 1..n {
            let proof = prove_consistency(size(old), size(n), &ours).unwrap();
            let old_root = theirs(ours.root(size(old)).unwrap());
            tlog::check_tree(&list(&proof), n, theirs(root), old, old_root).unwrap();
            assert_eq!(list(&proof), tlog::prove_tree(n, old, &stored).unwrap());
            checks += 1;
        }
    }
    println!("{checks} proofs agree with tlog_tiles");
}

#[test]
fn tile_paths_agree_with_tlog_tiles() {
    let mut random = Random::seeded("tile_paths_agree_with_tlog_tiles", 13);
    for round in 0..20_000_u64 {
        let index = match round % 4 {
            0 => round,
            1 => random.below(1_000_000),
            2 => random.next() >> random.below(63),
            _ => 1000_u64.pow((round % 6) as u32) + random.below(3),
        };
        let level = random.below(64) as u8;
        let width = 1 + random.below(256) as u16;
        let ours = TilePath::Hashes { tile: TileId { level, index }, width };
        let theirs = tlog_tiles::Tile::new(8, level, index, u32::from(width), false);
        assert_eq!(ours.to_string(), theirs.path().replacen("tile/8/", "tile/", 1));
        assert_eq!(TilePath::parse(&ours.to_string()), Some(ours));
        let entries = TilePath::Entries { index, width };
        assert_eq!(TilePath::parse(&entries.to_string()), Some(entries));
    }
}

#[test]
fn tiles_hold_their_nodes_and_no_others() {
    let count = 70_000_u64;
    let leaves = decimal_leaves(count);
    let tree = MemoryTree::new(leaves.iter().copied());
    let tiles = MemoryTiles::new(&leaves);
    let n = size(count);
    for level in 0..=16_u8 {
        let nodes = count >> level;
        for at in [0, 1, nodes / 2, nodes.saturating_sub(1)].into_iter().filter(|at| *at < nodes) {
            let node = NodeId { level, index: at };
            let id = TileId::of(node);
            assert!(id.width(n) > 0 && u64::from(id.width(n)) <= TILE_WIDTH);
            let expected = tree.read(&[node]).unwrap();
            assert_eq!(TiledTree::new(n, &tiles).read(&[node]).unwrap(), expected, "{node:?}");
            let row = tiles.tile(id, id.width(n)).unwrap();
            assert_eq!(id.node(node, &row), Some(expected[0]));
            let elsewhere = TileId { index: id.index + 1, ..id };
            assert_eq!(elsewhere.node(node, &row), None);
        }
        // The first node that is not complete cannot be read.
        let beyond = NodeId { level, index: nodes };
        assert!(TiledTree::new(n, &tiles).read(&[beyond]).is_err());
        assert!(tree.read(&[beyond]).is_err());
    }
}
