//! Every record of the run, in its order, with the index and hash behind it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sift_spec::evidence::Pack;
use sift_spec::hash::object_digest;
use sift_spec::note::Note;
use sift_spec::payload::{Commitment, SALT_BYTES};
use sift_spec::record::{Answer, Approval, Body, Call, Effect, Intent, Kind, Outcome, Statement, Status};
use sift_spec::types::{Seq, UnixMillis};

use super::Row;
use super::html::{escape, tag};
use super::spend::amounts;
use crate::report::Verdict;
use crate::run::words;

/// Most records that are shown: what nobody reads is in the pack.
const ROWS_MAX: usize = 5000;

/// Most characters of a payload that are shown.
const PAYLOAD_CHARS_MAX: usize = 4000;

/// Most bytes of payloads in a page.
const PAYLOADS_BYTES_MAX: usize = 8 << 20;

/// Longest note of an approver.
const STATEMENT_BYTES_MAX: usize = 8192;

/// What a row says.
struct Said {
    class: &'static str,
    what: String,
    more: String,
}

/// The records of a pack on which this verdict was given.
pub(super) fn render(rows: &[Row], pack: &Pack, verdict: Verdict) -> String {
    let mut page =
        Timeline { pack, started: rows.first().map(|row| row.record.time), calls: BTreeMap::new(), shown: 0 };
    let (heading, care) = match verdict {
        Verdict::Verified => ("What happened", ""),
        Verdict::Rejected => (
            "What the records say",
            "<p class=\"warning\">The evidence is rejected: do not take this for what happened.</p>",
        ),
    };
    let mut section = format!(
        "<section><h2>{heading}</h2>{care}<div class=\"wide\"><table><thead><tr><th>Seq</th><th>Time</th><th>Record</th>\
         <th>In the log</th></tr></thead><tbody>",
    );
    for row in rows.iter().take(ROWS_MAX) {
        section += &page.row(row);
    }
    section += "</tbody></table></div>";
    if rows.len() > ROWS_MAX {
        let _ = write!(section, "<p>and {} more records, in the pack</p>", rows.len() - ROWS_MAX);
    }
    section + "</section>"
}

struct Timeline<'a> {
    pack: &'a Pack,
    started: Option<UnixMillis>,
    /// What calls are about, by the seq of their intent.
    calls: BTreeMap<Seq, String>,
    /// Bytes of payloads that are in the page.
    shown: usize,
}

impl Timeline<'_> {
    fn row(&mut self, row: &Row) -> String {
        let record = &row.record;
        let Said { class, what, more } = match &record.body {
            Body::Open(_) => said("", "The run opens"),
            Body::Beat(_) => said("quiet", "The run is alive"),
            Body::Intent(intent) => self.intent(record.seq, intent),
            Body::Approval(approval) => self.approval(approval),
            Body::Outcome(outcome) => self.outcome(outcome),
            Body::Halt(halt) => {
                let cause = format!("{:?}", halt.cause);
                Said {
                    class: "bad",
                    what: format!("The run is halted: {}", escape(&cause)),
                    more: tag("p", halt.detail.as_str()),
                }
            }
            Body::Close(close) => {
                let reason = format!("{:?}", close.reason).to_lowercase();
                let counts: Vec<String> = close
                    .census
                    .iter()
                    .map(|(kind, count)| format!("{count} {}", plural(*kind, *count)))
                    .collect();
                Said {
                    class: "",
                    what: format!("The run closes: {reason}"),
                    more: format!(
                        "<p>{} before it. {} settled.</p>",
                        counts.join(", "),
                        escape(&amounts(&close.settled))
                    ),
                }
            }
        };
        let time = record.time.utc();
        let since = self.started.map_or(0, |started| record.time.get().saturating_sub(started.get()));
        format!(
            "<tr id=\"seq-{seq}\" class=\"{class}\"><td><a href=\"#seq-{seq}\">{seq}</a></td>\
             <td><time datetime=\"{time}\" title=\"{time}\">+{}.{:03} s</time></td><td><p class=\"what\">{what}</p>{more}</td>\
             <td>index {}<br><code class=\"hash\" title=\"leaf hash\">{}</code></td></tr>",
            since / 1000,
            since % 1000,
            row.index,
            row.leaf,
            seq = record.seq,
        )
    }

    fn intent(&mut self, seq: Seq, intent: &Intent) -> Said {
        let (about, payload) = match &intent.call {
            Call::Tool(call) => (format!("tool {}", tag("code", call.name.as_str())), Some(&call.args)),
            Call::Model(call) => {
                let model = format!("{} of {}", call.model.as_str(), call.provider.as_str());
                (format!("model {}", tag("code", &model)), Some(&call.request))
            }
            Call::Agent(call) => {
                (format!("sub-agent {}", tag("code", call.agent.as_str())), Some(&call.task))
            }
        };
        self.calls.insert(seq, about.clone());
        let (class, decided) = match (intent.effect(), intent.decision.effect) {
            (Effect::Allow, _) => ("good", "allowed"),
            (Effect::Hold, _) => ("care", "held for approval"),
            (Effect::Deny, Effect::Deny) => ("bad", "denied by the policy"),
            (Effect::Deny, _) => ("bad", "refused by the budget"),
        };
        let mut more = String::new();
        if !intent.decision.rules.is_empty() {
            let rules =
                intent.decision.rules.iter().map(|rule| tag("code", rule.as_str())).collect::<Vec<_>>();
            let _ = write!(more, "<p>Rules: {}</p>", rules.join(", "));
        }
        for reason in &intent.decision.reasons {
            more += &tag("p", reason.as_str());
        }
        if let Some(refusal) = &intent.refusal {
            let _ = write!(more, "<p>Budget: {}</p>", escape(&words(refusal)));
        }
        if let Some(hold) = &intent.decision.hold {
            let needed: Vec<String> = hold.approvals.iter().map(ToString::to_string).collect();
            let _ =
                write!(more, "<p>Needs {} until {}</p>", escape(&needed.join(" and ")), hold.deadline.utc());
        }
        if intent.effect() != Effect::Deny {
            let _ = write!(more, "<p>Held: {}</p>", escape(&amounts(&intent.reserved)));
        }
        more += &payload.map(|payload| self.payload(payload)).unwrap_or_default();
        more += &self.payload(&intent.decision.input);
        Said {
            class,
            what: format!("Proposed: {about} <span class=\"badge {class}\">{decided}</span>"),
            more,
        }
    }

    fn approval(&self, approval: &Approval) -> Said {
        let about = self.about(approval.intent);
        let note = Note::parse(approval.statement.as_str().as_bytes(), STATEMENT_BYTES_MAX).ok();
        let statement = note.as_ref().and_then(|note| Statement::parse(note.text).ok());
        let by = note.as_ref().and_then(|note| note.signatures.first()).map(|line| line.name.to_string());
        let (class, answer) = match statement.as_ref().map(|statement| statement.answer) {
            Some(Answer::Approve) => ("good", "approved"),
            Some(Answer::Refuse) => ("bad", "refused"),
            None => ("bad", "answered by something that is no statement"),
        };
        let role = statement.map(|statement| format!(" as {}", statement.role.as_str())).unwrap_or_default();
        let by = format!("<p>By {}{}</p>", escape(&by.unwrap_or_default()), escape(&role));
        Said { class, what: format!("{about} <span class=\"badge {class}\">{answer}</span>"), more: by }
    }

    fn outcome(&mut self, outcome: &Outcome) -> Said {
        let about = self.about(outcome.intent);
        let (class, status) = match outcome.status {
            Status::Ok => ("", "answered"),
            Status::Error => ("care", "answered with an error"),
            Status::Cancelled => ("quiet", "not dispatched"),
            Status::Timeout => ("care", "did not answer in time"),
            Status::Unknown => ("care", "unknown: it may have acted"),
        };
        let mut more = format!("<p>Settled: {}</p>", escape(&amounts(&outcome.settled)));
        if let Some(error) = &outcome.error {
            more += &tag("p", error.as_str());
        }
        if let Some(model) = &outcome.model {
            let served = format!("Served by {}, usage by {}", model.served.as_str(), model.method.as_str());
            more += &tag("p", &served);
        }
        more += &outcome.result.as_ref().map(|result| self.payload(result)).unwrap_or_default();
        Said { class, what: format!("{about} <span class=\"badge {class}\">{status}</span>"), more }
    }

    fn about(&self, intent: Seq) -> String {
        let about = self.calls.get(&intent).cloned().unwrap_or_else(|| "a call that is not here".to_owned());
        format!("<a href=\"#seq-{intent}\">{intent}</a> {about}")
    }

    /// A payload, as far as it is disclosed and is what the record commits to.
    fn payload(&mut self, commitment: &Commitment) -> String {
        let Commitment { digest, media, name, size } = commitment;
        let about = format!("{}: {} bytes of {}", escape(name.as_str()), size, escape(media.as_str()));
        let hash = format!("<code class=\"hash\">{}</code>", digest.hex());
        let object = self.pack.objects.get(digest).filter(|object| object_digest(object) == *digest);
        let Some(content) = object.and_then(|object| object.get(SALT_BYTES..)) else {
            return format!("<p class=\"quiet\">{about}, not in the pack {hash}</p>");
        };
        let text = match std::str::from_utf8(content) {
            Ok(_) if self.shown > PAYLOADS_BYTES_MAX => {
                "The page is long enough: read it in the pack.".to_owned()
            }
            Ok(text) => {
                let cut: String = text.chars().take(PAYLOAD_CHARS_MAX).collect();
                let rest = if cut.len() < text.len() { "\n… cut here" } else { "" };
                format!("{}{rest}", escape(&cut))
            }
            Err(_) => "Not text.".to_owned(),
        };
        self.shown += text.len();
        format!("<details><summary>{about} {hash}</summary><pre>{text}</pre></details>")
    }
}

fn said(class: &'static str, what: &str) -> Said {
    Said { class, what: what.to_owned(), more: String::new() }
}

fn plural(kind: Kind, count: u64) -> String {
    if count == 1 { kind.name().to_owned() } else { format!("{}s", kind.name()) }
}
