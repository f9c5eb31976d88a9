//! What a follower says: a line for each event, for people or for programs.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use serde::Serialize;
use sift_spec::proof::TreeHead;
use sift_spec::types::{Hash, KeyName, TreeSize, UnixMillis};

use super::clock::now;
use crate::error::CannotCheck;
use crate::finding::{Finding, Severity};
use crate::text::Many;

/// First field of an event's JSON: its format and version.
pub const EVENT_FORMAT: &str = "sift/follow@v1";

/// Something to say. The order of the fields is that of the JSON.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Told<'a> {
    /// The follower begins.
    Started {
        /// Of the log that is followed; none where it is a witness alone.
        #[serde(skip_serializing_if = "Option::is_none")]
        origin: Option<&'a KeyName>,
        /// Entries of the largest head that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        size: Option<TreeSize>,
        /// Where the witness listens, where there is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        listen: Option<SocketAddr>,
        detail: String,
    },
    /// A head that is new.
    Head {
        origin: &'a KeyName,
        size: TreeSize,
        root: Hash,
        /// Entries of the largest head before it.
        grown_from: TreeSize,
        /// Whether the quorum vouches for it.
        believed: bool,
        from: &'a str,
        witnesses: Vec<&'a str>,
    },
    /// We cosigned a head that was sent to us.
    Cosigned { origin: &'a KeyName, size: TreeSize, root: Hash },
    /// Something is wrong.
    Finding {
        origin: &'a KeyName,
        #[serde(flatten)]
        finding: &'a Finding,
        #[serde(skip_serializing_if = "Option::is_none")]
        evidence: Option<&'a Path>,
    },
    /// What was wrong is so no more.
    Cleared { origin: &'a KeyName, code: &'static str },
    /// Something could not be checked.
    Trouble { detail: String },
    /// What could not be checked can be checked again.
    Recovered { detail: &'static str },
    /// The mirror holds this tree.
    Mirrored {
        origin: &'a KeyName,
        size: TreeSize,
        /// How many entries were fetched for it.
        entries: u64,
    },
    /// The feed is open, or polling goes on alone.
    Feed { open: bool, detail: String },
    /// The follower ends.
    Stopped { detail: &'static str },
}

#[derive(Serialize)]
struct Line<'a> {
    format: &'static str,
    time: UnixMillis,
    #[serde(flatten)]
    told: &'a Told<'a>,
}

/// How events are said.
#[derive(Debug, Clone, Copy)]
pub struct Teller {
    /// As JSON, one object a line.
    pub json: bool,
    /// Only what is wrong, and what could not be checked.
    pub quiet: bool,
}

impl Teller {
    pub(super) fn tell(self, told: &Told<'_>) {
        let matters = matches!(told, Told::Finding { .. } | Told::Cleared { .. } | Told::Trouble { .. });
        if self.quiet && !matters {
            return;
        }
        let time = now();
        let line = if self.json {
            serde_json::to_string(&Line { format: EVENT_FORMAT, time, told }).unwrap_or_default()
        } else {
            format!("{}  {}", time.utc(), words(told))
        };
        // Who closes the pipe early misses events, and nothing else changes.
        let mut out = anstream::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }

    pub(super) fn trouble(self, error: &CannotCheck) {
        self.tell(&Told::Trouble { detail: error.to_string() });
    }
}

/// A line for people. What comes from outside has no control characters, so that one event stays one line.
fn words(told: &Told<'_>) -> String {
    match told {
        Told::Started { detail, .. } => format!("started    {detail}"),
        Told::Head { size, root, grown_from, believed, from, witnesses, .. } => {
            let grown = Many(size.get() - grown_from.get(), "entry");
            let vouched = match (believed, witnesses.as_slice()) {
                (false, _) => "; the quorum does not vouch for it".to_owned(),
                (true, []) => String::new(),
                (true, names) => format!("; witnessed by {}", names.join(", ")),
            };
            format!("head       {size}, {grown} more, root {root}, from {from}{vouched}")
        }
        Told::Cosigned { origin, size, root } => format!("cosigned   {size} of {origin}, root {root}"),
        Told::Finding { finding, evidence, .. } => {
            let severity = if finding.severity == Severity::Rejects { "FINDING" } else { "finding" };
            let kept = evidence.map(|path| format!("; evidence in {}", path.display())).unwrap_or_default();
            format!("{severity}    {}: {}{kept}", finding.code, plain(&finding.detail))
        }
        Told::Cleared { code, .. } => format!("cleared    {code}: it is so no more"),
        Told::Trouble { detail } => format!("trouble    {}", plain(detail)),
        Told::Recovered { detail } => format!("recovered  {detail}"),
        Told::Mirrored { size, entries, .. } => {
            format!("mirrored   {size}, {} fetched", Many(*entries, "entry"))
        }
        Told::Feed { open: true, detail } => format!("feed       open: {detail}"),
        Told::Feed { open: false, detail } => {
            format!("feed       closed, and polling goes on: {}", plain(detail))
        }
        Told::Stopped { detail } => format!("stopped    {detail}"),
    }
}

/// A text without anything that a terminal would take for an order.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// What a judged head is, for an event.
pub(super) fn head<'a>(
    origin: &'a KeyName,
    head: &TreeHead,
    grown_from: TreeSize,
    believed: bool,
    from: &'a str,
    witnesses: &'a [(String, u64)],
) -> Told<'a> {
    let witnesses = witnesses.iter().map(|(name, _)| name.as_str()).collect();
    Told::Head { origin, size: head.size, root: head.root, grown_from, believed, from, witnesses }
}
