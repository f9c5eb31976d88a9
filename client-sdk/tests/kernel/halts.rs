//! Halts: a run, an agent, everything; by the switch, from another process, and by the clock.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use sift_client::control::{Answer, KernelStatus, Question, SOCKET_FILE, ask};
use sift_client::{
    AgentCall, CloseReason, DispatchError, HaltCause, HaltScope, Kernel, OpenRun, OpenRunError, Payload,
    ProposeError, Report, Run, Status, Stop, SystemClock, Verdict,
};
use sift_spec::meter::Meter;
use sift_spec::record::{Body, Effect};
use sift_spec::types::RunId;

use crate::harness::{House, NOW, at, eventually, kernel_key, kinds, last_outcome, open_run, records, tool};

async fn permit(run: &Run) -> sift_client::Permit {
    match run.propose(tool("read", "{}")).await.unwrap() {
        Verdict::Permitted(permit) => permit,
        other => panic!("{other:?}"),
    }
}

async fn run_of(kernel: &Kernel, agent: &str) -> Run {
    kernel.open_run(OpenRun::of(agent.parse().unwrap())).await.unwrap()
}

fn halt_records(kernel: &Kernel, run: RunId) -> usize {
    kinds(kernel, run).iter().filter(|kind| **kind == "halt").count()
}

/// What everything that acts in a storm leaves: when the last call started, and what started after the halt was known.
#[derive(Default)]
struct Trace {
    /// Set once the command has returned.
    known: AtomicBool,
    last_start_us: AtomicU64,
    started: AtomicU64,
    too_late: AtomicU64,
    hanging: AtomicU64,
    given_up: AtomicU64,
}

/// Calls one after the other, until the run is halted; every second worker's third call never ends by itself.
async fn act(run: Run, trace: Arc<Trace>, origin: Instant, worker: usize) -> Stop {
    for n in 0_usize.. {
        let permit = match run.propose(tool("read", "{}")).await {
            Ok(Verdict::Permitted(permit)) => permit,
            Err(ProposeError::Stopped(stop)) => return stop,
            other => panic!("{other:?}"),
        };
        let known = trace.known.load(Ordering::SeqCst);
        let (seen, never_ends) = (Arc::clone(&trace), n == 2 && (worker / 2).is_multiple_of(2));
        let done = permit
            .dispatch(|| async move {
                seen.last_start_us.fetch_max(origin.elapsed().as_micros() as u64, Ordering::SeqCst);
                seen.started.fetch_add(1, Ordering::SeqCst);
                seen.too_late.fetch_add(u64::from(known), Ordering::SeqCst);
                if never_ends {
                    seen.hanging.fetch_add(1, Ordering::SeqCst);
                    std::future::pending::<()>().await;
                }
                Report::ok(Payload::text("x"))
            })
            .await;
        match done {
            Ok(_) => {}
            Err(DispatchError::Cut(stop)) => {
                trace.given_up.fetch_add(1, Ordering::SeqCst);
                return stop;
            }
            Err(DispatchError::NotDispatched(stop)) => return stop,
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!("a run that never halts")
}

/// 64 runs of two agents with calls under way, some halted from another process: prints how long it took from the
/// command's start to the last call that started.
async fn storm(args: &[&str], of_halted: impl Fn(usize) -> bool) -> (House, Kernel, Vec<Run>) {
    let house = House::new("").await;
    let kernel = house.open().await;
    let mut runs = Vec::new();
    for n in 0..64 {
        runs.push(run_of(&kernel, if n % 2 == 0 { "airline/even" } else { "airline/odd" }).await);
    }
    let (halted, spared) = (Arc::new(Trace::default()), Arc::new(Trace::default()));
    let origin = Instant::now();
    let tasks: Vec<_> = runs
        .iter()
        .enumerate()
        .map(|(n, run)| {
            let trace = if of_halted(n) { &halted } else { &spared };
            tokio::spawn(act(run.clone(), Arc::clone(trace), origin, n))
        })
        .collect();
    let some = (0..64).filter(|n| of_halted(*n)).count() as u64;
    let hanging = (0..64).filter(|n| of_halted(*n) && n / 2 % 2 == 0).count() as u64;
    eventually("calls", || halted.hanging.load(Ordering::SeqCst) == hanging).await;
    let first = runs[(0..64).find(|n| of_halted(*n)).unwrap()].id().to_string();
    let args: Vec<&str> = args.iter().map(|arg| if *arg == "RUN" { first.as_str() } else { arg }).collect();
    let commanded = origin.elapsed();
    let dir = house.dir.path().to_owned();
    let args: Vec<String> = args.into_iter().map(ToOwned::to_owned).collect();
    let command = args.join(" ");
    let output = tokio::task::spawn_blocking(move || {
        let mut program = Command::new(env!("CARGO_BIN_EXE_sift-kernel"));
        program
            .arg("--json")
            .arg("halt")
            .args(args)
            .arg("--dir")
            .arg(dir)
            .args(["--detail", "enough"])
            .output()
    });
    let output = output.await.unwrap().unwrap();
    let answered = origin.elapsed();
    halted.known.store(true, Ordering::SeqCst);
    assert!(output.status.success(), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (said["runs"].as_array().unwrap().len() as u64, &said["recorded"]),
        (some, &Value::Bool(true))
    );
    for (n, task) in tasks.into_iter().enumerate() {
        if of_halted(n) {
            let stop = tokio::time::timeout(Duration::from_secs(20), task).await.expect("told").unwrap();
            assert_eq!(stop, Stop::Halted { cause: HaltCause::Operator, detail: "enough".to_owned() });
        } else {
            assert!(runs[n].stopped().is_none());
            task.abort();
        }
    }
    let last = Duration::from_micros(halted.last_start_us.load(Ordering::SeqCst));
    println!(
        "halt {command:24} {some:>3} runs: last call started {:>7.3} ms after the command was typed, \
         answered after {:>7.3} ms, {} calls given up, {} started after the answer",
        last.saturating_sub(commanded).as_secs_f64() * 1e3,
        (answered - commanded).as_secs_f64() * 1e3,
        halted.given_up.load(Ordering::SeqCst),
        halted.too_late.load(Ordering::SeqCst),
    );
    assert_eq!(halted.too_late.load(Ordering::SeqCst), 0, "nothing starts after the halt");
    assert!(halted.given_up.load(Ordering::SeqCst) >= hanging, "calls under way are told");
    // In each chain: one halt, no intent after it, and what was under way is unknown with its whole hold.
    for (n, run) in runs.iter().enumerate() {
        let all = records(&kernel, run.id());
        let halt = all.iter().position(|record| matches!(record.body, Body::Halt(_)));
        assert_eq!((halt.is_some(), halt_records(&kernel, run.id()) <= 1), (of_halted(n), true));
        let after = &all[halt.unwrap_or(all.len())..];
        assert!(!after.iter().any(|record| matches!(record.body, Body::Intent(_))));
    }
    (house, kernel, runs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_run_is_halted_from_outside_and_the_others_go_on() {
    let (_house, kernel, runs) = storm(&["RUN"], |n| n == 0).await;
    assert!(kernel.stopped().is_none());
    permit(&runs[1]).await.dispatch(|| async { Report::ok(Payload::text("x")) }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_agent_is_halted_and_opens_no_run_until_the_kernel_is_started_again() {
    let (house, kernel, runs) = storm(&["--agent", "airline/even"], |n| n % 2 == 0).await;
    let refused = kernel.open_run(OpenRun::of("airline/even".parse().unwrap())).await;
    assert!(matches!(refused, Err(OpenRunError::Stopped(Stop::Halted { cause: HaltCause::Operator, .. }))));
    run_of(&kernel, "airline/odd").await;
    permit(&runs[1]).await.dispatch(|| async { Report::ok(Payload::text("x")) }).await.unwrap();
    kernel.close().await;
    run_of(&house.open().await, "airline/even").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_is_halted_and_what_was_under_way_keeps_its_hold() {
    let (_house, kernel, runs) = storm(&["--all"], |_| true).await;
    assert!(matches!(kernel.stopped(), Some(Stop::Halted { cause: HaltCause::Operator, .. })));
    assert!(kernel.open_run(OpenRun::of("airline/odd".parse().unwrap())).await.is_err());
    let mut unknown = 0;
    for run in &runs {
        let all = records(&kernel, run.id());
        let intents = all.iter().filter(
            |record| matches!(&record.body, Body::Intent(intent) if intent.effect() == Effect::Allow),
        );
        let outcomes: Vec<_> = all
            .iter()
            .filter_map(|record| match &record.body {
                Body::Outcome(outcome) => Some((outcome.status, outcome.settled.get(Meter::ToolCalls))),
                _ => None,
            })
            .collect();
        assert_eq!(intents.count(), outcomes.len());
        assert!(outcomes.iter().all(|(status, settled)| *settled == u64::from(*status != Status::Cancelled)));
        unknown += outcomes.iter().filter(|(status, _)| *status == Status::Unknown).count();
        run.close(CloseReason::Done).await.unwrap();
    }
    assert!(unknown > 0);
}

#[tokio::test]
async fn a_halt_reaches_the_runs_below_and_their_calls() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let call = AgentCall::new("helper/one".parse().unwrap(), Payload::text("help"));
    let Verdict::Permitted(start) = run.propose(call).await.unwrap() else { panic!() };
    let mut start = start.start().unwrap();
    let open = OpenRun { parent: start.child(), ..OpenRun::of("helper/one".parse().unwrap()) };
    let below = kernel.open_run(open).await.unwrap();
    let under_way = tokio::spawn(permit(&below).await.dispatch(std::future::pending::<Report>));
    let under_ways = || kernel.status().runs.iter().map(|run| run.under_way).collect::<Vec<_>>();
    eventually("two calls under way", || under_ways() == [1, 1]).await;
    let halted = kernel.halt_scope(&HaltScope::Agent("airline/*".parse().unwrap()), "enough").await;
    assert_eq!((halted.recorded, halted.runs), (true, vec![run.id()]));
    assert!(matches!(under_way.await.unwrap(), Err(DispatchError::Cut(_))));
    assert!(matches!(start.halted().await, Stop::Halted { .. }), "who drives a call is told");
    assert_eq!((halt_records(&kernel, run.id()), halt_records(&kernel, below.id())), (1, 1));
    assert_eq!(last_outcome(&kernel, below.id()).await.status, Status::Unknown);
    assert!(kernel.status().runs.iter().all(|run| run.halted.is_some()));
    drop(start);
    below.close(CloseReason::Done).await.unwrap();
    run.close(CloseReason::Done).await.unwrap();
    assert!(kernel.status().runs.is_empty());
}

#[tokio::test]
async fn the_wall_clock_halts_a_run_that_asks_for_nothing() {
    let house = House::new("[run]\nwall_clock_seconds = 60\n").await;
    let kernel = house.open().await;
    let (silent, busy) = (open_run(&kernel).await, open_run(&kernel).await);
    let waiting = permit(&busy).await;
    let under_way = tokio::spawn(permit(&busy).await.dispatch(std::future::pending::<Report>));
    eventually("a call under way", || kernel.status().runs.iter().any(|run| run.under_way == 1)).await;
    house.clock.set(at(NOW + 60_000));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(silent.stopped().is_none() && busy.stopped().is_none(), "as long as the limit is not too long");
    // A machine that slept finds the clock far ahead.
    house.clock.set(at(NOW + 8 * 3_600_000));
    let Err(DispatchError::Cut(stop)) = under_way.await.unwrap() else { panic!() };
    assert!(matches!(stop, Stop::Halted { cause: HaltCause::WallClock, .. }));
    eventually("the silent run is halted too", || halt_records(&kernel, silent.id()) == 1).await;
    assert!(matches!(waiting.start(), Err(DispatchError::NotDispatched(_))));
    let open = open_run(&kernel).await;
    assert!(open.stopped().is_none(), "a run that starts now has its time before it");
}

#[tokio::test]
async fn the_wall_clock_fires_in_time_by_the_real_clock() {
    let mut house = House::new("[run]\nwall_clock_seconds = 1\n").await;
    // Not by the look at the clock now and then: a call under way has a timer of its own.
    house.config.poll = Duration::from_secs(3600);
    let kernel = Kernel::open(house.config.clone(), kernel_key(), SystemClock).await.unwrap();
    let run = open_run(&kernel).await;
    let opened = Instant::now();
    let under_way = permit(&run).await.dispatch(std::future::pending::<Report>).await;
    let lasted = opened.elapsed();
    assert!(matches!(under_way, Err(DispatchError::Cut(Stop::Halted { cause: HaltCause::WallClock, .. }))));
    println!("a wall clock of 1 s halted a call under way after {:.3} s", lasted.as_secs_f64());
    assert!((900..5_000).contains(&lasted.as_millis()), "{lasted:?}");
    eventually("a record", || halt_records(&kernel, run.id()) == 1).await;
}

#[tokio::test]
async fn the_switch_reaches_calls_that_another_halt_let_go_on() {
    for scope in [HaltScope::All, HaltScope::Agent("airline/*".parse().unwrap())] {
        let mut house = House::new("").await;
        house.config.spool.records_max = 4;
        house.log.behaviour.down.store(true, Ordering::SeqCst);
        let kernel = house.open().await;
        let run = open_run(&kernel).await;
        let under_way = tokio::spawn(permit(&run).await.dispatch(std::future::pending::<Report>));
        eventually("a call under way", || kernel.status().runs[0].under_way == 1).await;
        while run.propose(tool("read", "{}")).await.is_ok() {}
        assert!(matches!(run.stopped(), Some(Stop::Halted { cause: HaltCause::LogBehind, .. })));
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!under_way.is_finished(), "its outcome is worth having");
        assert!(kernel.halt_scope(&scope, "enough").await.recorded);
        let Err(DispatchError::Cut(stop)) = under_way.await.unwrap() else { panic!() };
        assert!(matches!(stop, Stop::Halted { cause: HaltCause::Operator, .. }));
        assert_eq!(halt_records(&kernel, run.id()), 1, "a run halts once");
    }
}

#[tokio::test]
async fn a_clock_that_goes_back_halts_a_kernel_that_is_silent() {
    let house = House::new("").await;
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let under_way = permit(&run).await.start().unwrap();
    house.clock.set(at(NOW - 60_000));
    eventually("a halt", || halt_records(&kernel, run.id()) == 1).await;
    assert!(matches!(kernel.stopped(), Some(Stop::Halted { cause: HaltCause::Clock, .. })));
    // The call has done nothing wrong, and its outcome is worth having.
    under_way.finish(Report::ok(Payload::text("x"))).await.unwrap();
    assert_eq!(last_outcome(&kernel, run.id()).await.status, Status::Ok);
    let times: Vec<u64> = records(&kernel, run.id()).iter().map(|record| record.time.get()).collect();
    assert_eq!(times, [NOW; 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_answers_its_owner_and_nonsense() {
    let house = House::new("").await;
    let dir = house.dir.path().to_owned();
    let program = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_sift-kernel")).args(args).arg("--dir").arg(&dir).output().unwrap()
    };
    // No kernel, and nothing to halt.
    assert_eq!(ask(&dir, &Question::Status).unwrap(), None);
    let none = program(&["halt", "--all"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&none.stderr).contains("no kernel runs here"), "{none:?}");
    let kernel = house.open().await;
    let run = open_run(&kernel).await;
    let socket = dir.join(SOCKET_FILE);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let Some(Answer::Status(status)) = ask(&dir, &Question::Status).unwrap() else { panic!() };
    let KernelStatus { halted, runs, .. } = *status;
    assert_eq!((halted, runs.len(), runs[0].run, runs[0].records), (None, 1, run.id(), 1));
    let shown = program(&["status"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains(&run.id().to_string()), "{shown:?}");
    // Nonsense halts nothing, and does not keep others waiting.
    for bad in [&b"{}\n"[..], b"\xff\xff\n", b"{\"halt\":{\"scope\":\"everything\"}}\n", &[b' '; 20_000]] {
        use std::io::{Read as _, Write as _};
        let mut stream = UnixStream::connect(&socket).unwrap();
        // It may have answered and gone before it has read all of it.
        let _ = stream.write_all(bad);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.contains("failed"), "{answer}");
    }
    let _silent = UnixStream::connect(&socket).unwrap();
    // One that is not open, and none of several.
    let unknown = program(&["halt", "0197a0c0-0000-7000-8000-000000000000"]);
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
    assert_eq!(program(&["halt"]).status.code(), Some(2));
    assert_eq!(program(&["halt", "--all", "--agent", "x"]).status.code(), Some(2));
    assert!(run.stopped().is_none());
    kernel.close().await;
    assert!(!socket.exists());
    // A killed kernel leaves its socket, and the next one takes its place.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert_eq!(ask(&dir, &Question::Status).unwrap(), None);
    let kernel = house.open().await;
    assert!(ask(&dir, &Question::Status).unwrap().is_some());
    kernel.close().await;
}

#[tokio::test]
async fn a_directory_may_have_a_long_path() {
    let mut house = House::new("").await;
    house.config.dir = house.dir.path().join("x".repeat(120));
    let kernel = house.open().await;
    let dir = house.config.dir.clone();
    let status = tokio::task::spawn_blocking(move || ask(&dir, &Question::Status)).await.unwrap();
    assert!(matches!(status, Ok(Some(Answer::Status(_)))), "{status:?}");
    kernel.close().await;
}
