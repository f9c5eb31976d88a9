//! Counts of what became of mutations.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use sift_verify::run::{self, Options};
use sift_verify::{Claim, Report, Verdict};

use crate::common::trust;
use crate::rich::rich_pack;

/// Whether every mutation is tried, and not some.
pub(crate) fn all() -> bool {
    std::env::var("SIFT_FAULTS").is_ok_and(|wanted| wanted == "all")
}

pub(crate) fn judge(pack: &[u8]) -> Report {
    run::verify(pack, &trust(), &Options::default())
}

/// Keeps a pack and what was found in it, so that another verifier can be asked the same.
fn keep(folder: &Path, kind: &str, name: &str, pack: &[u8], report: &Report) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let findings: Vec<&str> = report.findings().iter().map(|finding| finding.code.code()).collect();
    let said = serde_json::json!({ "findings": findings, "kind": kind, "name": name });
    std::fs::write(folder.join(format!("{number:06}.sift")), pack).unwrap();
    std::fs::write(folder.join(format!("{number:06}.json")), said.to_string()).unwrap();
}

/// What became of the mutations of one kind.
#[derive(Default)]
struct Row {
    tried: u64,
    refused: u64,
    /// The code of each refusal's first finding.
    codes: BTreeMap<String, u64>,
    /// Mutations that verify with other claims.
    verified: Vec<String>,
}

pub(crate) struct Table {
    what: &'static str,
    /// What the honest evidence proves.
    pub(crate) honest: Vec<Claim>,
    rows: Vec<(String, Row)>,
}

impl Table {
    pub(crate) fn new(what: &'static str) -> Self {
        let honest = judge(&rich_pack().write().unwrap());
        assert_eq!(honest.verdict(), Verdict::Verified);
        Self { what, honest: honest.verified().to_vec(), rows: Vec::new() }
    }

    /// Tries packs. What cannot be written at all is no mutation.
    pub(crate) fn try_packs<M: Debug + Send>(
        &mut self,
        kind: &str,
        mutations: impl IntoIterator<Item = M>,
        make: impl Fn(M) -> Option<Vec<u8>> + Sync,
    ) {
        self.try_reports(kind, mutations, |mutation| {
            let name = format!("{mutation:?}");
            let bytes = make(mutation)?;
            let report = judge(&bytes);
            if let Some(folder) = std::env::var_os("SIFT_MUTATIONS") {
                keep(Path::new(&folder), kind, &name, &bytes, &report);
            }
            Some(report)
        });
    }

    /// Tries all mutations of a kind, on as many threads as there are cores.
    pub(crate) fn try_reports<M: Debug + Send>(
        &mut self,
        kind: &str,
        mutations: impl IntoIterator<Item = M>,
        report: impl Fn(M) -> Option<Report> + Sync,
    ) {
        let mutations: Vec<M> = mutations.into_iter().collect();
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let mut shares: Vec<Vec<M>> = (0..workers).map(|_| Vec::new()).collect();
        for (at, mutation) in mutations.into_iter().enumerate() {
            shares[at % workers].push(mutation);
        }
        let told: Vec<(String, Report)> = std::thread::scope(|scope| {
            let threads: Vec<_> = shares
                .into_iter()
                .map(|share| {
                    scope.spawn(|| {
                        let judged = share.into_iter().filter_map(|mutation| {
                            let name = format!("{mutation:?}");
                            Some((name, report(mutation)?))
                        });
                        judged.collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        for (name, report) in told {
            self.count(kind, &name, &report);
        }
    }

    pub(crate) fn count(&mut self, kind: &str, name: &str, report: &Report) {
        if self.rows.last().is_none_or(|(last, _)| last != kind) {
            match self.rows.iter().position(|(known, _)| known == kind) {
                Some(at) => {
                    let row = self.rows.remove(at);
                    self.rows.push(row);
                }
                None => self.rows.push((kind.to_owned(), Row::default())),
            }
        }
        let (_, row) = self.rows.last_mut().unwrap();
        row.tried += 1;
        if report.verdict() == Verdict::Rejected {
            row.refused += 1;
            let code = report.findings().first().map_or("none", |finding| finding.code.code());
            *row.codes.entry(code.to_owned()).or_default() += 1;
            return;
        }
        assert_ne!(
            report.verified(),
            self.honest,
            "{kind}: {name} verifies with the claims of the honest one"
        );
        row.verified.push(name.to_owned());
    }

    /// Prints the table. What verified must be named here with its reason: all of its kind, or itself, or what it is
    /// part of.
    pub(crate) fn done(mut self, reasons: &[(&str, &str)]) {
        self.rows.sort_by(|a, b| a.0.cmp(&b.0));
        let mut text =
            format!("\n{}\n{:>9} {:>9} {:>9}  kind\n", self.what, "mutations", "refused", "otherwise");
        let (mut tried, mut refused) = (0, 0);
        let mut used: BTreeMap<&str, u64> = BTreeMap::new();
        let mut failures = String::new();
        for (kind, row) in &self.rows {
            text += &format!("{:>9} {:>9} {:>9}  {kind}\n", row.tried, row.refused, row.verified.len());
            let codes: Vec<String> =
                row.codes.iter().map(|(code, number)| format!("{code} {number}")).collect();
            text += &format!("{:>31} {}\n", "", codes.join(", "));
            (tried, refused) = (tried + row.tried, refused + row.refused);
            for name in &row.verified {
                let is_of =
                    |known: &str| known == kind || name == known || name.starts_with(&format!("{known}/"));
                match reasons.iter().find(|(known, _)| is_of(known)) {
                    Some((known, _)) => *used.entry(known).or_default() += 1,
                    None => failures += &format!("{kind}: {name} verifies\n"),
                }
            }
        }
        text += &format!("{tried:>9} {refused:>9} {:>9}  in all\n", tried - refused);
        for (known, reason) in reasons {
            match used.get(known) {
                Some(number) => text += &format!("verifies otherwise: {number:4} {known}: {reason}\n"),
                None => failures += &format!("{known}: nothing verifies, and a reason is given\n"),
            }
        }
        println!("{text}");
        assert!(failures.is_empty(), "{failures}");
    }
}
