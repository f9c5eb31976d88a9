//! The full-log audit: every hash, signature and chain, from a directory of tiles.

use criterion::{Criterion, Throughput};
use sift_benches::AnyError;
use sift_benches::audit::{mirror, verify};
use sift_benches::load::{Plan, Prepared};
use sift_benches::log::{ServedLog, enrol};
use sift_benches::records::{Subject, kernel_keys};
use sift_benches::rules::{Language, airline};
use sift_rules::PolicyBundle;

pub(crate) fn benches(criterion: &mut Criterion) -> Result<(), AnyError> {
    let mut group = criterion.benchmark_group("audit");
    group.sample_size(10);
    for kernels in [1, 16] {
        let dir = tempfile::tempdir()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let bundle = PolicyBundle::compile(&airline(Language::Rego)?)?;
        let log = ServedLog::start(&dir.path().join("log"))?;
        let keys = kernel_keys(kernels)?;
        let published = (bundle.digest(), bundle.encoding().len());
        runtime.block_on(enrol(&log.url(), &log.operator, &log.trust, &keys, published))?;
        let plan = Plan { records: 20_480, runs: 4, ..Plan::default() };
        let prepared = Prepared::sign(plan, &Subject::new(log.origin(), &bundle)?, &keys, &log.host)?;
        prepared.send(&log.host, &log.trust, None)?;
        let copy = dir.path().join("copy");
        let size = runtime.block_on(mirror(&log.host, &copy))?;
        let trust = log.trust.clone();
        log.stop()?;
        verify(&copy, &trust, size)?;
        group.throughput(Throughput::Elements(size.get()));
        group.bench_function(format!("log of {size} entries, {kernels} kernels"), |bencher| {
            bencher.iter(|| verify(&copy, &trust, size).is_ok());
        });
    }
    group.finish();
    Ok(())
}
