//! Tiles and entry bundles (C2SP tlog-tiles): paths, contents, and nodes read through tiles.
//!
//! Hash `i` of tile `n` at level `l` is the root of the entries `(n·256+i)·256^l .. (n·256+i+1)·256^l`.
//! A partial tile of width `w` is the first `w` hashes of the full tile, so a store keeps one row a tile.

use std::collections::BTreeMap;
use std::fmt;

use crate::hash::node_hash;
use crate::record::ENTRY_BYTES_MAX;
use crate::tree::{NodeId, Nodes};
use crate::types::{Hash, LeafIndex, TreeSize};

/// Hashes in a full tile, entries in a full bundle.
pub const TILE_WIDTH: u64 = 256;

/// Levels of the tree within one tile.
const TILE_HEIGHT: u8 = 8;

/// Highest tile level that the path grammar allows.
const LEVEL_MAX: u8 = 63;

/// A tile, whatever its width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileId {
    /// Tile level: 0 holds leaf hashes, 1 the roots of 256 of them, and so on.
    pub level: u8,
    /// Position among the tiles of its level.
    pub index: u64,
}

impl TileId {
    /// The tile that stores `node`'s hash, or hashes from which it folds.
    #[must_use]
    pub const fn of(node: NodeId) -> Self {
        let within = node.level % TILE_HEIGHT;
        Self { level: node.level / TILE_HEIGHT, index: node.index >> (TILE_HEIGHT - within) }
    }

    /// How many hashes this tile has in a tree of `size`: 0 to 256.
    #[must_use]
    pub const fn width(self, size: TreeSize) -> u16 {
        let shift = TILE_HEIGHT as u32 * self.level as u32;
        let hashes = if shift < u64::BITS { size.get() >> shift } else { 0 };
        let before = match self.index.checked_mul(TILE_WIDTH) {
            Some(before) => before,
            None => return 0,
        };
        match hashes.checked_sub(before) {
            Some(rest) if rest >= TILE_WIDTH => TILE_WIDTH as u16,
            Some(rest) => rest as u16,
            None => 0,
        }
    }

    /// The hash of `node` from this tile's hashes; `None` where the tile is too narrow for it.
    #[must_use]
    pub fn node(self, node: NodeId, hashes: &[Hash]) -> Option<Hash> {
        if Self::of(node) != self {
            return None;
        }
        let within = node.level % TILE_HEIGHT;
        let start = usize::try_from((node.index << within) % TILE_WIDTH).ok()?;
        let mut row = hashes.get(start..start + (1 << within))?.to_vec();
        while row.len() > 1 {
            row = row.chunks_exact(2).map(|pair| node_hash(&pair[0], &pair[1])).collect();
        }
        row.first().copied()
    }
}

/// A resource of the log below its prefix: what a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TilePath {
    /// `tile/<L>/<N>[.p/<W>]`
    Hashes {
        /// Which tile.
        tile: TileId,
        /// Hashes in it, 1 to 256.
        width: u16,
    },
    /// `tile/entries/<N>[.p/<W>]`
    Entries {
        /// Which bundle.
        index: u64,
        /// Entries in it, 1 to 256.
        width: u16,
    },
}

impl TilePath {
    /// Reads a path such as `tile/0/x001/234.p/5`, without leading slash. Only the canonical form is read.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let (kind, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let (number, width) = match rest.split_once(".p/") {
            Some((number, width)) => (number, canonical::<u16>(width).filter(|w| (1..=255).contains(w))?),
            None => (rest, TILE_WIDTH as u16),
        };
        let index = parse_tile_number(number)?;
        if kind == "entries" {
            return Some(Self::Entries { index, width });
        }
        let level = canonical::<u8>(kind).filter(|level| *level <= LEVEL_MAX)?;
        Some(Self::Hashes { tile: TileId { level, index }, width })
    }
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (index, width) = match *self {
            Self::Hashes { tile, width } => {
                write!(f, "tile/{}/", tile.level)?;
                (tile.index, width)
            }
            Self::Entries { index, width } => {
                f.write_str("tile/entries/")?;
                (index, width)
            }
        };
        let mut groups = vec![index % 1000];
        let mut rest = index / 1000;
        while rest > 0 {
            groups.push(rest % 1000);
            rest /= 1000;
        }
        for (position, group) in groups.iter().enumerate().rev() {
            if position > 0 {
                write!(f, "x{group:03}/")?;
            } else {
                write!(f, "{group:03}")?;
            }
        }
        if u64::from(width) < TILE_WIDTH {
            write!(f, ".p/{width}")?;
        }
        Ok(())
    }
}

/// A decimal number without sign or leading zeros.
fn canonical<N: std::str::FromStr>(text: &str) -> Option<N> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = digits && (text == "0" || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

/// `x001/x234/067` is 1234067: groups of three digits, all but the last marked with `x`.
fn parse_tile_number(text: &str) -> Option<u64> {
    let mut groups = text.split('/').rev();
    let digits = |group: &str| {
        let fine = group.len() == 3 && group.bytes().all(|byte| byte.is_ascii_digit());
        if fine { group.parse::<u64>().ok() } else { None }
    };
    let mut number = digits(groups.next()?)?;
    let mut unit = 1_u64;
    let mut first = None;
    for group in groups {
        unit = unit.checked_mul(1000)?;
        let value = digits(group.strip_prefix('x')?)?;
        number = value.checked_mul(unit)?.checked_add(number)?;
        first = Some(value);
    }
    // The leading group of a canonical path is not zero.
    if first == Some(0) { None } else { Some(number) }
}

/// Where tiles are read from.
pub trait Tiles {
    /// What can go wrong while reading.
    type Error;

    /// Reads at least the first `width` hashes of a tile.
    ///
    /// # Errors
    /// When the tile cannot be read or is narrower.
    fn tile(&self, tile: TileId, width: u16) -> Result<Vec<Hash>, Self::Error>;
}

/// Why a node could not be read through tiles.
#[derive(Debug, thiserror::Error)]
pub enum TileError<E> {
    /// The tile could not be read.
    #[error(transparent)]
    Read(E),
    /// The tile does not hold the node.
    #[error("tile {} of level {} is too narrow", .0.index, .0.level)]
    Narrow(TileId),
}

/// Nodes of a tree of a given size, read through its tiles.
#[derive(Debug, Clone, Copy)]
pub struct TiledTree<'a, T> {
    size: TreeSize,
    tiles: &'a T,
}

impl<'a, T: Tiles> TiledTree<'a, T> {
    /// The tree of `size` over `tiles`.
    pub const fn new(size: TreeSize, tiles: &'a T) -> Self {
        Self { size, tiles }
    }
}

impl<T: Tiles> Nodes for TiledTree<'_, T> {
    type Error = TileError<T::Error>;

    fn read(&self, nodes: &[NodeId]) -> Result<Vec<Hash>, Self::Error> {
        // Each tile is read once, however many nodes come from it.
        let mut read: BTreeMap<TileId, Vec<Hash>> = BTreeMap::new();
        let mut hashes = Vec::with_capacity(nodes.len());
        for &node in nodes {
            let id = TileId::of(node);
            let tile = match read.entry(id) {
                std::collections::btree_map::Entry::Occupied(tile) => tile.into_mut(),
                std::collections::btree_map::Entry::Vacant(slot) => {
                    slot.insert(self.tiles.tile(id, id.width(self.size)).map_err(TileError::Read)?)
                }
            };
            hashes.push(id.node(node, tile).ok_or(TileError::Narrow(id))?);
        }
        Ok(hashes)
    }
}

/// Splits the bytes of a hash tile into hashes; `None` unless they are 1 to 256 times 32 bytes.
#[must_use]
pub fn parse_hashes(bytes: &[u8]) -> Option<Vec<Hash>> {
    let whole = !bytes.is_empty() && bytes.len().is_multiple_of(32) && bytes.len() as u64 <= TILE_WIDTH * 32;
    if !whole {
        return None;
    }
    bytes.chunks_exact(32).map(|chunk| Hash::try_from(chunk).ok()).collect()
}

/// Why bytes are not an entry bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BundleBytesError {
    /// The bytes end within a length or an entry.
    #[error("the bundle ends within an entry, at byte {0}")]
    Truncated(usize),
    /// More entries than the caller allows.
    #[error("more than {0} entries")]
    TooMany(usize),
}

/// Appends one entry to a bundle: its length in 16 bits, big-endian, then its bytes.
///
/// Returns `false`, leaving the bundle as it was, when the entry is longer than 65,535 bytes.
#[must_use]
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> bool {
    const { assert!(ENTRY_BYTES_MAX == u16::MAX as usize) };
    let Ok(length) = u16::try_from(entry.len()) else { return false };
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    true
}

/// Splits a bundle into at most `entries_max` entries.
///
/// # Errors
/// When the bytes end within an entry or there are more.
pub fn parse_entries(bytes: &[u8], entries_max: usize) -> Result<Vec<&[u8]>, BundleBytesError> {
    let mut entries = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let truncated = BundleBytesError::Truncated(bytes.len() - rest.len());
        let (length, tail) = rest.split_first_chunk::<2>().ok_or(truncated)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (entry, tail) = tail.split_at_checked(length).ok_or(truncated)?;
        if entries.len() == entries_max {
            return Err(BundleBytesError::TooMany(entries_max));
        }
        entries.push(entry);
        rest = tail;
    }
    Ok(entries)
}

/// The last level-0 bundle or tile index of a tree, and how wide it is: what a reader fetches to follow a log.
#[must_use]
pub const fn bundle_of(index: LeafIndex) -> u64 {
    index.get() / TILE_WIDTH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_canonical() {
        for (path, index, width) in [
            ("tile/0/005", 5, 256),
            ("tile/0/x001/000", 1000, 256),
            ("tile/0/x001/x234/067", 1_234_067, 256),
            ("tile/0/x001/x234/067.p/1", 1_234_067, 1),
            ("tile/0/000.p/255", 0, 255),
        ] {
            let parsed = TilePath::parse(path).unwrap();
            assert_eq!(parsed, TilePath::Hashes { tile: TileId { level: 0, index }, width });
            assert_eq!(parsed.to_string(), path);
        }
        assert_eq!(
            TilePath::parse("tile/entries/x001/000.p/7").unwrap().to_string(),
            "tile/entries/x001/000.p/7"
        );
        for bad in [
            "tile/0/5",
            "tile/0/0005",
            "tile/0/x000/005",
            "tile/00/005",
            "tile/64/005",
            "tile/0/005.p/0",
            "tile/0/005.p/256",
            "tile/0/005.p/01",
            "tile/0/005.p/",
            "tile/0/x005",
            "tile/0/001/002",
            "tile/-1/005",
            "tile/+1/005",
            "tile/data/005",
            "/tile/0/005",
            "tile/0/005/",
            "tile/0/x1/000",
            "tile/entries/",
            "tile/0/x999/x999/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert_eq!(TilePath::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn widths_of_a_tree_of_70000() {
        let size = TreeSize::new(70_000).unwrap();
        let width = |level, index| TileId { level, index }.width(size);
        assert_eq!((width(0, 272), width(0, 273), width(0, 274)), (256, 112, 0));
        assert_eq!((width(1, 0), width(1, 1), width(2, 0), width(3, 0), width(9, 0)), (256, 17, 1, 0, 0));
    }

    #[test]
    fn bundles_round_trip() {
        let mut bundle = Vec::new();
        assert!(push_entry(&mut bundle, b"one") && push_entry(&mut bundle, b""));
        assert!(!push_entry(&mut bundle, &vec![0; 65_536]));
        assert_eq!(parse_entries(&bundle, 2).unwrap(), [&b"one"[..], b""]);
        assert_eq!(parse_entries(&bundle, 1), Err(BundleBytesError::TooMany(1)));
        assert_eq!(parse_entries(&bundle[..4], 2), Err(BundleBytesError::Truncated(0)));
        assert_eq!(parse_entries(&bundle[..6], 2), Err(BundleBytesError::Truncated(5)));
    }
}
