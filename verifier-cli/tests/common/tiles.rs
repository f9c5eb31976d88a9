//! A log as a directory of tiles.

use std::fs;
use std::path::Path;

use sift_spec::tile::{TILE_WIDTH, TileId, TilePath, push_entry};
use sift_spec::tree::{MemoryTree, NodeId, Nodes as _};
use sift_spec::types::Hash;

use super::Sealed;

/// Writes checkpoint, hash tiles and entry bundles below `dir`.
pub fn write(sealed: &Sealed, dir: &Path) {
    put(dir, "checkpoint", sealed.checkpoint().as_bytes());
    write_bundles(&sealed.entries, dir);
    write_hashes(&sealed.leaves(), dir);
}

pub fn write_bundles(entries: &[Vec<u8>], dir: &Path) {
    for (index, entries) in (0..).zip(entries.chunks(TILE_WIDTH as usize)) {
        let mut bundle = Vec::new();
        for entry in entries {
            assert!(push_entry(&mut bundle, entry));
        }
        put(dir, &TilePath::Entries { index, width: entries.len() as u16 }.to_string(), &bundle);
    }
}

pub fn write_hashes(leaves: &[Hash], dir: &Path) {
    let tree = MemoryTree::new(leaves.iter().copied());
    for level in 0_u8.. {
        let hashes = tree.size().get() >> (8 * u32::from(level));
        if hashes == 0 {
            break;
        }
        for index in 0..hashes.div_ceil(TILE_WIDTH) {
            let tile = TileId { level, index };
            let width = tile.width(tree.size());
            let nodes =
                (0..u64::from(width)).map(|i| NodeId { level: 8 * level, index: index * TILE_WIDTH + i });
            let hashes = tree.read(&nodes.collect::<Vec<_>>()).unwrap();
            let bytes: Vec<u8> = hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
            put(dir, &TilePath::Hashes { tile, width }.to_string(), &bytes);
        }
    }
}

pub fn put(dir: &Path, path: &str, bytes: &[u8]) {
    let path = dir.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}
