//! Trust files (SPEC §8.3; C2SP tlog-policy).

use std::collections::BTreeMap;
use std::sync::LazyLock;

use sift_spec::checkpoint::cosign;
use sift_spec::trust::{TrustError, TrustPolicy};

use super::honest::{Honest, LOG_KEY, WITNESSES};

/// The honest checkpoint with every set of cosignatures: bit `n` is the witness with that position.
static NOTES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let checkpoint = Honest::new().checkpoint();
    let lines = |set: u8| -> String {
        let chosen = WITNESSES.iter().enumerate().filter(|(position, _)| set >> position & 1 == 1);
        chosen.map(|(_, key)| cosign(&checkpoint.text(), key, 1_764_000_000).unwrap()).collect()
    };
    (0..1 << WITNESSES.len()).map(|set| checkpoint.sign(&LOG_KEY) + &lines(set)).collect()
});

pub(crate) fn trust(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(policy) = TrustPolicy::parse(text) else { return };
    assert!(policy.logs().len() <= 256);
    // Comments and white space mean nothing.
    let plain = plain(text);
    assert_eq!(TrustPolicy::parse(&plain).as_ref(), Ok(&policy));
    assert_eq!(TrustPolicy::parse(&format!("# comment\n\n\t{text}\n \n#")).as_ref(), Ok(&policy));
    // What it believes is what its lines say.
    let key = LOG_KEY.verifier().to_string();
    let listed = plain.lines().any(|line| line.split(' ').take(2).eq(["log", key.as_str()]));
    for (set, note) in (0_u8..).zip(NOTES.iter()) {
        let believed = policy.verify(note.as_bytes());
        match (listed, quorum(&plain, set)) {
            (false, _) => assert!(matches!(believed, Err(TrustError::UnknownLog(_))), "{believed:?}"),
            (true, true) => assert!(believed.is_ok(), "{believed:?}"),
            (true, false) => {
                assert!(matches!(believed, Err(TrustError::NotWitnessed { .. })), "{believed:?}")
            }
        }
    }
}

/// The lines that mean something, their words separated by one space.
fn plain(text: &str) -> String {
    let lines = text.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<&str>>().join(" "));
    let lines =
        lines.filter(|line| !line.is_empty() && (!line.starts_with('#') || line.starts_with("#sift:")));
    lines.map(|line| line + "\n").collect()
}

/// Whether the quorum of a trust file is reached by a set of witnesses, read from its lines.
fn quorum(plain: &str, set: u8) -> bool {
    let mut reached: BTreeMap<&str, bool> = BTreeMap::from([("none", true)]);
    let mut answer = None;
    for line in plain.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["witness", name, vkey, ..] => {
                let position = WITNESSES.iter().position(|key| key.verifier().to_string() == vkey);
                reached.insert(name, position.is_some_and(|position| set >> position & 1 == 1));
            }
            ["group", name, threshold, ref members @ ..] => {
                let have = members.iter().filter(|member| reached[**member]).count();
                let need = match threshold {
                    "any" => 1,
                    "all" => members.len(),
                    number => number.parse().unwrap(),
                };
                reached.insert(name, have >= need);
            }
            ["quorum", name] => answer = Some(reached[name]),
            _ => {}
        }
    }
    answer.expect("a trust file has a quorum")
}
