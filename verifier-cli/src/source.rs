//! Where a log's resources come from: a directory laid out as C2SP tlog-tiles paths, or a URL.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sift_connect::Connect;
use sift_spec::record::ENTRY_BYTES_MAX;
use sift_spec::tile::{TILE_WIDTH, TileId, TilePath, Tiles, parse_hashes};
use sift_spec::types::Hash;

use crate::error::CannotCheck;
use crate::files::read_file;
use crate::http::HttpSource;

/// Largest hash tile in bytes.
pub(crate) const TILE_BYTES_MAX: usize = TILE_WIDTH as usize * 32;

/// Largest entry bundle in bytes: 256 entries of 65,535 bytes with their lengths, 16 MiB.
pub(crate) const BUNDLE_BYTES_MAX: usize = TILE_WIDTH as usize * (ENTRY_BYTES_MAX + 2);

/// Where a log's resources come from. Nothing that a source gives is believed before it is verified.
pub trait Source: Sync {
    /// Directory or URL, for messages.
    fn name(&self) -> String;

    /// Reads the resource at a path below the log's prefix; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be fetched or is longer than `bytes_max`.
    fn fetch(&self, path: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, CannotCheck>;
}

/// Opens a directory, or a URL when the text starts as one, reached as `connect` says.
///
/// # Errors
/// When the network client cannot be set up. Whether a log is there shows when something of it is read.
pub fn open(place: &str, connect: &Connect) -> Result<Box<dyn Source>, CannotCheck> {
    if is_url(place) {
        Ok(Box::new(HttpSource::new(place, connect)?))
    } else {
        Ok(Box::new(Directory::new(place)))
    }
}

/// Whether a place is a URL and no path.
#[must_use]
pub fn is_url(place: &str) -> bool {
    place.starts_with("http://") || place.starts_with("https://")
}

/// A directory of tiles.
#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// The log in this directory: it holds `checkpoint` and `tile`.
    #[must_use]
    pub fn new(root: impl AsRef<Path>) -> Self {
        Self { root: root.as_ref().to_owned() }
    }
}

impl Source for Directory {
    fn name(&self) -> String {
        self.root.display().to_string()
    }

    fn fetch(&self, path: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, CannotCheck> {
        let full = self.root.join(path);
        let fail = |source| CannotCheck::File { path: full.clone(), source };
        let file = match File::open(&full) {
            Ok(file) => file,
            // `NotADirectory` is a full tile in place of the folder of its partial ones.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(fail(error)),
        };
        let bytes = read_file(file, bytes_max as u64).map_err(fail)?;
        if bytes.len() > bytes_max {
            let (what, bytes_max) = ("this resource of a log", bytes_max as u64);
            return Err(CannotCheck::TooLarge { path: full, what, bytes_max });
        }
        Ok(Some(bytes))
    }
}

/// Reads the log's latest checkpoint, of at most so many bytes.
///
/// # Errors
/// When there is none or it cannot be fetched.
pub fn checkpoint(source: &dyn Source, bytes_max: usize) -> Result<Vec<u8>, CannotCheck> {
    source.fetch("checkpoint", bytes_max)?.ok_or_else(|| CannotCheck::NoCheckpoint(source.name()))
}

/// Reads a tile or entry bundle. A partial one may have been replaced by the full one, of which it is the start.
///
/// # Errors
/// When neither is there, or they cannot be fetched.
pub fn tile_bytes(source: &dyn Source, path: TilePath) -> Result<Vec<u8>, CannotCheck> {
    let full_width = TILE_WIDTH as u16;
    let (full, bytes_max) = match path {
        TilePath::Hashes { tile, .. } => (TilePath::Hashes { tile, width: full_width }, TILE_BYTES_MAX),
        TilePath::Entries { index, .. } => (TilePath::Entries { index, width: full_width }, BUNDLE_BYTES_MAX),
    };
    if let Some(bytes) = source.fetch(&path.to_string(), bytes_max)? {
        return Ok(bytes);
    }
    if path != full
        && let Some(bytes) = source.fetch(&full.to_string(), bytes_max)?
    {
        return Ok(bytes);
    }
    Err(CannotCheck::Missing { log: source.name(), path: path.to_string() })
}

/// The hash tiles of a source, for proofs.
pub(crate) struct SourceTiles<'a>(pub(crate) &'a dyn Source);

impl Tiles for SourceTiles<'_> {
    type Error = CannotCheck;

    fn tile(&self, tile: TileId, width: u16) -> Result<Vec<Hash>, CannotCheck> {
        let path = TilePath::Hashes { tile, width };
        let bytes = tile_bytes(self.0, path)?;
        let hashes = parse_hashes(&bytes).filter(|hashes| hashes.len() >= usize::from(width));
        hashes.ok_or_else(|| CannotCheck::Fetch {
            log: self.0.name(),
            path: path.to_string(),
            why: format!("{} bytes are not the {width} hashes of this tile", bytes.len()),
        })
    }
}
