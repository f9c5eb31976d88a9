//! Slots and frames: what the file's bytes in front of the database say.

use std::io::{Error, ErrorKind};

use twox_hash::XxHash3_64;

/// Bytes that are read and written together.
pub(super) const BLOCK: usize = 4096;

/// Blocks in front of the journal.
pub(super) const SLOTS: u64 = 2;

const SLOT_MAGIC: &[u8; 16] = b"sift/store@v1\n\0\0";
const FRAME_MAGIC: &[u8; 16] = b"sift/frame@v1\n\0\0";

/// Bytes of a slot before its checksum.
const SLOT_SUMMED: usize = 48;

/// Bytes of a frame before the numbers of its blocks.
const FRAME_HEADER: usize = 64;

/// Where a frame's checksum is, of all that follows it.
const FRAME_SUM: usize = 16;

/// From which byte of the file on a block is.
pub(super) const fn at(block: u64) -> u64 {
    block * BLOCK as u64
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

pub(super) fn damaged(why: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("damaged: {why}; put back a copy of it"))
}

/// Which frames of the journal count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// Blocks of the journal.
    pub(super) journal: u64,
    /// The later slot counts.
    pub(super) generation: u64,
    /// Frames of this generation have it. Drawn at random when nothing but old bytes is in the journal: what agents write
    /// lies in it too, and must not be taken for a frame.
    pub(super) salt: [u8; 16],
}

impl Slot {
    /// The first slot of a file, or the one after another.
    pub(super) fn draw(journal: u64, generation: u64) -> Result<Self, Error> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|error| Error::other(format!("no randomness: {error}")))?;
        Ok(Self { journal, generation, salt })
    }

    pub(super) fn encode(&self) -> [u8; BLOCK] {
        let mut bytes = [0; BLOCK];
        bytes[..16].copy_from_slice(SLOT_MAGIC);
        bytes[16..24].copy_from_slice(&self.journal.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.generation.to_le_bytes());
        bytes[32..SLOT_SUMMED].copy_from_slice(&self.salt);
        let sum = XxHash3_64::oneshot(&bytes[..SLOT_SUMMED]);
        bytes[SLOT_SUMMED..SLOT_SUMMED + 8].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The slot in these bytes, if it is whole.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (summed, rest) = bytes.split_at_checked(SLOT_SUMMED)?;
        let whole = summed.starts_with(SLOT_MAGIC) && u64_at(rest, 0)? == XxHash3_64::oneshot(summed);
        let slot = Self {
            journal: u64_at(bytes, 16)?,
            generation: u64_at(bytes, 24)?,
            salt: *bytes.get(32..)?.first_chunk()?,
        };
        whole.then_some(slot)
    }

    /// The slot that counts. Both are always whole: what a slot says fits into a sector, which a disk writes at once.
    pub(super) fn choose(bytes: &[u8]) -> Result<Self, Error> {
        let slots: Option<Vec<Self>> = bytes.chunks(BLOCK).map(Self::decode).collect();
        let latest = slots.and_then(|slots| slots.into_iter().max_by_key(|slot| slot.generation));
        latest.ok_or_else(|| damaged("its start is not that of a kernel's store of this version"))
    }
}

/// What one commit changes.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    salt: [u8; 16],
    /// Frames before it in its generation.
    pub(super) number: u64,
    /// Bytes of the database.
    pub(super) length: u64,
    numbers: &'a [u8],
    blocks: &'a [u8],
    /// Blocks that it takes.
    pub(super) size: u64,
}

/// Blocks of a frame's header and numbers.
pub(super) const fn head_blocks(blocks: usize) -> usize {
    (FRAME_HEADER + 8 * blocks).div_ceil(BLOCK)
}

impl<'a> Frame<'a> {
    /// The frame that starts here, if it is whole and of this generation.
    pub(super) fn decode(bytes: &'a [u8], slot: &Slot) -> Option<Self> {
        if !bytes.starts_with(FRAME_MAGIC) {
            return None;
        }
        let count = usize::try_from(u64_at(bytes, 56)?).ok().filter(|count| *count <= bytes.len() / BLOCK)?;
        let (head, size) = (head_blocks(count) * BLOCK, (head_blocks(count) + count) * BLOCK);
        let bytes = bytes.get(..size)?;
        let frame = Self {
            salt: *bytes.get(24..)?.first_chunk()?,
            number: u64_at(bytes, 40)?,
            length: u64_at(bytes, 48)?,
            numbers: bytes.get(FRAME_HEADER..)?.get(..8 * count)?,
            blocks: bytes.get(head..)?,
            size: (size / BLOCK) as u64,
        };
        let whole = frame.salt == slot.salt && u64_at(bytes, FRAME_SUM)? == frame_sum(bytes);
        whole.then_some(frame)
    }

    /// Numbers and bytes of its blocks.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (u64, &'a [u8])> {
        let numbers = self.numbers.chunks_exact(8).filter_map(|number| u64_at(number, 0));
        numbers.zip(self.blocks.chunks_exact(BLOCK))
    }

    /// Writes a frame to `buffer`, in place of what is there. Blocks are of [`BLOCK`] bytes.
    pub(super) fn encode<'b>(
        buffer: &mut Vec<u8>,
        slot: &Slot,
        number: u64,
        length: u64,
        blocks: impl ExactSizeIterator<Item = (u64, &'b [u8])> + Clone,
    ) {
        buffer.clear();
        buffer.extend_from_slice(FRAME_MAGIC);
        buffer.extend_from_slice(&[0; 8]);
        buffer.extend_from_slice(&slot.salt);
        let words = [number, length, blocks.len() as u64];
        let words = words.into_iter().chain(blocks.clone().map(|(number, _)| number));
        words.for_each(|word| buffer.extend_from_slice(&word.to_le_bytes()));
        buffer.resize(head_blocks(blocks.len()) * BLOCK, 0);
        blocks.for_each(|(_, block)| buffer.extend_from_slice(block));
        let sum = frame_sum(buffer);
        buffer[FRAME_SUM..FRAME_SUM + 8].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Checksum of a frame. In one piece: in several it costs twenty times as much.
fn frame_sum(frame: &[u8]) -> u64 {
    XxHash3_64::oneshot(&frame[FRAME_SUM + 8..])
}
