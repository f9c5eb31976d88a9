//! One log, round after round: heads are judged, what is new is said, the believed tree is copied.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use sift_spec::trust::TrustPolicy;
use sift_spec::types::{KeyName, TreeSize, UnixMillis};

use super::book::{Book, EVIDENCE_DIR, Seen};
use super::clock::now;
use super::judge::{self, Judged, Watch};
use super::mirror::{Failure, Mirror};
use super::tell::{self, Teller, Told};
use super::witness::ADD_CHECKPOINT;
use super::{CHECKPOINT_BYTES_MAX, MIRROR_DIR, Message, Options, verdict};
use crate::error::CannotCheck;
use crate::exit::Exit;
use crate::finding::{Code, Concern, Finding, Severity};
use crate::progress::Bar;
use crate::source::{self, Directory, Source};

/// Shortest time between two heads that are looked into because somebody sent them to the witness: it costs requests.
const SUSPECTS_PAUSE: Duration = Duration::from_secs(1);

/// What one look at a log found.
#[derive(Default)]
pub(super) struct Round {
    findings: Vec<(Finding, Option<PathBuf>)>,
    troubles: Vec<CannotCheck>,
}

impl Round {
    pub(super) fn exit(&self) -> Exit {
        if self.findings.iter().any(|(finding, _)| finding.severity == Severity::Rejects) {
            Exit::Rejected
        } else if self.troubles.is_empty() {
            Exit::Verified
        } else {
            Exit::CouldNotCheck
        }
    }
}

/// What was said and still is so: nothing is said twice.
#[derive(Default)]
struct Standing {
    findings: BTreeMap<Code, String>,
    trouble: Option<String>,
}

/// Pause after a pass of copying: each writes the partial tiles again, and a busy log publishes ten heads a second.
const COPY_PAUSE: Duration = Duration::from_secs(1);

/// Somebody who follows one log.
pub(super) struct Follower {
    options: Options,
    trust: TrustPolicy,
    origin: KeyName,
    book: Arc<Book>,
    log: Arc<dyn Source + Send>,
    teller: Teller,
    /// When witnesses last said that they saw the believed head.
    fresh: Option<UnixMillis>,
    standing: Standing,
    /// When a head was looked into last that the witness was sent.
    suspected: Option<Instant>,
    /// Where the thread that copies is told what to copy, once there is one.
    copying: Option<SyncSender<Seen>>,
    /// Why the copy is not extended.
    copy_failure: Option<Failure>,
}

impl Follower {
    pub(super) fn new(
        options: Options,
        trust: TrustPolicy,
        origin: KeyName,
        book: Arc<Book>,
        log: Arc<dyn Source + Send>,
        teller: Teller,
    ) -> Self {
        Self {
            options,
            trust,
            origin,
            book,
            log,
            teller,
            fresh: None,
            standing: Standing::default(),
            suspected: None,
            copying: None,
            copy_failure: None,
        }
    }

    pub(super) const fn origin(&self) -> &KeyName {
        &self.origin
    }

    /// What it does, for people.
    pub(super) fn describe(&self, size: Option<TreeSize>) -> String {
        let seen =
            size.map_or("nothing was seen of it yet".to_owned(), |size| format!("{size} entries were seen"));
        format!("following {} at {}; {seen}", self.origin, self.log.name())
    }

    /// Judges heads until it is told to stop; it has polled once.
    pub(super) fn run(
        mut self,
        inbox: &Receiver<Message>,
        stopping: &AtomicBool,
    ) -> Result<Exit, CannotCheck> {
        let mut next = Instant::now() + self.options.every;
        while !stopping.load(Ordering::Relaxed) {
            let wait = next.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                self.poll()?;
                next = Instant::now() + self.options.every;
                continue;
            }
            match inbox.recv_timeout(wait) {
                Ok(Message::Fed(note)) => self.hear(&note)?,
                Ok(Message::Suspect(note)) => self.suspect(&note)?,
                Ok(Message::Broken) => self.book.is_broken().map_or(Ok(()), Err)?,
                Ok(Message::Mirrored(size, copied)) => self.copied_in_thread(size, copied),
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        Ok(verdict(&self.book))
    }

    /// Asks the log for its newest head.
    pub(super) fn poll(&mut self) -> Result<Round, CannotCheck> {
        let mut round = Round::default();
        match source::checkpoint(&*self.log, CHECKPOINT_BYTES_MAX) {
            Ok(note) => self.judge(&note, "poll", &mut round)?,
            Err(error) => round.troubles.push(error),
        }
        self.copy();
        match &self.copy_failure {
            Some(Failure::Wrong(finding)) => round.findings.push(((**finding).clone(), None)),
            Some(Failure::CannotCheck(error)) => round.troubles.push(CannotCheck::Mirror(error.to_string())),
            None => {}
        }
        self.judge_past(&mut round);
        self.judge_age(&mut round, now());
        self.say(&round);
        self.clear(&round);
        Ok(round)
    }

    /// Has the believed tree copied: now, or by the thread that does.
    fn copy(&mut self) {
        let Some(believed) = self.book.known(&self.origin).believed.filter(|_| self.options.mirror) else {
            return;
        };
        match &self.copying {
            // A thread that is at work, while another tree waits for it, is asked again when it is done.
            Some(copying) => drop(copying.try_send(believed)),
            None => {
                let mirror = Mirror::new(&self.options.dir);
                let bar = Bar::new(self.teller.quiet, "entries");
                let copied = mirror.extend(&*self.log, &believed.head, &believed.note, &bar);
                drop(bar);
                self.copied(believed.head.size, copied);
            }
        }
    }

    /// From now on a thread copies, while heads are judged.
    pub(super) fn copy_in_thread(&mut self, messages: SyncSender<Message>) {
        if !self.options.mirror {
            return;
        }
        let (send, wanted) = sync_channel::<Seen>(1);
        let (mirror, log, quiet) = (Mirror::new(&self.options.dir), Arc::clone(&self.log), self.teller.quiet);
        std::thread::spawn(move || {
            while let Ok(seen) = wanted.recv() {
                let bar = Bar::new(quiet, "entries");
                let copied = mirror.extend(&*log, &seen.head, &seen.note, &bar);
                drop(bar);
                if messages.send(Message::Mirrored(seen.head.size, copied)).is_err() {
                    return;
                }
                std::thread::sleep(COPY_PAUSE);
            }
        });
        self.copying = Some(send);
    }

    /// A tree that came while the thread was at work may not have been taken.
    fn copied_in_thread(&mut self, size: TreeSize, copied: Result<u64, Failure>) {
        let grown = self.book.known(&self.origin).believed.is_some_and(|believed| believed.head.size > size);
        // What failed waits for the next head or poll.
        let again = copied.is_ok() && grown;
        self.copied(size, copied);
        if again {
            self.copy();
        }
    }

    fn copied(&mut self, size: TreeSize, copied: Result<u64, Failure>) {
        match copied {
            Ok(entries) => {
                self.copy_failure = None;
                if entries > 0 {
                    self.teller.tell(&Told::Mirrored { origin: &self.origin, size, entries });
                }
            }
            Err(failure) => self.copy_failure = Some(failure),
        }
    }

    /// Takes a head from the feed.
    fn hear(&mut self, note: &[u8]) -> Result<(), CannotCheck> {
        let mut round = Round::default();
        self.judge(note, "feed", &mut round)?;
        self.copy();
        self.say(&round);
        Ok(())
    }

    /// Looks into a head that the witness was sent with a bad proof: a fork, where the log's tiles say so.
    fn suspect(&mut self, note: &[u8]) -> Result<(), CannotCheck> {
        let ours = judge::claims(note).is_some_and(|(origin, _)| origin == self.origin);
        if !ours || self.suspected.is_some_and(|last| last.elapsed() < SUSPECTS_PAUSE) {
            return Ok(());
        }
        self.suspected = Some(Instant::now());
        let mut round = Round::default();
        self.judge(note, ADD_CHECKPOINT, &mut round)?;
        // The tree may not be published yet, and then nothing is said of it.
        round.findings.retain(|(finding, _)| finding.code == Code::HeadsInconsistent);
        round.troubles.clear();
        self.say(&round);
        Ok(())
    }

    fn judge(&mut self, note: &[u8], from: &'static str, round: &mut Round) -> Result<(), CannotCheck> {
        let mirror = Directory::new(self.options.dir.join(MIRROR_DIR));
        let sources: [&dyn Source; 2] = [&*self.log, &mirror];
        let watch = Watch { trust: &self.trust, origin: &self.origin, book: &self.book, sources: &sources };
        let judged = match watch.judge(note, from, now()) {
            Ok(judged) => judged,
            Err(error) => {
                round.troubles.push(error);
                // Without its memory a follower is worth nothing.
                return self.book.is_broken().map_or(Ok(()), Err);
            }
        };
        self.freshen(&judged);
        let Judged { head, grown_from, believed, witnesses, findings, unproven } = judged;
        if let (Some(head), Some(grown_from)) = (head, grown_from) {
            self.teller.tell(&tell::head(&self.origin, &head, grown_from, believed, from, &witnesses));
        }
        round.findings.extend(findings);
        round.troubles.extend(unproven);
        Ok(())
    }

    /// Remembers when witnesses last vouched for a head that is not behind the believed one.
    fn freshen(&mut self, judged: &Judged) {
        let believed = self.book.known(&self.origin).believed;
        let newest = judged.witnesses.iter().map(|(_, seconds)| seconds.saturating_mul(1000)).max();
        let Some((head, believed, newest)) =
            judged.head.zip(believed).zip(newest).map(|((head, believed), newest)| (head, believed, newest))
        else {
            return;
        };
        if head.size >= believed.head.size {
            // A time that has not come yet says no more than now.
            let time = UnixMillis::new(newest).unwrap_or(now()).min(now());
            self.fresh = self.fresh.max(Some(time));
        }
    }

    /// What was proven once stays so.
    fn judge_past(&self, round: &mut Round) {
        let said = round.findings.iter().any(|(finding, _)| finding.code == Code::HeadsInconsistent);
        if self.book.known(&self.origin).split && !said {
            let detail = "this log has shown two histories; the evidence is kept";
            let finding = Finding::rejects(Code::HeadsInconsistent, Concern::whole(), detail);
            round.findings.push((finding, Some(self.options.dir.join(EVIDENCE_DIR))));
        }
    }

    /// A head is as old as its first sight, or as the newest cosignature of it.
    fn judge_age(&self, round: &mut Round, now: UnixMillis) {
        let (Some(stale), Some(believed)) = (self.options.stale, self.book.known(&self.origin).believed)
        else {
            return;
        };
        let since = believed.time.max(self.fresh.unwrap_or_default());
        if u128::from(now.get().saturating_sub(since.get())) > stale.as_millis() {
            let (size, seconds) = (believed.head.size, stale.as_secs());
            let detail = format!(
                "the head of {size} entries is all there is since {}; more than {seconds} s are too long",
                since.utc()
            );
            round
                .findings
                .push((Finding::rejects(Code::HeadStale, Concern::path("checkpoint"), detail), None));
        }
    }

    /// Says what is new in a round.
    fn say(&mut self, round: &Round) {
        for (finding, evidence) in &round.findings {
            let before = self.standing.findings.insert(finding.code, finding.detail.clone());
            // Proven once, it is not proven less by other evidence.
            let again = before.as_ref() == Some(&finding.detail);
            if !again {
                self.teller.tell(&Told::Finding {
                    origin: &self.origin,
                    finding,
                    evidence: evidence.as_deref(),
                });
            }
        }
        if let Some(error) = round.troubles.last() {
            let said = self.standing.trouble.replace(error.to_string());
            if said.as_ref() != self.standing.trouble.as_ref() {
                self.teller.trouble(error);
            }
        }
    }

    /// Says what a whole round did not find any more.
    fn clear(&mut self, round: &Round) {
        let is_so = |code: &Code| round.findings.iter().any(|(finding, _)| finding.code == *code);
        // Where nothing was learnt, nothing is cleared.
        if !round.troubles.is_empty() {
            return;
        }
        if self.standing.trouble.take().is_some() {
            self.teller.tell(&Told::Recovered { detail: "the log answers again" });
        }
        let gone: Vec<Code> = self.standing.findings.keys().filter(|code| !is_so(code)).copied().collect();
        for code in gone {
            self.standing.findings.remove(&code);
            self.teller.tell(&Told::Cleared { origin: &self.origin, code: code.code() });
        }
    }
}
