//! The store's file: a journal in front, the database behind it.
//!
//! A commit of the database changes a dozen pages that lie apart, and new pages make the file grow; a disk takes several
//! times as long for that as for one piece written where it has been written before. So what a commit changes goes into
//! the journal, in one piece with one sync, and stays in memory; when the journal is nearly full, all of it is put in its
//! place at once (a checkpoint), and the journal starts anew. Whoever opens the file has the last commit whose frame is
//! whole. A process that is killed and a machine that loses power leave the same behind, so tests that kill a process
//! test both.
//!
//! ```text
//! block 0, 1      slots: magic, blocks of the journal, generation, salt, checksum; the one of the later generation counts
//! block 2 ..      journal: frames with the salt of this slot, in their order, from the start
//! after that      the database
//! frame           magic, checksum of the rest, salt, its number, bytes of the database, blocks, their numbers; filled up
//!                 to a block; then the blocks
//! ```
//!
//! Blocks are of 4,096 bytes, integers little-endian, checksums XXH3-64. A checksum tells what was cut short, not what
//! was altered on purpose: the records' signatures do.

mod format;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, TryLockError};
use std::io::{self, Error, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::StorageBackend;

use format::{BLOCK, Frame, SLOTS, Slot, at, damaged, head_blocks};

/// Blocks of a new file's journal: 16 MiB, the commits of a few hundred calls.
pub(super) const JOURNAL_BLOCKS: u64 = 4096;

/// Most blocks that a checkpoint writes in one piece: 256 KiB.
const PIECE_BLOCKS: usize = 64;

/// The file of a store, as redb's storage.
#[derive(Debug, Clone)]
pub(super) struct JournaledFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: File,
    /// Taken before `pages` by whoever needs both.
    tail: Mutex<Tail>,
    pages: RwLock<Pages>,
}

/// Where the next frame goes.
#[derive(Debug)]
struct Tail {
    slot: Slot,
    /// Number of the next frame.
    frame: u64,
    /// Blocks of the journal that are taken.
    taken: u64,
    /// A write or sync failed: what is on the disk is not known, and nothing is written any more.
    failed: bool,
    /// Room for what is written.
    buffer: Vec<u8>,
}

/// The database as it differs from what lies behind the journal.
#[derive(Debug)]
struct Pages {
    /// The first block behind the journal.
    start: u64,
    /// Blocks that are not in their place yet.
    blocks: HashMap<u64, Arc<[u8]>>,
    /// Those that are not in the journal either.
    dirty: BTreeSet<u64>,
    /// Bytes of the database.
    length: u64,
    /// As the journal has it.
    synced: u64,
    /// Bytes that lie behind the journal.
    placed: u64,
    /// Blocks that are not needed any more, for those that are to come: as many as the journal has at most.
    spare: Vec<Arc<[u8]>>,
}

impl JournaledFile {
    /// Writes slots and journal of a new, empty file.
    pub(super) fn make(file: &File, journal: u64) -> io::Result<()> {
        let zeros = vec![0; BLOCK * 256];
        let (mut offset, end) = (at(SLOTS), at(SLOTS + journal));
        while offset < end {
            let piece = usize::try_from(end - offset).unwrap_or(usize::MAX).min(zeros.len());
            file.write_all_at(&zeros[..piece], offset)?;
            offset += piece as u64;
        }
        for generation in 0..SLOTS {
            file.write_all_at(&Slot::draw(journal, generation)?.encode(), at(generation))?;
        }
        file.sync_all()
    }

    /// Opens a file, once at a time: `None` when it is open already, here or in another process.
    pub(super) fn open(file: File) -> io::Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let cut = |error: Error| match error.kind() {
            ErrorKind::UnexpectedEof => damaged("it is cut short"),
            _ => error,
        };
        let mut slots = [0; BLOCK * SLOTS as usize];
        file.read_exact_at(&mut slots, 0).map_err(cut)?;
        let slot = Slot::choose(&slots)?;
        let bytes = file.metadata()?.len();
        let start = slot.journal.checked_add(SLOTS).filter(|start| *start <= bytes / BLOCK as u64);
        let start = start.ok_or_else(|| damaged("it is cut short"))?;
        let journal = usize::try_from(at(slot.journal)).map_err(|_| damaged("its journal is too long"))?;
        let mut journal = vec![0; journal];
        file.read_exact_at(&mut journal, at(SLOTS)).map_err(cut)?;
        let frame_at = |block: u64| Frame::decode(journal.get(usize::try_from(at(block)).ok()?..)?, &slot);
        let mut pages = Pages::placed(start, bytes - at(start));
        let (mut frame, mut taken) = (0, 0);
        while let Some(found) = frame_at(taken).filter(|found| found.number == frame) {
            pages.apply(&found);
            (frame, taken) = (frame + 1, taken + found.size);
        }
        // A frame is only written when the one before it is synced.
        if (taken..slot.journal).any(|block| frame_at(block).is_some_and(|found| found.number >= frame)) {
            return Err(damaged(&format!("frame {frame} of its journal cannot be read")));
        }
        let tail = Mutex::new(Tail { slot, frame, taken, failed: false, buffer: Vec::new() });
        Ok(Some(Self(Arc::new(Inner { file, tail, pages: RwLock::new(pages) }))))
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.0.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pages(&self) -> RwLockReadGuard<'_, Pages> {
        self.0.pages.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn pages_mut(&self) -> RwLockWriteGuard<'_, Pages> {
        self.0.pages.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Empties the journal if it is nearly full and nobody is in the middle of a commit.
    pub(super) fn tidy(&self) -> io::Result<()> {
        let mut tail = self.tail();
        if tail.taken <= tail.slot.journal / 4 * 3 || !self.pages().dirty.is_empty() {
            return Ok(());
        }
        self.guarded(&mut tail, Self::checkpoint)
    }

    /// Does something after which, if it fails, nothing is written any more.
    fn guarded(
        &self,
        tail: &mut Tail,
        work: impl FnOnce(&Self, &mut Tail) -> io::Result<()>,
    ) -> io::Result<()> {
        if tail.failed {
            return Err(Error::other("an earlier write failed"));
        }
        let done = work(self, tail);
        tail.failed = done.is_err();
        done
    }

    /// Puts every block in its place and starts the journal anew.
    ///
    /// What is dirty goes with it, unless the caller has seen that nothing is. A commit that the journal cannot hold comes
    /// here so; then, if this is cut short, the journal still has the commit before, and what was written over is pages
    /// that are free there, because redb never writes over a page in use.
    fn checkpoint(&self, tail: &mut Tail) -> io::Result<()> {
        let (mut blocks, start, length, placed) = {
            let pages = self.pages();
            let blocks = pages.blocks.iter().map(|(number, block)| (*number, Arc::clone(block)));
            (blocks.collect::<Vec<_>>(), pages.start, pages.length, pages.placed)
        };
        blocks.sort_unstable_by_key(|(number, _)| *number);
        let file = &self.0.file;
        if length != placed {
            file.set_len(at(start) + length)?;
        }
        // Neighbours together, in pieces that a processor's cache holds.
        let runs = blocks.chunk_by(|a, b| a.0 + 1 == b.0).flat_map(|run| run.chunks(PIECE_BLOCKS));
        for run in runs {
            tail.buffer.clear();
            run.iter().for_each(|(_, block)| tail.buffer.extend_from_slice(block));
            file.write_all_at(&tail.buffer, at(start + run[0].0))?;
        }
        file.sync_data()?;
        let next = Slot::draw(tail.slot.journal, tail.slot.generation + 1)?;
        file.write_all_at(&next.encode(), at(next.generation % SLOTS))?;
        file.sync_data()?;
        (tail.slot, tail.frame, tail.taken) = (next, 0, 0);
        let mut pages = self.pages_mut();
        for (number, block) in blocks {
            if pages.blocks.get(&number).is_some_and(|now| Arc::ptr_eq(now, &block)) {
                pages.blocks.remove(&number);
                pages.dirty.remove(&number);
            }
            pages.spare(block);
        }
        (pages.placed, pages.synced) = (length, length);
        Ok(())
    }

    /// Writes what is dirty as a frame.
    fn append(&self, tail: &mut Tail) -> io::Result<()> {
        let mut pages = self.pages_mut();
        if pages.is_synced() {
            return Ok(());
        }
        let size = (head_blocks(pages.dirty.len()) + pages.dirty.len()) as u64;
        if tail.taken + size > tail.slot.journal {
            drop(pages);
            return self.checkpoint(tail);
        }
        let length = pages.length;
        let dirty: Vec<(u64, &[u8])> =
            pages.dirty.iter().filter_map(|number| Some((*number, &**pages.blocks.get(number)?))).collect();
        Frame::encode(&mut tail.buffer, &tail.slot, tail.frame, length, dirty.iter().copied());
        pages.dirty.clear();
        drop(pages);
        self.0.file.write_all_at(&tail.buffer, at(SLOTS + tail.taken))?;
        self.0.file.sync_data()?;
        (tail.frame, tail.taken) = (tail.frame + 1, tail.taken + size);
        self.pages_mut().synced = length;
        Ok(())
    }

    /// A block as it is now; zeros where nothing is.
    fn block(&self, pages: &Pages, number: u64) -> io::Result<Arc<[u8]>> {
        if let Some(block) = pages.blocks.get(&number) {
            return Ok(Arc::clone(block));
        }
        let mut block = [0; BLOCK];
        let there = pages.placed.min(pages.length).saturating_sub(at(number));
        let there = usize::try_from(there).unwrap_or(BLOCK).min(BLOCK);
        self.0.file.read_exact_at(&mut block[..there], at(pages.start + number))?;
        Ok(block.into())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Closing alone does not do it while another process that is being started still has the file.
        let _ = self.file.unlock();
    }
}

impl StorageBackend for JournaledFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.pages().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let pages = self.pages();
        let mut rest = out;
        for (number, within) in pages.pieces(offset, rest.len())? {
            let (piece, after) = rest.split_at_mut(within.len());
            piece.copy_from_slice(&self.block(&pages, number)?[within]);
            rest = after;
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        if !length.is_multiple_of(BLOCK as u64) {
            return Err(Error::new(ErrorKind::InvalidInput, "a database that ends within a block"));
        }
        let mut pages = self.pages_mut();
        let (new, placed) = (length / BLOCK as u64, pages.placed / BLOCK as u64);
        if length < pages.length {
            pages.blocks.retain(|number, _| *number < new);
            pages.dirty.split_off(&new);
        }
        // What is added is zeros, also where the database once was longer.
        for number in pages.length / BLOCK as u64..new.min(placed) {
            pages.put(number, [0; BLOCK].into());
        }
        pages.length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.guarded(&mut self.tail(), Self::append)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut pages = self.pages_mut();
        let mut rest = data;
        for (number, within) in pages.pieces(offset, data.len())? {
            let (piece, after) = rest.split_at(within.len());
            let block = if piece.len() == BLOCK {
                pages.copy(piece)
            } else {
                let mut block = self.block(&pages, number)?.to_vec();
                block[within].copy_from_slice(piece);
                block.into()
            };
            pages.put(number, block);
            rest = after;
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        let mut tail = self.tail();
        if tail.frame == 0 && self.pages().is_synced() {
            return Ok(());
        }
        self.guarded(&mut tail, Self::checkpoint)
    }
}

impl Pages {
    /// A database of which all is in its place.
    fn placed(start: u64, length: u64) -> Self {
        let (blocks, dirty) = (HashMap::new(), BTreeSet::new());
        Self { start, blocks, dirty, length, synced: length, placed: length, spare: Vec::new() }
    }

    fn is_synced(&self) -> bool {
        self.dirty.is_empty() && self.length == self.synced
    }

    /// Takes in a frame of the journal.
    fn apply(&mut self, frame: &Frame<'_>) {
        if frame.length < self.length {
            self.blocks.retain(|number, _| at(*number) < frame.length);
        }
        (self.length, self.synced) = (frame.length, frame.length);
        self.blocks.extend(frame.blocks().map(|(number, block)| (number, Arc::from(block))));
    }

    fn put(&mut self, number: u64, block: Arc<[u8]>) {
        if let Some(old) = self.blocks.insert(number, block) {
            self.spare(old);
        }
        self.dirty.insert(number);
    }

    /// A block with these bytes, of which there are [`BLOCK`]. Pages come and go by the thousand a second; memory that is new each time costs more than
    /// the pages themselves.
    fn copy(&mut self, bytes: &[u8]) -> Arc<[u8]> {
        if let Some(mut spare) = self.spare.pop()
            && let Some(block) = Arc::get_mut(&mut spare)
        {
            block.copy_from_slice(bytes);
            return spare;
        }
        bytes.into()
    }

    fn spare(&mut self, mut block: Arc<[u8]>) {
        if self.spare.len() as u64 + SLOTS < self.start && Arc::get_mut(&mut block).is_some() {
            self.spare.push(block);
        }
    }

    /// The blocks that a part of the database lies in, and where in each of them.
    fn pieces(
        &self,
        offset: u64,
        length: usize,
    ) -> io::Result<impl Iterator<Item = (u64, Range<usize>)> + use<>> {
        let end = offset.checked_add(length as u64).filter(|end| *end <= self.length);
        let end =
            end.ok_or_else(|| Error::new(ErrorKind::UnexpectedEof, "beyond the end of the database"))?;
        let within = |position: u64, block: u64| {
            usize::try_from(position.saturating_sub(at(block))).unwrap_or(BLOCK).min(BLOCK)
        };
        let blocks = offset / BLOCK as u64..end.div_ceil(BLOCK as u64);
        Ok(blocks.map(move |block| (block, within(offset, block)..within(end, block))))
    }
}
