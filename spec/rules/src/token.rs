//! Tokens that a text holds: e-mail addresses, domains, URLs, account numbers.
//!
//! By form alone, and over bytes, so that every build of every version finds the same ones: letters beyond ASCII are
//! part of a name whatever they are, and only ASCII letters have cases. What hides from these forms (a percent sign for a
//! letter, words in place of dots) is not found, so a rule about values that must be known looks at the argument itself.

/// Longest account number: the bound of ISO 13616.
const IBAN_MAX: usize = 34;

/// Shortest account number: that of Norway.
const IBAN_MIN: usize = 15;

/// Every e-mail address, in lower case.
pub(crate) fn emails(text: &str, mut found: impl FnMut(String)) {
    for (at, _) in text.match_indices('@') {
        let (before, after) = (text.get(..at).unwrap_or_default(), text.get(at + 1..).unwrap_or_default());
        let is_local = |c: char| is_host(c) || matches!(c, '%' | '+' | '\'');
        let local = before.rfind(|c| !is_local(c)).map_or(before, |end| &before[end..]);
        let local = local.trim_start_matches(|c| !is_local(c) || c == '.');
        let domain = after.find(|c| !is_host(c)).map_or(after, |end| &after[..end]);
        let domain = domain.trim_end_matches(['.', '-', '_']);
        if !local.is_empty() && domain.contains('.') && !domain.starts_with('.') {
            found(format!("{local}@{domain}").to_ascii_lowercase());
        }
    }
}

/// Every URL that names a scheme and an authority, up to white space, quotes or angle brackets, without punctuation at
/// its end.
pub(crate) fn urls(text: &str, mut found: impl FnMut(String)) {
    for (scheme, rest) in schemes(text) {
        let is_end =
            |c: char| c.is_ascii_whitespace() || c.is_ascii_control() || matches!(c, '"' | '<' | '>' | '`');
        let rest = rest.find(is_end).map_or(rest, |end| &rest[..end]);
        let rest = rest.trim_end_matches(['.', ',', ';', ':', '!', '?', ')', ']', '}', '\'']);
        if !rest.is_empty() {
            found(format!("{}://{rest}", scheme.to_ascii_lowercase()));
        }
    }
}

/// Every domain, in lower case: the host of every URL, that of every e-mail address, and whatever else has the form of
/// one (`www.example.com`, and so also `notes.txt`) or of an IPv4 address.
pub(crate) fn domains(text: &str, mut found: impl FnMut(String)) {
    for (_, rest) in schemes(text) {
        let authority = rest
            .find(|c: char| matches!(c, '/' | '\\' | '?' | '#' | '"' | '<' | '>') || c.is_ascii_whitespace());
        let authority = authority.map_or(rest, |end| &rest[..end]);
        let host = authority.rsplit('@').next().unwrap_or_default();
        // Without the port; an IPv6 address stands in brackets.
        let host = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _)) => address,
            None => host.split(':').next().unwrap_or_default(),
        };
        let host = host.trim_end_matches(['.', ',', ';', '!', ')', ']', '}', '\'']);
        if !host.is_empty() {
            found(host.to_ascii_lowercase());
        }
    }
    for word in text.split(|c| !is_host(c)) {
        let word = word.trim_matches(['.', '-', '_']);
        let labels = || word.split('.');
        let last = labels().next_back().unwrap_or_default();
        let is_name = last.chars().count() >= 2 && !last.starts_with(|c: char| c.is_ascii_digit());
        let is_address = labels().count() == 4 && labels().all(|label| label.parse::<u8>().is_ok());
        if word.contains('.') && labels().all(|label| !label.is_empty()) && (is_name || is_address) {
            found(word.to_ascii_lowercase());
        }
    }
}

/// Every account number of the form of an IBAN, in upper case and without the spaces of its groups of four. Its check
/// digits are not checked: a payment to a wrong one is a payment.
pub(crate) fn ibans(text: &str, mut found: impl FnMut(String)) {
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphanumeric()) {
        rest = &rest[start..];
        let (word, after) = word(rest);
        let mut number = word.to_owned();
        rest = after;
        // Groups of four, the last one shorter: `GB29 NWBK 6016 1331 9268 19`.
        let mut group = word;
        while group.len() == 4 && is_iban_start(&number) && number.len() < IBAN_MAX {
            let Some((next, after)) = rest.strip_prefix(' ').map(self::word) else { break };
            let is_group = |c: u8| c.is_ascii_digit() || c.is_ascii_uppercase();
            if next.is_empty() || next.len() > 4 || !next.bytes().all(is_group) {
                break;
            }
            number.push_str(next);
            (group, rest) = (next, after);
        }
        if is_iban_start(&number) && (IBAN_MIN..=IBAN_MAX).contains(&number.len()) {
            found(number.to_ascii_uppercase());
        }
    }
}

/// Whether `text` holds `part`, and not inside of a longer word or number.
pub(crate) fn holds_words(text: &str, part: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || !c.is_ascii();
    let starts = part.starts_with(is_word);
    let ends = part.ends_with(is_word);
    let is_apart = |(at, found): (usize, &str)| {
        let before = text.get(..at).is_some_and(|before| before.ends_with(is_word));
        let after = text.get(at + found.len()..).is_some_and(|after| after.starts_with(is_word));
        !(starts && before || ends && after)
    };
    !part.is_empty() && text.match_indices(part).any(is_apart)
}

fn is_iban_start(word: &str) -> bool {
    let start = word.as_bytes().first_chunk::<4>();
    start.is_some_and(|[a, b, c, d]| {
        a.is_ascii_alphabetic() && b.is_ascii_alphabetic() && c.is_ascii_digit() && d.is_ascii_digit()
    })
}

/// The letters and digits at the start of a text, and what follows them.
fn word(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len()))
}

/// Part of a host's name or of an e-mail address.
fn is_host(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') || !c.is_ascii()
}

/// Every `scheme://`, with what follows it.
fn schemes(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.match_indices("://").filter_map(|(at, mark)| {
        let (before, after) = (text.get(..at)?, text.get(at + mark.len()..)?);
        let is_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        let start = before
            .rfind(|c| !is_scheme(c))
            .map_or(Some(0), |last| Some(last + before.get(last..)?.chars().next()?.len_utf8()))?;
        let scheme = before.get(start..)?;
        (!scheme.is_empty()).then_some((scheme, after))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(find: fn(&str, &mut dyn FnMut(String)), text: &str) -> Vec<String> {
        let mut all = Vec::new();
        find(text, &mut |token| all.push(token));
        all
    }

    #[test]
    fn addresses() {
        let find = |text: &str| all(|text, found| emails(text, found), text);
        assert_eq!(find("Ann <ann.b+c@Example.com>, mailto:d@e.org."), ["ann.b+c@example.com", "d@e.org"]);
        assert_eq!(find("a@b, @x.org, c@, é@ü.de;x\u{a0}y@z.fr"), ["é@ü.de", "x\u{a0}y@z.fr"]);
        assert_eq!(find("a@b.c@d.e"), ["a@b.c", "b.c@d.e"]);
    }

    #[test]
    fn hosts() {
        let find = |text: &str| all(|text, found| domains(text, found), text);
        assert_eq!(find("see https://u:p@Evil.example:8080/x?y=a@b"), ["evil.example", "evil.example"]);
        assert_eq!(
            find("http://localhost/ http://[::1]:80 http://3232235777"),
            ["localhost", "::1", "3232235777"]
        );
        assert_eq!(find("www.a-b.com, 10.0.0.1, 3.14, e.g. x@y.org"), ["www.a-b.com", "10.0.0.1", "y.org"]);
        assert_eq!(
            find(r"https://good.example\@evil.example"),
            ["good.example", "good.example", "evil.example"]
        );
    }

    #[test]
    fn links() {
        let find = |text: &str| all(|text, found| urls(text, found), text);
        assert_eq!(find("(HTTPS://a.b/c?d=(e)), <ftp://x>."), ["https://a.b/c?d=(e", "ftp://x"]);
        assert_eq!(find("://x http://"), Vec::<String>::new());
    }

    #[test]
    fn accounts() {
        let find = |text: &str| all(|text, found| ibans(text, found), text);
        assert_eq!(find("to gb29nwbk60161331926819."), ["GB29NWBK60161331926819"]);
        assert_eq!(find("GB29 NWBK 6016 1331 9268 19 to Bob"), ["GB29NWBK60161331926819"]);
        assert_eq!(
            find("US133000000121212121212, UK12345678901234567890"),
            ["US133000000121212121212", "UK12345678901234567890"]
        );
        assert_eq!(find("AB12 word GB2 XY34567"), Vec::<String>::new());
        assert_eq!(find(&format!("GB29{}", "1".repeat(31))), Vec::<String>::new());
    }

    #[test]
    fn words() {
        for (text, part, holds) in [
            ("pay 50 to bob", "50", true),
            ("pay 500 to bob", "50", false),
            ("pay 1.50", "50", true),
            ("ask bobby", "bob", false),
            ("in #general!", "#general", true),
            ("in #general2", "#general", false),
            ("aböb", "b", false),
            ("bobby and bob", "bob", true),
            ("x", "", false),
        ] {
            assert_eq!(holds_words(text, part), holds, "{text} {part}");
        }
    }

    type Finder = fn(&str, &mut dyn FnMut(String));

    proptest::proptest! {
        #[test]
        fn any_text_has_tokens_without_a_panic(text in "[a-zA-Z0-9é@:/. \\[\\]\\\\-]{0,60}") {
            let finders: [Finder; 4] = [
                |text, found| emails(text, found),
                |text, found| urls(text, found),
                |text, found| domains(text, found),
                |text, found| ibans(text, found),
            ];
            for find in finders {
                let tokens = all(find, &text);
                proptest::prop_assert!(tokens.iter().all(|token| !token.is_empty() && token.len() <= text.len()));
            }
            let _ = holds_words(&text, "a.b");
        }
    }
}
