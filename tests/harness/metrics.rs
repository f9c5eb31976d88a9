//! A strict reader of OpenMetrics text: what a scraper may rely on, and a panic for everything else.

use std::collections::{BTreeMap, BTreeSet};

/// A scrape, read and checked.
#[derive(Debug)]
pub struct Scrape {
    samples: BTreeMap<(String, Labels), f64>,
    types: BTreeMap<String, String>,
}

type Labels = BTreeMap<String, String>;

impl Scrape {
    /// Reads a scrape: one block for each family with type and help, samples that fit the type, units as suffixes, no
    /// sample twice, histograms that add up, and the end that says that nothing is missing.
    ///
    /// # Panics
    /// With the line that breaks a rule.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("a scrape ends with # EOF");
        let mut scrape = Self { samples: BTreeMap::new(), types: BTreeMap::new() };
        let (mut family, mut helped, mut units) = (String::new(), BTreeSet::new(), BTreeMap::new());
        for line in body.lines() {
            assert!(!line.is_empty(), "an empty line");
            if let Some(meta) = line.strip_prefix("# ") {
                let (kind, rest) = meta.split_once(' ').expect(line);
                let (name, value) = rest.split_once(' ').expect(line);
                check_name(name);
                match kind {
                    "HELP" => assert!(helped.insert(name.to_owned()), "help twice: {line}"),
                    "TYPE" => {
                        assert!(["counter", "gauge", "histogram"].contains(&value), "{line}");
                        let before = scrape.types.insert(name.to_owned(), value.to_owned());
                        assert_eq!(before, None, "a family in two places: {line}");
                        family = name.to_owned();
                    }
                    "UNIT" => {
                        assert!(["seconds", "bytes"].contains(&value), "a base unit: {line}");
                        assert!(name.ends_with(&format!("_{value}")), "{line}");
                        units.insert(name.to_owned(), value.to_owned());
                    }
                    other => panic!("{other}: {line}"),
                }
                continue;
            }
            let (name, labels, value) = parse_sample(line);
            let kind = scrape.types.get(&family).expect("a type comes first").as_str();
            let suffix = name.strip_prefix(&family).unwrap_or_else(|| panic!("outside its family: {line}"));
            match kind {
                "counter" => assert_eq!(suffix, "_total", "{line}"),
                "gauge" => assert_eq!(suffix, "", "{line}"),
                _ => assert!(["_sum", "_count", "_bucket"].contains(&suffix), "{line}"),
            }
            assert!(value.is_finite() && (kind == "gauge" || value >= 0.0), "{line}");
            let twice = scrape.samples.insert((name, labels), value);
            assert_eq!(twice, None, "a sample twice: {line}");
        }
        for name in scrape.types.keys() {
            assert!(helped.contains(name), "no help for {name}");
        }
        scrape.check_histograms();
        scrape
    }

    fn check_histograms(&self) {
        for (family, _) in self.types.iter().filter(|(_, kind)| *kind == "histogram") {
            let mut buckets: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
            let name = format!("{family}_bucket");
            for ((_, labels), value) in self.samples.iter().filter(|((sample, _), _)| *sample == name) {
                let mut labels = labels.clone();
                let bound = match labels.remove("le").expect("le").as_str() {
                    "+Inf" => f64::INFINITY,
                    bound => bound.parse().expect("a bound"),
                };
                buckets.entry(labels).or_default().push((bound, *value));
            }
            for (labels, mut buckets) in buckets {
                buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
                assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{family}: {buckets:?}");
                let count = self.samples[&(format!("{family}_count"), labels)];
                assert_eq!(buckets.last(), Some(&(f64::INFINITY, count)), "{family}");
            }
        }
    }

    /// The value of a sample.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| {
            let there: Vec<_> = self.samples.keys().filter(|(sample, _)| sample == name).collect();
            panic!("no {name} {labels:?}; there are {there:?}")
        })
    }

    /// The value of a sample, where there is one.
    #[must_use]
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.samples.get(&(name.to_owned(), labels)).copied()
    }

    /// Sum of all samples of a name.
    #[must_use]
    pub fn sum(&self, name: &str) -> f64 {
        self.samples.iter().filter(|((sample, _), _)| sample == name).map(|(_, value)| value).sum()
    }

    /// Names of all families.
    pub fn families(&self) -> impl Iterator<Item = &str> {
        self.types.keys().map(String::as_str)
    }
}

fn check_name(name: &str) {
    let good = |(n, c): (usize, char)| c == '_' || c.is_ascii_lowercase() || n > 0 && c.is_ascii_digit();
    assert!(!name.is_empty() && name.chars().enumerate().all(good), "a metric's name: {name}");
}

fn parse_sample(line: &str) -> (String, Labels, f64) {
    let end = line.find(['{', ' ']).expect(line);
    let (name, mut rest) = line.split_at(end);
    check_name(name);
    let mut labels = Labels::new();
    if let Some(inner) = rest.strip_prefix('{') {
        let mut inner = inner;
        loop {
            let (key, value) = inner.split_once("=\"").expect(line);
            check_name(key);
            let mut text = String::new();
            let mut chars = value.char_indices();
            let end = loop {
                match chars.next().expect(line) {
                    (_, '\\') => match chars.next().expect(line).1 {
                        'n' => text.push('\n'),
                        c @ ('\\' | '"') => text.push(c),
                        c => panic!("escape {c}: {line}"),
                    },
                    (at, '"') => break at + 1,
                    (_, c) => text.push(c),
                }
            };
            assert_eq!(labels.insert(key.to_owned(), text), None, "a label twice: {line}");
            inner = &value[end..];
            match inner.strip_prefix(',') {
                Some(more) => inner = more,
                None => break,
            }
        }
        rest = inner.strip_prefix('}').expect(line);
    }
    let value = rest.strip_prefix(' ').expect(line);
    assert!(!value.contains(' '), "neither timestamp nor exemplar: {line}");
    (name.to_owned(), labels, value.parse().expect(line))
}
