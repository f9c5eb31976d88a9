//! A run on one page: what is wrong first, then what was checked and what was not, the spend against its limits, and
//! every record with the index and hash behind it.
//!
//! The page is for people who were not there. It needs no network, no script and no other file, and shows nothing that
//! the pack does not hold. What it shows of records is what they say; whether that is true is what the findings are about.

mod html;
mod spend;
mod timeline;

use std::fmt::Write as _;

use sift_spec::entry::{Content, Entry};
use sift_spec::evidence::Pack;
use sift_spec::hash::leaf_hash;
use sift_spec::record::{Body, Open, Record};
use sift_spec::types::{Hash, LeafIndex};

use crate::explain;
use crate::finding::{Concern, Severity};
use crate::report::{Report, Verdict};
use html::{escape, tag};

/// How it looks: light and dark, on screen and on paper.
const STYLE: &str = include_str!("page/style.css");

/// Nothing is loaded and nothing runs, whatever the evidence holds.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// A record of the run with its place.
struct Row {
    index: LeafIndex,
    leaf: Hash,
    record: Record,
    signer: String,
}

/// The page of a run's report. `pack` is what was verified.
#[must_use]
pub fn render(report: &Report, pack: &[u8]) -> String {
    let pack = Pack::read(pack).ok();
    let rows = pack.as_ref().map(rows).unwrap_or_default();
    let open = rows.first().and_then(|row| match &row.record.body {
        Body::Open(open) => Some((row, &**open)),
        _ => None,
    });
    let (verdict, class) = match report.verdict() {
        Verdict::Verified => ("Verified", "good"),
        Verdict::Rejected => ("Rejected", "bad"),
    };
    let mut body = String::new();
    let mut put = |part: &str| body.push_str(part);
    put(&format!("<header><p class=\"verdict {class}\">{verdict}</p><h1>{}</h1>", escape(report.subject())));
    if let Some((row, open)) = open {
        put(&about(row, open, &rows));
    }
    put("</header><main>");
    put(&findings(report));
    put(&unchecked(report));
    if let Some((_, open)) = open {
        put(&spend::render(open, rows.iter().map(|row| &row.record)));
    }
    put(&claims(report));
    if let Some(pack) = &pack {
        put(&timeline::render(&rows, pack, report.verdict()));
        put(&tree(pack));
    }
    put(
        "</main><footer><p>Made by <code>sift-verify run --html</code> from the evidence pack alone. This page proves nothing \
         by itself: check the pack.</p></footer>",
    );
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{verdict}: {}</title><style>{STYLE}</style></head><body>{body}</body></html>\n",
        escape(report.subject())
    )
}

/// The records of the run, in their order.
fn rows(pack: &Pack) -> Vec<Row> {
    let mut rows: Vec<Row> = pack
        .entries
        .iter()
        .filter_map(|(index, bytes)| {
            let entry = Entry::parse(bytes.clone()).ok()?;
            let Content::Run(record) = entry.content() else { return None };
            let (record, signer) = (record.clone(), entry.signer().to_string());
            (record.run == pack.run).then(|| Row { index: *index, leaf: leaf_hash(bytes), record, signer })
        })
        .collect();
    rows.sort_by_key(|row| (row.record.seq, row.index));
    rows
}

/// Who acted, when, under what.
fn about(first: &Row, open: &Open, rows: &[Row]) -> String {
    let mut list = String::from("<dl class=\"about\">");
    let mut item = |name: &str, value: &str| {
        let _ = write!(list, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    };
    item("Agent", &escape(first.record.agent.as_str()));
    item("Run", &tag("code", &first.record.run.to_string()));
    item("Opened", &first.record.time.utc());
    if let Some(last) = rows.last().filter(|row| matches!(row.record.body, Body::Close(_))) {
        item("Closed", &last.record.time.utc());
    }
    item("Kernel", &escape(&first.signer));
    item("Log", &escape(open.log.as_str()));
    item(
        "Policy",
        &format!("{} <code class=\"hash\">{}</code>", escape(open.engine.as_str()), open.policy.hex()),
    );
    for (name, value) in &open.labels {
        item(&escape(name.as_str()), &escape(value.as_str()));
    }
    list + "</dl>"
}

fn findings(report: &Report) -> String {
    let findings = report.findings();
    if findings.is_empty() {
        return "<section><h2>What is wrong</h2><p class=\"none\">Nothing was found.</p></section>"
            .to_owned();
    }
    let mut section = String::from("<section><h2>What is wrong</h2><ul class=\"cards\">");
    for finding in findings {
        let class = if finding.severity == Severity::Rejects { "bad" } else { "care" };
        section += &card(class, finding.code.code(), &finding.concern, &finding.detail);
    }
    section += &unlisted(report.findings_unlisted());
    section + "</section>"
}

fn unchecked(report: &Report) -> String {
    if report.unchecked().is_empty() {
        return String::new();
    }
    let mut section = String::from("<section><h2>What was not checked</h2><ul class=\"cards\">");
    for gap in report.unchecked() {
        section += &card("care", gap.code.code(), &gap.concern, &gap.detail);
    }
    section += &unlisted(report.unchecked_unlisted());
    section + "</section>"
}

fn unlisted(more: u64) -> String {
    if more == 0 { "</ul>".to_owned() } else { format!("</ul><p>and {more} more</p>") }
}

/// A code with its place, what was found, and what that means.
fn card(class: &str, code: &str, concern: &Concern, detail: &str) -> String {
    let place = escape(&concern.to_string());
    let place = match concern.seq {
        Some(seq) => format!("<a href=\"#seq-{seq}\">{place}</a>"),
        None => place,
    };
    let mut card = format!(
        "<li class=\"{class}\"><h3>{}</h3><p class=\"place\">{place}</p><p>{}</p>",
        escape(code),
        escape(detail)
    );
    if let Some(means) = explain::explain(code) {
        let [innocent, takes] = match means.kind {
            explain::Kind::Finding => ["What could cause it innocently", "What it would take to forge"],
            explain::Kind::Unchecked => ["Why", "What would check it"],
        };
        let _ = write!(
            card,
            "<details><summary>{}</summary><p><b>{innocent}.</b> {}</p><p><b>{takes}.</b> {}</p></details>",
            escape(means.meaning),
            escape(means.innocent),
            escape(means.takes)
        );
    }
    card + "</li>"
}

fn claims(report: &Report) -> String {
    if report.verified().is_empty() {
        return String::new();
    }
    let mut section = String::from("<section><h2>What was verified</h2><dl class=\"claims\">");
    for claim in report.verified() {
        let _ =
            write!(section, "<div><dt>{}</dt><dd>{}</dd></div>", escape(claim.what), escape(&claim.detail));
    }
    section + "</dl></section>"
}

/// The tree head that everything rests on.
fn tree(pack: &Pack) -> String {
    format!(
        "<section><h2>The tree head it rests on</h2><pre class=\"note\">{}</pre></section>",
        escape(&pack.checkpoint)
    )
}
