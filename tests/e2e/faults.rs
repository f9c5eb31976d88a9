//! System calls that fail. Each kind of call that the log's durable writes are made of is made to fail once, or to be
//! the last thing that the process did, by `strace` on a real log under a real client. Whatever happens then, the log
//! is started again and everything that it ever told is held against it.
//!
//! `SIFT_FAULTS=all` injects at every call and not only at some of each kind; it takes half an hour.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sift_spec::api::ProblemKind;
use sift_spec::trust::TrustPolicy;
use sift_tests::{LogProcess, Sent, TestLog, Told, Writer, program};
use tokio::sync::Semaphore;

/// Calls that change what is on the disk. Some do not exist on every architecture: `?` says so to strace.
const CALLS: [&str; 13] = [
    "openat",
    "write",
    "pwrite64",
    "writev",
    "fallocate",
    "ftruncate",
    "sync_file_range",
    "fdatasync",
    "fsync",
    "rename",
    "renameat",
    "unlink",
    "unlinkat",
];

/// Numbers of RocksDB's files that a run can reach.
const FILES_MAX: u32 = 300;

/// Logs that are run at a time.
const AT_A_TIME: usize = 3;

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum File {
    WriteAheadLog,
    Table,
    Manifest,
    Current,
    Folder,
    Mark,
}

impl File {
    const ALL: [Self; 6] =
        [Self::WriteAheadLog, Self::Table, Self::Manifest, Self::Current, Self::Folder, Self::Mark];

    /// The files of this kind that a log in `dir` may have.
    fn paths(self, dir: &Path) -> Vec<String> {
        let data = dir.join("data").display().to_string();
        let numbered = |prefix: &str, ending: &str| {
            (0..FILES_MAX).map(|number| format!("{data}/{prefix}{number:06}{ending}")).collect::<Vec<_>>()
        };
        match self {
            Self::WriteAheadLog => numbered("", ".log"),
            Self::Table => numbered("", ".sst"),
            Self::Manifest => numbered("MANIFEST-", ""),
            Self::Current => [vec![format!("{data}/CURRENT")], numbered("", ".dbtmp")].concat(),
            Self::Folder => vec![data],
            Self::Mark => vec![format!("{data}.head")],
        }
    }

    /// What a line of strace is about.
    fn of_line(line: &str, dir: &Path) -> Option<Self> {
        let data = dir.join("data").display().to_string();
        let rest = line.split_once(&data)?.1;
        let name = rest.split(['"', '>']).next()?;
        Some(match name {
            "" => Self::Folder,
            ".head" => Self::Mark,
            _ if name.ends_with(".log") => Self::WriteAheadLog,
            _ if name.ends_with(".sst") => Self::Table,
            _ if name.starts_with("/MANIFEST-") => Self::Manifest,
            "/CURRENT" => Self::Current,
            _ if name.ends_with(".dbtmp") => Self::Current,
            _ => return None,
        })
    }
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Eio,
    Enospc,
    Kill,
}

impl Fault {
    const ALL: [Self; 3] = [Self::Eio, Self::Enospc, Self::Kill];

    const fn injection(self) -> &'static str {
        match self {
            Self::Eio => "error=EIO",
            Self::Enospc => "error=ENOSPC",
            Self::Kill => "signal=SIGKILL",
        }
    }
}

/// One run: this call on such a file fails when a thread makes it for the `number`th time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Case {
    file: File,
    call: String,
    fault: Fault,
    number: u32,
}

/// What the log did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    NotStarted,
    Stopped,
    Killed,
    Paused,
    WentOn,
    /// The threads shared the work otherwise this time, and none made so many calls.
    NotReached,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotStarted => "did not start",
            Self::Stopped => "stopped",
            Self::Killed => "killed",
            Self::Paused => "refused, went on by itself",
            Self::WentOn => "went on",
            Self::NotReached => "not reached",
        })
    }
}

/// A log with a writer, stopped: every run begins with a copy of it.
struct Base {
    log: TestLog,
    writer: Writer,
    trust: TrustPolicy,
}

impl Base {
    async fn new() -> Self {
        let mut log = TestLog::start().await;
        let writer = log.writer("test/kernel").await;
        log.stop().await;
        let trust = log.trust();
        // Small buffers: within a few hundred records every kind of file is written, replaced and deleted.
        let file = log.dir().join("sift-server.toml");
        let config = std::fs::read_to_string(&file).unwrap() + "\n[store]\nwrite_buffer_kib = 64\n";
        std::fs::write(file, config).unwrap();
        Self { log, writer, trust }
    }

    fn copy(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let copied = Command::new("cp").arg("-a").arg(self.log.dir().join(".")).arg(dir.path()).status();
        assert!(copied.unwrap().success());
        dir
    }

    /// What every run's client sends: single records and bundles, in one order.
    async fn drive(&self, http: &sift_tests::Http, told: &Told) -> Driven {
        let mut paused = false;
        for step in 0..60_u64 {
            let entries = self.writer.entries(&self.writer.run(if step % 2 == 0 { 0 } else { 6 }));
            let parts = if step % 2 == 0 { entries.chunks(1) } else { entries.chunks(7) };
            for part in parts {
                let until = Instant::now() + Duration::from_secs(60);
                loop {
                    match told.send(http, part).await {
                        Sent::Answered(results) => {
                            assert!(results.iter().all(Result::is_ok), "{results:?}");
                            break;
                        }
                        Sent::Refused(problem) if problem.kind == ProblemKind::DiskFull => {
                            // Reads are answered while records are not taken.
                            assert!(told.look(http).await.is_some(), "reads on a full disk");
                            assert!(Instant::now() < until, "there is space, and the log does not go on");
                            paused = true;
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                        Sent::Refused(problem) if problem.kind == ProblemKind::NotWriting => {
                            return Driven::Ended;
                        }
                        Sent::Refused(problem) => panic!("{problem:?}"),
                        Sent::Silent => return Driven::Ended,
                    }
                }
            }
            if step % 10 == 0 && told.look(http).await.is_none() {
                return Driven::Ended;
            }
        }
        if paused { Driven::Paused } else { Driven::WentOn }
    }

    /// One run: inject, start again, check. Gives what happened and what the log said about it.
    async fn run(&self, case: &Case) -> (Outcome, String) {
        let dir = self.copy();
        let mut strace = Command::new("strace");
        let trace = dir.path().join("trace");
        strace.args(["-D", "-f", "-q", "-o"]).arg(&trace);
        // Faster, but strace sends no signal from there.
        strace.args((case.fault != Fault::Kill).then_some("--seccomp-bpf"));
        strace.args(case.file.paths(dir.path()).iter().flat_map(|path| ["-P", path]));
        strace.arg("-e").arg(format!("trace=?{}", case.call));
        let inject = format!("inject=?{}:{}:when={}", case.call, case.fault.injection(), case.number);
        strace.arg("-e").arg(inject).arg("--").arg(program("sift-server"));
        let told = Told::new(self.trust.clone());
        let (outcome, said) = match LogProcess::start_under(strace, dir.path()) {
            Err(printed) => {
                (if case.fault == Fault::Kill { Outcome::Killed } else { Outcome::NotStarted }, printed)
            }
            Ok(mut process) => {
                let driven = self.drive(&process.http.clone(), &told).await;
                let said = match driven {
                    Driven::Ended => tokio::task::block_in_place(|| process.ended(Duration::from_secs(60)))
                        .expect("a log that neither answers nor ends"),
                    // The call may still come, from a thread that works behind the writes.
                    Driven::WentOn if case.fault == Fault::Kill => String::new(),
                    Driven::Paused | Driven::WentOn => {
                        told.check(&process.http).await;
                        String::new()
                    }
                };
                let gone = process.ended(Duration::ZERO).is_some();
                process.kill();
                let outcome = match driven {
                    _ if gone && case.fault == Fault::Kill => Outcome::Killed,
                    Driven::Ended => Outcome::Stopped,
                    Driven::Paused => Outcome::Paused,
                    Driven::WentOn => Outcome::WentOn,
                };
                (outcome, said)
            }
        };
        let outcome = match (outcome, case.fault) {
            (Outcome::WentOn, Fault::Kill) => Outcome::NotReached,
            (Outcome::WentOn, _) if !injected(&trace) => Outcome::NotReached,
            (outcome, _) => outcome,
        };
        // Without the fault: everything that was told holds, and the log goes on from there.
        let process = match LogProcess::start(dir.path()) {
            Ok(process) => process,
            Err(refused) => panic!("{case:?}: {outcome}, and then did not start again: {refused}"),
        };
        let sent = told.send(&process.http, &self.writer.entries(&self.writer.run(1))).await;
        assert!(matches!(sent, Sent::Answered(_)), "{case:?}: {sent:?}");
        told.check(&process.http).await;
        process.kill();
        (outcome, said)
    }

    /// Counts the calls of a run in which nothing fails: for each kind of file and call, the most that one thread made.
    async fn count(&self) -> BTreeMap<(File, String), u32> {
        let dir = self.copy();
        let trace = dir.path().join("trace");
        let calls = CALLS.map(|call| format!("?{call}")).join(",");
        let mut strace = Command::new("strace");
        strace.args(["-D", "-f", "--seccomp-bpf", "-q", "-y", "-o"]).arg(&trace);
        let paths = File::ALL.into_iter().flat_map(|file| file.paths(dir.path()));
        strace.args(paths.flat_map(|path| ["-P".to_owned(), path]));
        strace.arg("-e").arg(format!("trace={calls}")).arg("--").arg(program("sift-server"));
        let told = Told::new(self.trust.clone());
        let mut process = LogProcess::start_under(strace, dir.path()).unwrap();
        assert!(matches!(self.drive(&process.http.clone(), &told).await, Driven::WentOn));
        told.check(&process.http).await;
        assert!(process.ended(Duration::ZERO).is_none());
        process.kill();
        let mut threads: BTreeMap<(File, String, String), u32> = BTreeMap::new();
        for line in std::fs::read_to_string(&trace).unwrap().lines() {
            let Some((thread, line)) = line.split_once(' ') else { continue };
            let Some((call, _)) = line.trim_start().split_once('(') else { continue };
            if let (Some(file), true) = (File::of_line(line, dir.path()), CALLS.contains(&call)) {
                *threads.entry((file, call.to_owned(), thread.to_owned())).or_default() += 1;
            }
        }
        let mut most: BTreeMap<(File, String), u32> = BTreeMap::new();
        for ((file, call, _), count) in threads {
            let most = most.entry((file, call)).or_default();
            *most = count.max(*most);
        }
        most
    }
}

enum Driven {
    WentOn,
    Paused,
    Ended,
}

/// Whether strace made a call fail, as it wrote down.
pub(crate) fn injected(trace: &Path) -> bool {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let text = std::fs::read_to_string(trace).unwrap_or_default();
        // The last thing that it writes is how the process ended.
        if text.contains("+++") || Instant::now() > until {
            return text.contains("(INJECTED)");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether strace can be used here. Where tests must not be passed over, it has to be.
pub(crate) fn strace_works() -> bool {
    let status = Command::new("strace")
        .args(["-f", "-o", "/dev/null", "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let works = status.is_ok_and(|status| status.success());
    assert!(
        works || std::env::var_os("CI").is_none(),
        "strace is missing or may not trace: `make tools` installs it"
    );
    works
}

/// At which calls of `count` to inject: the first, the last, and one between where there are many.
fn numbers(count: u32, all: bool) -> BTreeSet<u32> {
    match count {
        _ if all => (1..=count).collect(),
        ..=15 => BTreeSet::from([1, count]),
        _ => BTreeSet::from([1, count.div_ceil(2), count]),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn system_calls_that_fail() {
    if !strace_works() {
        println!("skipped: strace is missing, or may not trace here");
        return;
    }
    let started = Instant::now();
    let base = Arc::new(Base::new().await);
    let calls = base.count().await;
    for ((file, call), count) in &calls {
        println!("{file:?} {call}: {count} calls");
    }
    for needed in [File::WriteAheadLog, File::Table, File::Manifest, File::Current, File::Mark] {
        assert!(
            calls.keys().any(|(file, _)| *file == needed),
            "the run must write every kind of file: {needed:?}"
        );
    }
    let all = std::env::var("SIFT_FAULTS").is_ok_and(|value| value == "all");
    let turns = Arc::new(Semaphore::new(AT_A_TIME));
    let mut runs = Vec::new();
    for ((file, call), count) in &calls {
        for fault in Fault::ALL {
            for number in numbers(*count, all) {
                let case = Case { file: *file, call: call.clone(), fault, number };
                let (base, turns) = (Arc::clone(&base), Arc::clone(&turns));
                runs.push(tokio::spawn(async move {
                    let _turn = turns.acquire().await.unwrap();
                    let (outcome, said) = base.run(&case).await;
                    (case, outcome, said)
                }));
            }
        }
    }
    let mut table: BTreeMap<(File, String, Fault), BTreeMap<Outcome, Vec<u32>>> = BTreeMap::new();
    let mut reasons: BTreeMap<String, u32> = BTreeMap::new();
    let total = runs.len();
    for run in runs {
        let (case, outcome, said) = run.await.unwrap();
        // Who stops says why.
        if matches!(outcome, Outcome::Stopped | Outcome::NotStarted) {
            let reason = said.lines().find_map(|line| line.strip_prefix("sift-server: "));
            let reason = reason.unwrap_or_else(|| panic!("{case:?}: stopped without a reason: {said}"));
            *reasons.entry(generic(reason)).or_default() += 1;
        }
        table
            .entry((case.file, case.call, case.fault))
            .or_default()
            .entry(outcome)
            .or_default()
            .push(case.number);
    }
    println!("\nfile           call             fault   what the log did (at which calls)");
    for ((file, call, fault), outcomes) in &table {
        let outcomes: Vec<_> =
            outcomes.iter().map(|(outcome, numbers)| format!("{outcome} {numbers:?}")).collect();
        println!(
            "{:<14} {call:<16} {fault:<7} {}",
            format!("{file:?}"),
            outcomes.join(", "),
            fault = format!("{fault:?}")
        );
    }
    println!("\nreasons given");
    reasons.iter().for_each(|(reason, times)| println!("{times:>5} × {reason}"));
    println!(
        "\n{total} runs in {:?}: each started again, nothing acknowledged lost, no two heads",
        started.elapsed()
    );
    assert!(
        table.values().all(|outcomes| outcomes.keys().any(|outcome| *outcome != Outcome::NotReached)),
        "every kind of call failed at least once"
    );
    // A failed sync of the commit is never passed over.
    for ((file, call, fault), outcomes) in &table {
        if (*file, *fault) == (File::WriteAheadLog, Fault::Eio)
            && matches!(call.as_str(), "write" | "fdatasync" | "fsync")
        {
            assert!(
                !outcomes.contains_key(&Outcome::WentOn) && !outcomes.contains_key(&Outcome::Paused),
                "{call}"
            );
        }
    }
}

/// A reason without the names and numbers of this run.
fn generic(reason: &str) -> String {
    let words = reason.split_whitespace().map(|word| if word.contains('/') { "…" } else { word });
    words.collect::<Vec<_>>().join(" ")
}
