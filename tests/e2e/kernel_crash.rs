//! The kernel killed at each named point of a call. There must be no row "ran, no record" and no row "ran, no
//! hold": whatever acted has a durable intent with its hold, and an outcome once the kernel is back.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use sift_client::failpoint::POINTS;
use sift_client::{Kernel, Mode, OpenRun, Payload, Report, SystemClock};
use sift_spec::entry::Entry;
use sift_spec::meter::Meter;
use sift_spec::note::{KeyType, SignerKey};
use sift_spec::record::{Body, Effect, Status};
use sift_spec::trust::TrustPolicy;
use sift_tests::{check_log, config, tool};

use crate::kernel::Scene;

const CHILD: &str = "SIFT_TEST_CHILD";

/// The process that is killed: a kernel whose one tool leaves a line in a file, durably, when it acts. Run as a
/// test of its own it does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let Ok(setting) = std::env::var(CHILD) else { return };
    let setting: serde_json::Value = serde_json::from_str(&setting).unwrap();
    let text = |name: &str| setting[name].as_str().unwrap().to_owned();
    let trust = TrustPolicy::of_log(text("log").parse().unwrap(), Some(text("operator").parse().unwrap()));
    let mut config = config(Path::new(&text("dir")), &text("url"), trust);
    config.mode = if text("mode") == "log" { Mode::Log } else { Mode::Spool };
    let key = SignerKey::from_secret_text(&text("key")).unwrap();
    let kernel = Kernel::open(config, key, SystemClock).await.unwrap();
    let run = kernel.open_run(OpenRun::of("test/agent".parse().unwrap())).await.unwrap();
    for n in 0..6 {
        let permit = tool(&run, "act", &format!("call_{n}")).await;
        let line = format!("{} {}\n", run.id(), permit.intent());
        let effects = text("effects");
        permit
            .dispatch(|| async move {
                let mut file = std::fs::OpenOptions::new().append(true).create(true).open(effects).unwrap();
                file.write_all(line.as_bytes()).unwrap();
                file.sync_all().unwrap();
                Report::ok(Payload::text("acted"))
            })
            .await
            .unwrap();
    }
    panic!("the failpoint was not reached");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_point() {
    println!(
        "{:24} {:5} {:>7} {:>8} {:>9} {:>8}",
        "killed at", "mode", "acted", "intents", "outcomes", "unknown"
    );
    for mode in ["spool", "log"] {
        for point in POINTS {
            killed_at(point, mode).await;
        }
    }
}

async fn killed_at(point: &str, mode: &str) {
    let scene = Scene::new().await;
    let effects = scene.dir.path().join("effects");
    let setting = serde_json::json!({
        "dir": scene.dir.path(), "url": scene.log.http.url(), "mode": mode, "effects": effects,
        "log": scene.log.key().to_string(), "operator": scene.log.operator().key().verifier().to_string(),
        "key": scene.key().to_secret_text().as_str(),
    });
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["kernel_crash::child", "--exact", "--nocapture"])
        .env(CHILD, setting.to_string())
        .env("SIFT_FAILPOINT", format!("{point}:4"))
        .output()
        .unwrap();
    assert!(!output.status.success());
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(!printed.contains("panicked"), "{point}: {printed}");
    // Opened again, the kernel closes what was left, and everything reaches the log.
    let kernel = scene.kernel(Mode::Spool).await;
    assert!(kernel.drain(std::time::Duration::from_secs(20)).await);
    let acted: BTreeSet<u64> = std::fs::read_to_string(&effects)
        .unwrap_or_default()
        .lines()
        .map(|line| line.split_once(' ').unwrap().1.parse().unwrap())
        .collect();
    let (_, entries) = check_log(&scene.log.http, &scene.log.trust()).await;
    let records: Vec<_> =
        entries.into_iter().filter_map(|entry| Entry::parse(entry).unwrap().record().cloned()).collect();
    let (mut intents, mut outcomes, mut unknown) = (BTreeSet::new(), BTreeSet::new(), 0);
    let mut settled = 0;
    for record in &records {
        match &record.body {
            Body::Intent(intent) => {
                assert_eq!(intent.effect(), Effect::Allow);
                assert_eq!(intent.reserved.get(Meter::ToolCalls), 1, "ran, no hold");
                intents.insert(record.seq.get());
            }
            Body::Outcome(outcome) => {
                assert!(outcomes.insert(outcome.intent.get()), "settled twice");
                unknown += u64::from(outcome.status == Status::Unknown);
                settled += outcome.settled.get(Meter::ToolCalls);
            }
            _ => {}
        }
    }
    println!(
        "{point:24} {mode:5} {:>7} {:>8} {:>9} {unknown:>8}",
        acted.len(),
        intents.len(),
        outcomes.len()
    );
    assert!(acted.is_subset(&intents), "{point}: ran, no record: {acted:?} of {intents:?}");
    assert_eq!(intents, outcomes, "{point}: every intent has its outcome");
    assert!(settled >= acted.len() as u64, "{point}: whatever acted is settled");
    assert!(unknown <= 1, "{point}");
    // The fourth call is under way: what came before it is whole.
    assert!(acted.len() >= 3, "{point}: {acted:?}");
    // And the evidence of the run verifies, the crash included.
    let run = records.first().expect("records").run;
    let log = sift_client::log::LogClient::new(scene.log.http.url()).unwrap();
    let everything = sift_client::evidence::Disclosure::Everything;
    let pack =
        sift_client::evidence::collect(run, kernel.store(), &log, &scene.log.trust(), everything).await;
    let pack = pack.unwrap().write().unwrap();
    kernel.close().await;
    let report = sift_verify::run::verify(&pack, &scene.log.trust(), &sift_verify::run::Options::default());
    assert!(report.findings().is_empty(), "{point}: {:?}", report.findings());
}

#[test]
fn the_key_is_not_in_what_a_child_prints() {
    // The child is given its key in the environment; nothing of it may come out in messages.
    let key = SignerKey::from_seed("test/kernel".parse().unwrap(), KeyType::Ed25519, &[7; 32]).unwrap();
    let printed = format!("{key:?}");
    assert!(!printed.contains("PRIVATE"));
    assert!(!printed.contains(key.to_secret_text().rsplit('+').next().unwrap()));
}
