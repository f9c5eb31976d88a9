//! Text made safe to look at: what cannot be seen, or changes what is seen, is shown by its number.
//!
//! An approver must see exactly the bytes that will run. A character that hides, reorders or joins others, a control
//! character, and a byte that is no UTF-8 are written as `⟦U+202E⟧` or `⟦0xFF⟧`, and the brackets themselves as
//! `⟦U+27E6⟧`, so that two different contents never look the same.

use std::fmt::Write as _;

/// Bytes as visible text on one line.
#[must_use]
pub fn visible(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if is_plain(character) {
                shown.push(character);
            } else {
                // Writing to a String cannot fail.
                let _ = write!(shown, "⟦U+{:04X}⟧", u32::from(character));
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(shown, "⟦0x{byte:02X}⟧");
        }
    }
    shown
}

/// How many characters are outside of ASCII: letters that look alike are easiest to miss among few.
#[must_use]
pub fn beyond_ascii(bytes: &[u8]) -> usize {
    bytes
        .utf8_chunks()
        .map(|chunk| chunk.valid().chars().filter(|c| !c.is_ascii()).count() + chunk.invalid().len())
        .sum()
}

/// Whether a character looks like itself wherever it stands.
fn is_plain(character: char) -> bool {
    match character {
        ' '..='~' => true,
        '⟦' | '⟧' => false,
        _ if character.is_control() => false,
        // Spaces of other widths, and line and paragraph separators.
        _ if character.is_whitespace() => false,
        _ => !matches!(u32::from(character),
            // Soft hyphen, combining grapheme joiner, Arabic letter mark, Hangul fillers, Khmer inherent vowels.
            0x00AD | 0x034F | 0x061C | 0x115F | 0x1160 | 0x17B4 | 0x17B5 | 0x3164 | 0xFFA0
            // Mongolian variation selectors and vowel separator.
            | 0x180B..=0x180F
            // Zero width, bidirectional marks, embeddings, overrides and isolates, invisible operators.
            | 0x200B..=0x200F | 0x202A..=0x202E | 0x2060..=0x206F
            // Braille blank, variation selectors, byte order mark, interlinear annotation and specials.
            | 0x2800 | 0xFE00..=0xFE0F | 0xFEFF | 0xFFF0..=0xFFFC
            // Combining marks that can be piled over neighbouring text.
            | 0x0300..=0x036F | 0x1AB0..=0x1AFF | 0x1DC0..=0x1DFF | 0x20D0..=0x20FF | 0xFE20..=0xFE2F
            // Shorthand and musical format controls, tags, further variation selectors, private use, non-characters.
            | 0x1BCA0..=0x1BCA3 | 0x1D173..=0x1D17A | 0xE0000..=0xE0FFF | 0xE000..=0xF8FF | 0xF0000..=0x10FFFF
            | 0xFDD0..=0xFDEF),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hides_is_shown() {
        for (bytes, shown) in [
            (&b"plain {\"a\": 1}"[..], "plain {\"a\": 1}"),
            ("Zürich 東京".as_bytes(), "Zürich 東京"),
            (b"a\nb\tc", "a⟦U+000A⟧b⟦U+0009⟧c"),
            (b"a\x1b[2Kb\x7f", "a⟦U+001B⟧[2Kb⟦U+007F⟧"),
            ("pay\u{202e}evil".as_bytes(), "pay⟦U+202E⟧evil"),
            ("a\u{200b}b\u{feff}c\u{2066}d".as_bytes(), "a⟦U+200B⟧b⟦U+FEFF⟧c⟦U+2066⟧d"),
            ("a\u{e0041}\u{a0}\u{2028}".as_bytes(), "a⟦U+E0041⟧⟦U+00A0⟧⟦U+2028⟧"),
            (b"a\xff\xc3", "a⟦0xFF⟧⟦0xC3⟧"),
            ("⟦U+202E⟧".as_bytes(), "⟦U+27E6⟧U+202E⟦U+27E7⟧"),
            ("e\u{301}".as_bytes(), "e⟦U+0301⟧"),
        ] {
            assert_eq!(visible(bytes), shown);
        }
        assert_eq!(beyond_ascii("aé\u{202e}".as_bytes()), 2);
    }
}
