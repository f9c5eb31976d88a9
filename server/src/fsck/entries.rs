//! Entries in order: threads read and verify chunks of one tile's width, and one puts the tree and the runs together.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use sift_spec::chain::RunHead;
use sift_spec::entry::{Content, Entry};
use sift_spec::hash::leaf_hash;
use sift_spec::keys::KeyRing;
use sift_spec::note::{BatchItem, VerifierKey, verify_batch};
use sift_spec::proof::TreeHead;
use sift_spec::record::Body;
use sift_spec::tile::{TILE_WIDTH, TileId, parse_hashes};
use sift_spec::tree::RightEdge;
use sift_spec::types::{Hash, KeyName, LeafIndex, RunId, Seq, TreeSize};

use super::{Bits, Check, Code, Depth, Finding, FsckError};
use crate::store::raw::{RawRow, Stored, Walk, parse_size_key};
use crate::store::{ChainId, Store, StoreError};
use crate::tile::{EdgeTiles, Tile};

/// Heads of open runs that are kept in memory; others are read again.
const HEADS_MAX: usize = 262_144;

/// Chunks that wait at each thread.
const WAITING_MAX: usize = 4;

/// Entries of one level-0 tile as they were stored.
struct Chunk {
    first: u64,
    stored: Vec<Stored<Box<[u8]>>>,
}

/// What a thread made of a chunk.
struct Checked {
    places: Vec<Place>,
    findings: Vec<Finding>,
    tiles: u64,
}

/// What stands at an index.
struct Place {
    entry: Option<Entry>,
    /// The leaf hash to go on with; none where every copy of it is lost.
    leaf: Option<Hash>,
    /// The chain column has its row, or what the entry says cannot be known.
    has_row: bool,
    /// The entry is lost, or is not the one that was hashed: what it says is not looked at.
    damaged: bool,
}

impl Place {
    const fn lost(leaf: Option<Hash>) -> Self {
        Self { entry: None, leaf, has_row: true, damaged: true }
    }
}

impl Check<'_> {
    /// Reads and verifies all entries, the tree over them, and every root that is known.
    pub(super) fn entries(&mut self, progress: &dyn Fn(u64, u64)) -> Result<(), FsckError> {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let (store, size) = (self.store, self.size);
        let keys = self.keys.clone();
        let worker = Worker { store, keys: &keys, signatures: self.depth == Depth::Signatures };
        let mut tree = Tree::new(self)?;
        std::thread::scope(|scope| -> Result<(), FsckError> {
            let mut doors = Vec::new();
            let mut results: Vec<Receiver<Result<Checked, FsckError>>> = Vec::new();
            for _ in 0..threads {
                let (door, chunks) = sync_channel::<Chunk>(WAITING_MAX);
                let (done, result) = sync_channel(WAITING_MAX);
                let worker = &worker;
                scope.spawn(move || {
                    for chunk in chunks {
                        if done.send(worker.check(chunk)).is_err() {
                            return;
                        }
                    }
                });
                doors.push(door);
                results.push(result);
            }
            let (failed, reading) = sync_channel(1);
            scope.spawn(move || {
                let firsts = (0..size).step_by(TILE_WIDTH as usize);
                for (first, door) in firsts.zip(doors.iter().cycle()) {
                    match store.raw_entries(first, TILE_WIDTH.min(size - first)) {
                        Ok(stored) => {
                            if door.send(Chunk { first, stored }).is_err() {
                                return;
                            }
                        }
                        Err(error) => {
                            let _ = failed.send(error);
                            return;
                        }
                    }
                }
            });
            let firsts = (0..size).step_by(TILE_WIDTH as usize);
            for (first, result) in firsts.zip(results.iter().cycle()) {
                let Ok(checked) = result.recv() else {
                    let ended = || FsckError::System("a thread ended early".to_owned());
                    return Err(reading.try_recv().map_or_else(|_| ended(), FsckError::from));
                };
                tree.take(first, checked?)?;
                progress(first + TILE_WIDTH.min(size - first), size);
            }
            Ok(())
        })?;
        tree.finish()
    }
}

/// What a thread needs to check a chunk on its own.
struct Worker<'a> {
    store: &'a Store,
    keys: &'a KeyRing,
    signatures: bool,
}

impl Worker<'_> {
    fn check(&self, Chunk { first, stored }: Chunk) -> Result<Checked, FsckError> {
        let tile = TileId { level: 0, index: first / TILE_WIDTH };
        let row = format!("tile 0/{}", tile.index);
        let mut checked =
            Checked { places: Vec::with_capacity(stored.len()), findings: Vec::new(), tiles: 1 };
        let hashes = match self.store.raw_tile(tile)? {
            Stored::Row(bytes) => {
                let hashes = parse_hashes(&bytes).unwrap_or_default();
                if hashes.len() != stored.len() {
                    let detail =
                        format!("{} bytes are stored for a tile of {} hashes", bytes.len(), stored.len());
                    checked.find(Code::TileDiffers, &row, None, detail);
                }
                hashes
            }
            Stored::Missing => {
                checked.find(Code::TileMissing, &row, None, "there is no such row".to_owned());
                Vec::new()
            }
            Stored::Unreadable(error) => {
                checked.find(Code::Unreadable, &row, None, by_rocksdb(&error));
                Vec::new()
            }
        };
        let mut differing = Vec::new();
        for (n, (index, stored)) in (first..).zip(stored).enumerate() {
            let place = self.place(index, stored, hashes.get(n).copied(), &mut differing, &mut checked)?;
            checked.places.push(place);
        }
        if let [index, others @ ..] = differing.as_slice() {
            let at = index % TILE_WIDTH;
            let detail = format!("hash {at} and {} others are not those of their entries", others.len());
            checked.find(Code::TileDiffers, &row, Some(*index), detail);
        }
        if self.signatures {
            self.verify(first, &mut checked)?;
        }
        Ok(checked)
    }

    /// One entry, and whether its three leaf hashes agree.
    fn place(
        &self,
        index: u64,
        stored: Stored<Box<[u8]>>,
        in_tile: Option<Hash>,
        differing: &mut Vec<u64>,
        checked: &mut Checked,
    ) -> Result<Place, FsckError> {
        let row = format!("entry {index}");
        let bytes = match stored {
            Stored::Row(bytes) => bytes,
            Stored::Missing => {
                let detail = "the tree has this index, and the store has no entry for it".to_owned();
                checked.find(Code::EntryMissing, &row, Some(index), detail);
                return Ok(Place::lost(in_tile));
            }
            Stored::Unreadable(error) => {
                checked.find(Code::Unreadable, &row, Some(index), by_rocksdb(&error));
                return Ok(Place::lost(in_tile));
            }
        };
        let computed = leaf_hash(&bytes);
        let entry = match Entry::parse(bytes.into_vec()) {
            Ok(entry) => Some(entry),
            Err(error) => {
                checked.find(Code::EntryMalformed, &row, Some(index), error.to_string());
                None
            }
        };
        let stored = match &entry {
            Some(entry) => {
                let (chain, seq) = place_of(entry);
                Some((chain_row(chain, seq), self.store.raw_row(chain, seq)?))
            }
            None => None,
        };
        let in_row = match &stored {
            Some((_, Stored::Row(Ok(stored)))) if stored.index.get() == index => Some(stored.leaf),
            _ => None,
        };
        match in_tile {
            // Tile and row, or the tile alone, against the entry: it is not the one that was hashed.
            Some(in_tile) if in_tile != computed && in_row != Some(computed) => {
                let detail = format!("its leaf hash is {computed}, and the tree has {in_tile}");
                checked.find(Code::LeafDiffers, &row, Some(index), detail);
                return Ok(Place { entry, ..Place::lost(Some(in_tile)) });
            }
            Some(in_tile) if in_tile != computed => differing.push(index),
            _ => {}
        }
        let Some((name, stored)) = stored else { return Ok(Place::lost(Some(computed))) };
        let mut find = |code, detail| checked.find(code, &name, Some(index), detail);
        match stored {
            Stored::Row(Ok(stored)) if stored.index.get() != index => {
                let detail = format!("it names entry {}, and entry {index} has this place", stored.index);
                find(Code::ChainRowDiffers, detail);
            }
            Stored::Row(Ok(stored)) if stored.leaf != computed => {
                let detail = format!("it names the leaf hash {}, and the entry's is {computed}", stored.leaf);
                find(Code::ChainRowDiffers, detail);
            }
            Stored::Row(Ok(_)) => {}
            Stored::Row(Err(error)) => find(Code::ChainRowDiffers, error.to_string()),
            Stored::Missing => {
                find(
                    Code::ChainRowMissing,
                    format!("entry {index} has this place, and there is no row for it"),
                );
            }
            Stored::Unreadable(error) => find(Code::Unreadable, by_rocksdb(&error)),
        }
        Ok(Place { entry, leaf: Some(computed), has_row: in_row.is_some(), damaged: false })
    }

    /// The signatures of a chunk, in one batch.
    fn verify(&self, first: u64, checked: &mut Checked) -> Result<(), FsckError> {
        let entries: Vec<(u64, &Entry, &VerifierKey)> = (first..)
            .zip(&checked.places)
            .filter_map(|(index, place)| {
                let entry = place.entry.as_ref()?;
                Some((index, entry, key_of(self.keys, entry)?))
            })
            .collect();
        let items: Vec<BatchItem<'_>> = entries.iter().map(|(_, entry, key)| entry.batch_item(key)).collect();
        let mut entropy = [0; 32];
        getrandom::fill(&mut entropy).map_err(|error| FsckError::System(error.to_string()))?;
        let invalid: Vec<(u64, KeyName)> = entries
            .iter()
            .zip(verify_batch(&items, &entropy))
            .filter(|(_, valid)| !valid)
            .map(|((index, entry, _), _)| (*index, entry.signer().clone()))
            .collect();
        for (index, signer) in invalid {
            let detail = format!("the signature of {signer} does not verify");
            checked.find(Code::SignatureInvalid, &format!("entry {index}"), Some(index), detail);
        }
        Ok(())
    }
}

impl Checked {
    fn find(&mut self, code: Code, row: &str, index: Option<u64>, detail: String) {
        self.findings.push(Finding { code, row: row.to_owned(), index, detail });
    }
}

/// What RocksDB said, and that it was RocksDB.
pub(super) fn by_rocksdb(error: &str) -> String {
    format!("RocksDB's own checksum fails before ours can be computed: {error}")
}

/// The name of a row of the chain column.
pub(super) fn chain_row(chain: ChainId, seq: Seq) -> String {
    match chain {
        ChainId::Operator => format!("chain operator/{seq}"),
        ChainId::Run(run) => format!("chain {run}/{seq}"),
    }
}

/// Whose record an entry is, and where in that chain.
pub(super) fn place_of(entry: &Entry) -> (ChainId, Seq) {
    match entry.content() {
        Content::Run(record) => (ChainId::Run(record.run), record.seq),
        Content::Operator(record) => (ChainId::Operator, record.seq),
    }
}

/// The key that an entry claims to be signed with, whatever its state.
pub(super) fn key_of<'a>(keys: &'a KeyRing, entry: &Entry) -> Option<&'a VerifierKey> {
    match entry.content() {
        Content::Operator(_) => {
            let operator = keys.operator();
            (operator.name() == entry.signer() && operator.id() == entry.key_id()).then_some(operator)
        }
        Content::Run(_) => keys.get(entry.signer(), entry.key_id()).map(|known| &known.key),
    }
}

/// The tree and the runs, as far as they are put together.
struct Tree<'c, 'a> {
    check: &'c mut Check<'a>,
    edge: RightEdge,
    tiles: EdgeTiles,
    /// A leaf hash is lost, so nothing above it can be compared.
    lost: bool,
    /// Bit i: entry i is damaged, so that the record after it has nothing to follow.
    damaged: Bits,
    heads: HashMap<RunId, RunHead>,
    kept: Box<dyn Iterator<Item = Result<RawRow, StoreError>> + 'a>,
    /// The next kept checkpoint.
    next: Option<(TreeSize, Box<[u8]>)>,
    /// Position in `check.known`.
    known: usize,
}

impl<'c, 'a> Tree<'c, 'a> {
    fn new(check: &'c mut Check<'a>) -> Result<Self, FsckError> {
        let kept = Box::new(check.store.walk(Walk::Checkpoints)?);
        let (edge, tiles, heads) = (RightEdge::default(), EdgeTiles::default(), HashMap::new());
        let damaged = Bits::new(check.size);
        let mut tree = Self { check, edge, tiles, lost: false, damaged, heads, kept, next: None, known: 0 };
        tree.next_kept();
        tree.compare_roots();
        Ok(tree)
    }

    fn take(&mut self, first: u64, checked: Checked) -> Result<(), FsckError> {
        for finding in checked.findings {
            self.check.report.add(finding);
        }
        self.check.report.tiles += checked.tiles;
        for (index, place) in (first..).zip(checked.places) {
            self.check.report.entries += 1;
            if place.has_row {
                self.check.has_row.set(index);
            }
            if place.damaged {
                self.damaged.set(index);
            } else if let Some(entry) = place.entry {
                self.run(index, &entry)?;
            }
            match place.leaf {
                Some(leaf) => {
                    let mut complete = Vec::new();
                    self.edge.push(leaf);
                    self.tiles.push(leaf, &mut complete);
                    for (id, tile) in complete {
                        self.compare_tile(id, &tile)?;
                    }
                }
                None => {
                    if !self.lost {
                        let detail = "both the entry and its hash in the tile are lost: no root above it can be \
                                      compared";
                        self.check.report.find(
                            Code::RootDiffers,
                            format!("entry {index}"),
                            Some(index),
                            detail,
                        );
                    }
                    self.lost = true;
                    self.edge.push(Hash::from_bytes([0; 32]));
                    self.tiles.push(Hash::from_bytes([0; 32]), &mut Vec::new());
                }
            }
            self.compare_roots();
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), FsckError> {
        let partial: Vec<(TileId, Arc<Tile>)> = self.tiles.partial().collect();
        for (id, tile) in partial {
            self.compare_tile(id, &tile)?;
        }
        while let Some((size, _)) = self.next.take() {
            let detail =
                format!("a checkpoint of {size} entries is kept, and the newest has {}", self.check.size);
            self.check.report.find(Code::CheckpointInvalid, format!("checkpoint {size}"), None, detail);
            self.next_kept();
        }
        self.check.report.root = (!self.lost).then(|| self.edge.root());
        // Where the end of the column cannot be read, its entries have been found unreadable one by one.
        let last = self.check.store.last_index().ok().flatten();
        if let Some(last) = last.filter(|last| *last >= self.check.size) {
            let detail =
                format!("the tree has {} entries, and the store has some up to this", self.check.size);
            self.check.report.find(Code::EntryExtra, format!("entry {last}"), Some(last), detail);
        }
        Ok(())
    }

    /// Levels above 0: the threads have compared level 0 with the entries themselves.
    fn compare_tile(&mut self, id: TileId, tile: &Tile) -> Result<(), FsckError> {
        if id.level == 0 || self.lost {
            return Ok(());
        }
        self.check.report.tiles += 1;
        let row = format!("tile {}/{}", id.level, id.index);
        let report = &mut self.check.report;
        match self.check.store.raw_tile(id)? {
            Stored::Row(bytes) => {
                let stored = parse_hashes(&bytes).unwrap_or_default();
                if stored.len() != tile.hashes().len() {
                    let (has, needs) = (bytes.len(), tile.hashes().len());
                    let detail = format!("{has} bytes are stored for a tile of {needs} hashes");
                    report.find(Code::TileDiffers, row, None, detail);
                } else if let Some(at) =
                    stored.iter().zip(tile.hashes()).position(|(one, other)| one != other)
                {
                    let detail = format!("hash {at} is not the root of the {} entries below it", {
                        TILE_WIDTH.pow(u32::from(id.level))
                    });
                    report.find(Code::TileDiffers, row, None, detail);
                }
            }
            Stored::Missing => report.find(Code::TileMissing, row, None, "there is no such row"),
            Stored::Unreadable(error) => report.find(Code::Unreadable, row, None, by_rocksdb(&error)),
        }
        Ok(())
    }

    /// The next kept checkpoint whose key can be read.
    fn next_kept(&mut self) {
        self.next = None;
        match self.kept.next() {
            None => {}
            Some(Err(error)) => {
                let detail = by_rocksdb(&error.to_string());
                self.check.report.find(Code::Unreadable, "checkpoints", None, detail);
            }
            Some(Ok((key, note))) => match parse_size_key(&key) {
                Some(size) => self.next = Some((size, note)),
                None => {
                    let detail = format!("a key of {} bytes", key.len());
                    self.check.report.find(Code::CheckpointInvalid, "checkpoints", None, detail);
                    self.next_kept();
                }
            },
        }
    }

    /// Compares the root at this size with every head of this size that was signed.
    fn compare_roots(&mut self) {
        let size = self.edge.size();
        let kept = self.next.as_ref().is_some_and(|(of, _)| *of <= size);
        let known = self.check.known.get(self.known).is_some_and(|(head, _)| head.size <= size);
        if !kept && !known {
            // A root is as many hashes as the tree is high: too many to make one for each entry.
            return;
        }
        let computed = (!self.lost).then(|| TreeHead { size, root: self.edge.root() });
        while let Some((of, note)) = self.next.take_if(|(of, _)| *of <= size) {
            let row = format!("checkpoint {of}");
            self.check.report.checkpoints += 1;
            match self.check.trust.verify(&note) {
                Ok(verified) => {
                    let head = verified.checkpoint().head;
                    if head.size != of {
                        let detail = format!("it is one of {} entries", head.size);
                        self.check.report.find(Code::CheckpointInvalid, row, None, detail);
                    } else if computed.is_some_and(|computed| computed != head) {
                        self.check.report.find(Code::RootDiffers, row, None, root_differs(&self.edge, &head));
                    }
                }
                Err(error) => {
                    self.check.report.find(Code::CheckpointInvalid, row, None, error.to_string());
                }
            }
            self.next_kept();
        }
        while let Some((head, whose)) = self.check.known.get(self.known).filter(|(head, _)| head.size <= size)
        {
            self.check.report.checkpoints += 1;
            if computed.is_some_and(|computed| computed != *head) {
                self.check.report.find(Code::RootDiffers, *whose, None, root_differs(&self.edge, head));
            }
            self.known += 1;
        }
    }

    /// Whether the key counts here, and whether the record continues its run.
    fn run(&mut self, index: u64, entry: &Entry) -> Result<(), FsckError> {
        let row = format!("entry {index}");
        let Ok(at) = LeafIndex::new(index) else { return Ok(()) };
        let Content::Run(record) = entry.content() else {
            if key_of(&self.check.keys, entry).is_none() {
                let detail = format!("{} is not the operator's key", entry.signer());
                self.check.report.find(Code::KeyNotGranted, row, Some(index), detail);
            }
            return Ok(());
        };
        if let Err(error) = self.check.keys.kernel(entry.signer(), entry.key_id(), &record.agent, at) {
            self.check.report.find(Code::KeyNotGranted, row.clone(), Some(index), error.to_string());
        }
        if let Body::Open(open) = &record.body
            && self.check.keys.published(&open.policy).is_none_or(|published| published >= at)
        {
            let detail = format!("the bundle {} was not published before", open.policy);
            self.check.report.find(Code::PolicyNotPublished, row.clone(), Some(index), detail);
        }
        if self.heads.len() > HEADS_MAX {
            self.heads.clear();
        }
        let before = match self.heads.remove(&record.run) {
            Some(head) => Some(head),
            None if record.seq == Seq::ZERO => None,
            None => self.head_before(record.run, record.seq)?,
        };
        let leaf = entry.leaf();
        let log = self.check.keys.log();
        let next = match before {
            Some(mut head) => head.extend(record, entry.signer(), leaf).map(|()| head),
            None => RunHead::open(record, entry.signer(), leaf, log),
        };
        let head = match next {
            Ok(head) => head,
            Err(error) => {
                // What follows a damaged entry cannot be judged by it.
                if !self.follows_damage(record.run, record.seq)? {
                    self.check.report.find(Code::ChainBroken, row, Some(index), error.to_string());
                }
                // The next record is compared with this one, so that one break is one finding.
                RunHead::of_last(record, entry.signer(), leaf)
            }
        };
        // Nothing may come after a close; should it, the head is read again.
        if !head.is_closed() {
            self.heads.insert(record.run, head);
        }
        Ok(())
    }

    /// Whether the record before this one is an entry that is damaged.
    fn follows_damage(&self, run: RunId, seq: Seq) -> Result<bool, FsckError> {
        let before = seq.get().checked_sub(1).and_then(|before| Seq::new(before).ok());
        let Some(before) = before else { return Ok(false) };
        let row = self.check.store.raw_row(ChainId::Run(run), before)?;
        Ok(matches!(row, Stored::Row(Ok(row)) if self.damaged.get(row.index.get())))
    }

    /// The head of a run before `seq`, read from the store.
    fn head_before(&self, run: RunId, seq: Seq) -> Result<Option<RunHead>, FsckError> {
        let Some(before) = seq.get().checked_sub(1).and_then(|before| Seq::new(before).ok()) else {
            return Ok(None);
        };
        let Stored::Row(Ok(row)) = self.check.store.raw_row(ChainId::Run(run), before)? else {
            return Ok(None);
        };
        let Ok(Some(bytes)) = self.check.store.entry(row.index) else { return Ok(None) };
        let Ok(entry) = Entry::parse(bytes) else { return Ok(None) };
        let record = entry.record().filter(|record| (record.run, record.seq) == (run, before));
        Ok(record.map(|record| RunHead::of_last(record, entry.signer(), entry.leaf())))
    }
}

fn root_differs(edge: &RightEdge, head: &TreeHead) -> String {
    format!("it has the root {}, and the entries up to {} make {}", head.root, head.size, edge.root())
}
