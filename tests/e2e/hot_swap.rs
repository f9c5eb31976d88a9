//! Policy bundles swapped under runs in flight, over a real log: every run is decided by the bundle of its `open` to its
//! end, and a stranger finds nothing in the evidence of any of them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sift_client::evidence::{Disclosure, collect};
use sift_client::log::LogClient;
use sift_client::{BundleError, CloseReason, Kernel, OpenRun, Run, SystemClock};
use sift_spec::bundle::Bundle;
use sift_spec::types::Hash;
use sift_tests::{BUNDLE, bundle, check_log, done, tool};

use crate::kernel::Scene;

const RUNS: usize = 50;
const SWAPS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// The tests' bundle with another name for what allows `act`.
fn version(number: usize) -> Bundle {
    let name = format!("\"act-{number}\"");
    let files = BUNDLE.map(|(path, text)| (path.to_owned(), text.replacen("\"act\"", &name, 1).into_bytes()));
    Bundle::new(files).unwrap()
}

fn write(folder: &Path, bundle: &Bundle) {
    std::fs::create_dir_all(folder).unwrap();
    for (path, content) in bundle.files() {
        std::fs::write(folder.join(path), content).unwrap();
    }
}

async fn in_force(kernel: &Kernel, digest: Hash) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while kernel.bundle_status().in_force != digest {
        assert!(tokio::time::Instant::now() < end, "{:?}", kernel.bundle_status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_runs_go_on_while_bundles_are_swapped() {
    let scene = Scene::new().await;
    let folder = scene.dir.path().join("bundle");
    write(&folder, &bundle());
    let mut config = scene.config();
    config.bundle_dir = Some(folder.clone());
    let kernel = Kernel::open(config, scene.key(), SystemClock).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let act = |run: Run| {
        let stop = Arc::clone(&stop);
        tokio::spawn(async move {
            let mut calls = 0;
            while calls < 2 || (calls < 60 && !stop.load(Ordering::Relaxed)) {
                tool(&run, "act", &format!("call_{calls}"))
                    .await
                    .dispatch(|| async { done() })
                    .await
                    .unwrap();
                calls += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            run.close(CloseReason::Done).await.unwrap();
            run
        })
    };
    let open = || async { kernel.open_run(OpenRun::of("test/agent".parse().unwrap())).await.unwrap() };
    // Before: fifty runs, which go on through all of it.
    let mut tasks = Vec::new();
    for _ in 0..RUNS {
        tasks.push((bundle().digest(), act(open().await)));
    }
    // During: a run under each bundle. Half of them are given before the operator publishes them.
    for number in 1..=SWAPS {
        let next = version(number);
        let early = number % 4 < 2;
        if !early {
            scene.log.operator().publish(&next).await.unwrap();
        }
        if number % 2 == 0 {
            let loaded = kernel.load_bundle(next.clone()).await;
            match loaded {
                Err(BundleError::NotPublished { bundle }) => assert!(early && bundle == next.digest()),
                Ok(digest) => assert!(!early && digest == next.digest()),
                Err(other) => panic!("{other}"),
            }
        } else {
            write(&folder, &next);
        }
        if early {
            assert_ne!(kernel.bundle_status().in_force, next.digest());
            scene.log.operator().publish(&next).await.unwrap();
        }
        in_force(&kernel, next.digest()).await;
        tasks.push((next.digest(), act(open().await)));
    }
    // A bundle that does not compile changes nothing.
    std::fs::write(folder.join("policy.rego"), "package sift\nallow {").unwrap();
    let end = tokio::time::Instant::now() + PATIENCE;
    while !kernel.bundle_status().problem.is_some_and(|problem| problem.contains("does not compile")) {
        assert!(tokio::time::Instant::now() < end, "{:?}", kernel.bundle_status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(kernel.bundle_status().in_force, version(SWAPS).digest());
    stop.store(true, Ordering::Relaxed);
    // After: one more.
    tasks.push((version(SWAPS).digest(), act(open().await)));
    let mut runs = Vec::new();
    for (digest, task) in tasks {
        let run = task.await.unwrap();
        assert_eq!(run.bundle().digest(), digest);
        runs.push((digest, run.id()));
    }
    assert!(kernel.drain(PATIENCE).await && kernel.stopped().is_none());
    let (log, trust) = (LogClient::new(scene.log.http.url()).unwrap(), scene.log.trust());
    let mut decisions = 0;
    for (digest, run) in runs {
        let pack = collect(run, kernel.store(), &log, &trust, Disclosure::Everything).await.unwrap();
        assert_eq!(pack.bundles.keys().copied().collect::<Vec<_>>(), [digest]);
        let report =
            sift_verify::run::verify(&pack.write().unwrap(), &trust, &sift_verify::run::Options::default());
        assert!(report.findings().is_empty(), "{run}: {:?}", report.findings());
        decisions += pack.entries.len();
    }
    assert!(decisions > RUNS * 6, "{decisions}");
    kernel.close().await;
    check_log(&scene.log.http, &trust).await;
}
