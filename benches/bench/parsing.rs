//! Strict parsing of everything that is signed or handed over.

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{Criterion, Throughput};
use sift_benches::AnyError;
use sift_benches::records::{Subject, kernel_keys, sign_run};
use sift_benches::rules::{Language, airline};
use sift_rules::PolicyBundle;
use sift_spec::checkpoint::Checkpoint;
use sift_spec::entry::Entry;
use sift_spec::evidence::Pack;
use sift_spec::note::{KeyType, Note, SignerKey};
use sift_spec::proof::{TreeHead, prove_inclusion, prove_multi_inclusion};
use sift_spec::receipt::Receipt;
use sift_spec::record::{ENTRY_BYTES_MAX, Record};
use sift_spec::tree::MemoryTree;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{Hash, LeafIndex};

pub(crate) fn benches(criterion: &mut Criterion) -> Result<(), AnyError> {
    let key = kernel_keys(1)?.pop().ok_or("no key")?;
    let log = SignerKey::from_seed("bench.example/log".parse()?, KeyType::Ed25519, &[7; 32])?;
    let bundle = PolicyBundle::compile(&airline(Language::Rego)?)?;
    let subject = Subject::new(log.verifier().name().clone(), &bundle)?;
    let run = sign_run(&subject, &key, (0, 1), 10)?;
    let bytes: Vec<Vec<u8>> = run.iter().map(|entry| entry.bytes().to_vec()).collect();
    let run_bytes: usize = bytes.iter().map(Vec::len).sum();

    let mut group = criterion.benchmark_group("parsing");
    // Each figure is over a whole run of 22 records, so that all kinds have their share.
    group.throughput(Throughput::Elements(bytes.len() as u64));
    println!("a run of {} records has {run_bytes} bytes", bytes.len());
    group.bench_function("22 records: note", |bencher| {
        bencher
            .iter(|| bytes.iter().map(|entry| Note::parse(entry, ENTRY_BYTES_MAX)).all(|note| note.is_ok()));
    });
    let texts = bytes.iter().map(|entry| Note::parse(entry, ENTRY_BYTES_MAX).map(|note| note.text));
    let texts = texts.collect::<Result<Vec<_>, _>>()?;
    group.bench_function("22 records: record, strict", |bencher| {
        bencher.iter(|| texts.iter().map(|text| Record::parse(text)).all(|record| record.is_ok()));
    });
    group.bench_function("22 records: entry, note and record", |bencher| {
        bencher.iter(|| bytes.iter().cloned().map(Entry::parse).all(|entry| entry.is_ok()));
    });
    let records: Vec<&Record> = run.iter().filter_map(Entry::record).collect();
    group.bench_function("22 records: print", |bencher| {
        bencher.iter(|| records.iter().map(|record| record.text()).all(|text| text.is_ok()));
    });
    group.bench_function("22 records: print and sign", |bencher| {
        bencher.iter(|| records.iter().map(|record| Entry::sign(record, &key)).all(|entry| entry.is_ok()));
    });

    // A log of a hundred thousand leaves, of which the run is the last.
    let mut tree =
        MemoryTree::new((0..100_000_u64).map(|number| sift_spec::hash::leaf_hash(&number.to_be_bytes())));
    let first = tree.size().get();
    run.iter().for_each(|entry| tree.push(entry.leaf()));
    let size = tree.size();
    let head = TreeHead { size, root: tree.root(size).ok_or("no root")? };
    let checkpoint = Checkpoint::new(log.verifier().name().clone(), head)?.sign(&log);
    let trust = TrustPolicy::of_log(log.verifier().clone(), None);
    group.throughput(Throughput::Elements(1));
    group.bench_function("checkpoint: note and text", |bencher| {
        bencher.iter(|| {
            Note::parse(black_box(checkpoint.as_bytes()), 1 << 20).map(|note| Checkpoint::parse(note.text))
        });
    });
    group.bench_function("checkpoint: verify", |bencher| {
        bencher.iter(|| trust.verify(black_box(checkpoint.as_bytes())));
    });
    let index = LeafIndex::new(first)?;
    let proof = prove_inclusion(index, size, &tree)?;
    let receipt = Receipt { extra: None, index, proof, checkpoint: checkpoint.clone() };
    let leaf = run.first().ok_or("no entry")?.leaf();
    receipt.verify(leaf, &trust)?;
    let receipt = receipt.to_string();
    group.bench_function("receipt: parse", |bencher| {
        bencher.iter(|| Receipt::parse(black_box(receipt.as_bytes())))
    });
    group.bench_function("receipt: parse and verify", |bencher| {
        bencher.iter(|| Receipt::parse(receipt.as_bytes()).and_then(|receipt| receipt.verify(leaf, &trust)));
    });

    let entries: BTreeMap<LeafIndex, Vec<u8>> = (first..)
        .zip(bytes.iter().cloned())
        .map(|(index, entry)| Ok((LeafIndex::new(index)?, entry)))
        .collect::<Result<_, AnyError>>()?;
    let indices: Vec<LeafIndex> = entries.keys().copied().collect();
    let proof = prove_multi_inclusion(&indices, size, &tree)?;
    let bundles: BTreeMap<Hash, Vec<u8>> = [(bundle.digest(), bundle.encoding().to_vec())].into();
    let run = records.first().ok_or("no record")?.run;
    let pack = Pack { run, checkpoint, entries, proof, bundles, objects: BTreeMap::new() }.write()?;
    group.throughput(Throughput::Bytes(pack.len() as u64));
    group.bench_function("pack of a run: read", |bencher| bencher.iter(|| Pack::read(black_box(&pack))));
    group.finish();
    Ok(())
}
