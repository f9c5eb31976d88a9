//! A disk that fills up under a log that is written and read, and has space again: refused in time and read throughout
//! with a reserve, recovered from without one. A file system of 64 MiB in memory, filled by a file of ballast.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sift_spec::api::{MEDIA_NOTE, ProblemKind};
use sift_tests::{Http, LogProcess, Sent, TestLog, Told};

const DISK_MIB: u64 = 64;

/// How long what must happen may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A file system in memory, unmounted when dropped.
pub(crate) struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    /// None where mounting is not permitted.
    pub(crate) fn mount(mib: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output();
        mounted.is_ok_and(|mounted| mounted.status.success()).then_some(Self { dir })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file until nothing is left, or until `spare` bytes are.
    pub(crate) fn fill(&self, spare: u64) -> PathBuf {
        use std::io::Write as _;
        let path = self.path().join("ballast");
        let mut file = std::fs::File::create(&path).unwrap();
        for block in [1 << 20, 4096] {
            while self.free() >= spare + block && file.write_all(&vec![1; block as usize]).is_ok() {}
        }
        path
    }

    fn free(&self) -> u64 {
        let disk = Command::new("stat").args(["-f", "-c", "%a %S"]).arg(self.path()).output().unwrap();
        let disk = String::from_utf8(disk.stdout).unwrap();
        disk.split_whitespace().map(|number| number.parse::<u64>().unwrap()).product()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}

/// Writers and readers of one log, who note what they see.
#[derive(Default)]
struct Traffic {
    stop: AtomicBool,
    full: AtomicU64,
    written: AtomicU64,
    read: AtomicU64,
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Reads checkpoint, a tile and an entry again and again: each is answered, whatever the disk is.
async fn read(http: Http, told: Arc<Told>, traffic: Arc<Traffic>) {
    while !traffic.stop.load(Ordering::Relaxed) {
        told.look(&http).await.expect("a checkpoint");
        for path in ["/tile/0/000.p/2", "/v1/records/1", "/v1/records/0.tlog-proof", "/v1/operator"] {
            let answer = http.get(path).await.expect("an answer");
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        }
        traffic.read.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn filled_and_freed(reserve_mib: u64, fill_to: u64) {
    let Some(disk) = Disk::mount(DISK_MIB) else {
        println!("skipped: a file system cannot be mounted here");
        return;
    };
    let mut log = TestLog::start().await;
    let writer = Arc::new(log.writer("test/kernel").await);
    log.stop().await;
    let config = log.dir().join("sift-server.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let sections = format!("\n[store]\nwrite_buffer_kib = 128\n\n[disk]\nreserve_mib = {reserve_mib}\n");
    std::fs::write(&config, text + &sections).unwrap();
    let copied = Command::new("cp").arg("-a").arg(log.dir().join(".")).arg(disk.path()).status();
    assert!(copied.unwrap().success());

    let process = LogProcess::start(disk.path()).unwrap();
    let (told, traffic) = (Arc::new(Told::new(log.trust())), Arc::new(Traffic::default()));
    let reader = tokio::spawn(read(process.http.clone(), Arc::clone(&told), Arc::clone(&traffic)));
    let writers: Vec<_> = (0..4_u64)
        .map(|_| {
            let (http, writer) = (process.http.clone(), Arc::clone(&writer));
            let (told, traffic) = (Arc::clone(&told), Arc::clone(&traffic));
            tokio::spawn(async move {
                while !traffic.stop.load(Ordering::Relaxed) {
                    let entries = writer.entries(&writer.run(10));
                    // Until it is in the log: the same bytes, again and again.
                    loop {
                        match told.send(&http, &entries).await {
                            Sent::Answered(results) => {
                                assert!(results.iter().all(Result::is_ok), "{results:?}");
                                traffic.written.fetch_add(1, Ordering::Relaxed);
                                break;
                            }
                            Sent::Refused(problem) => {
                                assert_eq!(problem.kind, ProblemKind::DiskFull, "{problem:?}");
                                traffic.full.fetch_add(1, Ordering::Relaxed);
                                if traffic.stop.load(Ordering::Relaxed) {
                                    break;
                                }
                                tokio::time::sleep(Duration::from_millis(20)).await;
                            }
                            Sent::Silent => panic!("the log must go on answering"),
                        }
                    }
                }
            })
        })
        .collect();

    for round in 1..=2 {
        let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let before = count(&traffic.written);
        until("writes", || count(&traffic.written) > before + 20).await;
        let refused = count(&traffic.full);
        let ballast = disk.fill(fill_to);
        println!("round {round}: {} bytes left of {DISK_MIB} MiB", disk.free());
        until("refusals", || count(&traffic.full) > refused + 20).await;
        // Refused with the time to wait, and said to whoever watches.
        let entry = writer.entries(&writer.run(0)).swap_remove(0);
        let url = format!("{}/v1/records", process.http.url());
        let request = reqwest::Client::new().post(url).header("content-type", MEDIA_NOTE).body(entry);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers().get("retry-after").unwrap(), "10");
        let ready = process.http.get("/readyz").await.unwrap();
        assert_eq!((ready.status, ready.problem().kind), (503, ProblemKind::DiskFull));
        assert_eq!(process.http.get("/healthz").await.unwrap().status, 200);
        // Read all the while.
        let read = count(&traffic.read);
        until("reads on a full disk", || count(&traffic.read) > read + 20).await;
        // And by itself, once there is space.
        std::fs::remove_file(ballast).unwrap();
        let written = count(&traffic.written);
        until("writes after the disk was full", || count(&traffic.written) > written + 20).await;
        assert_eq!(process.http.get("/readyz").await.unwrap().status, 200);
    }
    traffic.stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    reader.await.unwrap();
    let head = told.check(&process.http).await;
    process.kill();
    let process = LogProcess::start(disk.path()).unwrap();
    assert_eq!(told.check(&process.http).await, head);
    let (acknowledged, heads) = told.counts();
    let (full, reads) = (traffic.full.load(Ordering::Relaxed), traffic.read.load(Ordering::Relaxed));
    println!("{acknowledged} entries, {heads} heads, {full} refusals, {reads} rounds of reads: nothing lost");
    process.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reserve_keeps_writes_from_failing() {
    filled_and_freed(16, 8 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_found_no_space_is_recovered_from() {
    filled_and_freed(0, 0).await;
}
