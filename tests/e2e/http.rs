//! The log's HTTP face: errors, caching, compression, other origins.

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use sift_spec::api::{Problem, ProblemKind};
use sift_spec::entry::{Content, Entry};
use sift_tests::{Raw, TestLog};
use tokio::io::AsyncReadExt as _;

const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// A log with a full tile and a partial one.
async fn filled() -> TestLog {
    let log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    log.http.add_all(&writer.entries(&writer.run(140))).await.unwrap();
    log
}

async fn get(log: &TestLog, path: &str, headers: &[(&str, &str)]) -> Raw {
    log.http.request("GET", path, headers, vec![]).await.unwrap()
}

/// Method, path, headers and body of a request, and what is wrong with it.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a [u8], ProblemKind);

#[tokio::test(flavor = "multi_thread")]
async fn every_error_is_a_problem() {
    let log = filled().await;
    let text = ("content-type", "text/plain");
    let run = "0195c7e0-0000-7000-8000-000000000000";
    let cases: &[Case<'_>] = &[
        ("GET", "/", &[], b"", ProblemKind::NotFound),
        ("GET", "/nothing/here", &[], b"", ProblemKind::NotFound),
        ("POST", "/nothing/here", &[text], b"x", ProblemKind::NotFound),
        ("GET", "/tile/0/", &[], b"", ProblemKind::NotFound),
        ("GET", "/tile/0/999", &[], b"", ProblemKind::NotFound),
        ("GET", "/tile/entries/999", &[], b"", ProblemKind::NotFound),
        ("GET", "/tile/64/000", &[], b"", ProblemKind::NotFound),
        ("GET", "/tile/entries/%ff", &[], b"", ProblemKind::MalformedRequest),
        ("GET", "/tile/0/%ff", &[], b"", ProblemKind::MalformedRequest),
        ("GET", "/v1/records/%ff", &[], b"", ProblemKind::MalformedRequest),
        ("GET", "/v1/records/-1", &[], b"", ProblemKind::NotFound),
        ("GET", "/v1/records/100000.tlog-proof", &[], b"", ProblemKind::NotFound),
        ("GET", "/v1/runs/%ff", &[], b"", ProblemKind::MalformedRequest),
        ("GET", "/v1/runs/none/evidence", &[], b"", ProblemKind::MalformedRequest),
        ("GET", &format!("/v1/runs/{run}/evidence"), &[], b"", ProblemKind::NotFound),
        ("GET", "/v1/operator/records?from=-1", &[], b"", ProblemKind::MalformedRequest),
        ("GET", "/v1/operator/records?limit=0", &[], b"", ProblemKind::MalformedRequest),
        ("GET", "/v1/operator/records?after=1", &[], b"", ProblemKind::MalformedRequest),
        ("GET", "/v1/policies/none", &[], b"", ProblemKind::MalformedRequest),
        ("GET", &format!("/v1/policies/{}", "0".repeat(64)), &[], b"", ProblemKind::NotFound),
        ("GET", "/v1/runs?limit=0", &[], b"", ProblemKind::MalformedRequest),
        ("GET", "/v1/runs?limit=1001", &[], b"", ProblemKind::MalformedRequest),
        ("GET", "/v1/runs?limit=1&limit=2", &[], b"", ProblemKind::MalformedRequest),
        ("GET", "/v1/runs?unknown=1", &[], b"", ProblemKind::MalformedRequest),
        ("GET", "/v1/checkpoints?limit=-1", &[], b"", ProblemKind::MalformedRequest),
        ("GET", "/v1/checkpoints/stream?after=x", &[], b"", ProblemKind::MalformedRequest),
        ("GET", "/v1/checkpoints/stream", &[("last-event-id", "01")], b"", ProblemKind::MalformedRequest),
        ("GET", "/v1/checkpoints/stream?after=100000", &[], b"", ProblemKind::NotFound),
        ("GET", "/v1/equivocations?after=operator", &[], b"", ProblemKind::MalformedRequest),
        ("GET", "/v1/proof/inclusion", &[], b"", ProblemKind::MalformedRequest),
        ("GET", "/v1/proof/inclusion?index=%ff", &[], b"", ProblemKind::MalformedRequest),
        ("GET", "/v1/proof/inclusion?index=9007199254740992", &[], b"", ProblemKind::MalformedRequest),
        ("GET", "/v1/proof/consistency?old=2&new=1", &[], b"", ProblemKind::MalformedRequest),
        ("GET", "/v1/records", &[], b"", ProblemKind::MethodNotAllowed),
        ("DELETE", "/checkpoint", &[], b"", ProblemKind::MethodNotAllowed),
        ("PUT", "/tile/0/000", &[], b"x", ProblemKind::MethodNotAllowed),
        ("OPTIONS", "/v1/records", &[], b"", ProblemKind::MethodNotAllowed),
        ("POST", "/v1/records", &[], b"x", ProblemKind::UnsupportedMedia),
        (
            "POST",
            "/v1/records",
            &[("content-type", "application/json")],
            b"{}",
            ProblemKind::UnsupportedMedia,
        ),
        ("POST", "/v1/records", &[text, ("content-encoding", "gzip")], b"x", ProblemKind::UnsupportedMedia),
        (
            "POST",
            "/v1/records",
            &[text, ("content-encoding", "identity")],
            b"x",
            ProblemKind::MalformedRecord,
        ),
        ("POST", "/v1/records", &[text], &[b'x'; 65_536], ProblemKind::TooLarge),
    ];
    for (method, path, headers, body, kind) in cases {
        let answer = log.http.request(method, path, headers, body.to_vec()).await.unwrap();
        let Problem { kind: found, detail, .. } = answer.problem();
        assert_eq!((found, answer.status), (*kind, kind.status()), "{method} {path}: {detail}");
        assert!(!detail.is_empty(), "{method} {path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{method} {path}");
        assert_eq!(!answer.header("allow").is_empty(), answer.status == 405, "{method} {path}");
    }
    let refused = log.http.request("GET", "/v1/records", &[], vec![]).await.unwrap();
    assert_eq!(refused.header("allow"), "POST");
    let refused = log.http.request("POST", "/checkpoint", &[], vec![]).await.unwrap();
    assert_eq!(refused.header("allow"), "GET,HEAD,OPTIONS");
    // HEAD is GET without the body, also when it fails.
    for (path, status) in
        [("/checkpoint", 200), ("/tile/0/999", 404), ("/nothing", 404), ("/v1/records", 405)]
    {
        let answer = log.http.request("HEAD", path, &[], vec![]).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (status, 0), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_where_a_bundle_was_published() {
    let log = filled().await;
    let bundle = sift_tests::bundle();
    let path = format!("/v1/policies/{}", bundle.digest().hex());
    assert_eq!(get(&log, &path, &[]).await.problem().kind, ProblemKind::NotFound);
    let index = log.operator().publish(&bundle).await.unwrap();
    let answer = get(&log, &path, &[]).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, "no-cache"));
    let answer = answer.json::<sift_spec::api::PolicyAnswer>();
    assert_eq!((answer.bundle, answer.index), (bundle.digest(), index));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_where_the_operators_records_are() {
    use sift_spec::api::{OperatorAnswer, OperatorRecordsAnswer};
    let log = filled().await;
    let end = log.http.get("/v1/operator").await.unwrap().json::<OperatorAnswer>();
    let page = async |query: &str| {
        let answer = get(&log, &format!("/v1/operator/records{query}"), &[]).await;
        assert_eq!((answer.status, answer.header("cache-control")), (200, "no-cache"), "{query}");
        answer.json::<OperatorRecordsAnswer>()
    };
    let all = page("").await;
    assert_eq!((all.from.get(), all.indices.len() as u64), (0, end.next_seq.get()));
    assert!(all.indices.len() >= 2 && all.indices.is_sorted() && all.indices.last().copied() == end.index);
    for (seq, index) in all.indices.iter().enumerate() {
        let path = format!("/v1/records/{index}");
        let entry = Entry::parse(get(&log, &path, &[]).await.body).unwrap();
        let Content::Operator(record) = entry.content() else { panic!("{index} is not the operator's") };
        assert_eq!(record.seq.get(), seq as u64);
        let one = page(&format!("?from={seq}&limit=1")).await;
        assert_eq!((one.from.get(), one.indices), (seq as u64, vec![*index]));
    }
    assert!(page(&format!("?from={}", end.next_seq)).await.indices.is_empty());
    assert!(page("?from=9007199254740991").await.indices.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_changes_says_so() {
    let log = filled().await;
    let run = log.http.get("/v1/runs").await.unwrap().json::<sift_spec::api::RunsAnswer>().runs[0].run;
    let run_path = format!("/v1/runs/{run}");
    let evidence_path = format!("/v1/runs/{run}/evidence");
    let paths = [
        ("/tile/0/000", IMMUTABLE, true),
        ("/tile/0/001.p/20", IMMUTABLE, true),
        ("/tile/entries/000", IMMUTABLE, true),
        ("/tile/entries/000.p/3", IMMUTABLE, true),
        ("/v1/records/3", IMMUTABLE, true),
        ("/v1/proof/inclusion?index=3&size=10", IMMUTABLE, true),
        ("/v1/proof/consistency?old=3&new=10", IMMUTABLE, true),
        ("/v1/proof/inclusion?index=3", "no-cache", true),
        ("/v1/proof/consistency?old=3", "no-cache", true),
        ("/checkpoint", "no-cache", true),
        ("/v1/records/3.tlog-proof", "no-cache", true),
        ("/openapi.json", "no-cache", true),
        ("/v1/runs", "no-cache", false),
        ("/v1/operator", "no-cache", false),
        ("/v1/operator/records", "no-cache", false),
        ("/v1/checkpoints", "no-cache", false),
        ("/v1/equivocations", "no-cache", false),
        (run_path.as_str(), "no-cache", false),
        (evidence_path.as_str(), "no-cache", false),
    ];
    let mut tags = Vec::new();
    for (path, caching, tagged) in paths {
        let answer = get(&log, path, &[]).await;
        assert_eq!((answer.status, answer.header("cache-control")), (200, caching), "{path}");
        let tag = answer.header("etag").to_owned();
        assert_eq!(!tag.is_empty(), tagged, "{path}");
        if tagged {
            assert!(tag.starts_with("W/\"") && tag.ends_with('"') && tag.len() == 36, "{path}: {tag}");
            // Who holds it is told so, alone or in a list, and whoever holds something else gets it.
            for held in [tag.clone(), format!("\"x\", {tag}"), tag.replace("W/", ""), "*".to_owned()] {
                let again = get(&log, path, &[("if-none-match", &held)]).await;
                assert_eq!((again.status, again.body.len()), (304, 0), "{path}: {held}");
                assert_eq!((again.header("etag"), again.header("cache-control")), (tag.as_str(), caching));
            }
            let other = get(&log, path, &[("if-none-match", "W/\"00000000000000000000000000000000\"")]).await;
            assert_eq!((other.status, &other.body), (200, &answer.body), "{path}");
            tags.push((path, caching, tag));
        }
    }
    // The log grows: what said that it never changes has not, and of the rest all but the document has.
    let writer = log.writer("test/later").await;
    log.http.add_all(&writer.entries(&writer.run(1))).await.unwrap();
    for (path, caching, tag) in tags {
        let status = get(&log, path, &[("if-none-match", &tag)]).await.status;
        let expected = if caching == IMMUTABLE || path == "/openapi.json" { 304 } else { 200 };
        assert_eq!(status, expected, "{path}");
    }
    // What was said to a writer is for the writer alone.
    let entry = writer.sign(&writer.run(0)[0]).into_bytes();
    assert_eq!(log.http.add(&entry).await.unwrap().header("cache-control"), "no-store");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_compresses_is_compressed_for_who_asks() {
    let log = filled().await;
    for path in ["/tile/entries/000", "/tile/entries/000.p/9", "/openapi.json"] {
        let plain = get(&log, path, &[]).await;
        assert!(plain.body.len() > 1024, "{path}: {}", plain.body.len());
        assert_eq!(
            (plain.header("content-encoding"), plain.header("vary")),
            ("", "accept-encoding"),
            "{path}"
        );
        for (asked, coding) in
            [("gzip", "gzip"), ("zstd", "zstd"), ("gzip, zstd;q=0.1", "gzip"), ("br, gzip;q=0, *;q=0", "")]
        {
            let packed = get(&log, path, &[("accept-encoding", asked)]).await;
            assert_eq!(packed.header("content-encoding"), coding, "{path}: {asked}");
            assert_eq!(packed.header("etag"), plain.header("etag"), "{path}");
            assert_eq!(packed.header("vary"), "accept-encoding", "{path}");
            let mut unpacked = Vec::new();
            match coding {
                "gzip" => GzipDecoder::new(&*packed.body).read_to_end(&mut unpacked).await.unwrap(),
                "zstd" => ZstdDecoder::new(&*packed.body).read_to_end(&mut unpacked).await.unwrap(),
                _ => {
                    unpacked.clone_from(&packed.body);
                    0
                }
            };
            assert!(unpacked == plain.body, "{path}: {asked}");
            if !coding.is_empty() {
                assert!(packed.body.len() < plain.body.len() * 3 / 4, "{path}: {asked}");
            }
        }
    }
    // What does not compress, or is too short to be worth it, is left as it is.
    for path in ["/tile/0/000", "/tile/0/000.p/200", "/checkpoint", "/v1/operator", "/healthz"] {
        let answer = get(&log, path, &[("accept-encoding", "gzip, zstd")]).await;
        assert_eq!((answer.status, answer.header("content-encoding")), (200, ""), "{path}");
    }
    // HEAD says the same and sends nothing.
    let head =
        log.http.request("HEAD", "/tile/entries/000", &[("accept-encoding", "zstd")], vec![]).await.unwrap();
    assert_eq!((head.header("content-encoding"), head.header("vary")), ("zstd", "accept-encoding"));
    assert_eq!(head.body.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_of_any_origin_may_read_and_none_may_write() {
    let log = filled().await;
    let origin = ("origin", "https://auditor.example");
    for path in [
        "/checkpoint",
        "/tile/0/000",
        "/tile/entries/000",
        "/v1/records/3",
        "/v1/runs",
        "/tile/0/999",
        "/v1/runs?limit=0",
        "/openapi.json",
    ] {
        let answer = get(&log, path, &[origin]).await;
        assert_eq!(answer.header("access-control-allow-origin"), "*", "{path}");
        assert_eq!(answer.header("access-control-allow-credentials"), "", "{path}");
        assert!(answer.header("access-control-expose-headers").contains("etag"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
    }
    let asked = [
        origin,
        ("access-control-request-method", "GET"),
        ("access-control-request-headers", "if-none-match"),
    ];
    let preflight = log.http.request("OPTIONS", "/tile/0/000", &asked, vec![]).await.unwrap();
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (204, "*"));
    assert!(preflight.header("access-control-allow-headers").contains("if-none-match"));
    assert!(!preflight.header("access-control-allow-methods").contains("POST"));
    let asked = [
        origin,
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type"),
    ];
    let preflight = log.http.request("OPTIONS", "/v1/records", &asked, vec![]).await.unwrap();
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (405, ""));
    let posted = [origin, ("content-type", "text/plain")];
    let posted = log.http.request("POST", "/v1/records", &posted, b"x".to_vec()).await.unwrap();
    assert_eq!((posted.status, posted.header("access-control-allow-origin")), (400, ""));
}
