//! One entry bundle: read, hashed, parsed; later its signatures. This is what workers do.

use std::sync::Arc;

use sift_spec::entry::{Entry, EntryError};
use sift_spec::hash::leaf_hash;
use sift_spec::note::{VerifierKey, verify_batch};
use sift_spec::tile::{TILE_WIDTH, TileId, TilePath, parse_entries, parse_hashes};
use sift_spec::types::{Hash, LeafIndex};

use crate::error::CannotCheck;
use crate::finding::{Code, Concern, Finding};
use crate::source::{Source, tile_bytes};

/// The entries of one bundle.
pub(super) struct Bundle {
    /// Position among the bundles of the log.
    pub(super) index: u64,
    /// What each entry is, or why it is none.
    pub(super) entries: Vec<Result<Entry, EntryError>>,
    /// Their leaf hashes.
    pub(super) leaves: Vec<Hash>,
    /// Their length in bytes, together.
    pub(super) bytes: usize,
    /// What was found while reading.
    pub(super) findings: Vec<Finding>,
}

/// A bundle after the chain step: who is said to have signed each entry.
pub(super) struct Signed {
    pub(super) bundle: Bundle,
    pub(super) signers: Signers,
}

/// The keys to check the entries of a bundle with.
///
/// Each key is counted as a reference once a bundle, not once an entry: all threads would wait for that count.
#[derive(Debug, Default)]
pub(super) struct Signers {
    /// Those that occur.
    keys: Vec<Arc<VerifierKey>>,
    /// For each entry the position of its key, where there is one.
    of_entry: Vec<Option<usize>>,
}

impl Signers {
    /// Adds what the next entry must be signed with.
    pub(super) fn push(&mut self, key: Option<&Arc<VerifierKey>>) {
        let position = key.map(|key| {
            let known = self.keys.iter().position(|known| Arc::ptr_eq(known, key));
            known.unwrap_or_else(|| {
                self.keys.push(Arc::clone(key));
                self.keys.len() - 1
            })
        });
        self.of_entry.push(position);
    }

    /// For each entry the key to check, where there is one.
    fn iter(&self) -> impl Iterator<Item = Option<&VerifierKey>> {
        self.of_entry
            .iter()
            .map(|position| position.and_then(|position| self.keys.get(position)).map(|key| &**key))
    }
}

/// Index of an entry in the log, from its bundle's and its position there.
pub(super) fn index_of(bundle: u64, position: usize) -> LeafIndex {
    // Below the size of a tree, so within bounds.
    LeafIndex::new(bundle * TILE_WIDTH + position as u64).unwrap_or_default()
}

impl Bundle {
    /// Reads, splits, hashes and parses the bundle at `index`, and compares the tile above it.
    pub(super) fn read(source: &dyn Source, index: u64, width: u16) -> Result<Self, CannotCheck> {
        let path = TilePath::Entries { index, width };
        let bytes = tile_bytes(source, path)?;
        let mut bundle =
            Self { index, entries: Vec::new(), leaves: Vec::new(), bytes: 0, findings: Vec::new() };
        let entries = match parse_entries(&bytes, TILE_WIDTH as usize) {
            Ok(entries) if entries.len() >= usize::from(width) => entries,
            Ok(entries) => {
                bundle.malformed(path, format!("{} entries where the tree has {width}", entries.len()));
                return Ok(bundle);
            }
            Err(error) => {
                bundle.malformed(path, error.to_string());
                return Ok(bundle);
            }
        };
        // Nobody's word: so many entries are there. An entry is wide, and a list that grows is copied.
        bundle.entries.reserve_exact(usize::from(width));
        bundle.leaves.reserve_exact(usize::from(width));
        // A full bundle may stand in for a partial one: the tree ends before it does.
        for bytes in entries.into_iter().take(usize::from(width)) {
            let entry = Entry::parse(bytes.to_vec());
            bundle.leaves.push(entry.as_ref().map_or_else(|_| leaf_hash(bytes), Entry::leaf));
            bundle.bytes += bytes.len();
            bundle.entries.push(entry);
        }
        let tile = TileId { level: 0, index };
        bundle.findings.extend(compare_tile(source, tile, &bundle.leaves)?);
        Ok(bundle)
    }

    fn malformed(&mut self, path: TilePath, detail: String) {
        let concern = Concern { index: Some(index_of(self.index, 0)), ..Concern::path(path) };
        self.findings.push(Finding::rejects(Code::BundleMalformed, concern, detail));
    }
}

/// Checks all signatures of some bundles in one batch.
pub(super) fn verify_signatures(bundles: &[Signed], entropy: &[u8; 32]) -> Vec<Finding> {
    let entries = bundles.iter().flat_map(|signed| {
        let entries = signed.bundle.entries.iter().zip(signed.signers.iter()).enumerate();
        entries.filter_map(|(position, (entry, key))| {
            let item = entry.as_ref().ok()?.batch_item(key?);
            Some((index_of(signed.bundle.index, position), item))
        })
    });
    let most = bundles.iter().map(|signed| signed.signers.of_entry.len()).sum();
    let (mut indices, mut items) = (Vec::with_capacity(most), Vec::with_capacity(most));
    for (index, item) in entries {
        indices.push(index);
        items.push(item);
    }
    let valid = verify_batch(&items, entropy);
    let invalid = indices.into_iter().zip(&items).zip(valid).filter(|(_, valid)| !valid);
    invalid
        .map(|((index, item), _)| {
            let detail = format!("the signature of {} does not verify", item.key.name());
            Finding::rejects(Code::SignatureInvalid, Concern::entry(index), detail)
        })
        .collect()
}

/// Compares a tile that the log serves with the hashes that belong there.
pub(super) fn compare_tile(
    source: &dyn Source,
    tile: TileId,
    hashes: &[Hash],
) -> Result<Option<Finding>, CannotCheck> {
    let width = u16::try_from(hashes.len()).unwrap_or(u16::MAX);
    let path = TilePath::Hashes { tile, width };
    let served = parse_hashes(&tile_bytes(source, path)?);
    let differs = match &served {
        Some(served) => {
            hashes.iter().enumerate().position(|(position, hash)| served.get(position) != Some(hash))
        }
        None => Some(0),
    };
    Ok(differs.map(|position| {
        let detail = format!("its hash {position} of {width} is not the one that the entries give");
        Finding::rejects(Code::TileDiffers, Concern::path(path), detail)
    }))
}
