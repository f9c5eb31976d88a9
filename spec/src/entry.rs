//! Entries: the leaves of the log (SPEC §2.4).
//!
//! An entry is exactly one signed note with exactly one signature line, and its bytes are the leaf. Because
//! nothing may be added to it, nobody but the signer can make a second entry that says the same.

use crate::hash::leaf_hash;
use crate::note::{BatchItem, KeyId, KeyType, Note, NoteError, SignerKey, VerifierKey};
use crate::record::{ENTRY_BYTES_MAX, OPERATOR_HEADER, OperatorRecord, RECORD_HEADER, Record, RecordError};
use crate::types::{Hash, KeyName};

/// Why bytes are not an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Not a well-formed note.
    #[error("not a signed note: {0}")]
    Note(#[from] NoteError),
    /// The first line names no kind of entry.
    #[error("the first line is neither \"{RECORD_HEADER}\" nor \"{OPERATOR_HEADER}\"")]
    Header,
    /// Not a record.
    #[error("not a record: {0}")]
    Record(#[from] RecordError),
    /// An entry has one signature, of 64 bytes.
    #[error("an entry has exactly one signature line, of an Ed25519 key")]
    Signatures,
    /// The signature does not verify.
    #[error("the signature of {0} does not verify")]
    SignatureInvalid(KeyName),
}

impl EntryError {
    /// Offset of the first byte that is wrong, where that is known.
    #[must_use]
    pub const fn offset(&self) -> Option<usize> {
        match self {
            Self::Header => Some(0),
            Self::Record(error) => error.offset(),
            Self::Note(_) | Self::Signatures | Self::SignatureInvalid(_) => None,
        }
    }
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A record of a run.
    Run(Record),
    /// A record of the operator.
    Operator(OperatorRecord),
}

/// An entry, read but not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    bytes: Vec<u8>,
    text_len: usize,
    content: Content,
    signer: KeyName,
    key_id: KeyId,
    signature: [u8; 64],
    /// INVARIANT: the leaf hash of `bytes`. [`Entry::of`] alone makes an entry, and nothing changes one.
    leaf: Hash,
}

/// A record of a run and its encoding, not signed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    record: Record,
    /// INVARIANT: the encoding of `record`. [`Draft::new`] alone makes a draft, and nothing changes one.
    text: String,
}

impl Draft {
    /// Encodes a record.
    ///
    /// # Errors
    /// When it has no encoding.
    pub fn new(record: Record) -> Result<Self, RecordError> {
        let text = record.text()?;
        Ok(Self { record, text })
    }

    /// What would be signed.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The record.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// The same after another record, whose leaf hash may be known only after this one was encoded.
    ///
    /// # Errors
    /// When it is the first of its run.
    pub fn chained(mut self, prev: Hash) -> Result<Self, RecordError> {
        const NAME: &str = "\"prev\":\"";
        if self.record.prev == Some(prev) {
            return Ok(self);
        }
        // In a string its quotes would be escaped, and after the record's own there are members of three numbers alone.
        let at = self.text.rfind(NAME).filter(|_| self.record.prev.is_some()).ok_or(RecordError::Prev)?;
        let (start, printed) = (at + NAME.len(), prev.to_string());
        self.text.replace_range(start..start + printed.len(), &printed);
        self.record.prev = Some(prev);
        Ok(self)
    }

    /// Signs it with a key that may live elsewhere, such as in a hardware module: `sign` gives the Ed25519 signature
    /// (RFC 8032) of its argument under `key`.
    ///
    /// # Errors
    /// When the entry would be too long, or `sign` fails.
    pub fn sign_with<E: From<EntryError>>(
        self,
        key: &VerifierKey,
        sign: impl FnOnce(&[u8]) -> Result<[u8; 64], E>,
    ) -> Result<Entry, E> {
        let signature = sign(self.text.as_bytes())?;
        Ok(Entry::assemble(self.text, Content::Run(self.record), key, signature)?)
    }
}

impl Entry {
    /// Reads an entry.
    ///
    /// # Errors
    /// When the bytes are not the one encoding of a record with one signature.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, EntryError> {
        let note = Note::parse(&bytes, ENTRY_BYTES_MAX)?;
        let content = match note.text.split_once('\n') {
            Some((RECORD_HEADER, _)) => Content::Run(Record::parse(note.text)?),
            Some((OPERATOR_HEADER, _)) => Content::Operator(OperatorRecord::parse(note.text)?),
            _ => return Err(EntryError::Header),
        };
        let [line] = note.signatures.as_slice() else { return Err(EntryError::Signatures) };
        let signature = line.signature.as_slice().try_into().map_err(|_| EntryError::Signatures)?;
        let signer = line.name.parse().map_err(|_| EntryError::Signatures)?;
        let (text_len, key_id) = (note.text.len(), line.id);
        Ok(Self::of(bytes, text_len, content, (signer, key_id), signature))
    }

    /// Signs a record of a run into an entry.
    ///
    /// # Errors
    /// When the record has no encoding, or the entry would be too long.
    pub fn sign(record: &Record, key: &SignerKey) -> Result<Self, EntryError> {
        Self::seal(record.text()?, Content::Run(record.clone()), key)
    }

    /// Signs an operator's record into an entry.
    ///
    /// # Errors
    /// When the record has no encoding, or the entry would be too long.
    pub fn sign_operator(record: &OperatorRecord, key: &SignerKey) -> Result<Self, EntryError> {
        Self::seal(record.text()?, Content::Operator(record.clone()), key)
    }

    fn seal(text: String, content: Content, key: &SignerKey) -> Result<Self, EntryError> {
        let signature = key.sign_bytes(text.as_bytes());
        Self::assemble(text, content, key.verifier(), signature)
    }

    fn assemble(
        text: String,
        content: Content,
        key: &VerifierKey,
        signature: [u8; 64],
    ) -> Result<Self, EntryError> {
        let line = crate::note::signature_line(key, &signature);
        let text_len = text.len();
        let bytes = [text.as_bytes(), b"\n", line.as_bytes()].concat();
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(RecordError::TooLong(bytes.len()).into());
        }
        Ok(Self::of(bytes, text_len, content, (key.name().clone(), key.id()), signature))
    }

    /// Hashes the leaf where the entry is made, on whichever thread that is: the log's one writer only reads it.
    fn of(
        bytes: Vec<u8>,
        text_len: usize,
        content: Content,
        (signer, key_id): (KeyName, KeyId),
        signature: [u8; 64],
    ) -> Self {
        let leaf = leaf_hash(&bytes);
        Self { bytes, text_len, content, signer, key_id, signature, leaf }
    }

    /// The exact bytes: what is hashed, stored and proven.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The exact bytes, given away.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The leaf hash of the entry.
    #[must_use]
    pub const fn leaf(&self) -> Hash {
        self.leaf
    }

    /// What the entry says.
    #[must_use]
    pub const fn content(&self) -> &Content {
        &self.content
    }

    /// The record, where the entry is one of a run.
    #[must_use]
    pub const fn record(&self) -> Option<&Record> {
        match &self.content {
            Content::Run(record) => Some(record),
            Content::Operator(_) => None,
        }
    }

    /// Name of the key that claims to have signed.
    #[must_use]
    pub const fn signer(&self) -> &KeyName {
        &self.signer
    }

    /// Id of the key that claims to have signed.
    #[must_use]
    pub const fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// This entry's signature under `key`, to be checked in a batch.
    #[must_use]
    pub fn batch_item<'a>(&'a self, key: &'a VerifierKey) -> BatchItem<'a> {
        BatchItem::of_entry(key, &self.bytes[..self.text_len], &self.signature, self.leaf)
    }

    /// Checks the signature alone; name and id must be the key's, and its type 0x01.
    ///
    /// # Errors
    /// When `key` did not sign this entry.
    pub fn verify(&self, key: &VerifierKey) -> Result<(), EntryError> {
        let named = *key.name() == self.signer && key.id() == self.key_id;
        let named = named && key.key_type() == KeyType::Ed25519;
        if named && key.verify(&self.bytes[..self.text_len], &self.signature) {
            Ok(())
        } else {
            Err(EntryError::SignatureInvalid(self.signer.clone()))
        }
    }
}
