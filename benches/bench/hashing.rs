//! Leaves, nodes, and trees that grow.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use sift_benches::AnyError;
use sift_spec::hash::{leaf_hash, node_hash};
use sift_spec::model::ModelTree;
use sift_spec::tree::{MemoryTree, RightEdge};
use sift_spec::types::Hash;

const LEAVES: u32 = 4096;

pub(crate) fn benches(criterion: &mut Criterion) -> Result<(), AnyError> {
    let mut group = criterion.benchmark_group("hashing");
    let entry = [b'x'; 742];
    group.throughput(Throughput::Bytes(entry.len() as u64));
    group.bench_function("leaf of 742 bytes", |bencher| bencher.iter(|| leaf_hash(black_box(&entry))));
    let (left, right) = (leaf_hash(b"left"), leaf_hash(b"right"));
    group.throughput(Throughput::Elements(1));
    group.bench_function("node", |bencher| bencher.iter(|| node_hash(black_box(&left), black_box(&right))));

    let leaves: Vec<Hash> = (0..LEAVES).map(|number| leaf_hash(&number.to_be_bytes())).collect();
    let tree = MemoryTree::new(leaves.iter().copied());
    let mut edge = RightEdge::default();
    leaves.iter().for_each(|leaf| edge.push(*leaf));
    assert_eq!(tree.root(tree.size()), Some(edge.root()));
    assert_eq!(ModelTree::new(&leaves).root(), edge.root());
    group.throughput(Throughput::Elements(u64::from(LEAVES)));
    group.bench_function("append to the right edge", |bencher| {
        bencher.iter_batched_ref(
            RightEdge::default,
            |edge| leaves.iter().for_each(|leaf| edge.push(*leaf)),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("append to a tree in memory", |bencher| {
        bencher.iter_batched_ref(
            MemoryTree::default,
            |tree| leaves.iter().for_each(|leaf| tree.push(*leaf)),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("the same tree by rs_merkle", |bencher| bencher.iter(|| ModelTree::new(&leaves)));
    group.finish();
    Ok(())
}
