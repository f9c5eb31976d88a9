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
    fn common(&self, out: &mut Vec<u8>) {
        for field in [VERSION, FLAGS, 0, 0, DATE] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        for field in [self.crc, self.size, self.size] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&(self.name.len() as u16).to_le_bytes());
        out.extend_from_slice(&0_u16.to_le_bytes());
    }
}

/// Writes members in their order; `None` when names or contents exceed what 16 and 32 bits can say.
pub(crate) fn write<'a>(members: impl Iterator<Item = (&'a str, &'a [u8])>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut directory = Vec::new();
    let mut count = 0_u64;
    for (name, content) in members {
        u16::try_from(name.len()).ok()?;
        let offset = u32::try_from(out.len()).ok()?;
        let header = Header { name, crc: crc32fast::hash(content), size: u32::try_from(content.len()).ok()? };
        out.extend_from_slice(&LOCAL.to_le_bytes());
        header.common(&mut out);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(content);

        directory.extend_from_slice(&CENTRAL.to_le_bytes());
        // Made by: Unix, so that the mode below counts.
        directory.extend_from_slice(&(3 << 8 | VERSION).to_le_bytes());
        header.common(&mut directory);
        // Comment length, disk number, internal attributes, then a regular file that all may read.
        directory.extend_from_slice(&[0; 6]);
        directory.extend_from_slice(&(0o100_644_u32 << 16).to_le_bytes());
        directory.extend_from_slice(&offset.to_le_bytes());
        directory.extend_from_slice(name.as_bytes());
        count += 1;
    }
    let start = u32::try_from(out.len()).ok()?;
    let length = u32::try_from(directory.len()).ok()?;
    out.append(&mut directory);
    let short = u16::try_from(count).ok().filter(|count| *count < u16::MAX);
    if short.is_none() {
        let at = out.len() as u64;
        out.extend_from_slice(&END64.to_le_bytes());
        out.extend_from_slice(&44_u64.to_le_bytes());
        out.extend_from_slice(&[VERSION.to_le_bytes(), VERSION.to_le_bytes()].concat());
        out.extend_from_slice(&[0; 8]);
        for field in [count, count, u64::from(length), u64::from(start)] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&LOCATOR64.to_le_bytes());
        out.extend_from_slice(&0_u32.to_le_bytes());
        out.extend_from_slice(&at.to_le_bytes());
        out.extend_from_slice(&1_u32.to_le_bytes());
    }
    out.extend_from_slice(&END.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    let short = short.unwrap_or(u16::MAX).to_le_bytes();
    out.extend_from_slice(&[short, short].concat());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&start.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    (out.len() <= ARCHIVE_BYTES_MAX).then_some(out)
}

/// Reads the members of an archive, from front to back by the local headers.
///
/// The caller writes what it understood once more and compares: that checks every other byte.
/// `Err` is the offset at which the bytes are not a local header, or its member is cut.
pub(crate) fn read(bytes: &[u8]) -> Result<Vec<(&str, &[u8])>, usize> {
    let mut members = Vec::new();
    let mut at = 0;
    while bytes.get(at..at + 4) == Some(&LOCAL.to_le_bytes()) {
        let field = |offset: usize| {
            let field = bytes.get(at + offset..)?.first_chunk::<4>()?;
            usize::try_from(u32::from_le_bytes(*field)).ok()
        };
        // Offsets of §4.3.7: size at 18, and the two lengths at 26, here read as one field of 32 bits.
        let member = field(18).zip(field(26)).and_then(|(size, lengths)| {
            let (name_len, extra_len) = (lengths & 0xffff, lengths >> 16);
            let name = at + 30..at + 30 + name_len;
            let content = name.end.checked_add(extra_len)?;
            let content = content..content.checked_add(size)?;
            let name = std::str::from_utf8(bytes.get(name)?).ok()?;
            Some((name, bytes.get(content.clone())?, content.end))
        });
        let (name, content, end) = member.ok_or(at)?;
        members.push((name, content));
        at = end;
    }
    if bytes.get(at..at + 4) == Some(&CENTRAL.to_le_bytes()) { Ok(members) } else { Err(at) }
}
