//! Who sends: kernels and an operator, honest, forgetful and hostile, all by one random number generator.

use std::collections::BTreeMap;

use sift_spec::entry::{Content, Entry};
use sift_spec::meter::Amounts;
use sift_spec::note::{KeyType, SignerKey};
use sift_spec::record::{
    Beat, Body, Close, CloseReason, Grant, KeyChange, KeyRole, Kind, Limits, Open, OperatorBody,
    OperatorRecord, Policy, Record, Revoke,
};
use sift_spec::types::{Hash, RunId, Seq, UnixMillis};

use super::model::Model;

/// Origin of the simulated log.
pub(super) const ORIGIN: &str = "simulated.example/log";

/// Kernels. The last one is never granted.
const KERNELS: u64 = 4;

/// SplitMix64: one number after the other, from a seed alone.
#[derive(Clone)]
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True once in `times`.
    pub(super) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { from.get(self.below(from.len() as u64) as usize) }
    }
}

/// A key that is the same in every run of a seed.
pub(super) fn key(name: &str, number: u8) -> SignerKey {
    SignerKey::from_seed(name.parse().expect("a name"), KeyType::Ed25519, &[number; 32]).expect("a key")
}

/// A run as its kernel knows it.
struct Run {
    kernel: usize,
    records: Vec<Record>,
    leaves: Vec<Hash>,
    /// How many were sent in their order; those after are still to be sent.
    sent: usize,
}

/// Everybody who sends.
pub(super) struct Actors {
    kernels: Vec<SignerKey>,
    operator: SignerKey,
    runs: Vec<Run>,
    /// Everything that was ever sent, to be sent again.
    sent: Vec<Vec<u8>>,
    /// The operator's last record, sent but perhaps not admitted.
    tip: Option<OperatorRecord>,
    clock: u64,
    number: u64,
}

impl Actors {
    pub(super) fn new(operator: SignerKey) -> Self {
        let kernels = (0..KERNELS).map(|n| key(&format!("kernel/{n}"), 100 + n as u8)).collect();
        Self {
            kernels,
            operator,
            runs: Vec::new(),
            sent: Vec::new(),
            tip: None,
            clock: 1_700_000_000_000,
            number: 0,
        }
    }

    /// The entries of one request, as they are sent to a log that has durably what `model` says.
    pub(super) fn request(&mut self, rng: &mut Rng, model: &Model) -> Vec<Vec<u8>> {
        let count = 1 + rng.below(4);
        let mut entries: Vec<Vec<u8>> = Vec::new();
        for _ in 0..count {
            let entry = match rng.below(100) {
                0..=39 => self.continue_run(rng),
                40..=52 => rng.pick(&self.sent).cloned(),
                // The same bytes twice in one request.
                53..=55 => rng.pick(&entries).cloned(),
                56..=60 => self.skip_ahead(rng),
                61..=66 => self.equivocate(rng),
                67..=69 => self.intrude(rng),
                70..=78 => Some(self.open(rng)),
                79..=83 => self.close(rng),
                _ => Some(self.operate(rng, model)),
            };
            entries.extend(entry);
        }
        self.sent.extend(entries.iter().cloned());
        entries
    }

    /// A whole run in one request: `open` and so many beats.
    pub(super) fn long_run(&mut self, rng: &mut Rng, beats: u64) -> Vec<Vec<u8>> {
        let mut entries = vec![self.open(rng)];
        let run = self.runs.len() - 1;
        for _ in 0..beats {
            let body = self.beat(run);
            self.append(run, body);
            self.runs[run].sent += 1;
            entries.push(self.sign(run, self.runs[run].records.len() - 1));
        }
        self.sent.extend(entries.iter().rev().take(20).cloned());
        entries
    }

    /// What an operator sends to a new log: a policy, and keys for all kernels but one.
    pub(super) fn enrol(&mut self, model: &Model) -> Vec<Vec<u8>> {
        self.tip = None;
        let mut entries = vec![self.operator_entry(policy(0), model, true)];
        for n in 0..(KERNELS - 2) as usize {
            entries.push(self.operator_entry(self.grant(n), model, true));
        }
        entries
    }

    fn tick(&mut self) -> UnixMillis {
        self.clock += 1;
        UnixMillis::new(self.clock).expect("in range")
    }

    fn open(&mut self, rng: &mut Rng) -> Vec<u8> {
        self.number += 1;
        let mut random = [0; 10];
        random[..8].copy_from_slice(&rng.next().to_be_bytes());
        let time = self.tick();
        let run = RunId::from_parts(time, &random);
        let open = Open {
            build: "sim".parse().expect("short"),
            engine: "rego/sim".parse().expect("short"),
            labels: BTreeMap::new(),
            limits: Limits::default(),
            log: if rng.once_in(20) { "another.example/log" } else { ORIGIN }.parse().expect("an origin"),
            delegation: None,
            parent: None,
            // Policy 1 is published at some time, or never.
            policy: bundle(u64::from(rng.once_in(5))),
        };
        let kernel = rng.below(KERNELS) as usize;
        let body = Body::Open(Box::new(open));
        let agent = "sim/agent".parse().expect("a name");
        let record = Record { agent, body, prev: None, run, seq: Seq::ZERO, time };
        self.runs.push(Run { kernel, records: vec![record], leaves: Vec::new(), sent: 1 });
        self.sign(self.runs.len() - 1, 0)
    }

    fn beat(&self, run: usize) -> Body {
        Body::Beat(Beat { records: self.runs[run].records.len() as u64 })
    }

    /// Appends a record to a run, signed later.
    fn append(&mut self, run: usize, body: Body) {
        let time = self.tick();
        let position = self.runs[run].records.len();
        let prev = Some(self.leaf(run, position - 1));
        let last = &self.runs[run].records[position - 1];
        let seq = Seq::new(position as u64).expect("small");
        let record = Record { agent: last.agent.clone(), body, prev, run: last.run, seq, time };
        self.runs[run].records.push(record);
    }

    fn leaf(&mut self, run: usize, position: usize) -> Hash {
        for n in self.runs[run].leaves.len()..=position {
            let signed = self.entry(run, n).leaf();
            self.runs[run].leaves.push(signed);
        }
        self.runs[run].leaves[position]
    }

    fn entry(&self, run: usize, position: usize) -> Entry {
        let Run { kernel, records, .. } = &self.runs[run];
        Entry::sign(&records[position], &self.kernels[*kernel]).expect("an entry")
    }

    fn sign(&self, run: usize, position: usize) -> Vec<u8> {
        self.entry(run, position).into_bytes()
    }

    fn some_run(&self, rng: &mut Rng) -> Option<usize> {
        // Mostly one of the newest.
        let newest = self.runs.len().checked_sub(1)? as u64;
        let back = if rng.once_in(4) { newest } else { newest.min(3) };
        Some((newest - rng.below(back + 1)) as usize)
    }

    /// The next record of a run that was not sent yet.
    fn continue_run(&mut self, rng: &mut Rng) -> Option<Vec<u8>> {
        let run = self.some_run(rng)?;
        if self.runs[run].sent == self.runs[run].records.len() {
            let body = self.beat(run);
            self.append(run, body);
        }
        self.runs[run].sent += 1;
        Some(self.sign(run, self.runs[run].sent - 1))
    }

    /// A record whose predecessor is not sent yet.
    fn skip_ahead(&mut self, rng: &mut Rng) -> Option<Vec<u8>> {
        let run = self.some_run(rng)?;
        for _ in 0..2 {
            let body = self.beat(run);
            self.append(run, body);
        }
        Some(self.sign(run, self.runs[run].records.len() - 1))
    }

    /// Other bytes for a place that is, or will be, taken.
    fn equivocate(&mut self, rng: &mut Rng) -> Option<Vec<u8>> {
        let run = self.some_run(rng)?;
        let Run { kernel, records, .. } = &self.runs[run];
        let mut record = rng.pick(records)?.clone();
        record.time = UnixMillis::new(record.time.get() + 1 + rng.below(2)).ok()?;
        Some(Entry::sign(&record, &self.kernels[*kernel]).ok()?.into_bytes())
    }

    /// A record for somebody else's run.
    fn intrude(&mut self, rng: &mut Rng) -> Option<Vec<u8>> {
        let run = self.some_run(rng)?;
        let record = rng.pick(&self.runs[run].records)?;
        let other = (self.runs[run].kernel + 1 + rng.below(KERNELS - 1) as usize) % KERNELS as usize;
        Some(Entry::sign(record, &self.kernels[other]).ok()?.into_bytes())
    }

    fn close(&mut self, rng: &mut Rng) -> Option<Vec<u8>> {
        let run = self.some_run(rng)?;
        let beats = self.runs[run].records.len() as u64 - 1;
        let census =
            [(Kind::Open, 1), (Kind::Beat, beats)].into_iter().filter(|(_, count)| *count > 0).collect();
        let close = Body::Close(Box::new(Close {
            below: Amounts::ZERO,
            census,
            reason: CloseReason::Done,
            settled: Amounts::ZERO,
        }));
        self.append(run, close);
        if self.runs[run].sent + 1 == self.runs[run].records.len() {
            self.runs[run].sent += 1;
        }
        Some(self.sign(run, self.runs[run].records.len() - 1))
    }

    fn grant(&self, kernel: usize) -> OperatorBody {
        let vkey = self.kernels[kernel].verifier().to_string().parse().expect("a vkey");
        let agents = vec!["*".parse().expect("a scope")];
        OperatorBody::Key(KeyChange::Grant(Grant { agents, role: KeyRole::Kernel, vkey }))
    }

    fn operate(&mut self, rng: &mut Rng, model: &Model) -> Vec<u8> {
        let kernel = rng.below(KERNELS - 1) as usize;
        let body = match rng.below(8) {
            0..=3 => self.grant(kernel),
            4 => {
                let vkey = self.kernels[kernel].verifier().to_string().parse().expect("a vkey");
                let revoke = Revoke { reason: "simulated".parse().expect("short"), vkey };
                OperatorBody::Key(KeyChange::Revoke(revoke))
            }
            n => policy(n % 3),
        };
        let on_tip = rng.once_in(3);
        self.operator_entry(body, model, on_tip)
    }

    /// The operator's next record after the last one that is admitted, or after the last one that was sent.
    fn operator_entry(&mut self, body: OperatorBody, model: &Model, on_tip: bool) -> Vec<u8> {
        let admitted = || match model.last(None).map(|entry| entry.content().clone()) {
            Some(Content::Operator(record)) => Some(record),
            _ => None,
        };
        let before = if on_tip { self.tip.clone().or_else(admitted) } else { admitted() };
        let prev = before
            .as_ref()
            .map(|before| Entry::sign_operator(before, &self.operator).expect("an entry").leaf());
        let seq = before.map_or(Seq::ZERO, |before| before.seq.next().expect("small"));
        let record =
            OperatorRecord { body, log: ORIGIN.parse().expect("an origin"), prev, seq, time: self.tick() };
        self.tip = Some(record.clone());
        Entry::sign_operator(&record, &self.operator).expect("an entry").into_bytes()
    }
}

fn bundle(number: u64) -> Hash {
    Hash::from_bytes([7 + number as u8; 32])
}

fn policy(number: u64) -> OperatorBody {
    let name = "simulated".parse().expect("short");
    OperatorBody::Policy(Policy { bundle: bundle(number), name, size: 1 })
}
