//! Checkpoints (C2SP tlog-checkpoint) and cosignatures of them (C2SP tlog-cosignature).

use std::fmt::Write as _;

use crate::hash::EMPTY_ROOT;
use crate::note::{KeyType, SignatureLine, SignerKey, VerifierKey, signature_line};
use crate::proof::TreeHead;
use crate::types::{Hash, KeyName, TreeSize};

/// Longest text of a checkpoint in bytes.
pub const CHECKPOINT_TEXT_BYTES_MAX: usize = 8192;

/// Why a text is not a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Fewer than three lines, or an empty one.
    #[error("a checkpoint is origin, size and root, each on a line, and no line is empty")]
    Lines,
    /// The first line is not an origin, or one that Sift's own notes start with.
    #[error("the origin is not a key name, or starts with \"sift/\"")]
    Origin,
    /// The second line is not a decimal number without leading zeros.
    #[error("the size is not a decimal number without leading zeros, up to 2^53 - 1")]
    Size,
    /// The third line is not 32 bytes in canonical base64.
    #[error("the root is not 32 bytes in canonical base64")]
    Root,
    /// Size 0 with another root than the empty one.
    #[error("a tree of size 0 has the empty root")]
    EmptyRoot,
    /// Too long.
    #[error("a checkpoint has at most {CHECKPOINT_TEXT_BYTES_MAX} bytes of text")]
    TooLong,
}

/// What a log says about itself: this many entries, under this root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log.
    pub origin: KeyName,
    /// Size and root.
    pub head: TreeHead,
    /// Further lines, opaque; Sift writes none.
    pub extensions: Vec<String>,
}

impl Checkpoint {
    /// A checkpoint without extension lines.
    ///
    /// # Errors
    /// When the origin could be taken for one of Sift's own notes.
    pub fn new(origin: KeyName, head: TreeHead) -> Result<Self, CheckpointError> {
        check_origin(&origin)?;
        Ok(Self { origin, head, extensions: Vec::new() })
    }

    /// Reads the text of a checkpoint's note.
    ///
    /// # Errors
    /// When the text is not the one encoding of a checkpoint.
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        if text.len() > CHECKPOINT_TEXT_BYTES_MAX {
            return Err(CheckpointError::TooLong);
        }
        let mut lines = text.strip_suffix('\n').ok_or(CheckpointError::Lines)?.split('\n');
        let mut line = || lines.next().filter(|line| !line.is_empty()).ok_or(CheckpointError::Lines);
        let origin: KeyName = line()?.parse().map_err(|_| CheckpointError::Origin)?;
        check_origin(&origin)?;
        let size = parse_size(line()?).ok_or(CheckpointError::Size)?;
        let root: Hash = line()?.parse().map_err(|_| CheckpointError::Root)?;
        if size == TreeSize::ZERO && root != EMPTY_ROOT {
            return Err(CheckpointError::EmptyRoot);
        }
        let extensions: Vec<String> = lines.map(str::to_owned).collect();
        if extensions.iter().any(String::is_empty) {
            return Err(CheckpointError::Lines);
        }
        Ok(Self { origin, head: TreeHead { size, root }, extensions })
    }

    /// The text of the note.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{}\n{}\n{}\n", self.origin, self.head.size, self.head.root);
        for line in &self.extensions {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{line}");
        }
        text
    }

    /// The signed note.
    #[must_use]
    pub fn sign(&self, key: &SignerKey) -> String {
        key.sign_note(&self.text())
    }

    /// The note signed by several keys, which are all the log's own: while it changes its key, the old and the new one.
    #[must_use]
    pub fn sign_all(&self, keys: &[SignerKey]) -> String {
        let text = self.text();
        let lines: String = keys.iter().map(|key| key.sign_text(&text)).collect();
        format!("{text}\n{lines}")
    }
}

/// Reads a tree size: decimal, no sign, no leading zeros.
#[must_use]
pub fn parse_size(text: &str) -> Option<TreeSize> {
    let digits = !text.is_empty() && text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = digits && (text == "0" || !text.starts_with('0'));
    if canonical { TreeSize::new(text.parse().ok()?).ok() } else { None }
}

fn check_origin(origin: &KeyName) -> Result<(), CheckpointError> {
    // No note may be taken for another kind: Sift's own notes start with this.
    if origin.as_str().starts_with("sift/") { Err(CheckpointError::Origin) } else { Ok(()) }
}

/// What a cosigner signs: SPEC of C2SP tlog-cosignature, "cosignature/v1".
fn cosigned_message(text: &str, time_seconds: u64) -> String {
    format!("cosignature/v1\ntime {time_seconds}\n{text}")
}

/// The signature line of a cosigner over the text of a checkpoint, at a time in seconds since 1970.
///
/// Returns `None` when the key is not one for cosignatures (type 0x04).
#[must_use]
pub fn cosign(text: &str, key: &SignerKey, time_seconds: u64) -> Option<String> {
    if key.verifier().key_type() != KeyType::Cosignature {
        return None;
    }
    let signature = key.sign_bytes(cosigned_message(text, time_seconds).as_bytes());
    Some(signature_line(key.verifier(), &[&time_seconds.to_be_bytes(), &signature[..]].concat()))
}

/// Checks a cosignature line and gives its time in seconds since 1970; `None` when it does not verify.
#[must_use]
pub fn verify_cosignature(text: &str, key: &VerifierKey, line: &SignatureLine<'_>) -> Option<u64> {
    if key.key_type() != KeyType::Cosignature || !key.matches(line) {
        return None;
    }
    let (time, signature) = line.signature.split_first_chunk::<8>()?;
    let time_seconds = u64::from_be_bytes(*time);
    let signature = <&[u8; 64]>::try_from(signature).ok()?;
    let in_bounds = i64::try_from(time_seconds).is_ok();
    let message = cosigned_message(text, time_seconds);
    (in_bounds && key.verify(message.as_bytes(), signature)).then_some(time_seconds)
}
