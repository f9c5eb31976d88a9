//! Admission: everything about an entry that needs no order.
//!
//! Handlers parse; a small pool of threads checks signatures, all that wait at once in one batch per round,
//! and passes what it checked to the sequencer. The sequencer alone decides whether a key counts at the
//! index an entry would get; here the key only has to be known.

use std::sync::Arc;

use sift_spec::entry::{Content, Entry};
use sift_spec::note::{BatchItem, VerifierKey, verify_batch};
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use crate::error::Refusal;
use crate::sequencer::{Answer, Message, Submission};
use crate::view::View;

/// Entries that are checked in one batch: more bring little.
const BATCH_ENTRIES: usize = 512;

/// Entries of one request, in their order; what is refused already has its place too.
pub(crate) struct Request {
    pub(crate) entries: Vec<Result<Entry, Refusal>>,
    pub(crate) reply: oneshot::Sender<Answer>,
}

/// Why a request was not taken.
pub(crate) enum AdmitError {
    Busy,
    Stopped,
}

/// The door: hands requests to the checking threads.
#[derive(Clone)]
pub(crate) struct Admission {
    queue: mpsc::Sender<Request>,
}

impl Admission {
    /// Starts `threads` threads that check signatures and feed `sequencer`. They end when this is dropped.
    pub(crate) fn start(
        threads: usize,
        queue_max: usize,
        views: &watch::Receiver<Arc<View>>,
        sequencer: &mpsc::Sender<Message>,
    ) -> std::io::Result<Self> {
        let (queue, requests) = mpsc::channel(queue_max);
        let requests = Arc::new(Mutex::new(requests));
        for number in 0..threads {
            let (requests, views, sequencer) = (Arc::clone(&requests), views.clone(), sequencer.clone());
            std::thread::Builder::new()
                .name(format!("admission-{number}"))
                .spawn(move || check_forever(&requests, &views, &sequencer))?;
        }
        Ok(Self { queue })
    }

    /// Requests that wait, and how many may.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let max = self.queue.max_capacity();
        (max.saturating_sub(self.queue.capacity()), max)
    }

    /// Admits entries to the queue; the answer comes once they are durable or refused.
    pub(crate) fn submit(
        &self,
        entries: Vec<Result<Entry, Refusal>>,
    ) -> Result<oneshot::Receiver<Answer>, AdmitError> {
        let (reply, answer) = oneshot::channel();
        match self.queue.try_send(Request { entries, reply }) {
            Ok(()) => Ok(answer),
            Err(mpsc::error::TrySendError::Full(_)) => Err(AdmitError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(AdmitError::Stopped),
        }
    }
}

fn check_forever(
    requests: &Mutex<mpsc::Receiver<Request>>,
    views: &watch::Receiver<Arc<View>>,
    sequencer: &mpsc::Sender<Message>,
) {
    loop {
        // One thread at a time takes all that waits; the others check what they took.
        let mut round = Vec::new();
        {
            let mut requests = requests.blocking_lock();
            let Some(first) = requests.blocking_recv() else { return };
            let mut entries = first.entries.len();
            round.push(first);
            while entries < BATCH_ENTRIES
                && let Ok(request) = requests.try_recv()
            {
                entries += request.entries.len();
                round.push(request);
            }
        }
        let view = Arc::clone(&views.borrow());
        check(&mut round, &view);
        for Request { entries, reply } in round {
            if sequencer.blocking_send(Message::Submit(Submission { entries, reply })).is_err() {
                return;
            }
        }
    }
}

/// Replaces every entry whose signature does not verify by its refusal.
fn check(round: &mut [Request], view: &View) {
    let mut slots: Vec<&mut Result<Entry, Refusal>> =
        round.iter_mut().flat_map(|request| &mut request.entries).filter(|slot| slot.is_ok()).collect();
    let verdicts: Vec<Option<Refusal>> = {
        let known: Vec<(&Entry, Result<&VerifierKey, Refusal>)> = slots
            .iter()
            .filter_map(|slot| slot.as_ref().ok())
            .map(|entry| (entry, key_of(entry, view)))
            .collect();
        let items: Vec<BatchItem<'_>> = known
            .iter()
            .filter_map(|(entry, key)| key.as_ref().ok().map(|key| entry.batch_item(key)))
            .collect();
        let mut entropy = [0; 32];
        // Without entropy a batch could be crafted to pass: check one by one then.
        let valid = match getrandom::fill(&mut entropy) {
            Ok(()) => verify_batch(&items, &entropy),
            Err(_) => items.iter().map(|item| item.key.verify(item.message, item.signature)).collect(),
        };
        let mut valid = valid.into_iter();
        known
            .into_iter()
            .map(|(entry, key)| match key {
                Err(refusal) => Some(refusal),
                Ok(_) if valid.next() == Some(true) => None,
                Ok(_) => Some(Refusal::Signature(entry.signer().clone())),
            })
            .collect()
    };
    for (slot, verdict) in slots.iter_mut().zip(verdicts) {
        if let Some(refusal) = verdict {
            **slot = Err(refusal);
        }
    }
}

/// The key that an entry claims to be signed with. Who names none that is known costs nobody a signature check.
pub(crate) fn key_of<'a>(entry: &Entry, view: &'a View) -> Result<&'a VerifierKey, Refusal> {
    let (name, id) = (entry.signer(), entry.key_id());
    match entry.content() {
        Content::Operator(_) => {
            let operator = view.keys.operator();
            if operator.name() == name && operator.id() == id {
                Ok(operator)
            } else {
                Err(Refusal::NotOperator(name.clone()))
            }
        }
        Content::Run(_) => match view.keys.get(name, id) {
            Some(known) => Ok(&known.key),
            None => Err(sift_spec::keys::AuthorityError::NotGranted { name: name.clone(), id }.into()),
        },
    }
}
