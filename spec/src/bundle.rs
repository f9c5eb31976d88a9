//! Policy bundles: a folder of files with one encoding and so one digest (SPEC §6).
//!
//! The encoding is a line `sift/bundle@v1`, then for each file, in byte order of the paths, a line
//! `path length`, the file's bytes and a line feed. What the files mean is no concern of this crate.

use std::collections::BTreeMap;

use crate::hash::bundle_digest;
use crate::types::Hash;

/// First line of a bundle's encoding.
pub const BUNDLE_HEADER: &str = "sift/bundle@v1";

/// Largest encoding in bytes: 8 MiB.
pub const BUNDLE_BYTES_MAX: usize = 8 << 20;

/// Most files in a bundle.
pub const BUNDLE_FILES_MAX: usize = 1024;

/// Longest path in bytes.
pub const PATH_BYTES_MAX: usize = 200;

/// The files of a policy bundle.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bundle {
    files: BTreeMap<String, Vec<u8>>,
}

/// Why files are not a bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// A path is not relative, or not of the allowed characters.
    #[error(
        "{0:?}: a path is segments of A-Z a-z 0-9 . _ - joined by '/', none starting with '.', up to 200 bytes"
    )]
    Path(String),
    /// Two files under one path, or files out of order.
    #[error("{0:?}: files must be sorted by path, each once")]
    Order(String),
    /// More than [`BUNDLE_FILES_MAX`] files or [`BUNDLE_BYTES_MAX`] bytes.
    #[error("a bundle holds at most 1024 files and 8 MiB")]
    TooLarge,
    /// The bytes end early or do not follow the grammar.
    #[error("not the encoding of a bundle at byte {0}")]
    Encoding(usize),
}

impl Bundle {
    /// Makes a bundle of files.
    ///
    /// # Errors
    /// When a path is not allowed, a path occurs twice, or there is too much.
    pub fn new(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<Self, BundleError> {
        let mut bundle = Self::default();
        for (path, content) in files {
            check_path(&path)?;
            if bundle.files.insert(path.clone(), content).is_some() {
                return Err(BundleError::Order(path));
            }
        }
        if bundle.files.len() > BUNDLE_FILES_MAX || bundle.encoded_len() > BUNDLE_BYTES_MAX {
            return Err(BundleError::TooLarge);
        }
        Ok(bundle)
    }

    /// The files by path.
    #[must_use]
    pub fn files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.files
    }

    /// The one encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_len());
        bytes.extend_from_slice(BUNDLE_HEADER.as_bytes());
        bytes.push(b'\n');
        for (path, content) in &self.files {
            bytes.extend_from_slice(format!("{path} {}\n", content.len()).as_bytes());
            bytes.extend_from_slice(content);
            bytes.push(b'\n');
        }
        bytes
    }

    /// Reads what [`Bundle::encode`] prints, and nothing else.
    ///
    /// # Errors
    /// When the bytes are not the one encoding of a bundle.
    pub fn decode(bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.len() > BUNDLE_BYTES_MAX {
            return Err(BundleError::TooLarge);
        }
        let header = format!("{BUNDLE_HEADER}\n");
        let mut rest = bytes.strip_prefix(header.as_bytes()).ok_or(BundleError::Encoding(0))?;
        let mut bundle = Self::default();
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            let broken = || BundleError::Encoding(at);
            let end =
                rest.iter().take(PATH_BYTES_MAX + 32).position(|byte| *byte == b'\n').ok_or_else(broken)?;
            let line = std::str::from_utf8(&rest[..end]).map_err(|_| broken())?;
            let (path, length) = line.split_once(' ').ok_or_else(broken)?;
            check_path(path)?;
            let length = parse_decimal(length).ok_or_else(broken)?;
            let content = rest.get(end + 1..).and_then(|rest| rest.get(..length)).ok_or_else(broken)?;
            rest = rest[end + 1 + length..].strip_prefix(b"\n").ok_or_else(broken)?;
            if bundle.files.last_key_value().is_some_and(|(last, _)| last.as_str() >= path) {
                return Err(BundleError::Order(path.to_owned()));
            }
            bundle.files.insert(path.to_owned(), content.to_vec());
            if bundle.files.len() > BUNDLE_FILES_MAX {
                return Err(BundleError::TooLarge);
            }
        }
        Ok(bundle)
    }

    /// The bundle's name: SHA-256 of its encoding.
    #[must_use]
    pub fn digest(&self) -> Hash {
        bundle_digest(&self.encode())
    }

    fn encoded_len(&self) -> usize {
        // Exactly what `encode` prints: what `new` accepts and what `decode` accepts are the same bundles.
        let file = |(path, content): (&String, &Vec<u8>)| {
            let digits = content.len().checked_ilog10().unwrap_or(0) as usize + 1;
            path.len() + 1 + digits + 1 + content.len() + 1
        };
        BUNDLE_HEADER.len() + 1 + self.files.iter().map(file).sum::<usize>()
    }
}

/// A decimal number without sign or leading zeros.
fn parse_decimal(text: &str) -> Option<usize> {
    let canonical = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|_| canonical)
}

fn check_path(path: &str) -> Result<(), BundleError> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let segment =
        |segment: &str| !segment.is_empty() && !segment.starts_with('.') && segment.bytes().all(fine);
    if path.len() <= PATH_BYTES_MAX && path.split('/').all(segment) {
        Ok(())
    } else {
        Err(BundleError::Path(path.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle() -> Bundle {
        Bundle::new([
            ("policy.rego".to_owned(), b"package sift\n".to_vec()),
            ("data.json".to_owned(), b"{}".to_vec()),
            ("empty/file".to_owned(), Vec::new()),
        ])
        .unwrap()
    }

    #[test]
    fn one_encoding() {
        let bytes = bundle().encode();
        assert_eq!(
            bytes,
            b"sift/bundle@v1\ndata.json 2\n{}\nempty/file 0\n\npolicy.rego 13\npackage sift\n\n"
        );
        assert_eq!(Bundle::decode(&bytes).unwrap(), bundle());
        assert_eq!(bundle().encoded_len(), bytes.len());
        for position in 0..bytes.len() {
            assert!(
                Bundle::decode(&bytes[..position]).is_err()
                    || Bundle::decode(&bytes[..position]).unwrap() != bundle()
            );
            let mut flipped = bytes.clone();
            flipped[position] ^= 1;
            assert!(Bundle::decode(&flipped).map_or(true, |other| other.digest() != bundle().digest()));
        }
    }

    #[test]
    fn new_and_decode_have_one_bound() {
        let room = BUNDLE_BYTES_MAX - "sift/bundle@v1\na 8388586\n\n".len();
        let of = |length: usize| Bundle::new([("a".to_owned(), vec![b'x'; length])]);
        let largest = of(room).unwrap().encode();
        assert_eq!(largest.len(), BUNDLE_BYTES_MAX);
        assert!(Bundle::decode(&largest).is_ok());
        assert_eq!(of(room + 1), Err(BundleError::TooLarge));
        let mut too_large = largest;
        too_large.push(b'x');
        assert_eq!(Bundle::decode(&too_large), Err(BundleError::TooLarge));
        let many = |count: usize| Bundle::new((0..count).map(|n| (format!("{n:04}"), Vec::new())));
        assert!(Bundle::decode(&many(BUNDLE_FILES_MAX).unwrap().encode()).is_ok());
        assert_eq!(many(BUNDLE_FILES_MAX + 1), Err(BundleError::TooLarge));
    }

    #[test]
    fn refusals() {
        for bad in ["/abs", "../up", "a//b", ".hidden", "a b", ""] {
            assert!(Bundle::new([(bad.to_owned(), Vec::new())]).is_err(), "{bad:?}");
        }
        for bad in [
            &b"sift/bundle@v1\nb 0\n\na 0\n\n"[..],
            b"sift/bundle@v1\na 0\n\na 0\n\n",
            b"sift/bundle@v1\na 00\n\n",
            b"sift/bundle@v1\na +0\n\n",
            b"sift/bundle@v1\na 1\n\n",
            b"sift/bundle@v1\na 18446744073709551615\n\n",
            b"sift/bundle@v2\n",
            b"",
        ] {
            assert!(Bundle::decode(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
