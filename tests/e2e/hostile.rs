//! Clients that mean no good, while honest ones go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sift_spec::api::{BatchResult, ProblemKind};
use sift_tests::{LogProcess, TestLog, check_log, new_key};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn address(log: &TestLog) -> String {
    log.http.url().trim_start_matches("http://").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_connection_does_not_keep_the_log_from_stopping() {
    let mut log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    let mut stuck = TcpStream::connect(address(&log)).await.unwrap();
    stuck.write_all(b"GET /checkpoint HTTP/1.1\r\nhost: x\r\nx-never: ").await.unwrap();
    log.http.add_all(&writer.entries(&writer.run(1))).await.unwrap();
    let begun = Instant::now();
    log.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    log.restart().await.unwrap();
    check_log(&log.http, &log.trust()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_never_end_are_cut_off() {
    let log = TestLog::start().await;
    let mut slow = TcpStream::connect(address(&log)).await.unwrap();
    slow.write_all(b"GET /checkpoint HTTP/1.1\r\nx-slow: ").await.unwrap();
    let mut answer = Vec::new();
    // The log closes the connection by itself.
    tokio::time::timeout(Duration::from_secs(20), slow.read_to_end(&mut answer)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_never_end_take_no_more_than_their_share() {
    let log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    // 16 times 8 MiB is all there is for bodies; whoever comes next is told to come again.
    let mut held = Vec::new();
    for _ in 0..16 {
        let mut stream = TcpStream::connect(address(&log)).await.unwrap();
        let head = "POST /v1/records HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\n\
                    content-length: 8388608\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&[0; 1024]).await.unwrap();
        held.push(stream);
    }
    let entry = writer.sign(&writer.run(0)[0]).into_bytes();
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = log.http.add(&entry).await.unwrap();
        if answer.status == 429 {
            assert_eq!(answer.problem().kind, ProblemKind::Busy);
            break;
        }
        assert!(Instant::now() < end, "the seventeenth body must be refused");
    }
    // Reads go on, and so do writes once the others are gone.
    assert_eq!(log.http.get("/checkpoint").await.unwrap().status, 200);
    drop(held);
    let end = Instant::now() + Duration::from_secs(10);
    while log.http.add(&entry).await.unwrap().status != 200 {
        assert!(Instant::now() < end, "the room must be given back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_signatures_among_good_ones_harm_only_themselves() {
    let log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    let stranger = new_key("test/kernel");
    let runs: Vec<_> = (0..100).map(|_| writer.run(2)).collect();
    let mut entries = Vec::new();
    for (number, run) in runs.iter().enumerate() {
        for (seq, record) in run.iter().enumerate() {
            let mut entry = writer.sign(record).into_bytes();
            if number % 10 == 3 && seq == 0 {
                // The first character of the signature, after the key id: another R.
                let position = entry.len() - 60;
                entry[position] = if entry[position] == b'A' { b'B' } else { b'A' };
            }
            entries.push(entry);
        }
        if number == 50 {
            entries.push(sift_spec::entry::Entry::sign(&run[0], &stranger).unwrap().into_bytes());
        }
    }
    let answer = log.http.add_all(&entries).await.unwrap();
    let refused = answer.results.iter().filter(|result| matches!(result, BatchResult::Problem(_))).count();
    // Ten runs of six records each lose their open and so everything, and the stranger is refused.
    assert_eq!(refused, 10 * 6 + 1);
    let (_, entries) = check_log(&log.http, &log.trust()).await;
    assert_eq!(entries.len(), 2 + 90 * 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_at_once() {
    let mut log = TestLog::start().await;
    log.stop().await;
    log.config_mut().connections_max = 64;
    log.restart().await.unwrap();
    let writer = log.writer("test/kernel").await;
    // Connections that say nothing: more than are served at a time.
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(address(&log)).await.unwrap());
    }
    // They are closed for saying nothing, and an honest writer gets its turn.
    let entry = writer.sign(&writer.run(0)[0]).into_bytes();
    let answer = tokio::time::timeout(Duration::from_secs(60), log.http.add(&entry)).await.unwrap().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Everything at once, against a log in a process of its own, while honest writers and a reader go on.
#[tokio::test(flavor = "multi_thread")]
async fn honest_writers_are_answered_while_everything_is_thrown_at_the_log() {
    const HONEST: usize = 8;
    const IDLE: usize = 3_000;
    const SLOW: usize = 200;
    const SECONDS: u64 = 10;
    let mut log = TestLog::start().await;
    let writer = Arc::new(log.writer("test/kernel").await);
    log.stop().await;
    let process = LogProcess::start(log.dir()).unwrap();
    let before = process.memory_mib();
    let host = process.http.url().trim_start_matches("http://").to_owned();
    let stop = Arc::new(AtomicBool::new(false));

    // Connections that say nothing, that trickle, and that are half closed.
    let mut held = Vec::new();
    for n in 0..IDLE + SLOW {
        let mut stream = connect(&host).await;
        if n >= IDLE {
            let begun = match n % 4 {
                0 => "GET /checkpoint HTTP/1.1\r\nhost: x\r\nx-slow: ".to_owned(),
                1 => post("text/plain", "content-length: 5000\r\n"),
                2 => post("text/plain", "transfer-encoding: chunked\r\n") + "1\r\nx\r\n",
                _ => post("application/octet-stream", "content-length: 100000\r\n"),
            };
            stream.write_all(begun.as_bytes()).await.unwrap();
            if n % 8 == 7 {
                let _ = stream.shutdown().await;
            }
        }
        held.push(stream);
    }
    println!("{} connections are held", held.len());

    let attacks: Vec<Attack> = vec![
        Attack { name: "garbage", bytes: noise(64 << 10) },
        Attack {
            name: "garbage TLS",
            bytes: [b"\x16\x03\x01\x02\x00\x01\x00".to_vec(), noise(600)].concat(),
        },
        Attack { name: "header bomb", bytes: headers(5_000) },
        Attack {
            name: "one endless header",
            bytes: [b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'a'; 2 << 20]].concat(),
        },
        Attack {
            name: "huge body",
            bytes: [post("text/plain", "content-length: 4000000000\r\n").into_bytes(), vec![b'x'; 40 << 20]]
                .concat(),
        },
        Attack {
            name: "endless chunks",
            bytes: [
                post("application/octet-stream", "transfer-encoding: chunked\r\n").into_bytes(),
                b"10000\r\n"
                    .iter()
                    .copied()
                    .chain(vec![b'x'; 0x10000])
                    .chain(*b"\r\n")
                    .collect::<Vec<_>>()
                    .repeat(160),
            ]
            .concat(),
        },
        Attack { name: "gzip bomb", bytes: body("text/plain", "content-encoding: gzip\r\n", &gzip_bomb()) },
        Attack { name: "invalid UTF-8", bytes: body("text/plain", "", &[0xff; 60_000]) },
        Attack { name: "65,000 levels of JSON", bytes: body("text/plain", "", &deep()) },
        Attack { name: "1,000 signature lines", bytes: body("text/plain", "", &many_signatures()) },
        Attack {
            name: "a bundle of nothing",
            bytes: body("application/octet-stream", "", &vec![0; 2 * 1025]),
        },
        Attack { name: "a bundle of junk", bytes: body("application/octet-stream", "", &junk_bundle()) },
        Attack { name: "pipelining", bytes: pipelined() },
        Attack {
            name: "smuggling",
            bytes: body("text/plain", "transfer-encoding: chunked\r\n", b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
        },
        Attack {
            name: "long path",
            bytes: format!(
                "GET /tile/{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
                "x".repeat(60_000)
            )
            .into_bytes(),
        },
    ];
    let attackers: Vec<_> = attacks
        .into_iter()
        .map(|attack| {
            let (host, stop) = (host.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let (mut sent, mut statuses) = (0_u64, BTreeMap::<String, u64>::new());
                while !stop.load(Ordering::Relaxed) {
                    let status = attack.send(&host).await;
                    *statuses.entry(status).or_default() += 1;
                    sent += 1;
                    // The machine's two cores are not to be spent on attacking alone.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                (attack.name, sent, statuses)
            })
        })
        .collect();
    // Readers that ask for the most and never read it.
    let deaf: Vec<_> = (0..50).map(|_| connect(&host)).collect();
    let mut deaf_streams = Vec::new();
    for stream in deaf {
        let mut stream = stream.await;
        let asks = b"GET /tile/entries/000.p/2 HTTP/1.1\r\nhost: x\r\n\r\n".repeat(500);
        let _ = stream.write_all(&asks).await;
        deaf_streams.push(stream);
    }

    let honest: Vec<_> = (0..HONEST)
        .map(|_| {
            let (http, writer, stop) = (process.http.clone(), Arc::clone(&writer), Arc::clone(&stop));
            tokio::spawn(async move {
                let (mut answered, mut slowest) = (0_u64, Duration::ZERO);
                while !stop.load(Ordering::Relaxed) {
                    for entry in writer.entries(&writer.run(2)) {
                        let begun = Instant::now();
                        let answer = http.add(&entry).await.expect("an answer");
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        assert_eq!(http.get("/checkpoint").await.expect("an answer").status, 200);
                        slowest = slowest.max(begun.elapsed());
                        answered += 2;
                    }
                }
                (answered, slowest)
            })
        })
        .collect();
    let (end, mut most) = (Instant::now() + Duration::from_secs(SECONDS), 0);
    while Instant::now() < end {
        most = most.max(process.memory_mib());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let (mut answered, mut slowest) = (0, Duration::ZERO);
    for task in honest {
        let (count, time) = task.await.unwrap();
        answered += count;
        slowest = slowest.max(time);
    }
    for task in attackers {
        let (name, sent, statuses) = task.await.unwrap();
        println!("{sent:>6} times {name}: {statuses:?}");
        assert!(sent > 0, "{name} was tried");
        // A bundle is answered record by record.
        let answered = ["pipelining", "a bundle of junk"].contains(&name);
        assert!(answered || !statuses.contains_key("200"), "{name}: {statuses:?}");
        assert!(!statuses.keys().any(|status| status.starts_with('5')), "{name}: {statuses:?}");
    }
    println!("{answered} honest requests answered, all of them; the slowest pair took {slowest:?}");
    println!("memory: {before} MiB before, {most} MiB at most, {} MiB after", process.memory_mib());
    assert!(answered > 0);
    // 128 MiB for bodies, 64 for rows to be written, 64 for blocks, and what connections take.
    assert!(most < before + 512, "{most} MiB");
    drop((held, deaf_streams));
    check_log(&process.http, &log.trust()).await;
}

struct Attack {
    name: &'static str,
    bytes: Vec<u8>,
}

impl Attack {
    /// Sends it and says what came back: a status, or how the connection ended.
    async fn send(&self, host: &str) -> String {
        let attempt = async {
            let Ok(mut stream) = TcpStream::connect(host).await else { return "no connection".to_owned() };
            let sent = stream.write_all(&self.bytes).await;
            let mut answer = Vec::new();
            let read = stream.take(1 << 20).read_to_end(&mut answer).await;
            match (answer.get(9..12), sent.and(read.map(|_| ()))) {
                (Some(status), _) => String::from_utf8_lossy(status).into_owned(),
                (None, Ok(())) => "closed".to_owned(),
                (None, Err(_)) => "cut off".to_owned(),
            }
        };
        tokio::time::timeout(Duration::from_secs(40), attempt)
            .await
            .unwrap_or_else(|_| "still open".to_owned())
    }
}

async fn connect(host: &str) -> TcpStream {
    // Thousands at once may have to wait for the operating system's queue.
    tokio::time::timeout(Duration::from_secs(30), TcpStream::connect(host)).await.unwrap().unwrap()
}

fn post(media: &str, more: &str) -> String {
    format!(
        "POST /v1/records HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {media}\r\n{more}\r\n"
    )
}

fn body(media: &str, more: &str, body: &[u8]) -> Vec<u8> {
    let length = format!("content-length: {}\r\n{more}", body.len());
    [post(media, &length).as_bytes(), body].concat()
}

fn pipelined() -> Vec<u8> {
    let request = "GET /checkpoint HTTP/1.1\r\nhost: x\r\n\r\n";
    let last = "GET /checkpoint HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    (request.repeat(2_000) + last).into_bytes()
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    getrandom::fill(&mut noise).unwrap();
    noise
}

fn headers(count: usize) -> Vec<u8> {
    let mut request = b"GET /checkpoint HTTP/1.1\r\nhost: x\r\n".to_vec();
    (0..count).for_each(|n| request.extend(format!("x-{n}: {n}\r\n").bytes()));
    [request, b"\r\n".to_vec()].concat()
}

/// The start of a gzip stream that goes on with zeros: enough for whoever would begin to expand it.
fn gzip_bomb() -> Vec<u8> {
    [
        &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..],
        &[0xec, 0xc1, 1, 1, 0, 0, 0, 0x80, 0x90, 0xfe, 0xaf],
        &[0; 40_000],
    ]
    .concat()
}

fn deep() -> Vec<u8> {
    // As many as an entry has room for.
    let json = "[".repeat(65_000);
    format!("sift/record@v1\n{json}\n\n\u{2014} a.example AAAAAAAA\n").into_bytes()
}

fn many_signatures() -> Vec<u8> {
    let line = "\u{2014} a.example/kernel AAAAAEFBQUFBQUFBQUFB\n";
    format!("sift/record@v1\n{{}}\n\n{}", line.repeat(1_000)).into_bytes()
}

fn junk_bundle() -> Vec<u8> {
    let mut bundle = Vec::new();
    for _ in 0..100 {
        assert!(sift_spec::tile::push_entry(&mut bundle, &noise(60_000)));
    }
    bundle
}
