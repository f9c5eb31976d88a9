//! The crash table: the kernel killed at each named point of a call, an approval, a halt and a run's end. There must be
//! no row "ran, no record" and no row "ran, no hold": whatever acted has a durable intent with its hold, and an outcome
//! once the kernel is back.

use std::sync::Arc;

use sift_client::failpoint::{POINTS, RARE_POINTS};
use sift_spec::note::{KeyType, SignerKey};
use sift_tests::check_log;
use tokio::sync::Semaphore;

use crate::kernel_life::{Found, Stage};

/// Kernels that die at a time.
const AT_A_TIME: usize = 3;

/// At which pass of a point the process dies, and how many acts are over by then.
fn passes(point: &str) -> Vec<(u32, usize)> {
    match point {
        // Every record is signed: the fourth call's intent is the eighth, its outcome the ninth.
        "before-sign" | "after-sign" => vec![(1, 0), (8, 3), (9, 4)],
        "before-commit-open" | "after-commit-open" => vec![(1, 0), (2, 5)],
        "before-commit-approval" | "after-commit-approval" => vec![(1, 4)],
        _ if RARE_POINTS.contains(&point) => vec![(1, 6)],
        "before-decide"
        | "after-decide"
        | "after-reserve"
        | "before-commit-intent"
        | "after-commit-intent" => {
            vec![(1, 0), (4, 3), (5, 4)]
        }
        "before-dispatch" => vec![(4, 3), (6, 5)],
        _ => vec![(4, 4), (6, 6)],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_point() {
    let stage = Arc::new(Stage::new().await);
    let turns = Arc::new(Semaphore::new(AT_A_TIME));
    let mut rows = Vec::new();
    for mode in ["spool", "log"] {
        for point in POINTS.into_iter().chain(RARE_POINTS) {
            for (pass, acts) in passes(point) {
                let (stage, turns) = (Arc::clone(&stage), Arc::clone(&turns));
                rows.push(tokio::spawn(async move {
                    let _turn = turns.acquire().await.unwrap();
                    (point, pass, mode, killed_at(&stage, point, pass, acts, mode).await)
                }));
            }
        }
    }
    println!(
        "\n{:24} {:>4} {:5}  {:>9} {:>10}  {:>3} {:>7} {:>9} {:>5}  {:>14}",
        "killed at",
        "pass",
        "mode",
        "tool ran",
        "in records",
        "ok",
        "unknown",
        "cancelled",
        "halts",
        "ledger counts"
    );
    let total = rows.len();
    for row in rows {
        let (point, pass, mode, found) = row.await.unwrap();
        let Found { acted, let_through, ok, unknown, cancelled, halts, counted } = found;
        println!(
            "{point:24} {pass:>4} {mode:5}  {acted:>9} {let_through:>10}  {ok:>3} {unknown:>7} {cancelled:>9} {halts:>5}  {counted:>14}"
        );
    }
    println!("{total} deaths: no row \"ran, no record\", no row \"ran, no hold\", every pack verifies");
    check_log(&stage.scene.log.http, &stage.scene.log.trust()).await;
}

async fn killed_at(stage: &Stage, point: &str, pass: u32, acts: usize, mode: &'static str) -> Found {
    let life = stage.life(mode);
    let what = format!("{point}:{pass} {mode}");
    let output = tokio::task::block_in_place(|| life.live(None, Some(&what[..what.len() - mode.len() - 1])));
    assert!(!output.status.success(), "{what}: the point was not reached: {output:?}");
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(!printed.contains("panicked"), "{what}: {printed}");
    let found = life.judge(&what).await;
    // What came before is whole, and what was under way is unknown.
    assert!(found.acted >= acts && found.acted <= acts + 1, "{what}: {found:?}");
    assert!(found.ok + found.unknown >= acts, "{what}: {found:?}");
    assert!(found.unknown <= 1, "{what}: {found:?}");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_goes_on_and_its_pack_verifies() {
    let stage = Stage::new().await;
    // The fourth outcome came onto the disk with the fifth call, which waits for an approval and so is cancelled; or, on a
    // busy machine, without it.
    for (point, acted, held) in
        [("after-commit-intent:3", 2, 0), ("after-dispatch:3", 3, 0), ("after-commit-outcome:4", 4, 1)]
    {
        let life = stage.life("spool");
        let output = tokio::task::block_in_place(|| life.live(None, Some(point)));
        assert!(!output.status.success(), "{point}: {output:?}");
        let mut config = life.config();
        config.resume = std::time::Duration::from_secs(600);
        let kernel =
            sift_client::Kernel::open(config, stage.scene.key(), sift_client::SystemClock).await.unwrap();
        let waiting = kernel.resumable();
        assert_eq!(waiting.len(), 1, "{point}");
        let run = kernel.resume_run(waiting[0].run).await.unwrap();
        for n in 0..3 {
            life.act_in(&run, &format!("after_{n}")).await;
        }
        run.close(sift_client::CloseReason::Done).await.unwrap();
        let found = life.judge_open(&kernel, point).await;
        println!("{point}: {found:?}");
        let ended = found.ok + found.unknown + found.cancelled;
        assert_eq!((found.acted, ended), (acted + 3, found.let_through), "{point}");
        assert!(found.cancelled <= held, "{point}: {found:?}");
        let runs = kernel.store().runs().unwrap();
        assert_eq!(runs[0], run.id(), "{point}: the same run");
        kernel.close().await;
    }
}

#[test]
fn the_key_is_not_in_what_a_child_prints() {
    // The child is given its key in the environment; nothing of it may come out in messages.
    let key = SignerKey::from_seed("test/kernel".parse().unwrap(), KeyType::Ed25519, &[7; 32]).unwrap();
    let printed = format!("{key:?}");
    assert!(!printed.contains("PRIVATE"));
    assert!(!printed.contains(key.to_secret_text().rsplit('+').next().unwrap()));
}
