//! Reading: whatever a log can be asked for, over many connections, and afterwards a check of what came back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use sift_spec::api::{ConsistencyAnswer, InclusionAnswer};
use sift_spec::checkpoint::Checkpoint;
use sift_spec::hash::leaf_hash;
use sift_spec::note::{NOTE_BYTES_MAX, Note};
use sift_spec::proof::{Proof, TreeHead, verify_consistency, verify_inclusion};
use sift_spec::receipt::Receipt;
use sift_spec::tile::{TILE_WIDTH, TileId, TilePath, TiledTree, Tiles, parse_entries, parse_hashes};
use sift_spec::tree::{Nodes as _, RightEdge};
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{Hash, LeafIndex, TreeSize};
use tokio::sync::Barrier;

use crate::http::Connection;
use crate::load::Latency;
use crate::machine::{CpuTime, Memory};
use crate::pace::{Pace, Turn};
use crate::{AnyError, progress};

/// Something a log can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// The newest checkpoint.
    Checkpoint,
    /// A full tile of leaf hashes, anywhere in the tree.
    Tile,
    /// The partial tile of leaf hashes at the tree's end; a full one where the tree ends with one.
    PartialTile,
    /// A bundle of 256 entries.
    Bundle,
    /// One entry: a point read.
    Entry,
    /// The receipt of an entry.
    Receipt,
    /// An inclusion proof under the newest tree.
    Inclusion,
    /// A consistency proof from an older tree to the newest.
    Consistency,
}

impl Ask {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Checkpoint,
        Self::Tile,
        Self::PartialTile,
        Self::Bundle,
        Self::Entry,
        Self::Receipt,
        Self::Inclusion,
        Self::Consistency,
    ];

    /// What it is called in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Tile => "full tile",
            Self::PartialTile => "partial tile",
            Self::Bundle => "entry bundle",
            Self::Entry => "entry",
            Self::Receipt => "receipt",
            Self::Inclusion => "inclusion proof",
            Self::Consistency => "consistency proof",
        }
    }

    /// The path of the entry, tile or tree that `random` falls on in a tree of `size`.
    fn path(self, size: TreeSize, random: u64) -> String {
        let index = random % size.get();
        let tile_of = |index| {
            let tile = TileId { level: 0, index };
            TilePath::Hashes { tile, width: tile.width(size) }
        };
        match self {
            Self::Checkpoint => "/checkpoint".to_owned(),
            // The last tile is in a small log as likely as any; where it is partial, a full one takes its place.
            Self::Tile => format!("/{}", tile_of(random % (size.get() / TILE_WIDTH).max(1))),
            Self::PartialTile => format!("/{}", tile_of((size.get() - 1) / TILE_WIDTH)),
            Self::Bundle => {
                let index = random % (size.get() / TILE_WIDTH).max(1);
                let width = TileId { level: 0, index }.width(size);
                format!("/{}", TilePath::Entries { index, width })
            }
            Self::Entry => format!("/v1/records/{index}"),
            Self::Receipt => format!("/v1/records/{index}.tlog-proof"),
            Self::Inclusion => format!("/v1/proof/inclusion?index={index}&size={size}"),
            Self::Consistency => format!("/v1/proof/consistency?old={}&new={size}", index + 1),
        }
    }
}

/// What is asked, and how.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Connections, each with one request under way.
    pub connections: usize,
    /// What is asked for, in turn.
    pub asks: Vec<Ask>,
    /// No request starts after this many seconds.
    pub seconds: f64,
    /// Requests a second that are sent whether or not answers come; each connection as fast as it can without it.
    pub rate: Option<f64>,
    /// Answers that are kept and verified.
    pub samples: usize,
    /// Where the random numbers start.
    pub seed: u64,
}

/// What reading came to.
#[derive(Debug, Clone, Serialize)]
pub struct Done {
    /// Entries in the tree that was read.
    pub size: TreeSize,
    /// Requests that were answered.
    pub requests: u64,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Requests a second.
    pub rate: f64,
    /// From sending a request, or at a rate from when it was due, to having its whole answer; in microseconds.
    pub latency_us: Latency,
    /// At a rate: how late the generator itself sent what it could have sent in time, in microseconds.
    pub generator_late_us: Option<Latency>,
    /// Bytes of all bodies.
    pub body_bytes: u64,
    /// Answers that were verified afterwards, down to a leaf under a signed checkpoint.
    pub verified: usize,
    /// Processor time of the log's process meanwhile, if it runs here.
    pub log_cpu: Option<CpuTime>,
    /// Its memory afterwards.
    pub log_memory: Option<Memory>,
    /// Processor time of the generator meanwhile.
    pub load_cpu: CpuTime,
}

/// An answer that was kept.
#[derive(Debug)]
struct Sample {
    ask: Ask,
    path: String,
    body: Vec<u8>,
}

/// Reads from the log at `host` and then verifies a sample of the answers, where `trust` says whom to believe. `pid`
/// is the log's process, if it runs on this machine.
///
/// # Errors
/// When the log is empty or refuses, a connection breaks, or an answer does not verify.
pub fn read(
    host: &str,
    plan: &Plan,
    trust: Option<&TrustPolicy>,
    pid: Option<u32>,
) -> Result<Done, AnyError> {
    if plan.connections == 0 || plan.asks.is_empty() {
        return Err("at least one connection, and something to ask for".into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let note = runtime.block_on(async { Connection::open(host).await?.get(host, "/checkpoint").await })?;
    let head = Checkpoint::parse(Note::parse(&note, NOTE_BYTES_MAX)?.text)?.head;
    let size = head.size;
    if size == TreeSize::ZERO {
        return Err("the log is empty: there is nothing to read".into());
    }
    let log_before = pid.map(CpuTime::of).transpose()?;
    let load_before = CpuTime::of(std::process::id())?;
    let (answered, elapsed) = runtime.block_on(drive(host, plan, size))?;
    let load_cpu = CpuTime::of(std::process::id())?.since(&load_before);
    let log_cpu = pid.map(CpuTime::of).transpose()?.zip(log_before).map(|(now, before)| now.since(&before));
    let log_memory = pid.map(Memory::of).transpose()?;
    let mut verified = 0;
    if let Some(trust) = trust {
        trust.verify(&note)?;
        let judge = Judge { host, trust, signed: head };
        for sample in &answered.sample {
            let checked = runtime.block_on(judge.check(sample));
            checked.map_err(|error| format!("{}: {error}", sample.path))?;
            verified += 1;
        }
    }
    let (requests, seconds) = (answered.times_us.len() as u64, elapsed.as_secs_f64());
    Ok(Done {
        size,
        requests,
        seconds,
        rate: requests as f64 / seconds,
        latency_us: Latency::of(answered.times_us),
        generator_late_us: plan.rate.map(|_| Latency::of(answered.late_us)),
        body_bytes: answered.bytes,
        verified,
        log_cpu,
        log_memory,
        load_cpu,
    })
}

#[derive(Default)]
struct Answered {
    times_us: Vec<u64>,
    late_us: Vec<u64>,
    bytes: u64,
    sample: Vec<Sample>,
}

async fn drive(host: &str, plan: &Plan, size: TreeSize) -> Result<(Answered, Duration), AnyError> {
    let ready = Arc::new(Barrier::new(plan.connections + 1));
    let bar = progress::bar("reading", plan.seconds.ceil() as u64);
    let tasks: Vec<_> = (0..plan.connections)
        .map(|number| {
            let (plan, ready, host) = (plan.clone(), Arc::clone(&ready), host.to_owned());
            tokio::spawn(async move {
                let connection = Connection::open(&host).await;
                ready.wait().await;
                converse(connection?, &host, number, &plan, size).await
            })
        })
        .collect();
    ready.wait().await;
    let start = Instant::now();
    let mut all = Answered::default();
    for task in tasks {
        let answered = task.await??;
        bar.set_position(start.elapsed().as_secs());
        all.times_us.extend(answered.times_us);
        all.late_us.extend(answered.late_us);
        all.bytes += answered.bytes;
        all.sample.extend(answered.sample);
    }
    bar.finish_and_clear();
    Ok((all, start.elapsed()))
}

async fn converse(
    mut connection: Connection,
    host: &str,
    number: usize,
    plan: &Plan,
    size: TreeSize,
) -> Result<Answered, AnyError> {
    // Each connection keeps about as many answers, and the last ones: whichever they are was as likely as any.
    let samples_max = plan.samples.div_ceil(plan.connections);
    let mut random = Random(plan.seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut answered = Answered::default();
    let pace = Pace::of(plan.rate, number, plan.connections);
    for position in 0.. {
        if pace.is_over(Some(plan.seconds)) {
            break;
        }
        let ask = plan.asks[(number + position) % plan.asks.len()];
        let path = ask.path(size, random.next());
        let Turn { since, late } = pace.turn(position).await;
        let body = connection.get(host, &path).await?;
        answered.times_us.push(since.elapsed().as_micros() as u64);
        answered.late_us.push(late.as_micros() as u64);
        answered.bytes += body.len() as u64;
        if samples_max > 0 {
            if answered.sample.len() == samples_max {
                answered.sample.swap_remove(position % samples_max);
            }
            answered.sample.push(Sample { ask, path, body });
        }
    }
    Ok(answered)
}

/// Uniform numbers for paths: the SplitMix64 generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Checks answers against what is signed.
struct Judge<'a> {
    host: &'a str,
    trust: &'a TrustPolicy,
    /// The tree that was read: its checkpoint was believed.
    signed: TreeHead,
}

impl Judge<'_> {
    async fn check(&self, Sample { ask, path, body }: &Sample) -> Result<(), AnyError> {
        let path = path.trim_start_matches('/');
        match ask {
            Ask::Checkpoint => {
                self.trust.verify(body)?;
            }
            Ask::Tile | Ask::PartialTile => {
                let Some(TilePath::Hashes { tile, width }) = TilePath::parse(path) else {
                    return Err("not a tile".into());
                };
                let hashes = parse_hashes(body).filter(|hashes| hashes.len() == usize::from(width));
                for position in [0, usize::from(width) - 1] {
                    let leaf = hashes.as_ref().and_then(|hashes| hashes.get(position));
                    self.leaf(tile.index * TILE_WIDTH + position as u64, *leaf.ok_or("too narrow")?).await?;
                }
            }
            Ask::Bundle => {
                let Some(TilePath::Entries { index, width }) = TilePath::parse(path) else {
                    return Err("not a bundle".into());
                };
                let entries = parse_entries(body, usize::from(width))?;
                if entries.len() != usize::from(width) {
                    return Err("too few entries".into());
                }
                for position in [0, entries.len() - 1] {
                    self.leaf(index * TILE_WIDTH + position as u64, leaf_hash(entries[position])).await?;
                }
            }
            Ask::Entry => {
                let index = path.trim_start_matches("v1/records/").parse()?;
                self.leaf(index, leaf_hash(body)).await?;
            }
            Ask::Receipt => {
                let receipt = Receipt::parse(body)?;
                let leaf = leaf_hash(&self.get(&format!("/v1/records/{}", receipt.index)).await?);
                receipt.verify(leaf, self.trust)?;
            }
            Ask::Inclusion => {
                let InclusionAnswer { index, size, hashes } = serde_json::from_slice(body)?;
                let leaf = leaf_hash(&self.get(&format!("/v1/records/{index}")).await?);
                verify_inclusion(&leaf, index, &self.head(size).await?, &Proof(hashes))?;
            }
            Ask::Consistency => {
                let ConsistencyAnswer { old, new, hashes } = serde_json::from_slice(body)?;
                verify_consistency(&self.head(old).await?, &self.head(new).await?, &Proof(hashes))?;
            }
        }
        Ok(())
    }

    /// The leaf at `index` is under a signed checkpoint.
    async fn leaf(&self, index: u64, leaf: Hash) -> Result<(), AnyError> {
        let receipt = Receipt::parse(&self.get(&format!("/v1/records/{index}.tlog-proof")).await?)?;
        if receipt.index != LeafIndex::new(index)? {
            return Err("the receipt of another entry".into());
        }
        receipt.verify(leaf, self.trust)?;
        Ok(())
    }

    /// The head of the tree of `size`: the signed one, or what the right edge of an older tree folds to, read from the
    /// tiles of the signed one.
    async fn head(&self, size: TreeSize) -> Result<TreeHead, AnyError> {
        if size >= self.signed.size {
            return if size == self.signed.size { Ok(self.signed) } else { Err("another tree".into()) };
        }
        let newest = self.signed.size;
        let nodes = RightEdge::nodes(size);
        let mut tiles = Fetched::default();
        for id in nodes.iter().map(|node| TileId::of(*node)) {
            let path = TilePath::Hashes { tile: id, width: id.width(newest) };
            let hashes = parse_hashes(&self.get(&format!("/{path}")).await?).ok_or("not a tile")?;
            tiles.0.insert(id, hashes);
        }
        let row = TiledTree::new(newest, &tiles).read(&nodes)?;
        let edge = RightEdge::from_row(size, row).ok_or("too few nodes")?;
        Ok(TreeHead { size, root: edge.root() })
    }

    async fn get(&self, path: &str) -> Result<Vec<u8>, AnyError> {
        Connection::open(self.host).await?.get(self.host, path).await
    }
}

/// Tiles that were fetched.
#[derive(Default)]
struct Fetched(BTreeMap<TileId, Vec<Hash>>);

impl Tiles for Fetched {
    type Error = std::io::Error;

    fn tile(&self, tile: TileId, width: u16) -> Result<Vec<Hash>, Self::Error> {
        let hashes = self.0.get(&tile).filter(|hashes| hashes.len() >= usize::from(width));
        hashes.cloned().ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }
}
