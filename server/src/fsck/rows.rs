//! Columns in the order of their keys: the operator's chain, and rows that nothing else asks for.

use sift_spec::chain::OperatorHead;
use sift_spec::entry::{Content, Entry};
use sift_spec::tile::{TileId, TiledTree};
use sift_spec::tree::{Nodes as _, RightEdge};
use sift_spec::types::{LeafIndex, Seq, TreeSize};

use super::entries::{by_rocksdb, chain_row, key_of, place_of};
use super::{Bits, Check, Code, FsckError};
use crate::store::ChainId;
use crate::store::raw::{Stored, Walk, parse_chain_row, parse_place, parse_tile_key};

/// Rows of the operator's chain that may be unreadable before the rest of it is given up.
const UNREADABLE_MAX: u64 = 100;

impl Check<'_> {
    /// The right edge of the tree from its tiles, and that no entry is beyond it.
    pub(super) fn edge(&mut self) {
        let size = TreeSize::new(self.size).unwrap_or_default();
        let row = TiledTree::new(size, self.store).read(&RightEdge::nodes(size));
        let edge = match row.map(|row| RightEdge::from_row(size, row)) {
            Ok(Some(edge)) => edge,
            Ok(None) => {
                return self.report.find(Code::TileMissing, "right edge", None, "it has another width");
            }
            Err(error) => return self.report.find(Code::TileMissing, "right edge", None, error.to_string()),
        };
        self.report.root = Some(edge.root());
        for (head, whose) in self.known.iter().filter(|(head, _)| head.size == size) {
            self.report.checkpoints += 1;
            if head.root != edge.root() {
                let detail = format!("it has the root {}, and the tiles make {}", head.root, edge.root());
                self.report.find(Code::RootDiffers, *whose, None, detail);
            }
        }
        let last = self.store.last_index().ok().flatten();
        if last != size.last().map(LeafIndex::get) {
            let stored = last.map_or(0, |last| last + 1);
            let detail = format!("{stored} entries are stored, and {size} are signed");
            self.report.find(Code::EntryMissing, "entries", None, detail);
        }
    }

    /// Makes the key ring of the operator's chain. What cannot be applied is left out and found.
    pub(super) fn operator_chain(&mut self) -> Result<(), FsckError> {
        let mut chain = OperatorHead::default();
        let mut records = 0;
        // In a damaged block every place looks taken: somebody has to say where the chain ends.
        let written = self.store.operator_records();
        let end = *written.as_ref().unwrap_or(&u64::MAX);
        let mut unreadable = 0;
        while unreadable < UNREADABLE_MAX {
            let Ok(seq) = Seq::new(records) else { break };
            let name = chain_row(ChainId::Operator, seq);
            let row = match self.store.raw_row(ChainId::Operator, seq)? {
                Stored::Missing => break,
                Stored::Row(Ok(row)) => row,
                Stored::Row(Err(error)) => {
                    self.report.find(Code::OperatorChain, name, None, error.to_string());
                    records += 1;
                    continue;
                }
                Stored::Unreadable(error) => {
                    self.report.find(Code::Unreadable, name, None, by_rocksdb(&error));
                    unreadable += 1;
                    records += 1;
                    if records >= end {
                        break;
                    }
                    continue;
                }
            };
            records += 1;
            let index = row.index.get();
            let mut apply = || -> Result<(), String> {
                let bytes = self.store.entry(row.index).map_err(|error| by_rocksdb(&error.to_string()))?;
                let bytes = bytes.ok_or_else(|| format!("entry {index} is missing"))?;
                let entry = Entry::parse(bytes).map_err(|error| error.to_string())?;
                entry.verify(self.keys.operator()).map_err(|error| error.to_string())?;
                let Content::Operator(record) = entry.content() else {
                    return Err(format!("entry {index} is not the operator's"));
                };
                let followed = chain.extend(record, entry.leaf(), self.keys.log());
                self.keys.apply(row.index, &record.body).map_err(|error| error.to_string())?;
                followed.map_err(|error| error.to_string())
            };
            if let Err(why) = apply() {
                let detail = format!("{why}; keys and bundles are judged without it where it does not apply");
                self.report.find(Code::OperatorChain, name, Some(index), detail);
            }
        }
        match written {
            Ok(written) if written == records => {}
            Ok(written) => {
                let detail = format!("{records} operator rows are stored, and {written} were written");
                self.report.find(Code::OperatorChain, "meta operator", None, detail);
            }
            Err(error) => self.report.find(Code::MetaInvalid, "meta operator", None, error.to_string()),
        }
        Ok(())
    }

    /// Every row of the chain column is that of an entry, no two of one, and no seq is left out.
    pub(super) fn chain_rows(&mut self) -> Result<(), FsckError> {
        let mut named = Bits::new(self.size);
        let mut last: Option<(ChainId, Seq)> = None;
        let mut beyond = 0_u64;
        for item in self.store.walk(Walk::Chain)? {
            let (key, value) = match item {
                Ok(row) => row,
                Err(error) => {
                    let after = last.map_or("its start".to_owned(), |(chain, seq)| chain_row(chain, seq));
                    let detail = format!("after {after}: {}", by_rocksdb(&error.to_string()));
                    self.report.find(Code::Unreadable, "chain", None, detail);
                    break;
                }
            };
            self.report.chain_rows += 1;
            let Some((chain, seq)) = parse_place(&key) else {
                let detail = format!("a key of {} bytes that names no record", key.len());
                self.report.find(Code::ChainRowExtra, "chain", None, detail);
                continue;
            };
            let name = chain_row(chain, seq);
            let follows = match last {
                Some((before, at)) if before == chain => at.next() == Some(seq),
                _ => seq == Seq::ZERO,
            };
            if !follows {
                self.report.find(
                    Code::ChainRowMissing,
                    name.as_str(),
                    None,
                    "there is no row for the seq before it",
                );
            }
            last = Some((chain, seq));
            // A value that is no row is found from its entry.
            let Some(row) = parse_chain_row(&value) else { continue };
            let index = row.index.get();
            let why = if index >= self.size {
                beyond += 1;
                None
            } else if self.has_row.get(index) && !named.set(index) {
                None
            } else {
                // Nobody, or somebody else, has this entry: does it have this place?
                let bytes = self.store.entry(row.index).ok().flatten();
                match bytes.map(Entry::parse) {
                    Some(Ok(entry)) if place_of(&entry) == (chain, seq) => None,
                    Some(Ok(_)) => Some(format!("it names entry {index}, which has another place")),
                    // The entry itself is found to be damaged.
                    Some(Err(_)) | None => None,
                }
            };
            if let Some(why) = why {
                self.report.find(Code::ChainRowExtra, name, Some(index), why);
            }
        }
        if beyond > 0 {
            let detail =
                format!("{beyond} rows name entries at or beyond {}, the size of the tree", self.size);
            self.report.find(Code::ChainRowExtra, "chain", None, detail);
        }
        Ok(())
    }

    /// No tiles beyond those of the tree.
    pub(super) fn tile_rows(&mut self) -> Result<(), FsckError> {
        let size = TreeSize::new(self.size).unwrap_or_default();
        for item in self.store.walk(Walk::Tiles)? {
            match item {
                Ok((key, _)) => match parse_tile_key(&key) {
                    Some(id) if id.width(size) > 0 => {}
                    Some(TileId { level, index }) => {
                        let detail = format!("a tree of {size} entries has no such tile");
                        self.report.find(Code::TileExtra, format!("tile {level}/{index}"), None, detail);
                    }
                    None => {
                        let detail = format!("a key of {} bytes", key.len());
                        self.report.find(Code::TileExtra, "tiles", None, detail);
                    }
                },
                // The rows were read one by one: what is damaged is known already.
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Each row is another entry for a place that is taken, signed by whoever the run belongs to.
    pub(super) fn equivocations(&mut self) -> Result<(), FsckError> {
        for item in self.store.walk(Walk::Equivocations)? {
            let (key, value) = match item {
                Ok(row) => row,
                Err(error) => {
                    let detail = by_rocksdb(&error.to_string());
                    self.report.find(Code::Unreadable, "equivocations", None, detail);
                    break;
                }
            };
            self.report.equivocations += 1;
            let place = parse_place(&key);
            let name = place.map_or("equivocations".to_owned(), |(chain, seq)| {
                chain_row(chain, seq).replacen("chain", "equivocation", 1)
            });
            let why = match place {
                None => Some(format!("a key of {} bytes that names no record", key.len())),
                Some((chain, seq)) => self.equivocation(chain, seq, value)?,
            };
            if let Some(why) = why {
                self.report.find(Code::EquivocationInvalid, name, None, why);
            }
        }
        Ok(())
    }

    /// Why an entry is no evidence against whoever has a place.
    fn equivocation(&self, chain: ChainId, seq: Seq, value: Box<[u8]>) -> Result<Option<String>, FsckError> {
        let other = match Entry::parse(value.into_vec()) {
            Ok(other) => other,
            Err(error) => return Ok(Some(error.to_string())),
        };
        if place_of(&other) != (chain, seq) {
            return Ok(Some("it is a record for another place".to_owned()));
        }
        let Stored::Row(Ok(row)) = self.store.raw_row(chain, seq)? else {
            return Ok(Some("nothing was admitted at this place".to_owned()));
        };
        if row.leaf == other.leaf() {
            return Ok(Some("it is the entry that was admitted".to_owned()));
        }
        let admitted = self.store.entry(row.index).ok().flatten().and_then(|bytes| Entry::parse(bytes).ok());
        if admitted.is_some_and(|admitted| admitted.signer() != other.signer()) {
            return Ok(Some(format!("it is signed by {}, whom the run does not belong to", other.signer())));
        }
        let Some(key) = key_of(&self.keys, &other) else {
            return Ok(Some(format!("the key of {} is not granted", other.signer())));
        };
        Ok(other.verify(key).err().map(|error| error.to_string()))
    }
}
