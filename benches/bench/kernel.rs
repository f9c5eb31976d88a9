//! What the kernel adds to a call, and the ledger by itself.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use sift_benches::AnyError;
use sift_benches::kernel;
use sift_benches::records::{STARTED, kernel_keys};
use sift_benches::rules::{self, Language};
use sift_rules::ledger::{Open, Reserve, Settle};
use sift_rules::{Ledger, PolicyBundle};
use sift_spec::meter::{Amounts, Meter};
use sift_spec::note::{KeyType, SignerKey};
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{RunId, Seq, UnixMillis};

pub(crate) fn benches(criterion: &mut Criterion) -> Result<(), AnyError> {
    ledger(criterion)?;
    calls(criterion)
}

fn ledger(criterion: &mut Criterion) -> Result<(), AnyError> {
    let limits = PolicyBundle::compile(&rules::airline_unlimited(Language::Rego)?)?.budget().limits().clone();
    let amounts = Amounts::ZERO
        .with(Meter::ModelCalls, 1)
        .with(Meter::InputTokens, 4000)
        .with(Meter::OutputTokens, 4096)
        .with(Meter::Tokens, 8096)
        .with(Meter::MicroUsd, 50_000);
    let mut group = criterion.benchmark_group("ledger");
    for live in [1, 1000] {
        let mut ledger = Ledger::default();
        let mut runs = Vec::new();
        for number in 0..live {
            let mut random = [0; 10];
            random[..4].copy_from_slice(&u32::to_be_bytes(number));
            let (agent, time) = ("airline/gpt-4o".parse()?, UnixMillis::new(STARTED)?);
            let run = RunId::from_parts(time, &random);
            ledger.open(&Open { agent, depth: 0, limits: limits.clone(), parent: None, run, time })?;
            runs.push(run);
        }
        let mut count = 0;
        let mut once = || -> Result<(), AnyError> {
            count += 1;
            // A call a millisecond, the runs in turn.
            let run = runs[count as usize % runs.len()];
            let (seq, time) = (Seq::new(count)?, UnixMillis::new(STARTED + count)?);
            ledger.reserve(&Reserve { amounts, identity: None, run, seq, time })?.map_err(|_| "refused")?;
            ledger.settle(&Settle { run, seq, settled: amounts, time })?;
            Ok(())
        };
        once()?;
        group.bench_function(BenchmarkId::new("reserve and settle, live runs", live), |bencher| {
            bencher.iter(|| once().is_ok());
        });
    }
    group.finish();
    Ok(())
}

fn calls(criterion: &mut Criterion) -> Result<(), AnyError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let dir = tempfile::tempdir()?;
    let log = SignerKey::from_seed("bench.example/log".parse()?, KeyType::Ed25519, &[7; 32])?;
    let trust = TrustPolicy::of_log(log.verifier().clone(), None);
    let key = kernel_keys(1)?.pop().ok_or("no key")?;
    let bundle = rules::airline_unlimited(Language::Rego)?;
    let open = kernel::open(dir.path(), kernel::NO_LOG, &trust, &bundle, key);
    let kernel = runtime.block_on(open)?;
    // An error would show as a time of zero, so it ends the benchmark instead.
    let mut failure = None;
    let mut group = criterion.benchmark_group("kernel, added per call");
    group.sample_size(10);
    group.bench_function("alone", |bencher| {
        bencher.iter_custom(|count| match runtime.block_on(kernel::alone(&kernel, count)) {
            Ok(times) => Duration::from_micros(times.iter().sum()),
            Err(error) => {
                failure = Some(error);
                Duration::from_secs(1)
            }
        });
    });
    group.throughput(Throughput::Elements(64));
    group.bench_function("64 at once", |bencher| {
        bencher.iter_custom(|count| match runtime.block_on(kernel::at_once(&kernel, count * 64, 64)) {
            Ok((_, elapsed)) => elapsed,
            Err(error) => {
                failure = Some(error);
                Duration::from_secs(1)
            }
        });
    });
    group.finish();
    runtime.block_on(kernel.close());
    failure.map_or(Ok(()), Err)
}
