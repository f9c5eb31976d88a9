//! Tiles and entry bundles (SPEC §10; C2SP tlog-tiles).

use sift_spec::api::BATCH_RECORDS_MAX;
use sift_spec::entry::Entry;
use sift_spec::tile::{
    BundleBytesError, TILE_WIDTH, TileId, TilePath, parse_entries, parse_hashes, push_entry,
};
use sift_spec::tree::NodeId;
use tlog_tiles::tlog::stored_hash_index;

use super::input::Input;

pub(crate) fn tile_path(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(path) = TilePath::parse(text)
    {
        assert_eq!(path.to_string(), text, "one tile has one path");
        check_path(path);
    }
    // Every tile that a path can name has one.
    let mut input = Input::new(bytes);
    let (level, width) = (input.byte() % 64, 1 + u16::from(input.byte()));
    let index = input.below(u64::MAX);
    for path in
        [TilePath::Hashes { tile: TileId { level, index }, width }, TilePath::Entries { index, width }]
    {
        assert_eq!(TilePath::parse(&path.to_string()), Some(path));
        check_path(path);
    }
}

/// Go's paths, which `tlog_tiles` reads, name the height and say "data" for entries.
fn check_path(path: TilePath) {
    let ours = path.to_string();
    let rest = ours.strip_prefix("tile/").expect("every path starts so");
    let (level, index, width, is_data) = match path {
        TilePath::Hashes { tile, width } => (tile.level, tile.index, width, false),
        TilePath::Entries { index, width } => (0, index, width, true),
    };
    let theirs = format!("tile/8/{}", rest.replace("entries/", "data/"));
    let theirs = tlog_tiles::Tile::from_path(&theirs).expect("tlog_tiles reads what we read");
    assert_eq!((theirs.level(), theirs.level_index(), theirs.is_data()), (level, index, is_data));
    assert_eq!(theirs.width(), u32::from(width));
}

pub(crate) fn hash_tile(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let level = input.byte() % 40;
    let index = input.below(1 << (48 - level));
    let tile = input.take(usize::MAX);
    let whole = !tile.is_empty() && tile.len().is_multiple_of(32) && tile.len() as u64 <= 32 * TILE_WIDTH;
    let hashes = parse_hashes(tile);
    assert_eq!(hashes.is_some(), whole);
    let Some(hashes) = hashes else { return };
    assert_eq!(hashes.iter().flat_map(|hash| *hash.as_bytes()).collect::<Vec<u8>>(), tile);
    // A node's hash, folded from its tile, is what Go's way of numbering finds there.
    let node = NodeId { level, index };
    let id = TileId::of(node);
    let ours = id.node(node, &hashes);
    let theirs = tlog_tiles::Tile::new(8, id.level, id.index, hashes.len() as u32, false)
        .hash_at_index(tile, stored_hash_index(level, index));
    assert_eq!(ours.map(|hash| *hash.as_bytes()), theirs.ok().map(|hash| hash.0));
}

pub(crate) fn entry_bundle(bytes: &[u8]) {
    for entries_max in [1, TILE_WIDTH as usize, BATCH_RECORDS_MAX] {
        match parse_entries(bytes, entries_max) {
            Ok(entries) => {
                assert!(entries.len() <= entries_max);
                let mut printed = Vec::new();
                assert!(entries.iter().all(|entry| push_entry(&mut printed, entry)));
                assert_eq!(printed, bytes, "exactly one encoding");
            }
            Err(BundleBytesError::Truncated(at)) => assert!(at < bytes.len()),
            Err(BundleBytesError::TooMany(most)) => {
                assert_eq!(most, entries_max);
                assert!(parse_entries(bytes, usize::MAX).map_or(true, |entries| entries.len() > entries_max));
            }
        }
    }
    // As the log reads the body of a request.
    for entry in parse_entries(bytes, BATCH_RECORDS_MAX).unwrap_or_default() {
        if let Ok(read) = Entry::parse(entry.to_vec()) {
            assert_eq!(read.bytes(), entry);
        }
    }
}
