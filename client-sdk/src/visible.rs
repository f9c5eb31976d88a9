//! Text made safe to look at: what cannot be seen, or changes what is seen, is shown by its number.
//!
//! An approver must see exactly the bytes that will run. What is neither printable ASCII nor a letter, number, punctuation
//! mark or symbol that looks like itself wherever it stands is written as `⟦U+202E⟧`, a byte that is no UTF-8 as
//! `⟦0xFF⟧`, and the brackets themselves as `⟦U+27E6⟧`, so that two different contents never look the same. By number go:
//!
//! * control characters, line ends and escapes of terminals; spaces other than U+0020;
//! * whatever Unicode ignores by default: zero width, soft hyphen, fillers, variation selectors, tags, invisible operators;
//! * formatting: bidirectional marks, embeddings, overrides, isolates; annotations; the blank of Braille;
//! * **all letters that are written from right to left**: they reorder what stands beside them without any control;
//! * **all combining marks**: they pile up over neighbouring text;
//! * private use, non-characters, and what Unicode has not assigned.
//!
//! Letters of other scripts stay as they are, and some look like Latin ones: they are counted ([`beyond_ascii`],
//! [`mixed_words`]), and the approver is told.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use icu_properties::props::{
    BidiClass, DefaultIgnorableCodePoint, GeneralCategory, GeneralCategoryGroup, Script,
};
use icu_properties::{CodePointMapData, CodePointSetData};

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

/// How many words have letters of more than one script, such as a Cyrillic `а` in a Latin name. The scripts that
/// Chinese, Japanese and Korean are written in together count as one.
#[must_use]
pub fn mixed_words(bytes: &[u8]) -> usize {
    let scripts = CodePointMapData::<Script>::new();
    let text = String::from_utf8_lossy(bytes);
    let mixes = |word: &&str| {
        let of = word.chars().filter_map(|character| match scripts.get(character) {
            Script::Common | Script::Inherited | Script::Unknown => None,
            Script::Hiragana | Script::Katakana | Script::Hangul | Script::Bopomofo => Some(Script::Han),
            script => Some(script),
        });
        of.collect::<BTreeSet<_>>().len() > 1
    };
    text.split(|character: char| !character.is_alphanumeric()).filter(mixes).count()
}

/// Whether a character looks like itself wherever it stands.
fn is_plain(character: char) -> bool {
    match character {
        ' '..='~' => true,
        // The brackets of what is shown by number, and the blank of Braille, a symbol without ink.
        '⟦' | '⟧' | '\u{2800}' => false,
        _ if character.is_ascii() => false,
        _ => {
            let category = CodePointMapData::<GeneralCategory>::new().get(character);
            let direction = CodePointMapData::<BidiClass>::new().get(character);
            let inked = GeneralCategoryGroup::Letter
                .union(GeneralCategoryGroup::Number)
                .union(GeneralCategoryGroup::Punctuation)
                .union(GeneralCategoryGroup::Symbol);
            inked.contains(category)
                && !CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(character)
                && !matches!(
                    direction,
                    BidiClass::RightToLeft | BidiClass::ArabicLetter | BidiClass::ArabicNumber
                )
                // Blocks of the scripts that are written from right to left, with their weaker characters; and specials.
                && !matches!(u32::from(character),
                    0x0590..=0x08FF | 0xFB1D..=0xFDFF | 0xFE70..=0xFEFF | 0x10800..=0x10FFF | 0x1E800..=0x1EFFF
                    | 0xFFF0..=0xFFFD)
        }
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
            // Hebrew and Arabic would swap the amounts around them.
            ("1 \u{5d0} 2".as_bytes(), "1 ⟦U+05D0⟧ 2"),
            ("\u{627}5".as_bytes(), "⟦U+0627⟧5"),
            // An overlong slash, a lone surrogate, a code point beyond the last.
            (b"\xc0\xaf", "⟦0xC0⟧⟦0xAF⟧"),
            (b"\xed\xa0\x80", "⟦0xED⟧⟦0xA0⟧⟦0x80⟧"),
            (b"\xf4\x90\x80\x80", "⟦0xF4⟧⟦0x90⟧⟦0x80⟧⟦0x80⟧"),
            // Whatever JSON makes of it, these are the bytes.
            (
                br#"{"a":1,"a":2e999,"a":100000000000000000000}"#,
                r#"{"a":1,"a":2e999,"a":100000000000000000000}"#,
            ),
        ] {
            assert_eq!(visible(bytes), shown);
        }
        assert_eq!(beyond_ascii("aé\u{202e}".as_bytes()), 2);
    }

    /// Ranges of the Unicode standard that hide, reorder or join, written down here apart from the code's own tables.
    const HIDDEN: &[(u32, u32)] = &[
        (0x00, 0x1F),        // controls
        (0x7F, 0xA0),        // controls, no-break space
        (0xAD, 0xAD),        // soft hyphen
        (0x0300, 0x036F),    // combining marks
        (0x0483, 0x0489),    // combining Cyrillic
        (0x0590, 0x08FF),    // right to left: Hebrew, Arabic, Syriac, Thaana, NKo, Samaritan, Mandaic
        (0x115F, 0x1160),    // Hangul fillers
        (0x17B4, 0x17B5),    // Khmer inherent vowels
        (0x180B, 0x180F),    // Mongolian selectors, vowel separator
        (0x1AB0, 0x1AFF),    // combining marks
        (0x1DC0, 0x1DFF),    // combining marks
        (0x2000, 0x200F),    // spaces, zero width, marks of direction
        (0x2028, 0x202F),    // separators, embeddings, overrides, narrow space
        (0x205F, 0x206F),    // invisible operators, isolates, deprecated formatting
        (0x20D0, 0x20FF),    // combining marks for symbols
        (0x27E6, 0x27E7),    // the brackets
        (0x2800, 0x2800),    // blank Braille
        (0x3000, 0x3000),    // ideographic space
        (0x3099, 0x309A),    // combining voiced marks
        (0x3164, 0x3164),    // Hangul filler
        (0xE000, 0xF8FF),    // private use
        (0xFB1D, 0xFB4F),    // Hebrew presentation forms
        (0xFDD0, 0xFDEF),    // non-characters
        (0xFE00, 0xFE0F),    // variation selectors
        (0xFE20, 0xFE2F),    // combining half marks
        (0xFEFF, 0xFEFF),    // byte order mark
        (0xFFA0, 0xFFA0),    // halfwidth Hangul filler
        (0xFFF0, 0xFFFF),    // specials
        (0x10800, 0x10FFF),  // right to left scripts
        (0x1BCA0, 0x1BCA3),  // shorthand format controls
        (0x1D173, 0x1D17A),  // musical format controls
        (0x1E800, 0x1EFFF),  // right to left scripts
        (0xE0000, 0xE0FFF),  // tags, variation selectors, unassigned
        (0xF0000, 0x10FFFF), // private use
    ];

    #[test]
    fn the_lists_are_complete() {
        let hidden = |n: u32| HIDDEN.iter().any(|(first, last)| (*first..=*last).contains(&n));
        for n in 0..=0x10_FFFF {
            let Some(character) = char::from_u32(n) else { continue };
            if hidden(n) {
                assert!(!is_plain(character), "U+{n:04X} is not shown by its number");
            }
            // The last two of every plane are no characters.
            assert!(n & 0xFFFE != 0xFFFE || !is_plain(character), "U+{n:04X}");
        }
        for unassigned in ['\u{378}', '\u{530}', '\u{2FE0}', '\u{1FFFD}', '\u{3FFFF}'] {
            assert!(!is_plain(unassigned), "{unassigned:?}");
        }
        for plain in "aZ09{}éßøñΩжいア漢한ก€→∑😀½".chars() {
            assert!(is_plain(plain), "{plain:?}");
        }
    }

    /// The bytes that a visible text stands for.
    fn decode(shown: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = shown;
        while let Some((before, after)) = rest.split_once('⟦') {
            bytes.extend(before.as_bytes());
            let (number, after) = after.split_once('⟧').unwrap();
            match number.split_at(2) {
                ("0x", byte) => bytes.push(u8::from_str_radix(byte, 16).unwrap()),
                ("U+", point) => {
                    let point = char::from_u32(u32::from_str_radix(point, 16).unwrap()).unwrap();
                    bytes.extend(point.to_string().as_bytes());
                }
                other => panic!("{other:?}"),
            }
            rest = after;
        }
        bytes.extend(rest.as_bytes());
        bytes
    }

    #[test]
    fn two_contents_never_look_the_same() {
        // What can be read back has one source. Every code point, and bytes without order from a fixed seed.
        for n in (0..=0x10_FFFF).filter_map(char::from_u32) {
            let text = n.to_string();
            assert_eq!(decode(&visible(text.as_bytes())), text.as_bytes());
        }
        let mut state = 0x5317_c0de_u64;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        };
        let parts = ["⟦", "⟧", "⟦U+", "⟦0xFF⟧", "\u{202e}", "\u{200b}", "a", "{\"", "é", "\u{301}", "\n"];
        for round in 0..20_000 {
            let mut bytes = Vec::new();
            for _ in 0..next() % 24 {
                match next() % 3 {
                    0 => bytes.push(next() as u8),
                    1 => bytes.extend(parts[next() as usize % parts.len()].as_bytes()),
                    _ => {
                        bytes.extend(char::from_u32(next() % 0x11_0000).unwrap_or('?').to_string().as_bytes())
                    }
                }
            }
            let shown = visible(&bytes);
            assert_eq!(decode(&shown), bytes, "round {round}: {bytes:02x?}");
            assert!(shown.chars().all(|c| is_plain(c) || matches!(c, '⟦' | '⟧')), "{shown:?}");
        }
    }

    #[test]
    fn words_of_several_scripts_are_counted() {
        for (text, count) in [
            ("pay bob 5", 0),
            ("東京タワーへ行く", 0),
            ("Москва London", 0),
            ("p\u{430}ypal", 1),                    // a Cyrillic а
            ("{\"\u{3bf}wner\":\"b\u{3bf}b\"}", 2), // Greek omicrons
            ("\u{41c}oscow1 Straße", 1),
        ] {
            assert_eq!(mixed_words(text.as_bytes()), count, "{text}");
        }
    }
}
