//! Makes the vectors of `follow`: what a follower had seen of a log, and what the log serves then.

use sift_spec::hash::{EMPTY_ROOT, history_seal};
use sift_spec::note::KeyType;
use sift_verify::Code;
use tempfile::TempDir;

use super::maker::{TRUST, Vectors, WITNESSED};
use crate::common::follower::{checkpoint_at, entries, forked_at};
use crate::common::{self, START_MS, Sealed, tiles};

/// What a follower is shown, and what it must find.
pub(crate) struct Watch {
    /// The code that it is a vector of.
    pub(crate) code: &'static str,
    /// Arguments of `sift-verify`, in the folder of all vectors; those of `--log` and `--dir` are below [`Self::folder`].
    pub(crate) arguments: Vec<String>,
    /// Its files.
    pub(crate) folder: String,
    pub(crate) finding: Code,
}

impl Watch {
    /// The exit code: an older head alone is no reason to reject a log.
    pub(crate) fn exit(&self) -> i32 {
        i32::from(self.finding != Code::HeadOlder)
    }

    pub(super) fn line(&self) -> String {
        format!(
            r#"{{"code":"{}","arguments":{},"exit":{},"findings":["{}"]}}"#,
            self.code,
            serde_json::to_string(&self.arguments).unwrap(),
            self.exit(),
            self.finding,
        )
    }
}

/// What a history holds.
enum Event<'a> {
    /// A head of this note, that the quorum vouched for.
    Head(&'a str),
    /// Two heads that do not fit.
    Split(&'a str, &'a str),
}

impl Vectors {
    pub(super) fn watches(&mut self) {
        let never = ["--stale", "0"];
        let (log, fork) = (entries(0, 8), forked_at(4, 8));
        let (old, new) = (checkpoint_at(&log, 5), checkpoint_at(&log, 8));
        let honest = written(&log, &new);

        let stranger = common::key(common::LOG, KeyType::Ed25519, 77);
        let forged = written(&log, &common::checkpoint(log.head(), &stranger));
        self.watch(Code::CheckpointInvalid, "follow", &never, &[], &forged);
        self.watch_under(WITNESSED, Code::NotWitnessed, "follow", &never, &[], &honest);

        // A larger head that does not extend the one that was seen; and what was proven stays so.
        let forked = checkpoint_at(&fork, 8);
        let split = Code::HeadsInconsistent;
        self.watch(split, "follow", &never, &[Event::Head(&old)], &written(&fork, &forked));
        let proven = [Event::Head(&new), Event::Split(&new, &forked)];
        self.watch(split, "follow-on", &never, &proven, &honest);

        // The start of what was seen, which the tiles of the larger tree prove.
        let older = written(&log, &old);
        self.watch(Code::HeadOlder, "follow", &never, &[Event::Head(&new)], &older);
        self.watch(Code::HeadStale, "follow", &["--stale", "86400"], &[Event::Head(&new)], &honest);

        // Tiles that give another root than the one that was signed.
        let mut leaves = log.leaves();
        leaves[6] = common::bytes_hash(9);
        let damaged = written(&log, &new);
        tiles::write_hashes(&leaves, damaged.path());
        self.watch(Code::TileDiffers, "follow", &never, &[Event::Head(&old)], &damaged);
        let damaged = written(&log, &new);
        tiles::write_bundles(&fork.entries, damaged.path());
        self.watch(Code::BundleMalformed, "follow", &["--stale", "0", "--mirror"], &[], &damaged);
    }

    fn watch(&mut self, finding: Code, name: &str, more: &[&str], seen: &[Event<'_>], log: &TempDir) {
        self.watch_under(TRUST, finding, name, more, seen, log);
    }

    fn watch_under(
        &mut self,
        trust: &str,
        finding: Code,
        name: &str,
        more: &[&str],
        seen: &[Event<'_>],
        log: &TempDir,
    ) {
        let folder = format!("{finding}/{name}");
        let (place, dir) = (format!("{folder}/log"), format!("{folder}/seen"));
        self.put_all(&place, log.path());
        if !seen.is_empty() {
            self.put(&format!("{dir}/history"), history(seen).as_bytes());
        }
        let arguments = ["follow", "--once", "--trust", trust, "--log", &place, "--dir", &dir];
        let arguments = arguments.iter().chain(more).map(|argument| (*argument).to_owned()).collect();
        self.watches.push(Watch { code: finding.code(), arguments, folder, finding });
    }
}

/// A log that serves all its tiles, and this checkpoint.
fn written(log: &Sealed, note: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    tiles::write(log, dir.path());
    tiles::put(dir.path(), "checkpoint", note.as_bytes());
    dir
}

/// A history as a follower writes it, at a time that is long past.
fn history(seen: &[Event<'_>]) -> String {
    let (mut text, mut seal) = ("sift/history@v1\n".to_owned(), EMPTY_ROOT);
    let json = |text: &str| serde_json::to_string(text).unwrap();
    for event in seen {
        let line = match event {
            Event::Head(note) => format!(
                r#"{{"event":"head","time":{START_MS},"from":"poll","believed":true,"note":{}}}"#,
                json(note)
            ),
            Event::Split(ours, theirs) => format!(
                r#"{{"event":"split","time":{START_MS},"from":"poll","evidence":"split","ours":{},"theirs":{}}}"#,
                json(ours),
                json(theirs)
            ),
        };
        seal = history_seal(&seal, line.as_bytes());
        text += &format!("{} {line}\n", seal.hex());
    }
    text
}
