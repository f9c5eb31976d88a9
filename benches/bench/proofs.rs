//! Proofs through tiles, made and verified, in trees of 2^10 − 1 to 2^24 − 1 entries: the raggedest of their height.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use sift_benches::AnyError;
use sift_benches::uniform::UniformTree;
use sift_spec::proof::{
    prove_consistency, prove_inclusion, prove_multi_inclusion, verify_consistency, verify_inclusion,
    verify_multi_inclusion,
};
use sift_spec::tile::TiledTree;
use sift_spec::types::{LeafIndex, TreeSize};

/// Leaves of a multi-inclusion proof: those of a run.
const LEAVES: u64 = 22;

pub(crate) fn benches(criterion: &mut Criterion) -> Result<(), AnyError> {
    let tree = UniformTree::default();
    let mut group = criterion.benchmark_group("proofs");
    for log2 in [10, 14, 17, 20, 24] {
        let size = TreeSize::new((1 << log2) - 1)?;
        let head = tree.head(size);
        let nodes = TiledTree::new(size, &tree);
        let at = |what: &str| BenchmarkId::new(what, format!("2^{log2}-1"));

        let index = LeafIndex::new(size.get() / 3)?;
        let proof = prove_inclusion(index, size, &nodes)?;
        verify_inclusion(&tree.leaf(), index, &head, &proof)?;
        group.throughput(Throughput::Elements(1));
        group.bench_function(at("inclusion, prove"), |bencher| {
            bencher.iter(|| prove_inclusion(black_box(index), size, &nodes));
        });
        group.bench_function(at("inclusion, verify"), |bencher| {
            bencher.iter(|| verify_inclusion(&tree.leaf(), index, black_box(&head), &proof));
        });

        let old = tree.head(TreeSize::new(size.get() / 3 * 2 + 1)?);
        let proof = prove_consistency(old.size, size, &nodes)?;
        verify_consistency(&old, &head, &proof)?;
        group.bench_function(at("consistency, prove"), |bencher| {
            bencher.iter(|| prove_consistency(black_box(old.size), size, &nodes));
        });
        group.bench_function(at("consistency, verify"), |bencher| {
            bencher.iter(|| verify_consistency(black_box(&old), &head, &proof));
        });

        let spread = |number| LeafIndex::new(size.get() / LEAVES * number + number % 7);
        let indices = (0..LEAVES).map(spread).collect::<Result<Vec<_>, _>>()?;
        let leaves: Vec<_> = indices.iter().map(|index| (*index, tree.leaf())).collect();
        let proof = prove_multi_inclusion(&indices, size, &nodes)?;
        verify_multi_inclusion(&leaves, &head, &proof)?;
        group.throughput(Throughput::Elements(LEAVES));
        group.bench_function(at("22 spread leaves, prove"), |bencher| {
            bencher.iter(|| prove_multi_inclusion(black_box(&indices), size, &nodes));
        });
        group.bench_function(at("22 spread leaves, verify"), |bencher| {
            bencher.iter(|| verify_multi_inclusion(black_box(&leaves), &head, &proof));
        });
    }
    group.finish();
    Ok(())
}
