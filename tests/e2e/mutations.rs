//! The parsers of the server alone, with inputs made of pieces that mean something: paths and queries over the socket,
//! and the configuration file. Seeded, so that a failure can be repeated.

use std::path::Path;

use sift_server::config::Config;
use sift_tests::{TestLog, check_log};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn seeded(name: &str, seed: u64) -> Self {
        println!("{name}: seed {seed}");
        Self(seed)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize % bound
    }

    fn pick<'a>(&mut self, pieces: &[&'a str]) -> &'a str {
        pieces[self.below(pieces.len())]
    }
}

/// Paths that exist, paths that do not, and beginnings and ends of both.
const PATHS: &[&str] = &[
    "/checkpoint",
    "/tile/0/000",
    "/tile/0/000.p/",
    "/tile/entries/000.p/",
    "/tile/entries/x001/",
    "/tile/63/x018/x446/x744/x073/x709/x551/615",
    "/tile/",
    "/v1/records/",
    "/v1/records",
    "/v1/proof/inclusion",
    "/v1/proof/consistency",
    "/v1/runs",
    "/v1/runs/",
    "/v1/operator",
    "/v1/operator/records",
    "/v1/policies/",
    "/v1/equivocations",
    "/v1/checkpoints",
    "/v1/payloads/",
    "/openapi.json",
    "/healthz",
    "/readyz",
    "/metrics",
    "/",
];

/// Ends of paths, names of parameters, and what a careless parser stumbles over.
const PIECES: &[&str] = &[
    "index=",
    "size=",
    "old=",
    "new=",
    "after=",
    "limit=",
    "from=",
    "&",
    "?",
    "=",
    "/",
    "+",
    "%",
    "%00",
    "%0a",
    "%2e",
    "%2f",
    "%ff",
    "%c3%a9",
    "%F0%9F%98%80",
    "..",
    "0",
    "1",
    "3",
    "7",
    "8",
    "255",
    "256",
    "-1",
    "+1",
    "00",
    "1e3",
    "0x1",
    "1.0",
    " 1",
    "9007199254740991",
    "9007199254740992",
    "18446744073709551615",
    "18446744073709551616",
    "0198f1a2-7c00-7abc-8def-0123456789ab",
    ".tlog-proof",
    "/evidence",
    ".p/3",
    "true",
    "null",
    "[]",
    "{}",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "~",
    ";",
    ",",
    "'",
    "\"",
    "\\",
];

/// No path and no query makes the log fail: it answers, with what is there or with a problem of the sender's.
#[tokio::test(flavor = "multi_thread")]
async fn no_path_and_no_query_is_the_logs_own_fault() {
    let mut random = Random::seeded("paths and queries", 20);
    let log = TestLog::start().await;
    let writer = log.writer("test/kernel").await;
    log.http.add_all(&writer.entries(&writer.run(2))).await.unwrap();
    let mut answers = std::collections::BTreeMap::new();
    for _ in 0..4000 {
        let mut path = random.pick(PATHS).to_owned();
        for _ in 0..random.below(6) {
            path += random.pick(PIECES);
        }
        // A feed goes on for ever; its beginning is tried elsewhere.
        if path.contains("/stream") || path.contains("/feed") {
            continue;
        }
        let answer = log.http.get(&path).await.unwrap();
        assert!(answer.status < 500, "{path}: {} {}", answer.status, answer.text());
        if answer.status >= 400 && answer.status != 414 {
            let problem = answer.problem();
            assert!(!problem.detail.is_empty(), "{path}");
        }
        *answers.entry(answer.status).or_insert(0) += 1;
    }
    println!("answers: {answers:?}");
    assert!(answers[&200] > 100 && answers[&400] > 100 && answers[&404] > 100, "{answers:?}");
    check_log(&log.http, &log.trust()).await;
}

/// A configuration is read as it was meant or not at all: what is read, written and read again is the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_is_read_or_refused() {
    let mut random = Random::seeded("configuration", 21);
    let log = TestLog::start().await;
    let path = log.dir().join(sift_server::config::CONFIG_FILE);
    let honest = std::fs::read_to_string(&path).unwrap();
    let tried = log.dir().join("tried.toml");
    let (mut read, mut refused) = (0, 0);
    for _ in 0..4000 {
        let mut bytes = honest.clone().into_bytes();
        for _ in 0..1 + random.below(3) {
            let at = random.below(bytes.len());
            let piece = random.pick(PIECES).as_bytes();
            match random.below(5) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => bytes.truncate(at.max(1)),
                2 => drop(bytes.splice(at..at, piece.iter().copied())),
                3 => {
                    let line = random.pick(&honest.lines().collect::<Vec<_>>()).to_owned() + "\n";
                    bytes.extend_from_slice(line.as_bytes());
                }
                _ => drop(bytes.remove(at)),
            }
        }
        std::fs::write(&tried, &bytes).unwrap();
        match Config::read(&tried) {
            Ok(config) => {
                let again = printed(&config, &tried);
                assert_eq!(format!("{again:?}"), format!("{config:?}"));
                read += 1;
            }
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("tried.toml"), "who reads this must know which file: {error}");
                refused += 1;
            }
        }
    }
    println!("{read} configurations read, {refused} refused");
    assert!(read > 100 && refused > 100);
}

fn printed(config: &Config, path: &Path) -> Config {
    std::fs::write(path, toml::to_string(config).unwrap()).unwrap();
    Config::read(path).unwrap()
}
