//! The payload store: what is kept whole, what is refused, what is gone, and that no proof depends on it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use sift_client::evidence::{Disclosure, collect};
use sift_client::log::LogClient;
use sift_client::{CloseReason, Mode, OpenRun};
use sift_connect::Connect;
use sift_server::access::TokensFrom;
use sift_server::payloads::PayloadsConfig;
use sift_spec::api::ProblemKind;
use sift_spec::evidence::Pack;
use sift_spec::hash::object_digest;
use sift_spec::record::{Erase, OperatorBody};
use sift_spec::types::Hash;
use sift_tests::{Http, LogProcess, TestLog, check_log, done, tool};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::certificates::write_private;
use crate::kernel::Scene;

const PUT: &str = "put-token-0123456789";
const GET: &str = "get-token-0123456789";
const DELETE: &str = "delete-token-0123456789";

fn config(dir: &Path) -> PayloadsConfig {
    let tokens = |name: &str, token: &str| Some(TokensFrom::File(write_private(dir, name, token)));
    PayloadsConfig {
        dir: dir.join("payloads"),
        put_tokens: tokens("put.tokens", PUT),
        get_tokens: tokens("get.tokens", GET),
        delete_tokens: tokens("delete.tokens", DELETE),
        bytes_max: 1 << 20,
        total_bytes_max: 16 << 20,
        retention_days: None,
    }
}

async fn configured(log: &mut TestLog, change: impl Fn(&mut PayloadsConfig)) {
    log.stop().await;
    let mut config = config(log.dir());
    change(&mut config);
    log.config_mut().payloads = Some(config);
    log.restart().await.unwrap();
}

/// An object that nobody else makes.
fn object(bytes: usize) -> (Hash, Vec<u8>) {
    let mut object = vec![0; bytes];
    getrandom::fill(&mut object).unwrap();
    (object_digest(&object), object)
}

fn path(digest: &Hash) -> String {
    format!("/v1/payloads/{}", digest.hex())
}

async fn put(http: &Http, digest: &Hash, body: Vec<u8>) -> sift_tests::Raw {
    let request = http.begin("PUT", &path(digest)).bearer_auth(PUT);
    http.send(request.body(body)).await.unwrap()
}

async fn get(http: &Http, digest: &Hash) -> sift_tests::Raw {
    http.send(http.begin("GET", &path(digest)).bearer_auth(GET)).await.unwrap()
}

async fn delete(http: &Http, digest: &Hash) -> sift_tests::Raw {
    http.send(http.begin("DELETE", &path(digest)).bearer_auth(DELETE)).await.unwrap()
}

async fn erase(log: &TestLog, digest: Hash) {
    let erase = Erase { digest, reason: "request 17".parse().unwrap() };
    log.operator().send(OperatorBody::Erase(erase)).await.unwrap();
}

/// Where the object is, and how many files the store has.
fn stored(log: &TestLog, digest: &Hash) -> PathBuf {
    let name = digest.hex();
    log.dir().join("payloads/objects").join(&name[..2]).join(name)
}

fn files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_go_in_and_come_out_whole() {
    let mut log = TestLog::start().await;
    let (digest, bytes) = object(100_000);
    let answer = put(&log.http, &digest, bytes.clone()).await;
    assert_eq!(answer.problem().kind, ProblemKind::NotFound, "off unless configured");
    configured(&mut log, |_| {}).await;
    assert_eq!(get(&log.http, &digest).await.status, 404);
    assert_eq!(put(&log.http, &digest, bytes.clone()).await.status, 201);
    assert_eq!(put(&log.http, &digest, bytes.clone()).await.status, 204, "idempotent");
    let answer = get(&log.http, &digest).await;
    assert_eq!((answer.status, answer.media.as_str()), (200, "application/octet-stream"));
    assert_eq!(answer.headers.get("cache-control").unwrap(), "private, max-age=31536000, immutable");
    assert_eq!(answer.headers.get("content-length").unwrap(), "100000");
    assert!(answer.body == bytes);
    // The least and the most.
    for size in [16, 1 << 20] {
        let (digest, bytes) = object(size);
        assert_eq!(put(&log.http, &digest, bytes.clone()).await.status, 201, "{size}");
        assert!(get(&log.http, &digest).await.body == bytes);
    }
    for size in [0, 15] {
        let (digest, bytes) = object(size);
        let answer = put(&log.http, &digest, bytes).await;
        assert_eq!(answer.problem().kind, ProblemKind::MalformedRequest, "{size}");
    }
    let (big, bytes) = object((1 << 20) + 1);
    assert_eq!(put(&log.http, &big, bytes.clone()).await.problem().kind, ProblemKind::TooLarge);
    // The same without a stated length.
    let mut stream = TcpStream::connect(log.http.url().trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {PUT}\r\ntransfer-encoding: chunked\r\n\
         connection: close\r\n\r\n",
        path(&big)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    for chunk in bytes.chunks(50_000) {
        stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await.unwrap();
        stream.write_all(chunk).await.unwrap();
        stream.write_all(b"\r\n").await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    // Another object than the path names.
    let (other, _) = object(16);
    let answer = put(&log.http, &other, vec![1; 5000]).await;
    assert_eq!(answer.problem().kind, ProblemKind::PayloadDiffers);
    // Names have one spelling.
    for name in [
        digest.hex().to_uppercase(),
        "00".to_owned(),
        "..%2f..%2flog.key".to_owned(),
        format!("{}0", digest.hex()),
    ] {
        let request = log.http.begin("PUT", &format!("/v1/payloads/{name}")).bearer_auth(PUT);
        assert_eq!(log.http.send(request.body(vec![0; 16])).await.unwrap().status, 400, "{name}");
    }
    assert_eq!(files(&log.dir().join("payloads")), 3, "nothing but whole objects");
}

#[tokio::test(flavor = "multi_thread")]
async fn room_is_kept_for_what_is_promised() {
    let mut log = TestLog::start().await;
    configured(&mut log, |config| config.total_bytes_max = 250_000).await;
    let objects: Vec<_> = (0..3).map(|_| object(100_000)).collect();
    for (digest, bytes) in &objects[..2] {
        assert_eq!(put(&log.http, digest, bytes.clone()).await.status, 201);
    }
    let (digest, bytes) = &objects[2];
    let answer = put(&log.http, digest, bytes.clone()).await;
    assert_eq!((answer.status, answer.problem().kind), (507, ProblemKind::StorageFull));
    // The same after a start: what is there is counted.
    log.stop().await;
    log.restart().await.unwrap();
    assert_eq!(put(&log.http, digest, bytes.clone()).await.status, 507);
    erase(&log, objects[0].0).await;
    assert_eq!(delete(&log.http, &objects[0].0).await.status, 204);
    assert_eq!(put(&log.http, digest, bytes.clone()).await.status, 201);
    check_log(&log.http, &log.trust()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_put_one_object_at_once() {
    let mut log = TestLog::start().await;
    configured(&mut log, |config| config.total_bytes_max = 64 << 20).await;
    let (digest, bytes) = object(200_000);
    let callers: Vec<_> = (0..256)
        .map(|n| {
            let (http, mut bytes) = (log.http.clone(), bytes.clone());
            // Every eighth sends another one.
            if n % 8 == 0 {
                bytes[n] ^= 1;
            }
            tokio::spawn(async move { (n, put(&http, &digest, bytes).await.status) })
        })
        .collect();
    let mut counts = std::collections::BTreeMap::<u16, u32>::new();
    for caller in callers {
        let (n, status) = caller.await.unwrap();
        *counts.entry(status).or_default() += 1;
        match status {
            // Room for 256 times 200,000 bytes is there.
            422 => assert_eq!(n % 8, 0),
            201 | 204 => assert_ne!(n % 8, 0),
            other => panic!("{other}"),
        }
    }
    println!("{counts:?}");
    assert_eq!((counts[&201], counts[&422]), (1, 32));
    assert!(get(&log.http, &digest).await.body == bytes);
    assert_eq!(files(&log.dir().join("payloads")), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_object_is_not_given_out() {
    let mut log = TestLog::start().await;
    configured(&mut log, |_| {}).await;
    let (digest, bytes) = object(300_000);
    put(&log.http, &digest, bytes.clone()).await;
    for position in [0, 15, 16, 150_000, 299_999] {
        let mut damaged = bytes.clone();
        damaged[position] ^= 0x80;
        std::fs::write(stored(&log, &digest), damaged).unwrap();
        let answer = get(&log.http, &digest).await;
        assert_eq!(answer.problem().kind, ProblemKind::Internal, "{position}");
    }
    std::fs::write(stored(&log, &digest), &bytes[..299_999]).unwrap();
    assert_eq!(get(&log.http, &digest).await.status, 500);
    // Whoever has it whole puts it right.
    assert_eq!(put(&log.http, &digest, bytes.clone()).await.status, 204);
    assert!(get(&log.http, &digest).await.body == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_operator_erased_is_deleted_and_it_stays_gone() {
    let mut log = TestLog::start().await;
    configured(&mut log, |_| {}).await;
    let (digest, bytes) = object(5000);
    put(&log.http, &digest, bytes.clone()).await;
    let answer = delete(&log.http, &digest).await;
    assert_eq!(answer.problem().kind, ProblemKind::NotErased);
    assert!(answer.text().contains("sift-server operator erase --digest"), "{}", answer.text());
    assert_eq!(get(&log.http, &digest).await.status, 200);
    erase(&log, digest).await;
    // From the entry on it is not given out, deleted or not.
    assert_eq!(get(&log.http, &digest).await.problem().kind, ProblemKind::Erased);
    assert_eq!(put(&log.http, &digest, bytes.clone()).await.problem().kind, ProblemKind::Erased);
    assert!(stored(&log, &digest).exists());
    assert_eq!(delete(&log.http, &digest).await.status, 204);
    assert_eq!(delete(&log.http, &digest).await.status, 204, "idempotent");
    assert!(!stored(&log, &digest).exists());
    log.stop().await;
    log.restart().await.unwrap();
    assert_eq!(get(&log.http, &digest).await.status, 410);
    assert_eq!(put(&log.http, &digest, bytes).await.status, 410);
    // An object that came and was erased while it was arriving is not there either.
    let (digest, bytes) = object(100_000);
    let mut stream = TcpStream::connect(log.http.url().trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "PUT {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {PUT}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        path(&digest),
        bytes.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&bytes[..50_000]).await.unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while files(&log.dir().join("payloads/part")) == 0 {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    erase(&log, digest).await;
    stream.write_all(&bytes[50_000..]).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 410"), "{answer}");
    assert_eq!(files(&log.dir().join("payloads")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_is_swept_and_that_is_said() {
    let mut log = TestLog::start().await;
    configured(&mut log, |config| config.retention_days = Some(30)).await;
    let (old, young, erased) = (object(1000), object(1000), object(1000));
    for (digest, bytes) in [&old, &young, &erased] {
        assert_eq!(put(&log.http, digest, bytes.clone()).await.status, 201);
    }
    erase(&log, erased.0).await;
    log.stop().await;
    let day = Duration::from_secs(24 * 60 * 60);
    for (digest, days) in [(&old.0, 31), (&young.0, 29)] {
        let file = std::fs::File::options().write(true).open(stored(&log, digest)).unwrap();
        file.set_modified(SystemTime::now() - day * days).unwrap();
    }
    log.write_config();
    let process = LogProcess::start(log.dir()).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while !process.printed().contains("payloads were deleted") {
        assert!(Instant::now() < end, "{}", process.printed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let printed = process.printed();
    let line = printed.lines().find(|line| line.contains("payloads were deleted")).unwrap();
    println!("{line}");
    assert!(line.contains("old=1") && line.contains("erased=1") && line.contains("bytes=2000"), "{line}");
    let metrics = process.http.get("/metrics").await.unwrap().text();
    let told: Vec<&str> =
        metrics.lines().filter(|line| line.contains("payload") && !line.starts_with('#')).collect();
    println!("{told:?}");
    for line in [
        "payload_objects_bytes 1000",
        "payloads_swept{because=\"old\"} 1",
        "payloads_swept{because=\"erased\"} 1",
    ] {
        assert!(told.iter().any(|told| told.ends_with(line)), "{line}");
    }
    assert_eq!(get(&process.http, &old.0).await.status, 404);
    assert_eq!(get(&process.http, &young.0).await.status, 200);
    assert_eq!(get(&process.http, &erased.0).await.status, 410);
    assert_eq!(put(&process.http, &old.0, old.1.clone()).await.status, 201, "old is not erased");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_objects_arrive_leaves_whole_ones_and_nothing_else() {
    let mut log = TestLog::start().await;
    configured(&mut log, |config| config.total_bytes_max = 1 << 30).await;
    log.stop().await;
    log.write_config();
    let mut promised = Vec::new();
    for round in 0..5_u64 {
        let process = LogProcess::start(log.dir()).unwrap();
        let writers: Vec<_> = (0..8)
            .map(|_| {
                let http = process.http.clone();
                tokio::spawn(async move {
                    let mut stored = Vec::new();
                    loop {
                        let (digest, bytes) = object(700_000);
                        let request = http.begin("PUT", &path(&digest)).bearer_auth(PUT).body(bytes);
                        match http.send(request).await {
                            Ok(answer) => assert_eq!(answer.status, 201),
                            Err(_) => return stored,
                        }
                        stored.push(digest);
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(100 + 37 * round)).await;
        process.kill();
        for writer in writers {
            promised.extend(writer.await.unwrap());
        }
    }
    let left = files(&log.dir().join("payloads/part"));
    log.restart().await.unwrap();
    assert_eq!(files(&log.dir().join("payloads/part")), 0);
    for digest in &promised {
        assert_eq!(get(&log.http, digest).await.status, 200, "{}", digest.hex());
    }
    // Whatever has a name is what its name says, promised or not.
    let mut whole = 0;
    for shard in std::fs::read_dir(log.dir().join("payloads/objects")).unwrap() {
        for file in std::fs::read_dir(shard.unwrap().path()).unwrap() {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            assert_eq!(object_digest(&std::fs::read(file.path()).unwrap()).hex(), name);
            whole += 1;
        }
    }
    println!(
        "5 kills, {} objects promised, {whole} whole, {left} parts swept after the last kill",
        promised.len()
    );
    assert!(whole >= promised.len() && !promised.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_do_not_depend_on_payloads() {
    let mut scene = Scene::new().await;
    configured(&mut scene.log, |_| {}).await;
    let kernel = scene.kernel(Mode::Log).await;
    let run = kernel.open_run(OpenRun::of("test/agent".parse().unwrap())).await.unwrap();
    for n in 0..3 {
        tool(&run, "act", &format!("call_{n}")).await.dispatch(|| async { done() }).await.unwrap();
    }
    run.close(CloseReason::Done).await.unwrap();
    assert!(kernel.drain(Duration::from_secs(20)).await);
    let log = LogClient::with(scene.log.http.url(), &Connect::default()).unwrap();
    let disclosed =
        collect(run.id(), kernel.store(), &log, &scene.log.trust(), Disclosure::Everything).await.unwrap();
    kernel.close().await;
    let verify = |pack: &Pack| {
        let options = sift_verify::run::Options::default();
        sift_verify::run::verify(&pack.write().unwrap(), &scene.log.trust(), &options)
    };
    // All objects are put into the log's store; one is erased, and deleted.
    for (digest, bytes) in &disclosed.objects {
        assert_eq!(put(&scene.log.http, digest, bytes.clone()).await.status, 201);
    }
    let erased = *disclosed.objects.keys().next().unwrap();
    erase(&scene.log, erased).await;
    assert_eq!(delete(&scene.log.http, &erased).await.status, 204);
    // The pack as the log gives it holds no objects, verifies, and says which are withheld and which erased.
    let pack = scene.log.http.get(&format!("/v1/runs/{}/evidence", run.id())).await.unwrap().body;
    let mut pack = Pack::read(&pack).unwrap();
    assert!(pack.objects.is_empty());
    pack.bundles = disclosed.bundles.clone();
    let report = verify(&pack);
    assert!(report.findings().is_empty(), "{:?}", report.findings());
    let gaps: Vec<_> = report.unchecked().iter().map(|gap| gap.code).collect();
    println!("{gaps:?}");
    assert!(gaps.contains(&sift_verify::Gap::PayloadWithheld));
    assert!(gaps.contains(&sift_verify::Gap::PayloadErased));
    // With the objects that are left it verifies too, and only the erased one is missing.
    for digest in disclosed.objects.keys().filter(|digest| **digest != erased) {
        pack.objects.insert(*digest, get(&scene.log.http, digest).await.body);
    }
    let report = verify(&pack);
    assert!(report.findings().is_empty(), "{:?}", report.findings());
    let gaps: Vec<_> = report.unchecked().iter().map(|gap| gap.code).collect();
    assert!(gaps.contains(&sift_verify::Gap::PayloadErased));
    assert!(!gaps.contains(&sift_verify::Gap::PayloadWithheld), "{gaps:?}");
    check_log(&scene.log.http, &scene.log.trust()).await;
}
