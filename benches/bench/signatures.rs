//! Signing, and checking signatures one by one and in batches, under one key and under sixteen.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use sift_benches::AnyError;
use sift_benches::records::{Subject, Weave, kernel_keys, sign_stream};
use sift_benches::rules::{Language, airline};
use sift_rules::PolicyBundle;
use sift_spec::entry::Entry;
use sift_spec::note::{BatchItem, VerifierKey, verify_batch};

pub(crate) fn benches(criterion: &mut Criterion) -> Result<(), AnyError> {
    let keys = kernel_keys(16)?;
    let bundle = PolicyBundle::compile(&airline(Language::Rego)?)?;
    let subject = Subject::new("bench.example/log".parse()?, &bundle)?;
    let mut streams = Vec::new();
    for (number, key) in (0_u64..).zip(&keys) {
        let weave = Weave { calls: 10, at_once: 1 };
        let stream = sign_stream(&subject, key, number, weave, 1024)?;
        let entries = stream.into_iter().map(Entry::parse).collect::<Result<Vec<_>, _>>()?;
        streams.push((key.verifier().clone(), entries));
    }
    let (one_key, entries) = streams.first().ok_or("no key")?;
    let entry = entries.first().ok_or("no entry")?;
    let item = entry.batch_item(one_key);

    let mut group = criterion.benchmark_group("signatures");
    group.throughput(Throughput::Elements(1));
    let signer = keys.first().ok_or("no key")?;
    group.bench_function("sign", |bencher| bencher.iter(|| signer.sign_bytes(black_box(item.message))));
    assert!(item.key.verify(item.message, item.signature));
    group.bench_function("verify one", |bencher| {
        bencher.iter(|| item.key.verify(black_box(item.message), item.signature));
    });
    for size in [16, 64, 256, 1024] {
        for count in [1, 16] {
            let streams: &[(VerifierKey, Vec<Entry>)] = streams.get(..count).ok_or("too few keys")?;
            // The keys in turn, as when many kernels upload at once.
            let items: Vec<BatchItem<'_>> = (0..size)
                .filter_map(|number| {
                    let (key, entries) = &streams[number % count];
                    Some(entries.get(number / count)?.batch_item(key))
                })
                .collect();
            assert!(items.len() == size && verify_batch(&items, &[3; 32]).into_iter().all(|valid| valid));
            group.throughput(Throughput::Elements(size as u64));
            let name = if count == 1 { "batch, one key" } else { "batch, sixteen keys" };
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter(|| verify_batch(black_box(&items), &[3; 32]));
            });
        }
    }
    group.finish();
    Ok(())
}
