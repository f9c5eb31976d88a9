//! A ZIP archive with one encoding: members stored, not compressed, in the order given, at a fixed date.
//!
//! Any unzip reads it. [`read`] reads only what [`write`] writes, so no byte of an archive is without
//! meaning, nothing expands, and an archive cannot show two programs two contents. (APPNOTE 6.3.10:
//! §4.3.7 local header, §4.3.12 central directory, §4.3.14 and §4.3.15 ZIP64 end, §4.3.16 end record.)

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END64: u32 = 0x0606_4b50;
const LOCATOR64: u32 = 0x0706_4b50;
const END: u32 = 0x0605_4b50;

/// Version 4.5 is what ZIP64 needs; older programs read the rest all the same.
const VERSION: u16 = 45;
/// Bit 11: names are UTF-8.
const FLAGS: u16 = 1 << 11;
/// 1980-01-01, the earliest date of the format.
const DATE: u16 = 1 << 5 | 1;

/// Largest archive in bytes: offsets and sizes fit 32 bits.
pub(crate) const ARCHIVE_BYTES_MAX: usize = u32::MAX as usize;

/// Fields of one member's headers that depend on it.
struct Header<'a> {
    name: &'a str,
    crc: u32,
    size: u32,
}

impl Header<'_> {
    /// The fields that local header and central directory share, from "version needed" to "extra length".
    fn common(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(26);
        for field in [VERSION, FLAGS, 0, 0, DATE] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        for field in [self.crc, self.size, self.size] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&(self.name.len() as u16).to_le_bytes());
        out.extend_from_slice(&0_u16.to_le_bytes());
        out
    }
}

/// What takes an archive as it is written: from its first byte to its last.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);
    /// How many bytes were put.
    fn len(&self) -> usize;
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn len(&self) -> usize {
        self.len()
    }
}

/// Compares an archive with the one that is written, which is never in memory.
pub(crate) struct Comparison<'a> {
    bytes: &'a [u8],
    len: usize,
    differs: Option<usize>,
}

impl<'a> Comparison<'a> {
    pub(crate) const fn with(bytes: &'a [u8]) -> Self {
        Self { bytes, len: 0, differs: None }
    }

    /// The first byte that differs, or that only one of the two has.
    pub(crate) fn differs(&self) -> Option<usize> {
        self.differs.or_else(|| (self.len != self.bytes.len()).then_some(self.len.min(self.bytes.len())))
    }
}

impl Sink for Comparison<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let there = self.bytes.get(self.len..).unwrap_or_default();
        if self.differs.is_none() && !there.starts_with(bytes) {
            let same = there.iter().zip(bytes).take_while(|(a, b)| a == b).count();
            self.differs = Some(self.len + same);
        }
        self.len += bytes.len();
    }

    fn len(&self) -> usize {
        self.len
    }
}

/// Writes members in their order; `None` when names or contents exceed what 16 and 32 bits can say.
pub(crate) fn write<'a>(
    members: impl Iterator<Item = (String, &'a [u8])> + Clone,
    out: &mut impl Sink,
) -> Option<()> {
    // Of each member, for the directory: its CRC-32 and its offset.
    let mut written: Vec<(u32, u32)> = Vec::new();
    for (name, content) in members.clone() {
        u16::try_from(name.len()).ok()?;
        let (crc, offset) = (crc32fast::hash(content), u32::try_from(out.len()).ok()?);
        let header = Header { name: &name, crc, size: u32::try_from(content.len()).ok()? };
        out.put(&LOCAL.to_le_bytes());
        out.put(&header.common());
        out.put(name.as_bytes());
        out.put(content);
        written.push((crc, offset));
    }
    let start = u32::try_from(out.len()).ok()?;
    for ((name, content), (crc, offset)) in members.zip(&written) {
        let header = Header { name: &name, crc: *crc, size: content.len() as u32 };
        out.put(&CENTRAL.to_le_bytes());
        // Made by: Unix, so that the mode below counts.
        out.put(&(3 << 8 | VERSION).to_le_bytes());
        out.put(&header.common());
        // Comment length, disk number, internal attributes, then a regular file that all may read.
        out.put(&[0; 6]);
        out.put(&(0o100_644_u32 << 16).to_le_bytes());
        out.put(&offset.to_le_bytes());
        out.put(name.as_bytes());
    }
    let length = u32::try_from(out.len()).ok()? - start;
    let count = written.len() as u64;
    let short = u16::try_from(count).ok().filter(|count| *count < u16::MAX);
    if short.is_none() {
        let at = out.len() as u64;
        out.put(&END64.to_le_bytes());
        out.put(&44_u64.to_le_bytes());
        out.put(&[VERSION.to_le_bytes(), VERSION.to_le_bytes()].concat());
        out.put(&[0; 8]);
        for field in [count, count, u64::from(length), u64::from(start)] {
            out.put(&field.to_le_bytes());
        }
        out.put(&LOCATOR64.to_le_bytes());
        out.put(&0_u32.to_le_bytes());
        out.put(&at.to_le_bytes());
        out.put(&1_u32.to_le_bytes());
    }
    out.put(&END.to_le_bytes());
    out.put(&[0; 4]);
    let short = short.unwrap_or(u16::MAX).to_le_bytes();
    out.put(&[short, short].concat());
    out.put(&length.to_le_bytes());
    out.put(&start.to_le_bytes());
    out.put(&[0; 2]);
    (out.len() <= ARCHIVE_BYTES_MAX).then_some(())
}

/// Reads the members of an archive, from front to back by the local headers, one at a time: whoever made the
/// archive decides how many there are.
///
/// The caller writes what it understood once more and compares: that checks every other byte.
/// `Err` is the offset at which the bytes are not a local header, or its member is cut; it is the last.
pub(crate) fn read(bytes: &[u8]) -> impl Iterator<Item = Result<(&str, &[u8]), usize>> {
    let mut at = Some(0);
    std::iter::from_fn(move || {
        let start = at.take()?;
        if bytes.get(start..start + 4) != Some(&LOCAL.to_le_bytes()) {
            let ends = bytes.get(start..start + 4) == Some(&CENTRAL.to_le_bytes());
            return (!ends).then_some(Err(start));
        }
        let member = member(bytes, start);
        at = member.map(|(_, _, end)| end);
        Some(member.map(|(name, content, _)| (name, content)).ok_or(start))
    })
}

/// Refuses bytes that are no archive, and members behind which their directory has no room, before anything is made
/// of them: there may be millions. `Err` as of [`read`].
pub(crate) fn check_directory(bytes: &[u8]) -> Result<(), usize> {
    let mut needed = 0_usize;
    for member in read(bytes) {
        let (name, content) = member?;
        needed += 30 + 46 + 2 * name.len() + content.len();
    }
    if needed > bytes.len() { Err(bytes.len()) } else { Ok(()) }
}

/// The member whose local header is at `start`: its name, its content, and where the next one is.
fn member(bytes: &[u8], start: usize) -> Option<(&str, &[u8], usize)> {
    let field = |offset: usize| {
        let field = bytes.get(start + offset..)?.first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(*field)).ok()
    };
    // Offsets of §4.3.7: size at 18, and the two lengths at 26, here read as one field of 32 bits.
    let (size, lengths) = field(18).zip(field(26))?;
    let (name_len, extra_len) = (lengths & 0xffff, lengths >> 16);
    let name = start + 30..start + 30 + name_len;
    let content = name.end.checked_add(extra_len)?;
    let content = content..content.checked_add(size)?;
    let name = std::str::from_utf8(bytes.get(name)?).ok()?;
    Some((name, bytes.get(content.clone())?, content.end))
}
