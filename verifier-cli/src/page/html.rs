//! Text in HTML. What evidence holds was written by others: none of it is markup here, and nothing in it is invisible.

use std::fmt::Write as _;

/// Text as HTML shows it. Characters that steer or hide text are named instead of obeyed.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(c),
            c if is_hidden(c) => {
                let _ = write!(escaped, "<b class=\"hidden\">U+{:04X}</b>", u32::from(c));
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// An element with text.
pub(super) fn tag(name: &str, text: &str) -> String {
    format!("<{name}>{}</{name}>", escape(text))
}

/// Whether a character cannot be seen, or changes how others are seen: controls, bidirectional marks, zero widths, fillers,
/// variation selectors, tags.
const fn is_hidden(c: char) -> bool {
    matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}'
        | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_markup_and_nothing_hides() {
        assert_eq!(escape("<a b=\"c\">'&"), "&lt;a b=&quot;c&quot;&gt;&#39;&amp;");
        assert_eq!(
            escape("a\u{202e}b\u{1b}"),
            "a<b class=\"hidden\">U+202E</b>b<b class=\"hidden\">U+001B</b>"
        );
        assert_eq!(escape("line\n\tüé漢"), "line\n\tüé漢");
        assert_eq!(tag("code", "<"), "<code>&lt;</code>");
    }
}
