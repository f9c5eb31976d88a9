//! TLS on the log's listener: who gets in, who does not, and what they are told.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use sift_client::{CloseReason, Mode, OpenRun};
use sift_connect::Connect;
use sift_server::tls::{ClientCertificates, TlsConfig};
use sift_spec::api::ProblemKind;
use sift_spec::record::KeyRole;
use sift_tests::{Http, LogProcess, TestLog, bundle, check_log, done, program, tool};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::certificates::{Authority, write_private};
use crate::kernel::Scene;

/// Puts a certificate of this authority into `dir` and gives the configuration that names it.
fn tls(dir: &Path, authority: &Authority) -> TlsConfig {
    let (certificate, key) = authority.server();
    TlsConfig {
        certificate: write_private(dir, "tls.pem", &certificate),
        key: write_private(dir, "tls.key", &key),
        client_ca: None,
        client_certificates: ClientCertificates::default(),
    }
}

/// A client that believes this authority.
fn believe(dir: &Path, authority: &Authority) -> Connect {
    Connect { ca: Some(write_private(dir, "ca.pem", &authority.pem)), ..Connect::default() }
}

/// Starts a log again, with TLS.
async fn secure(log: &mut TestLog, authority: &Authority) {
    let dir = log.dir().to_owned();
    log.stop().await;
    log.config_mut().tls = Some(tls(&dir, authority));
    log.connect = believe(&dir, authority);
    log.restart().await.unwrap();
}

fn host(http: &Http) -> String {
    http.url().split_once("://").unwrap().1.to_owned()
}

/// A program of the project, and what it printed.
fn run(name: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(program(name)).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_kernel_and_verifier_over_https() {
    let authority = Authority::new();
    let mut scene = Scene::new().await;
    secure(&mut scene.log, &authority).await;
    assert!(scene.log.http.url().starts_with("https://"));
    let writer = scene.log.writer("test/writer").await;
    scene.log.http.add_all(&writer.entries(&writer.run(3))).await.unwrap();
    let kernel = scene.kernel(Mode::Log).await;
    let run_open = kernel.open_run(OpenRun::of("test/agent".parse().unwrap())).await.unwrap();
    tool(&run_open, "act", "one").await.dispatch(|| async { done() }).await.unwrap();
    run_open.close(CloseReason::Done).await.unwrap();
    assert!(kernel.drain(Duration::from_secs(20)).await);
    kernel.close().await;
    let (checkpoint, _) = check_log(&scene.log.http, &scene.log.trust()).await;
    println!("{} entries over https", checkpoint.head.size);
    // The programs, with the authority and without.
    let dir = scene.log.dir();
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (url, ca, trust, key) =
        (scene.log.http.url().to_owned(), at("ca.pem"), at("trust.policy"), at("operator.key"));
    let (code, text) = run("sift-verify", &["log", "--trust", &trust, "--ca", &ca, &url]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = run("sift-verify", &["log", "--trust", &trust, &url]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("certificate"), "{text}");
    let watch = ["follow", "--trust", &trust, "--log", &url, "--dir", &at("watch"), "--mirror", "--once"];
    let (code, text) = run("sift-verify", &watch);
    assert!(code == Some(2) && text.contains("certificate"), "{text}");
    let (code, text) = run("sift-verify", &[&watch[..], &["--ca", &ca]].concat());
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = run("sift-verify", &["log", "--trust", &trust, &at("watch/mirror")]);
    assert_eq!(code, Some(0), "{text}");
    let vkey = sift_tests::new_key("test/other").verifier().to_string();
    let grant = ["operator", "grant", "--url", &url, "--key", &key, "--vkey", &vkey, "--role", "kernel"];
    let (code, text) = run("sift-server", &[&grant[..], &["--agents", "*"]].concat());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("certificate"), "{text}");
    let (code, text) = run("sift-server", &[&grant[..], &["--agents", "*", "--ca", &ca]].concat());
    assert_eq!(code, Some(0), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_authority_is_not_believed() {
    let (right, wrong) = (Authority::new(), Authority::new());
    let mut log = TestLog::start().await;
    secure(&mut log, &right).await;
    let elsewhere = TempDir::new().unwrap();
    let http = Http::with(log.http.url(), &believe(elsewhere.path(), &wrong));
    let error = http.get("/checkpoint").await.unwrap_err();
    println!("{error:?}");
    assert!(format!("{error:?}").contains("InvalidCertificate"), "{error:?}");
    assert_eq!(log.http.get("/checkpoint").await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let mut log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    secure(&mut log, &authority).await;
    let dir = log.dir().to_owned();
    let without = log.connect.clone();
    let identity = |name: &str, authority: &Authority| {
        let (certificate, key) = authority.client();
        let path = write_private(&dir, name, &format!("{certificate}{key}"));
        Connect { client_certificate: Some(path), ..without.clone() }
    };
    let (good, bad) = (identity("good.pem", &authority), identity("bad.pem", &stranger));
    let mut entries = writer.entries(&writer.run(1)).into_iter();
    for (required, read, write) in [
        (ClientCertificates::Required, None, None),
        (ClientCertificates::Writes, Some(200), Some(403)),
        (ClientCertificates::Optional, Some(200), Some(200)),
    ] {
        log.stop().await;
        let tls = log.config_mut().tls.as_mut().unwrap();
        tls.client_ca = Some(dir.join("ca.pem"));
        tls.client_certificates = required;
        log.restart().await.unwrap();
        let url = log.http.url().to_owned();
        let entry = entries.next().unwrap();
        // Without one.
        let http = Http::with(&url, &without);
        let got = http.get("/checkpoint").await.ok().map(|answer| answer.status);
        let put = http.add(&entry).await.ok();
        let told = put.as_ref().map(|answer| answer.status);
        assert_eq!((got, told), (read, write), "{required:?}");
        if told == Some(403) {
            assert_eq!(put.unwrap().problem().kind, ProblemKind::CertificateNeeded);
        }
        // With one of another authority there is no connection.
        assert!(Http::with(&url, &bad).get("/checkpoint").await.is_err(), "{required:?}");
        // With a good one everything is open.
        let http = Http::with(&url, &good);
        assert_eq!(http.get("/checkpoint").await.unwrap().status, 200, "{required:?}");
        assert_eq!(http.add(&entry).await.unwrap().status, 200, "{required:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_and_garbage_get_a_clear_end() {
    let authority = Authority::new();
    let mut log = TestLog::start().await;
    secure(&mut log, &authority).await;
    let plain = Http::new(&format!("http://{}", host(&log.http)));
    let answer = plain.get("/checkpoint").await.unwrap();
    assert_eq!(answer.problem().kind, ProblemKind::MalformedRequest);
    assert!(answer.text().contains("https"), "{}", answer.text());
    // A large body is refused as well, and its sender is told.
    let answer = plain.post("/v1/records", "text/plain", vec![b'x'; 40_000]).await.unwrap();
    assert_eq!(answer.status, 400);
    for garbage in
        [&b"\x16\x03\x01\x00\x05hello"[..], &[0; 100], &[0xff; 5000], "\u{16}\u{3}\u{1}".as_bytes()]
    {
        let mut stream = TcpStream::connect(host(&log.http)).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        // An alert or a reset, and soon.
        println!("{} bytes of garbage: {:?}, {} bytes back", garbage.len(), read.unwrap(), answer.len());
    }
    assert_eq!(log.http.get("/checkpoint").await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_never_end_are_cut_off_and_nobody_waits_for_them() {
    let authority = Authority::new();
    let mut log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    log.config_mut().connections_max = 32;
    secure(&mut log, &authority).await;
    let mut stuck = Vec::new();
    for n in 0..24 {
        let mut stream = TcpStream::connect(host(&log.http)).await.unwrap();
        // Half of them say nothing at all, the others begin.
        if n % 2 == 0 {
            stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00").await.unwrap();
        }
        stuck.push(stream);
    }
    // There is room beside them, so nobody waits.
    let entry = writer.sign(&writer.run(0)[0]).into_bytes();
    let begun = Instant::now();
    assert_eq!(log.http.add(&entry).await.unwrap().status, 200);
    println!("an honest request beside 24 stuck handshakes took {:?}", begun.elapsed());
    // With all places taken, the next waits until a handshake is cut off.
    for _ in 0..16 {
        stuck.push(TcpStream::connect(host(&log.http)).await.unwrap());
    }
    let next = Http::with(log.http.url(), &log.connect);
    assert_eq!(next.add(&entry).await.unwrap().status, 200);
    for mut stream in stuck {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await;
        let _ = read.expect("cut off");
    }
    // Nor does stopping wait for them.
    let _stuck = TcpStream::connect(host(&log.http)).await.unwrap();
    let begun = Instant::now();
    drop(next);
    log.stop().await;
    println!("stopped in {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_read_again_on_sighup() {
    let (old, new) = (Authority::new(), Authority::new());
    let mut log = TestLog::start().await;
    log.stop().await;
    let dir = log.dir().to_owned();
    log.config_mut().tls = Some(tls(&dir, &old));
    log.write_config();
    let (ca_old, ca_new) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (old_connect, new_connect) = (believe(ca_old.path(), &old), believe(ca_new.path(), &new));
    let process = LogProcess::start_reached(log.dir(), &[], "https", &old_connect).unwrap();
    assert_eq!(process.http.get("/healthz").await.unwrap().status, 200);
    let hang_up = || {
        let done = Command::new("kill").arg("-HUP").arg(process.id().to_string()).status().unwrap();
        assert!(done.success());
    };
    // Files that do not fit together change nothing.
    write_private(&dir, "tls.key", &new.server().1);
    hang_up();
    let end = Instant::now() + Duration::from_secs(20);
    while !process.printed().contains("certificate and key stay as they were") {
        assert!(Instant::now() < end, "{}", process.printed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let fresh = || Http::with(process.http.url(), &old_connect);
    assert_eq!(fresh().get("/healthz").await.unwrap().status, 200);
    tls(&dir, &new);
    hang_up();
    let end = Instant::now() + Duration::from_secs(20);
    while Http::with(process.http.url(), &new_connect).get("/healthz").await.is_err() {
        assert!(Instant::now() < end, "{}", process.printed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(fresh().get("/healthz").await.is_err(), "the old certificate is gone");
    // Who was connected stays so.
    assert_eq!(process.http.get("/healthz").await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_said_without_repeating_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let (authority, other) = (Authority::new(), Authority::new());
    let mut log = TestLog::start().await;
    log.stop().await;
    let dir = log.dir().to_owned();
    let secrets = |key: &str| key.lines().nth(1).unwrap().to_owned();
    let mut refused = |change: &dyn Fn(&mut TlsConfig) -> String| {
        let mut config = tls(&dir, &authority);
        let secret = change(&mut config);
        log.config_mut().tls = Some(config);
        let error = sift_server::Log::open(log.config_mut()).map(|_| ()).unwrap_err().to_string();
        println!("{error}");
        assert!(!error.contains(&secret), "{error}");
        error
    };
    let error = refused(&|config| {
        std::fs::set_permissions(&config.key, std::fs::Permissions::from_mode(0o644)).unwrap();
        secrets(&std::fs::read_to_string(&config.key).unwrap())
    });
    assert!(error.contains("chmod 600"), "{error}");
    refused(&|config| {
        let key = other.server().1;
        config.key = write_private(&dir, "tls.key", &key);
        secrets(&key)
    });
    // The two files named the wrong way round, and one with its first line broken.
    refused(&|config| {
        std::mem::swap(&mut config.key, &mut config.certificate);
        secrets(&std::fs::read_to_string(&config.certificate).unwrap())
    });
    refused(&|config| {
        let key = std::fs::read_to_string(&config.key).unwrap();
        let broken = key.replace("-----BEGIN PRIVATE KEY-----\n", "-----BEGIN ");
        config.key = write_private(&dir, "tls.key", &broken);
        secrets(&key)
    });
    refused(&|config| {
        config.client_ca = Some(config.key.clone());
        secrets(&std::fs::read_to_string(&config.key).unwrap())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_with_everything_that_a_log_may_ask_for() {
    let authority = Authority::new();
    let mut scene = Scene::new().await;
    secure(&mut scene.log, &authority).await;
    let dir = scene.log.dir().to_owned();
    scene.log.stop().await;
    let (certificate, key) = authority.client();
    let token = "kernel-token-0123456789";
    let config = scene.log.config_mut();
    config.tls.as_mut().unwrap().client_ca = Some(dir.join("ca.pem"));
    let tokens = write_private(&dir, "read.tokens", &format!("kernel {token}\n"));
    config.access.read_tokens = Some(sift_server::access::TokensFrom::File(tokens));
    scene.log.connect = Connect {
        client_certificate: Some(write_private(&dir, "client.pem", &format!("{certificate}{key}"))),
        token_file: Some(write_private(&dir, "token", token)),
        ..scene.log.connect.clone()
    };
    scene.log.restart().await.unwrap();
    let next = sift_tests::new_key("test/next");
    scene.log.operator().grant(next.verifier(), KeyRole::Kernel, "*").await;
    let _ = scene.log.operator().publish(&bundle()).await;
    let kernel = scene.kernel(Mode::Log).await;
    let run = kernel.open_run(OpenRun::of("test/agent".parse().unwrap())).await.unwrap();
    for n in 0..5 {
        tool(&run, "act", &format!("call_{n}")).await.dispatch(|| async { done() }).await.unwrap();
    }
    run.close(CloseReason::Done).await.unwrap();
    assert!(kernel.drain(Duration::from_secs(20)).await);
    kernel.close().await;
    check_log(&scene.log.http, &scene.log.trust()).await;
}
