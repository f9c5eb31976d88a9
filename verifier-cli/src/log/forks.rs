//! Forks of chains: which entry stood at that place before. A head of a run knows only its last record, so the log is
//! read a second time for it, and only where something forked.

use std::collections::{HashMap, HashSet};

use sift_spec::entry::{Content, Entry};
use sift_spec::tile::{TILE_WIDTH, TileId, TilePath, parse_entries};
use sift_spec::types::{LeafIndex, RunId, Seq, TreeSize};

use super::bundle::index_of;
use crate::error::CannotCheck;
use crate::finding::{Code, Finding};
use crate::source::{Source, tile_bytes};

/// Most forks whose first entry is looked for.
const SOUGHT_MAX: usize = 1000;

/// A place in a chain: the operator's, or a run's.
type Place = (Option<RunId>, Seq);

/// Entries that stand where another stands already.
#[derive(Debug, Default)]
pub(super) struct Forks {
    found: Vec<(Place, Finding)>,
}

impl Forks {
    /// Keeps the finding of a fork until the first entry is known; gives back any other, and what is too many.
    pub(super) fn sort(&mut self, place: Place, finding: Finding) -> Option<Finding> {
        if finding.code != Code::ChainFork || self.found.len() == SOUGHT_MAX {
            return Some(finding);
        }
        self.found.push((place, finding));
        None
    }

    /// The findings, each with the entry that stood there first.
    ///
    /// # Errors
    /// When the log, which was read once, cannot be read again.
    pub(super) fn explain(self, source: &dyn Source, size: TreeSize) -> Result<Vec<Finding>, CannotCheck> {
        let Some(last) = self.found.iter().filter_map(|(_, finding)| finding.concern.index).max() else {
            return Ok(Vec::new());
        };
        let forked: HashMap<Place, LeafIndex> =
            self.found.iter().filter_map(|(place, finding)| Some((*place, finding.concern.index?))).collect();
        let mut firsts: HashMap<Place, (LeafIndex, Vec<u8>)> = HashMap::new();
        let mut same: HashSet<Place> = HashSet::new();
        for bundle in 0..=last.get() / TILE_WIDTH {
            let width = TileId { level: 0, index: bundle }.width(size);
            let bytes = tile_bytes(source, TilePath::Entries { index: bundle, width })?;
            // One that is malformed was reported when it was read first.
            let Ok(entries) = parse_entries(&bytes, TILE_WIDTH as usize) else { continue };
            for (position, bytes) in entries.into_iter().enumerate() {
                let Ok(entry) = Entry::parse(bytes.to_vec()) else { continue };
                let place = match entry.content() {
                    Content::Run(record) => (Some(record.run), record.seq),
                    Content::Operator(record) => (None, record.seq),
                };
                let Some(fork) = forked.get(&place) else { continue };
                let index = index_of(bundle, position);
                let (_, first) = firsts.entry(place).or_insert_with(|| (index, bytes.to_vec()));
                if index == *fork && bytes == first {
                    same.insert(place);
                }
            }
        }
        let explained = self.found.into_iter().map(|(place, mut finding)| {
            if let Some((index, _)) = firsts.get(&place) {
                finding.detail += &if same.contains(&place) {
                    format!("; entry {index} is the same: the log holds it twice")
                } else {
                    format!("; entry {index} stands there already, and says something else")
                };
            }
            finding
        });
        Ok(explained.collect())
    }
}
