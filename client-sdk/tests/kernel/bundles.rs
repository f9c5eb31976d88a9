//! Bundles that take one another's place: runs in flight keep theirs, and what does not load changes nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;

use sift_client::{BundleError, CloseReason, Kernel, Payload, Report, Run, Verdict};
use sift_spec::bundle::Bundle;
use sift_spec::record::{Body, Effect, Open};
use sift_spec::types::Hash;

use crate::budgets::derive;
use crate::harness::{House, boss, bundle, eventually, kinds, open_run, operator, records, tool};

/// A bundle whose verdicts name it: `read` is allowed, by the rule `v<version>`, `version` + 100 times a run.
fn version(version: u64) -> Bundle {
    let policy =
        format!("package sift\nallow contains {{\"rule\": \"v{version}\"}} if input.call.name == \"read\"\n");
    let budget = format!("[run]\ntool_calls = {}\n", version + 100);
    let files = [("policy.rego", policy), ("budget.toml", budget)];
    Bundle::new(files.map(|(path, text)| (path.to_owned(), text.into_bytes()))).unwrap()
}

/// Writes a bundle into a folder, file by file, as a person would.
fn write(folder: &Path, bundle: &Bundle) {
    std::fs::create_dir_all(folder).unwrap();
    for (path, content) in bundle.files() {
        std::fs::write(folder.join(path), content).unwrap();
    }
}

/// Calls `read` once.
async fn read(run: &Run) {
    let Verdict::Permitted(permit) = run.propose(tool("read", "{}")).await.unwrap() else { panic!() };
    permit.dispatch(|| async { Report::ok(Payload::text("x")) }).await.unwrap();
}

/// The `open` record of a run, and the rules by which its calls were allowed.
fn opened(kernel: &Kernel, run: &Run) -> (Open, Vec<String>) {
    let (mut open, mut rules) = (None, Vec::new());
    for record in records(kernel, run.id()) {
        match record.body {
            Body::Open(body) => open = Some(*body),
            Body::Intent(intent) => {
                assert_eq!(intent.effect(), Effect::Allow);
                rules.extend(intent.decision.rules.iter().map(ToString::to_string));
            }
            _ => {}
        }
    }
    (open.unwrap(), rules)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn runs_in_flight_keep_their_bundle_while_bundles_are_swapped() {
    const RUNS: usize = 50;
    const SWAPS: u64 = 20;
    let mut house = House::new("").await;
    let folder = house.dir.path().join("bundle");
    write(&folder, &version(0));
    house.config.bundle = version(0);
    house.config.bundle_dir = Some(folder.clone());
    let versions: BTreeMap<Hash, u64> = (0..=SWAPS).map(|n| (version(n).digest(), n)).collect();
    (1..=SWAPS).for_each(|n| house.log.publish(&version(n), &operator()));
    let kernel = house.open().await;
    // Each run calls until it is told to stop, whatever is swapped meanwhile.
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let call = |run: Run| {
        let stop = std::sync::Arc::clone(&stop);
        tokio::spawn(async move {
            let mut calls = 0;
            while calls < 3 || (calls < 90 && !stop.load(Ordering::Relaxed)) {
                read(&run).await;
                calls += 1;
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
            run
        })
    };
    let mut tasks = Vec::new();
    for _ in 0..RUNS {
        tasks.push((0, call(open_run(&kernel).await)));
    }
    for n in 1..=SWAPS {
        let next = version(n);
        if n % 2 == 0 {
            assert_eq!(kernel.load_bundle(next.clone()).await.unwrap(), next.digest());
        } else {
            write(&folder, &next);
            eventually("the folder's bundle", || kernel.bundle_status().in_force == next.digest()).await;
        }
        assert_eq!(kernel.bundle_status().problem, None);
        tasks.push((n, call(open_run(&kernel).await)));
    }
    stop.store(true, Ordering::Relaxed);
    let mut checked = 0;
    for (opened_under, task) in tasks {
        let run = task.await.unwrap();
        let (open, rules) = opened(&kernel, &run);
        assert_eq!(versions[&open.policy], opened_under);
        assert_eq!((open.policy, &open.limits), (run.bundle().digest(), run.bundle().budget().limits()));
        assert!(
            rules.len() >= 3 && rules.iter().all(|rule| *rule == format!("v{opened_under}")),
            "{rules:?}"
        );
        // Every verdict again, from the records and the bundle that they name.
        derive(&kernel, run.id(), run.bundle());
        let kept = kernel.store().bundle(&open.policy).unwrap().unwrap();
        assert_eq!(Bundle::decode(&kept).unwrap(), version(opened_under));
        checked += rules.len();
        run.close(CloseReason::Done).await.unwrap();
    }
    assert!(checked > RUNS * 3, "{checked}");
    kernel.close().await;
}

#[tokio::test]
async fn a_bundle_that_does_not_load_leaves_the_old_one_in_force() {
    let mut house = House::new("").await;
    let folder = house.dir.path().join("bundle");
    write(&folder, &version(1));
    (house.config.bundle, house.config.bundle_dir) = (version(1), Some(folder.clone()));
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let first = kernel.bundle_status();
    assert_eq!((first.in_force, &first.waiting, &first.problem), (version(1).digest(), &None, &None));
    let broken = Bundle::new([("policy.rego".to_owned(), b"package sift\nallow {".to_vec())]).unwrap();
    assert!(matches!(kernel.load_bundle(broken).await, Err(BundleError::Compile(_))));
    assert!(matches!(kernel.load_bundle(Bundle::new([]).unwrap()).await, Err(BundleError::Compile(_))));
    let status = kernel.bundle_status();
    assert_eq!((status.in_force, status.waiting), (first.in_force, None));
    assert!(status.problem.unwrap().contains("does not compile"));
    // A folder without a meaning, one that is gone, and the one that decides already.
    std::fs::write(folder.join("policy.rego"), "package sift\nallow {").unwrap();
    let problem = || kernel.bundle_status().problem.unwrap_or_default();
    eventually("it does not compile", || problem().contains("does not compile: policy.rego")).await;
    std::fs::rename(&folder, house.dir.path().join("away")).unwrap();
    eventually("it is gone", || problem().contains("cannot be read")).await;
    read(&run).await;
    read(&open_run(&kernel).await).await;
    write(&folder, &version(1));
    eventually("no problem", || kernel.bundle_status().problem.is_none()).await;
    assert_eq!(kernel.bundle_status(), first);
    assert!(kernel.stopped().is_none() && run.stopped().is_none());
    kernel.close().await;
}

#[tokio::test]
async fn a_bundle_waits_until_the_operator_has_published_it() {
    let mut house = House::new("").await;
    house.config.bundle = version(1);
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let waits = |waiting: &Bundle| {
        let status = kernel.bundle_status();
        assert_eq!((status.in_force, status.waiting), (version(1).digest(), Some(waiting.digest())));
        status.problem.unwrap()
    };
    let refused = kernel.load_bundle(version(2)).await.unwrap_err();
    assert!(matches!(refused, BundleError::NotPublished { bundle } if bundle == version(2).digest()));
    assert!(waits(&version(2)).contains("sift-server operator publish"));
    // Somebody else cannot publish it, and a log that is away says nothing.
    house.log.publish(&version(2), &boss());
    assert!(matches!(kernel.load_bundle(version(2)).await, Err(BundleError::Unproven { .. })));
    house.log.publish(&version(3), &operator());
    house.log.name_as(&version(2), &version(3));
    assert!(matches!(kernel.load_bundle(version(2)).await, Err(BundleError::Unproven { .. })));
    house.log.behaviour.down.store(true, Ordering::SeqCst);
    assert!(matches!(kernel.load_bundle(version(2)).await, Err(BundleError::Unasked { .. })));
    waits(&version(2));
    house.log.behaviour.down.store(false, Ordering::SeqCst);
    read(&run).await;
    // Once it is published it comes into force by itself.
    house.log.publish(&version(2), &operator());
    eventually("in force", || kernel.bundle_status().in_force == version(2).digest()).await;
    let status = kernel.bundle_status();
    assert_eq!((status.waiting, status.problem), (None, None));
    let second = open_run(&kernel).await;
    read(&run).await;
    read(&second).await;
    assert_eq!(opened(&kernel, &run).1, ["v1", "v1"]);
    assert_eq!(opened(&kernel, &second).1, ["v2"]);
    // The way back needs no log, and the last one that was given is the only one that can come into force.
    house.log.behaviour.down.store(true, Ordering::SeqCst);
    assert!(kernel.load_bundle(version(4)).await.unwrap_err().is_waiting());
    kernel.load_bundle(version(1)).await.unwrap();
    house.log.behaviour.down.store(false, Ordering::SeqCst);
    house.log.publish(&version(4), &operator());
    tokio::time::sleep(house.config.poll * 20).await;
    assert_eq!(kernel.bundle_status().in_force, version(1).digest());
    kernel.close().await;
}

#[tokio::test]
async fn wall_clock_and_limits_are_those_of_the_runs_own_bundle() {
    let mut house = House::new("").await;
    let limited = |seconds: u64| bundle(&format!("[run]\nwall_clock_seconds = {seconds}\n"));
    house.config.bundle = limited(10);
    house.log.publish(&limited(1000), &operator());
    let kernel = house.open().await;
    let short = open_run(&kernel).await;
    let Verdict::Permitted(permit) = short.propose(tool("read", "{}")).await.unwrap() else { panic!() };
    kernel.load_bundle(limited(1000)).await.unwrap();
    let long = open_run(&kernel).await;
    assert!(kernel.drain(std::time::Duration::from_secs(20)).await);
    house.clock.advance_ms(10_001);
    assert!(permit.start().is_err(), "it has lasted as long as its own bundle allows");
    read(&long).await;
    eventually("the halt", || kinds(&kernel, short.id()).contains(&"halt")).await;
    kernel.close().await;
}

#[tokio::test]
async fn a_start_under_another_bundle_closes_runs_under_theirs() {
    let mut house = House::new("").await;
    (house.config.bundle, house.config.beat) = (version(1), None);
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let Verdict::Permitted(lost) = run.propose(tool("read", "{}")).await.unwrap() else { panic!() };
    std::mem::forget(lost);
    kernel.close().await;
    house.config.bundle = version(2);
    let kernel = house.open().await;
    assert_eq!(kinds(&kernel, run.id()), ["open", "intent", "outcome", "close"]);
    assert_eq!(opened(&kernel, &run).0.policy, version(1).digest());
    assert_eq!(opened(&kernel, &open_run(&kernel).await).0.policy, version(2).digest());
    kernel.close().await;
}
