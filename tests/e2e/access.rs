//! Read tokens: what needs one, what does not, and that none is ever printed.

use std::time::{Duration, Instant};

use sift_connect::Connect;
use sift_server::access::TokensFrom;
use sift_server::payloads::PayloadsConfig;
use sift_spec::api::ProblemKind;
use sift_spec::hash::object_digest;
use sift_tests::{Http, LogProcess, TestLog, check_log};
use tokio::io::AsyncWriteExt as _;

use crate::certificates::write_private;

const TOKEN: &str = "Zq8-read-0123456789abcdef";

/// A log that asks readers for a token.
pub(crate) async fn closed() -> TestLog {
    let mut log = TestLog::start().await;
    log.stop().await;
    let dir = log.dir().to_owned();
    let tokens = write_private(&dir, "read.tokens", &format!("# auditors\nalice {TOKEN}\n"));
    log.config_mut().access.read_tokens = Some(TokensFrom::File(tokens));
    let token_file = Some(write_private(&dir, "token", &format!("{TOKEN}\n")));
    log.connect = Connect { token_file, ..Connect::default() };
    log.restart().await.unwrap();
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_needs_a_token_and_writing_a_signature() {
    let log = closed().await;
    // The operator reads before it signs, so it needs one.
    let writer = log.writer("test/kernel").await;
    let stranger = Http::new(log.http.url());
    let entries = writer.entries(&writer.run(1));
    assert_eq!(stranger.add(&entries[0]).await.unwrap().status, 200);
    stranger.add_all(&entries[1..]).await.unwrap();
    let run = writer.run(0)[0].run;
    let paths = [
        "/checkpoint".to_owned(),
        "/tile/0/000.p/2".to_owned(),
        "/tile/entries/000.p/2".to_owned(),
        "/v1/records/0".to_owned(),
        "/v1/records/0.tlog-proof".to_owned(),
        "/v1/proof/inclusion?index=0".to_owned(),
        "/v1/proof/consistency?old=1".to_owned(),
        "/v1/runs".to_owned(),
        format!("/v1/runs/{run}"),
        format!("/v1/runs/{run}/evidence"),
        "/v1/operator".to_owned(),
        "/v1/operator/records".to_owned(),
        format!("/v1/policies/{}", "0".repeat(64)),
        "/no/such/path".to_owned(),
        "/healthz/../checkpoint".to_owned(),
        "//checkpoint".to_owned(),
        "/".to_owned(),
    ];
    for path in &paths {
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
            let answer = stranger.send(stranger.begin(method, path)).await.unwrap();
            assert_eq!(answer.status, 401, "{method} {path}");
            let challenge = answer.headers.get("www-authenticate").unwrap().to_str().unwrap().to_owned();
            assert_eq!(challenge, "Bearer realm=\"sift\"", "{method} {path}");
            if method != "HEAD" {
                assert_eq!(answer.problem().kind, ProblemKind::Unauthorized);
            }
        }
        let with = log.http.get(path).await.unwrap();
        assert_ne!(with.status, 401, "{path}");
        assert!(!with.header("cache-control").contains("public"), "{path}: a cache would give it to others");
    }
    let entry = log.http.get("/v1/records/0").await.unwrap();
    assert_eq!(entry.header("cache-control"), "private, max-age=31536000, immutable");
    let nearly = [
        format!("Bearer {TOKEN}x"),
        format!("Bearer {}", &TOKEN[1..]),
        format!("Basic {TOKEN}"),
        TOKEN.to_owned(),
        "Bearer ".to_owned(),
        "Bearer \u{e9}".to_owned(),
        format!("Bearer {}", "a".repeat(10_000)),
    ];
    for value in nearly {
        let request = stranger.begin("GET", "/checkpoint").header("authorization", value.as_bytes());
        let answer = stranger.send(request).await.unwrap();
        assert_eq!(answer.status, 401);
        let challenge = answer.headers.get("www-authenticate").unwrap().to_str().unwrap();
        assert!(challenge.contains("invalid_token"), "{challenge}");
        assert!(!answer.text().contains("Zq8"), "{}", answer.text());
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(stranger.get(path).await.unwrap().status, 200, "{path}");
    }
    check_log(&log.http, &log.trust()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_read_from_where_they_are_safe() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut log = TestLog::start().await;
    log.stop().await;
    let dir = log.dir().to_owned();
    let path = dir.join("read.tokens");
    log.config_mut().access.read_tokens = Some(TokensFrom::File(path.clone()));
    for (text, mode) in [
        (format!("{TOKEN}\n"), 0o644),
        (format!("{TOKEN}\n"), 0o640),
        ("Zq8-short\n".to_owned(), 0o600),
        (format!("{TOKEN} {TOKEN} {TOKEN}\n"), 0o600),
        (format!("a {TOKEN}\nb {TOKEN}\n"), 0o600),
        ("# nobody\n".to_owned(), 0o600),
    ] {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let error = log.restart().await.unwrap_err().to_string();
        println!("{error}");
        assert!(!error.contains("Zq8"), "{error}");
    }
    log.config_mut().access.read_tokens = Some(TokensFrom::File(dir.join("nothing")));
    log.restart().await.unwrap_err();
    log.config_mut().access.read_tokens = Some(TokensFrom::Env("SIFT_TEST_NOT_SET".to_owned()));
    let error = log.restart().await.unwrap_err().to_string();
    assert!(error.contains("SIFT_TEST_NOT_SET"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_ever_printed() {
    let mut log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    log.stop().await;
    let dir = log.dir().to_owned();
    let file = |kind: &str| {
        let token = format!("Zq8-{kind}-0123456789abcdef");
        Some(TokensFrom::File(write_private(&dir, &format!("{kind}.tokens"), &format!("holder {token}\n"))))
    };
    let (put_tokens, get_tokens, delete_tokens) = (file("put"), file("get"), file("delete"));
    let config = log.config_mut();
    // This one from the environment, the others from files.
    config.access.read_tokens = Some(TokensFrom::Env("SIFT_TEST_READ_TOKENS".to_owned()));
    config.payloads = Some(PayloadsConfig {
        dir: dir.join("payloads"),
        put_tokens,
        get_tokens,
        delete_tokens,
        bytes_max: 1 << 20,
        total_bytes_max: 1 << 20,
        retention_days: None,
    });
    log.write_config();
    let variables = [("SIFT_LOG", "trace"), ("SIFT_TEST_READ_TOKENS", TOKEN)];
    let process = LogProcess::start_reached(&dir, &variables, "http", &Connect::default()).unwrap();
    let http = &process.http;
    let object = [7; 100];
    let digest = object_digest(&object).hex();
    let payload = format!("/v1/payloads/{digest}");
    let mut answers = String::new();
    let mut statuses = Vec::new();
    for (method, path) in [
        ("GET", "/checkpoint"),
        ("GET", "/v1/runs?after=wrong"),
        ("PUT", &payload),
        ("GET", &payload),
        ("DELETE", &payload),
        ("POST", "/v1/records"),
    ] {
        for kind in ["read", "put", "get", "delete", "none"] {
            let token = format!("Bearer Zq8-{kind}-0123456789abcdef");
            let request = http.begin(method, path).header("authorization", token).body(object.to_vec());
            let answer = http.send(request).await.unwrap();
            statuses.push((method, path, kind, answer.status));
            answers.push_str(&format!("{:?}{}", answer.headers, answer.text()));
        }
    }
    http.add_all(&writer.entries(&writer.run(2))).await.unwrap();
    // Something that only a verbose log speaks of.
    let mut garbage = tokio::net::TcpStream::connect(http.url().trim_start_matches("http://")).await.unwrap();
    garbage.write_all(b"GET /\xff Zq8-garbage\r\n\r\n").await.unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while !process.printed().contains("DEBUG") {
        assert!(Instant::now() < end, "{}", process.printed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{statuses:?}");
    for (method, kind, status) in [("PUT", "put", 201), ("GET", "get", 200), ("DELETE", "delete", 409)] {
        let with = |other: &str| {
            let found = statuses.iter().find(|row| row.0 == method && row.1 == payload && row.2 == other);
            found.map(|row| row.3)
        };
        assert_eq!(with(kind), Some(status), "{method}");
        for other in ["read", "put", "get", "delete", "none"].iter().filter(|other| **other != kind) {
            assert_eq!(with(other), Some(401), "{method} with the token to {other}");
        }
    }
    let printed = process.printed();
    println!("{} bytes printed, {} bytes answered", printed.len(), answers.len());
    let keys = ["log.key", "operator.key"].map(|name| {
        let text = std::fs::read_to_string(dir.join(name)).unwrap();
        // PRIVATE+KEY+name+id+secret, and there may be more of the sign in the secret.
        text.trim_end().splitn(5, '+').nth(4).unwrap().to_owned()
    });
    for text in [&printed, &answers] {
        assert!(!text.contains("Zq8"), "a token");
        assert!(keys.iter().all(|key| key.len() > 20 && !text.contains(key)), "a key");
    }
}
