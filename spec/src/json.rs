//! JSON strings, by their bytes (RFC 8259 §7).

/// Offset of the first byte that does not stand for itself in a JSON string: a quote, a backslash or a control character.
///
/// Eight bytes at a time. In the words below, the lowest byte with its high bit set is the first that was looked for:
/// subtracting borrows from higher bytes alone, and what has the high bit itself, as in UTF-8, is masked out.
#[must_use]
#[inline]
pub fn first_special(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let below = |word: u64, bound: u64| word.wrapping_sub(ONES * bound) & !word;
    let (words, rest) = bytes.as_chunks();
    for (number, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
        let found = (below(word, 0x20) | equal(b'"') | equal(b'\\')) & HIGH;
        if found != 0 {
            return Some(8 * number + found.trailing_zeros() as usize / 8);
        }
    }
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    rest.iter().position(is_special).map(|at| bytes.len() - rest.len() + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_special_byte_is_found_wherever_it_is() {
        let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
        // Neighbours of what is looked for, on either side of a borrow and of the high bit.
        for fill in [b'a', 0x20, 0x21, b'#', b']', b'[', 0x7f, 0x80, 0xa2, 0xdc, 0xff] {
            for length in 0..26 {
                for at in 0..length {
                    for byte in 0..=255 {
                        let mut bytes = vec![fill; length];
                        bytes[at] = byte;
                        assert_eq!(first_special(&bytes), bytes.iter().position(is_special), "{bytes:?}");
                        if let Some(next) = bytes.get_mut(at + 1) {
                            *next = byte.wrapping_add(1);
                            assert_eq!(first_special(&bytes), bytes.iter().position(is_special), "{bytes:?}");
                        }
                    }
                }
            }
        }
    }
}
