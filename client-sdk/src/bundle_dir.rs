//! Policy bundles on disk: a folder becomes a [`Bundle`].

use std::path::{Path, PathBuf};

use sift_spec::bundle::{BUNDLE_BYTES_MAX, BUNDLE_FILES_MAX, Bundle};

use crate::config::ConfigError;

/// Deepest folder that is read.
const DEPTH_MAX: usize = 8;

/// Reads the files of a folder, and of the folders in it. Names that start with a dot are left out.
///
/// # Errors
/// When a file cannot be read, a path is not allowed in a bundle, or there is too much.
pub fn read(dir: &Path) -> Result<Bundle, ConfigError> {
    let mut files = Vec::new();
    collect(dir, "", DEPTH_MAX, &mut files)?;
    Bundle::new(files).map_err(|error| ConfigError::Content { path: dir.to_owned(), why: error.to_string() })
}

fn collect(
    dir: &Path,
    prefix: &str,
    depth: usize,
    files: &mut Vec<(String, Vec<u8>)>,
) -> Result<(), ConfigError> {
    let io = |path: PathBuf| move |error| ConfigError::Io { path, error };
    let wrong = |why: &str| ConfigError::Content { path: dir.to_owned(), why: why.to_owned() };
    for entry in std::fs::read_dir(dir).map_err(io(dir.to_owned()))? {
        let entry = entry.map_err(io(dir.to_owned()))?;
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| wrong("a file name is not UTF-8"))?;
        if name.starts_with('.') {
            continue;
        }
        let path = entry.path();
        let metadata = std::fs::metadata(&path).map_err(io(path.clone()))?;
        if metadata.is_dir() {
            if depth == 0 {
                return Err(wrong("folders nested too deeply for a bundle"));
            }
            collect(&path, &format!("{prefix}{name}/"), depth - 1, files)?;
            continue;
        }
        if files.len() == BUNDLE_FILES_MAX || metadata.len() > BUNDLE_BYTES_MAX as u64 {
            return Err(wrong("a bundle holds at most 1024 files and 8 MiB"));
        }
        files.push((format!("{prefix}{name}"), std::fs::read(&path).map_err(io(path))?));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_a_bundle() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tests")).unwrap();
        std::fs::write(dir.path().join("policy.rego"), "package sift").unwrap();
        std::fs::write(dir.path().join("tests/one.json"), "{}").unwrap();
        std::fs::write(dir.path().join(".hidden"), "x").unwrap();
        let bundle = read(dir.path()).unwrap();
        let paths: Vec<_> = bundle.files().keys().map(String::as_str).collect();
        assert_eq!(paths, ["policy.rego", "tests/one.json"]);
        std::fs::write(dir.path().join("a b"), "x").unwrap();
        assert!(read(dir.path()).is_err());
        assert!(read(&dir.path().join("nowhere")).is_err());
    }
}
