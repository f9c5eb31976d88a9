//! Retention: what may be erased, in which order, and what never is.

use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sift_client::store::Retention;
use sift_client::{CloseReason, Kernel, Payload, Report, Run, Verdict};
use sift_spec::types::RunId;

use crate::harness::{House, NOW, at, open_run, tool};

const DAY_MS: u64 = 86_400_000;

async fn call(run: &Run) {
    let Verdict::Permitted(permit) = run.propose(tool("read", "{}")).await.unwrap() else { panic!() };
    permit.dispatch(|| async { Report::ok(Payload::text("x")) }).await.unwrap();
}

fn objects(kernel: &Kernel, run: RunId) -> usize {
    let records = kernel.store().run(run).unwrap().into_iter();
    records.map(|record| kernel.store().objects(record.position).unwrap().len()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_of_what_is_closed_and_logged_goes_first() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let mut closed = Vec::new();
    for _ in 0..3 {
        let run = open_run(&kernel).await;
        call(&run).await;
        run.close(CloseReason::Done).await.unwrap();
        assert!(kernel.drain(Duration::from_secs(20)).await);
        closed.push(run.id());
        house.clock.advance_ms(DAY_MS);
    }
    let open = open_run(&kernel).await;
    call(&open).await;
    assert!(kernel.drain(Duration::from_secs(20)).await);
    house.log.behaviour.down.store(true, Ordering::SeqCst);
    let unlogged = open_run(&kernel).await;
    call(&unlogged).await;
    unlogged.close(CloseReason::Done).await.unwrap();
    let counts = |kernel: &Kernel| closed.iter().map(|run| objects(kernel, *run)).collect::<Vec<_>>();
    assert_eq!(counts(&kernel), [3, 3, 3]);
    let store = kernel.store();
    // The first has ended three days ago, the last one.
    let days = |days| Retention { days: Some(days), bytes: None };
    let now = at(NOW + 3 * DAY_MS);
    assert_eq!(store.prune(days(3), now, true).unwrap().objects, 0, "as long as that is not longer");
    let would = store.prune(days(2), now, false).unwrap();
    assert_eq!((would.runs.clone(), would.objects), (vec![closed[0]], 3));
    assert_eq!(counts(&kernel), [3, 3, 3], "said, not done");
    assert_eq!(store.prune(days(2), now, true).unwrap(), would);
    assert_eq!(counts(&kernel), [0, 3, 3]);
    // By size: one run is enough to come below.
    let limit = Retention { days: None, bytes: Some(would.kept_bytes - 1) };
    assert_eq!(store.prune(limit, now, true).unwrap().runs, [closed[1]]);
    // What is open or not in the log stays, whatever the limits say.
    let nothing = Retention { days: Some(0), bytes: Some(0) };
    let last = store.prune(nothing, at(NOW + 1000 * DAY_MS), true).unwrap();
    assert_eq!(
        (last.runs, objects(&kernel, open.id()), objects(&kernel, unlogged.id())),
        (vec![closed[2]], 3, 3)
    );
    assert!(last.kept_bytes > 0);
    assert_eq!(store.run(closed[0]).unwrap().len(), 4, "records stay");
    kernel.close().await;
    // The program does the same, and refuses what is open.
    let program = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sift-kernel"));
        command.args(args).arg("--dir").arg(house.dir.path()).output().unwrap()
    };
    let (open, closed) = (open.id().to_string(), unlogged.id().to_string());
    assert_eq!(program(&["prune"]).status.code(), Some(2), "no limit is no order");
    let would = program(&["prune", "--days", "0"]);
    assert!(String::from_utf8_lossy(&would.stdout).contains("would erase 0 objects"), "{would:?}");
    assert_eq!(program(&["erase", &open]).status.code(), Some(1));
    let erased = program(&["erase", &closed]);
    let said = String::from_utf8_lossy(&erased.stdout).into_owned();
    assert_eq!((said.matches("erased  ").count(), said.contains("operator erase")), (3, true), "{erased:?}");
    assert_eq!(program(&["erase", &closed]).status.code(), Some(1), "once");
    let kernel = house.open().await;
    assert_eq!(objects(&kernel, unlogged.id()), 0);
}
