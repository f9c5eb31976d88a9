//! Evidence packs: one run and everything it rests on, in one file that verifies offline (SPEC §9).
//!
//! A pack has one encoding: [`Pack::read`] writes again what it read and compares, so a change of any byte
//! is either refused here or changes something that is hashed or signed.

use std::collections::BTreeMap;

use crate::proof::Proof;
use crate::record::ENTRY_BYTES_MAX;
use crate::types::{Hash, LeafIndex, RunId};
use crate::zip;

/// First line of a pack's manifest.
pub const PACK_HEADER: &str = "sift/evidence@v1";

/// Ending of a pack's file name.
pub const PACK_SUFFIX: &str = ".sift";

/// Largest pack in bytes: 1 GiB.
pub const PACK_BYTES_MAX: usize = 1 << 30;

/// Why bytes are not a pack, or a pack has no bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// More than [`PACK_BYTES_MAX`].
    #[error("a pack has at most 1 GiB")]
    TooLarge,
    /// Not an archive as SPEC §9 describes it.
    #[error("not a pack: no stored ZIP member at byte {0}")]
    Archive(usize),
    /// A member that a pack does not have, or has once.
    #[error("not a pack: the member {0:?} has no place here")]
    Member(String),
    /// A member is missing.
    #[error("not a pack: the member {0:?} is missing")]
    Missing(&'static str),
    /// The manifest is not understood.
    #[error("not a pack: the manifest is not \"{PACK_HEADER}\", a run and the hashes of a proof")]
    Manifest,
    /// The bytes are not the one encoding of what they hold.
    #[error("not the one encoding of a pack: byte {0} differs")]
    NotCanonical(usize),
}

/// What a pack holds. Nothing of it is believed before it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    /// The run.
    pub run: RunId,
    /// The checkpoint's note with all its signatures.
    pub checkpoint: String,
    /// Entries by index: those of the run, and those of the operator that it rests on.
    pub entries: BTreeMap<LeafIndex, Vec<u8>>,
    /// One proof for all entries (SPEC §7.3).
    pub proof: Proof,
    /// Encodings of policy bundles by digest.
    pub bundles: BTreeMap<Hash, Vec<u8>>,
    /// Payload objects that may be disclosed, by digest.
    pub objects: BTreeMap<Hash, Vec<u8>>,
}

impl Pack {
    /// The file that a pack of this run is kept in.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{}{PACK_SUFFIX}", self.run)
    }

    /// The one encoding.
    ///
    /// # Errors
    /// When it would be larger than [`PACK_BYTES_MAX`].
    pub fn write(&self) -> Result<Vec<u8>, PackError> {
        let mut bytes = Vec::new();
        self.write_to(&mut bytes)?;
        if bytes.len() > PACK_BYTES_MAX { Err(PackError::TooLarge) } else { Ok(bytes) }
    }

    fn write_to(&self, out: &mut impl zip::Sink) -> Result<(), PackError> {
        let (readme, manifest) = (self.readme(), self.manifest());
        let fixed = [
            ("README.txt".to_owned(), readme.as_bytes()),
            ("manifest".to_owned(), manifest.as_bytes()),
            ("checkpoint".to_owned(), self.checkpoint.as_bytes()),
        ];
        let entries = self.entries.iter().map(|(index, entry)| (entry_name(*index), entry.as_slice()));
        let objects = [("bundles", &self.bundles), ("objects", &self.objects)].into_iter();
        let objects = objects.flat_map(|(folder, objects)| {
            objects.iter().map(move |(digest, object)| (object_name(folder, digest), object.as_slice()))
        });
        zip::write(fixed.into_iter().chain(entries).chain(objects), out).ok_or(PackError::TooLarge)
    }

    /// Reads what [`Pack::write`] prints, and nothing else.
    ///
    /// # Errors
    /// When the bytes are not the one encoding of a pack.
    pub fn read(bytes: &[u8]) -> Result<Self, PackError> {
        if bytes.len() > PACK_BYTES_MAX {
            return Err(PackError::TooLarge);
        }
        zip::check_directory(bytes).map_err(PackError::Archive)?;
        let (mut manifest, mut checkpoint) = (None, None);
        let (mut entries, mut bundles, mut objects) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for member in zip::read(bytes) {
            let (name, content) = member.map_err(PackError::Archive)?;
            let stray = || PackError::Member(name.chars().take(200).collect());
            let text = || std::str::from_utf8(content).map_err(|_| stray());
            match name.split_once('/') {
                None if name == "README.txt" => {}
                None if name == "manifest" => manifest = Some(text()?),
                None if name == "checkpoint" => checkpoint = Some(text()?.to_owned()),
                Some(("entries", file)) if content.len() <= ENTRY_BYTES_MAX => {
                    let index = file.strip_suffix(".note").and_then(|index| index.parse().ok());
                    let index = index.and_then(|index| LeafIndex::new(index).ok()).ok_or_else(stray)?;
                    entries.insert(index, content.to_vec());
                }
                Some((folder @ ("bundles" | "objects"), digest)) => {
                    let digest = Hash::from_hex(digest).map_err(|_| stray())?;
                    let map = if folder == "bundles" { &mut bundles } else { &mut objects };
                    map.insert(digest, content.to_vec());
                }
                _ => return Err(stray()),
            }
        }
        let manifest = manifest.ok_or(PackError::Missing("manifest"))?;
        let (run, proof) = parse_manifest(manifest).ok_or(PackError::Manifest)?;
        let checkpoint = checkpoint.ok_or(PackError::Missing("checkpoint"))?;
        let pack = Self { run, checkpoint, entries, proof, bundles, objects };
        // What is written again is compared on the way: a large pack is not in memory a third time.
        let mut comparison = zip::Comparison::with(bytes);
        pack.write_to(&mut comparison)?;
        comparison.differs().map_or(Ok(pack), |at| Err(PackError::NotCanonical(at)))
    }

    fn manifest(&self) -> String {
        let hashes: String = self.proof.0.iter().map(|hash| format!("{hash}\n")).collect();
        format!("{PACK_HEADER}\n{}\n{hashes}", self.run)
    }

    fn readme(&self) -> String {
        format!(
            "This is a Sift evidence pack: what one run of an AI agent did, and the proof that a\n\
             transparency log holds it.\n\n\
             run      {run}\n\
             entries  {entries}\n\n\
             checkpoint  what the log signed: its origin, its size, its root hash\n\
             manifest    the run, and one proof that all entries are in that tree\n\
             entries/    the log's entries by index: signed notes of two lines, readable as text\n\
             bundles/    the policy that decided, by digest\n\
             objects/    prompts, arguments and results that are disclosed: 16 random bytes, then content\n\n\
             To check all of it without a network, with a trust file that you did not get from whoever\n\
             gave you this pack:\n\n    \
             sift-verify run --trust TRUST {run}{PACK_SUFFIX}\n",
            run = self.run,
            entries = self.entries.len(),
        )
    }
}

fn entry_name(index: LeafIndex) -> String {
    format!("entries/{index:016}.note")
}

fn object_name(folder: &str, digest: &Hash) -> String {
    format!("{folder}/{}", digest.hex())
}

fn parse_manifest(text: &str) -> Option<(RunId, Proof)> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    if lines.next()? != PACK_HEADER {
        return None;
    }
    let run = lines.next()?.parse().ok()?;
    let hashes = lines.map(str::parse).collect::<Result<Vec<Hash>, _>>().ok()?;
    Some((run, Proof(hashes)))
}
