//! Payloads: committed in the record, kept outside the log, erasable (SPEC §5).
//!
//! A payload *object* is 16 random bytes followed by the content, and is named by the SHA-256 of the whole.
//! The random bytes keep an erased content unguessable from its commitment.

use serde::{Deserialize, Serialize};

use crate::hash::object_digest;
use crate::types::{Hash, Text};

/// Length of the random prefix of an object in bytes.
pub const SALT_BYTES: usize = 16;

/// Largest content of an object in bytes: 16 MiB.
pub const CONTENT_BYTES_MAX: usize = 16 << 20;

/// What a record holds of a payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commitment {
    /// SHA-256 of the object.
    pub digest: Hash,
    /// Media type of the content.
    pub media: Text<64>,
    /// What the content is, such as `request`, `arguments`, `result`, `policy-input`.
    pub name: Text<64>,
    /// Length of the content in bytes, without the random prefix.
    pub size: u64,
}

/// A payload object: salt and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object(Vec<u8>);

/// Why bytes are not the object that a commitment names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Shorter than its random prefix, or longer than allowed.
    #[error("an object is 16 random bytes and at most 16 MiB of content")]
    Length,
    /// The SHA-256 differs.
    #[error("the object's SHA-256 is not the committed digest")]
    Digest,
    /// The length of the content differs from the commitment's `size`.
    #[error("the content's length is not the committed size")]
    Size,
}

impl Object {
    /// Makes an object from content and 16 random bytes that the caller supplies.
    ///
    /// # Errors
    /// When the content is longer than [`CONTENT_BYTES_MAX`].
    pub fn new(salt: [u8; SALT_BYTES], content: &[u8]) -> Result<Self, PayloadError> {
        Self::from_bytes([&salt, content].concat())
    }

    /// Takes the bytes of an object as stored or sent.
    ///
    /// # Errors
    /// When there are fewer than 16, or more than 16 + 16 MiB.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, PayloadError> {
        if (SALT_BYTES..=SALT_BYTES + CONTENT_BYTES_MAX).contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(PayloadError::Length)
        }
    }

    /// Salt and content, as stored.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The content alone.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.0[SALT_BYTES..]
    }

    /// The object's name.
    #[must_use]
    pub fn digest(&self) -> Hash {
        object_digest(&self.0)
    }

    /// The commitment that a record makes to this object.
    #[must_use]
    pub fn commit(&self, name: Text<64>, media: Text<64>) -> Commitment {
        Commitment { digest: self.digest(), media, name, size: self.content().len() as u64 }
    }

    /// Checks that this is the object `commitment` names.
    ///
    /// # Errors
    /// When digest or size differ.
    pub fn check(&self, commitment: &Commitment) -> Result<(), PayloadError> {
        if self.digest() != commitment.digest {
            return Err(PayloadError::Digest);
        }
        if self.content().len() as u64 != commitment.size {
            return Err(PayloadError::Size);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commitment_binds_every_byte() {
        let object = Object::new([9; 16], b"{}").unwrap();
        let commitment = object.commit("arguments".parse().unwrap(), "application/json".parse().unwrap());
        assert_eq!(commitment.size, 2);
        assert_eq!(object.check(&commitment), Ok(()));
        for position in 0..object.as_bytes().len() {
            let mut bytes = object.as_bytes().to_vec();
            bytes[position] ^= 1;
            assert_eq!(Object::from_bytes(bytes).unwrap().check(&commitment), Err(PayloadError::Digest));
        }
        assert_eq!(Object::from_bytes(vec![0; 15]), Err(PayloadError::Length));
        let lying = Commitment { size: 3, ..commitment };
        assert_eq!(object.check(&lying), Err(PayloadError::Size));
    }
}
