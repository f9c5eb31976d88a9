//! Two mirrors of one log, or a mirror and the log.
//!
//! Heads are compared first. Where neither extends the other, both trees are walked down from the largest subtree that
//! differs: every node that is read is checked against the one above it, so what is found is what the log signed.

use std::cell::RefCell;
use std::collections::BTreeMap;

use sift_spec::entry::{Content, Entry};
use sift_spec::hash::{leaf_hash, node_hash};
use sift_spec::note::NOTE_BYTES_MAX;
use sift_spec::proof::TreeHead;
use sift_spec::tile::{TILE_WIDTH, TileError, TileId, TilePath, TiledTree, Tiles, parse_entries};
use sift_spec::tree::{NodeId, Nodes as _, RightEdge};
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{Hash, LeafIndex, TreeSize};

use super::{Diff, of_one_log};
use crate::checkpoint;
use crate::consistency::{not_its_tiles, prefix};
use crate::error::CannotCheck;
use crate::finding::{Code, Concern, Gap};
use crate::log;
use crate::report::{Claim, Proven, Report, Verb};
use crate::source::{self, Source, SourceTiles, tile_bytes};
use crate::text::Many;

/// Two logs' heads of which one extends the other.
#[derive(Debug)]
struct SameStart {
    size: TreeSize,
    root: Hash,
    _assertion: (),
}

impl Proven for SameStart {
    fn claim(&self) -> Claim {
        let detail = format!(
            "both are the log whose first {} have the root {}: what is proven under one is in the other",
            Many(self.size.get(), "entry"),
            self.root
        );
        Claim { what: "consistency", count: self.size.get(), detail }
    }
}

/// One of the logs.
pub type Logs<'a> = [&'a dyn Source; 2];

/// Compares two logs; with `audit`, each is verified whole first, and every entry that differs is listed.
///
/// # Errors
/// When they are of two origins, or cannot be read.
pub fn compare_logs(
    logs: Logs<'_>,
    trust: &TrustPolicy,
    audit: Option<&log::Options<'_>>,
) -> Result<Diff, CannotCheck> {
    let [first, second] = logs;
    let mut report = Report::new(Verb::Diff, format!("{} and {}", first.name(), second.name()));
    // 1. Each is verified on its own: its head, or all of it.
    let (report_a, a) = head(first, trust, audit)?;
    let (report_b, b) = head(second, trust, audit)?;
    let sides = [report_a, report_b];
    let (Some(a), Some(b)) = (a, b) else {
        report.leave(Gap::NotReached, Concern::whole(), "a head that is not believed is not compared");
        return Ok(Diff { sides, report });
    };
    // 2. They are of one log.
    of_one_log(&a, &b)?;
    // 3. Both are the tree of the smaller one, as far as that goes.
    let at = a.head.size.min(b.head.size);
    let origin = &a.origin;
    let (a, b) = (Side::new(first, a.head), Side::new(second, b.head));
    let (Some(in_a), Some(in_b)) = (a.edge(at, &mut report)?, b.edge(at, &mut report)?) else {
        return Ok(Diff { sides, report });
    };
    let nodes = RightEdge::nodes(at).into_iter().zip(in_a.iter().zip(&in_b));
    let differs =
        nodes.map(|(node, (in_a, in_b))| (node, [*in_a, *in_b])).find(|(_, [in_a, in_b])| in_a != in_b);
    let Some((node, hashes)) = differs else {
        if let Some(edge) = RightEdge::from_row(at, in_a) {
            report.claim(&SameStart { size: at, root: edge.root(), _assertion: () });
        }
        for one in [&a, &b] {
            let more = one.head.size.get() - at.get();
            if more > 0 {
                let detail = format!("{} from index {at} on: only in {}", Many(more, "entry"), one.name());
                report.leave(Gap::OnlyInOne, Concern::whole(), detail);
            }
        }
        return Ok(Diff { sides, report });
    };
    // 4. The log signed two histories. The first entry that differs is found on the way down.
    let Some((index, leaves)) = first_difference(&a, &b, node, hashes, &mut report)? else {
        return Ok(Diff { sides, report });
    };
    let detail = format!(
        "{origin} signed two trees that differ from this entry on: {} has {}, {} has {}. Keep both checkpoints and tiles",
        a.name(),
        a.entry(index, leaves[0], &mut report)?,
        b.name(),
        b.entry(index, leaves[1], &mut report)?,
    );
    report.reject(Code::HeadsInconsistent, Concern::entry(index), detail);
    if audit.is_some() {
        list_differences(&a, &b, index, at, &mut report)?;
    }
    Ok(Diff { sides, report })
}

/// The report on one log, and its head where that is believed.
fn head(
    log: &dyn Source,
    trust: &TrustPolicy,
    audit: Option<&log::Options<'_>>,
) -> Result<(Report, Option<sift_spec::checkpoint::Checkpoint>), CannotCheck> {
    let note = source::checkpoint(log, NOTE_BYTES_MAX)?;
    let mut report = Report::new(Verb::Diff, log.name());
    let believed = checkpoint::verify(&note, trust, checkpoint::PATH, &mut report);
    if let Some(options) = audit {
        // The same checkpoint, should the log have grown meanwhile.
        report = log::verify(log, Some(&note), trust, options)?;
    }
    Ok((report, believed.map(|verified| verified.checkpoint().clone())))
}

/// A log and its head.
struct Side<'a> {
    log: &'a dyn Source,
    head: TreeHead,
    tiles: KeptTiles<'a>,
}

/// Tiles that are read once: the way down passes each eight times.
struct KeptTiles<'a> {
    tiles: SourceTiles<'a>,
    kept: RefCell<BTreeMap<TileId, Vec<Hash>>>,
}

impl Tiles for KeptTiles<'_> {
    type Error = CannotCheck;

    fn tile(&self, tile: TileId, width: u16) -> Result<Vec<Hash>, CannotCheck> {
        if let Some(hashes) = self.kept.borrow().get(&tile) {
            return Ok(hashes.clone());
        }
        let hashes = self.tiles.tile(tile, width)?;
        self.kept.borrow_mut().insert(tile, hashes.clone());
        Ok(hashes)
    }
}

impl<'a> Side<'a> {
    fn new(log: &'a dyn Source, head: TreeHead) -> Self {
        Self { log, head, tiles: KeptTiles { tiles: SourceTiles(log), kept: RefCell::default() } }
    }

    fn name(&self) -> String {
        self.log.name()
    }

    /// The right edge of the tree at a size that it had; `None` where the tiles are not those of the head.
    fn edge(&self, at: TreeSize, report: &mut Report) -> Result<Option<Vec<Hash>>, CannotCheck> {
        match prefix(self.log, &self.tiles, &self.head, at)? {
            Some((row, _)) => Ok(Some(row)),
            None => {
                report.reject(Code::TileDiffers, Concern::whole(), not_its_tiles(self.log, &self.head));
                Ok(None)
            }
        }
    }

    /// The two nodes below one whose hash is known; `None` where the tiles have others.
    fn below(&self, node: NodeId, hash: Hash, report: &mut Report) -> Result<Option<[Hash; 2]>, CannotCheck> {
        let tree = TiledTree::new(self.head.size, &self.tiles);
        let children = [0, 1].map(|side| NodeId { level: node.level - 1, index: 2 * node.index + side });
        let read = tree.read(&children).map_err(|error| match error {
            TileError::Read(error) => error,
            error @ TileError::Narrow(_) => {
                let (log, path) = (self.name(), "tile".to_owned());
                CannotCheck::Fetch { log, path, why: error.to_string() }
            }
        })?;
        match read.as_slice() {
            [left, right] if node_hash(left, right) == hash => Ok(Some([*left, *right])),
            _ => {
                let tile = TileId::of(children[0]);
                let path = TilePath::Hashes { tile, width: tile.width(self.head.size) };
                let detail =
                    format!("the tile of {} does not fold to the hash in the tile above it", self.name());
                report.reject(Code::TileDiffers, Concern::path(path), detail);
                Ok(None)
            }
        }
    }

    /// An entry whose leaf hash is known, in words. Where the mirror holds another one, that is a finding.
    fn entry(&self, index: LeafIndex, leaf: Hash, report: &mut Report) -> Result<String, CannotCheck> {
        let bundle = index.get() / TILE_WIDTH;
        let width = TileId { level: 0, index: bundle }.width(self.head.size);
        let path = TilePath::Entries { index: bundle, width };
        let bytes = tile_bytes(self.log, path)?;
        let entries = parse_entries(&bytes, TILE_WIDTH as usize).unwrap_or_default();
        let entry = usize::try_from(index.get() % TILE_WIDTH).ok().and_then(|at| entries.get(at));
        let entry = entry.filter(|entry| leaf_hash(entry) == leaf);
        let what = match entry.map(|entry| Entry::parse(entry.to_vec())) {
            None => {
                let concern = Concern { index: Some(index), ..Concern::path(path) };
                let detail = format!("{} does not hold the entry with the leaf hash {leaf}", self.name());
                report.reject(Code::BundleMalformed, concern, detail);
                "an entry that it does not hold".to_owned()
            }
            Some(Err(_)) => "an entry that is no record".to_owned(),
            Some(Ok(entry)) => match entry.content() {
                Content::Operator(record) => format!("the operator's record {}", record.seq),
                Content::Run(record) => {
                    let (kind, run, seq, by) = (record.body.kind(), record.run, record.seq, entry.signer());
                    format!("the {kind} of run {run} at seq {seq}, by {by}")
                }
            },
        };
        Ok(format!("{what} (leaf {leaf})"))
    }
}

/// The first leaf that differs below a node with these two hashes, and its hash in each.
fn first_difference(
    a: &Side<'_>,
    b: &Side<'_>,
    mut node: NodeId,
    mut hashes: [Hash; 2],
    report: &mut Report,
) -> Result<Option<(LeafIndex, [Hash; 2])>, CannotCheck> {
    while node.level > 0 {
        let (Some(in_a), Some(in_b)) = (a.below(node, hashes[0], report)?, b.below(node, hashes[1], report)?)
        else {
            return Ok(None);
        };
        let [left, right] = [(in_a[0], in_b[0]), (in_a[1], in_b[1])];
        let (side, (in_a, in_b)) = if left.0 == left.1 { (1, right) } else { (0, left) };
        node = NodeId { level: node.level - 1, index: 2 * node.index + side };
        hashes = [in_a, in_b];
    }
    Ok(LeafIndex::new(node.index).ok().map(|index| (index, hashes)))
}

/// Lists every entry after `first` that differs, up to the size that both have. Both were verified whole.
fn list_differences(
    a: &Side<'_>,
    b: &Side<'_>,
    first: LeafIndex,
    at: TreeSize,
    report: &mut Report,
) -> Result<(), CannotCheck> {
    for index in first.get() / TILE_WIDTH..at.get().div_ceil(TILE_WIDTH) {
        let tile = TileId { level: 0, index };
        let read = |side: &Side<'_>| SourceTiles(side.log).tile(tile, tile.width(side.head.size));
        let (in_a, in_b) = (read(a)?, read(b)?);
        let here = (index * TILE_WIDTH..at.get()).zip(in_a.iter().zip(&in_b));
        for (leaf, (in_a, in_b)) in here.filter(|(leaf, (in_a, in_b))| *leaf > first.get() && in_a != in_b) {
            let index = LeafIndex::new(leaf).unwrap_or_default();
            let detail = format!("{} has the leaf {in_a}, {} has {in_b}", a.name(), b.name());
            report.reject(Code::HeadsInconsistent, Concern::entry(index), detail);
        }
    }
    Ok(())
}
