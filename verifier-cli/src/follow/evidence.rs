//! Evidence: directories that `sift-verify consistency` shows to anybody, with no word of ours to be believed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::book::{Split, parse};
use crate::error::CannotCheck;
use crate::files::{make_dir, sync_dir, write_durably};
use crate::source::Source;

/// Most directories of each kind: whoever has a log's key can sign as many heads as they like.
const KEPT_MAX: usize = 256;

/// Files of a log by their paths below its prefix.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// A source that remembers what was read from it.
pub(super) struct Recording<'a> {
    source: &'a dyn Source,
    read: Mutex<Files>,
}

impl<'a> Recording<'a> {
    pub(super) fn new(source: &'a dyn Source) -> Self {
        Self { source, read: Mutex::default() }
    }

    pub(super) fn into_files(self) -> Files {
        self.read.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Recording<'_> {
    fn name(&self) -> String {
        self.source.name()
    }

    fn fetch(&self, path: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, CannotCheck> {
        let bytes = self.source.fetch(path, bytes_max)?;
        if let Some(bytes) = &bytes {
            let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            read.insert(path.to_owned(), bytes.clone());
        }
        Ok(bytes)
    }
}

/// Keeps two heads of which neither extends the other. Gives the directory, and whether it is new; `None` where there
/// are enough of them.
pub(super) fn keep_split(dir: &Path, split: &Split<'_>) -> Result<Option<(PathBuf, bool)>, CannotCheck> {
    let log = if split.tiles.is_empty() { "" } else { " --log ." };
    let text = format!(
        "The log signed both of these checkpoints, and neither extends the other: it showed two histories.\n\
         Anybody can check this who has the log's key in a trust file:\n\n\
         sift-verify consistency --trust TRUST ours.checkpoint theirs.checkpoint{log}\n\n\
         says heads-inconsistent. Where checkpoints lack the cosignatures that your trust file asks for, check with\n\
         one that says \"quorum none\": the log's own signature is what counts against it.\n"
    );
    keep(dir, "split", split.ours, split.theirs, split.tiles, &text)
}

/// Keeps a head that is smaller than one that was served before. `None` where there are enough of them.
pub(super) fn keep_older(dir: &Path, ours: &str, theirs: &str) -> Result<Option<PathBuf>, CannotCheck> {
    let text = "The log was served with theirs.checkpoint after ours.checkpoint, which is larger. Both may be of one\n\
                history; then this is a cache, or a log that was set back. With a copy of the log:\n\n\
                sift-verify consistency --trust TRUST ours.checkpoint theirs.checkpoint --log DIR\n";
    Ok(keep(dir, "older", ours, theirs, &Files::new(), text)?.map(|(path, _)| path))
}

fn keep(
    dir: &Path,
    kind: &str,
    ours: &str,
    theirs: &str,
    tiles: &Files,
    text: &str,
) -> Result<Option<(PathBuf, bool)>, CannotCheck> {
    let (Some(one), Some(other)) = (parse(ours), parse(theirs)) else {
        return Err(CannotCheck::Setup("evidence is made of checkpoints".to_owned()));
    };
    let root: String = other.head.root.hex().chars().take(16).collect();
    let name = format!("{kind}-{}-{}-{root}", one.head.size, other.head.size);
    let path = dir.join(&name);
    let fail = |source| CannotCheck::Write { path: path.clone(), source };
    if path.is_dir() {
        return Ok(Some((path, false)));
    }
    make_dir(dir).map_err(fail)?;
    let of_kind = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(kind);
    if fs::read_dir(dir).map_err(fail)?.flatten().filter(of_kind).count() >= KEPT_MAX {
        return Ok(None);
    }
    // Whoever finds the directory finds all of it.
    let unfinished = dir.join(format!(".{name}.unfinished"));
    let _ = fs::remove_dir_all(&unfinished);
    let fixed = [
        ("ours.checkpoint", ours.as_bytes()),
        ("theirs.checkpoint", theirs.as_bytes()),
        ("README", text.as_bytes()),
    ];
    let tiles = tiles.iter().filter(|(path, _)| path.starts_with("tile/"));
    let files = fixed.into_iter().chain(tiles.map(|(path, bytes)| (path.as_str(), bytes.as_slice())));
    for (name, bytes) in files {
        write_durably(&unfinished.join(name), bytes).map_err(fail)?;
    }
    fs::rename(&unfinished, &path).and_then(|()| sync_dir(dir)).map_err(fail)?;
    Ok(Some((path, true)))
}
