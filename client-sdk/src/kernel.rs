//! The kernel: opened once per directory, it opens runs and ends when it is closed.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use sift_spec::bundle::Bundle;
use sift_spec::entry::Entry;
use sift_spec::record::{Body, HoldProgress, Parent};
use sift_spec::types::{AgentName, Hash, KeyName, RunId, Seq, Text, UnixMillis, Word};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::approval::APPROVALS_DIR;
use crate::bundles::{BundleStatus, Bundles, Registry, Rules};
use crate::capability::Issuer;
use crate::clock::Clock;
use crate::config::Config;
use crate::control::{Control, KernelStatus};
use crate::delegation::Delegated;
use crate::error::{BundleError, OpenError, OpenRunError, ResumeError, Stop, WaitError};
use crate::halt::{HaltScope, Halted};
use crate::log::LogClient;
use crate::operator::{Chain, Reader, Revocations};
use crate::permit::Child;
use crate::resume::Resumable;
use crate::run::Run;
use crate::shared::{Progress, Shared};
use crate::signer::Signer;
use crate::store::{Store, StoreError};
use crate::timings::{Stopwatch, Timings};
use crate::upkeep;
use crate::uploader::Uploader;
use crate::writer::{self, Op, Writer};

/// The enforcement kernel. Clones are the same kernel.
#[derive(Clone)]
pub struct Kernel {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    store: Arc<Store>,
    registry: Registry,
    build: Text<256>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// The thread that erases what is not kept; it ends when the sender is dropped.
    retention: Mutex<Option<(mpsc::Sender<()>, std::thread::JoinHandle<()>)>>,
}

/// A run to be opened.
#[derive(Debug, PartialEq, Eq)]
pub struct OpenRun {
    /// The agent that acts in it. The kernel's key must be granted for it.
    pub agent: AgentName,
    /// Free labels: environment, ticket, tenant. Policies see them.
    pub labels: BTreeMap<Word, Text<256>>,
    /// The permitted call of another run of this kernel that starts this one.
    pub parent: Option<Child>,
    /// The note by which another kernel delegates the run, from [`crate::InFlight::delegate`] there.
    pub delegation: Option<String>,
}

impl OpenRun {
    /// A run without labels or parent.
    #[must_use]
    pub const fn of(agent: AgentName) -> Self {
        Self { agent, labels: BTreeMap::new(), parent: None, delegation: None }
    }

    /// A sub-agent's run that another kernel has delegated to this one. It opens once.
    #[must_use]
    pub fn delegated(agent: AgentName, note: impl Into<String>) -> Self {
        Self { delegation: Some(note.into()), ..Self::of(agent) }
    }

    /// The same with one more label.
    #[must_use]
    pub fn label(mut self, name: Word, value: &str) -> Self {
        self.labels.insert(name, Text::cut(value));
        self
    }
}

impl Kernel {
    /// Opens the kernel of a directory: checks that everything it needs is there, closes the runs that an earlier
    /// process left open (their unfinished calls become `unknown`) or lets them wait to be resumed ([`Config::resume`]),
    /// and starts to upload what is not in the log.
    ///
    /// Must be called on a tokio runtime with time and I/O enabled.
    ///
    /// # Errors
    /// When there is no usable policy, the store belongs to another key or log, is damaged or in use, the clock is
    /// behind the last record, or the log was caught with two histories.
    pub async fn open(config: Config, signer: impl Signer, clock: impl Clock) -> Result<Self, OpenError> {
        // 1. No policy, no kernel.
        let rules = Rules::compile(&config.bundle)?;
        let signer: Arc<dyn Signer> = Arc::new(signer);
        // 2. One log.
        let log = match config.trust.origin() {
            Some(origin) => origin.clone(),
            None if config.trust.logs().is_empty() => return Err(OpenError::NoLog),
            None => return Err(OpenError::ManyLogs(config.trust.logs().len())),
        };
        // 3. The directory is this kernel's.
        let approvals = config.dir.join(APPROVALS_DIR);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&approvals)
            .map_err(|error| OpenError::System { what: format!("making {}", approvals.display()), error })?;
        let store = Arc::new(Store::open(&config.dir)?);
        check_owner(&store, &config.dir, log.as_str(), signer.verifier().name().as_str())?;
        if store.fork()?.is_some() {
            return Err(OpenError::Fork { dir: config.dir });
        }
        let chain = operator_chain(&store, &config, &log)?;
        let revocations = Revocations::new(chain.revoked(), chain.next_seq().get());
        let key = signer.verifier();
        if let Some(at) = revocations.at(key) {
            // What it would sign now could never be in the log, also under a later key.
            return Err(OpenError::Revoked { key: key.name().clone(), at });
        }
        store.put_bundle(&rules.bundle().digest(), rules.bundle().encoding())?;
        // 4. The writer takes over what an earlier process left.
        let client = LogClient::with(&config.log_url, &config.connect)
            .map_err(|error| OpenError::Http(error.to_string()))?;
        let client = client.witnessed(config.trust.quorum().is_some());
        let (ops, queue) = mpsc::channel();
        let registry =
            Registry { store: Arc::clone(&store), client: client.clone(), trust: config.trust.clone() };
        let bundles = Bundles::new(rules, clock.now());
        let shared = Arc::new(Shared {
            clock: Box::new(clock),
            bundles,
            log,
            mode: config.mode,
            spool: config.spool,
            approvers: config.approvers.clone(),
            hook: config.hook.clone(),
            issuer: Issuer::new(Arc::clone(&signer)),
            kernels: config.kernels.clone(),
            revocations,
            signer: signer.verifier().name().clone(),
            approvals,
            poll: config.poll,
            ops,
            progress: watch::Sender::new(Progress::default()),
            stop: OnceLock::new(),
            stopwatch: Stopwatch::default(),
            tried: AtomicBool::new(false),
            trouble: Mutex::default(),
            roll: Mutex::default(),
            resume_ms: u64::try_from(config.resume.as_millis()).unwrap_or(u64::MAX),
            waiting: Mutex::default(),
            halts: watch::Sender::new(()),
        });
        let inner = Inner {
            shared,
            store,
            registry,
            build: Text::cut(&config.build),
            tasks: Mutex::default(),
            writer: Mutex::default(),
            retention: Mutex::default(),
        };
        let kernel = Self { inner: Arc::new(inner) };
        match kernel.start(&config, client, signer, chain, queue).await {
            Ok(()) => Ok(kernel),
            Err(error) => {
                // Whoever is told that it did not start finds the store free.
                kernel.close().await;
                Err(error)
            }
        }
    }

    /// Starts all that works for it. Whoever calls this closes the kernel if it fails.
    async fn start(
        &self,
        config: &Config,
        client: LogClient,
        signer: Arc<dyn Signer>,
        chain: Chain,
        queue: mpsc::Receiver<Op>,
    ) -> Result<(), OpenError> {
        let Inner { shared, store, registry, tasks, .. } = &*self.inner;
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error| OpenError::System { what, error }
        };
        let writer = Writer::new(Arc::clone(shared), Arc::clone(store), signer, store.ledger()?);
        let mut writer = writer.map_err(failed("starting the threads that sign"))?;
        let (ready, recovered) = oneshot::channel();
        let thread = std::thread::Builder::new().name("sift-writer".to_owned()).spawn(move || {
            let recovery = writer.recover();
            let go = recovery.is_ok();
            let _ = ready.send(recovery);
            if go {
                writer.work(&queue);
            }
        });
        *lock(&self.inner.writer) = Some(thread.map_err(failed("starting the writer"))?);
        let gone = || OpenError::Recovery("the writer ended".to_owned());
        recovered.await.map_err(|_| gone())??;
        // No call waits for an approval any more.
        crate::held::clear(&shared.approvals);
        // 5. Commands, upload, the operator's records, beats, and a look at the bundle's folder.
        let control = Control::bind(&config.dir).map_err(failed("listening for commands"))?;
        let (trust, kept) = (config.trust.clone(), Arc::clone(store));
        let reader = Reader::new(Arc::clone(shared), kept, client.clone(), trust, chain);
        let uploader = Uploader::new(Arc::clone(shared), Arc::clone(store), client, config)?;
        let folder = config.bundle_dir.clone().map(|dir| upkeep::Folder::new(dir, config.bundle.digest()));
        lock(tasks).extend([
            tokio::spawn(control.serve(Arc::clone(shared), Arc::clone(store))),
            tokio::spawn(uploader.run()),
            tokio::spawn(reader.run()),
            tokio::spawn(upkeep::beat(Arc::clone(shared), config.beat)),
            tokio::spawn(upkeep::load(Arc::clone(shared), registry.clone(), folder)),
        ]);
        if !config.retention.is_for_ever() {
            let (end, kernel) = mpsc::channel();
            let (shared, store, retention) = (Arc::clone(shared), Arc::clone(store), config.retention);
            let thread = std::thread::Builder::new().name("sift-retention".to_owned());
            let thread = thread.spawn(move || upkeep::retain(&shared, &store, retention, &kernel));
            *lock(&self.inner.retention) = Some((end, thread.map_err(failed("starting retention"))?));
        }
        Ok(())
    }

    /// Opens a run.
    ///
    /// # Errors
    /// When the kernel has stopped, the ledger refuses (nested too deeply, parent closed), or the agent is not the one
    /// that was permitted. [`OpenRunError::Delegation`] when a delegation was not made by a listed kernel for this one,
    /// or is too late.
    pub async fn open_run(&self, open: OpenRun) -> Result<Run, OpenRunError> {
        let shared = &self.inner.shared;
        let OpenRun { agent, labels, parent, delegation } = open;
        let delegation = delegation.map(|note| Delegated::read(&note, &agent, shared)).transpose()?;
        let (run, parent) = match parent {
            _ if delegation.is_some() => {
                // A run has one parent, here or elsewhere.
                let delegation = delegation.as_ref().filter(|_| parent.is_none());
                let delegation = delegation.ok_or(OpenRunError::TwoParents)?;
                (delegation.run(), Some(delegation.parent()))
            }
            Some(child) if child.agent != agent => {
                let (permitted, given) = (child.agent.to_string(), agent.to_string());
                return Err(OpenRunError::OtherAgent { permitted, given });
            }
            Some(child) => (child.run, Some(child.parent)),
            None => (new_run(shared.clock.now())?, None::<Parent>),
        };
        let (reply, answer) = oneshot::channel();
        let build = self.inner.build.clone();
        shared.send(Op::Open(writer::OpenRun { agent, labels, parent, delegation, run, build, reply }))?;
        let run = shared.answer(answer).await??;
        Ok(Run::new(Arc::clone(shared), run))
    }

    /// Runs that an earlier process left open and that wait to be resumed, oldest first.
    #[must_use]
    pub fn resumable(&self) -> Vec<Resumable> {
        self.inner.shared.resumable()
    }

    /// Continues a run that an earlier process left open: the same chain, counters, facts and limits. What was under way
    /// then has ended as unknown, and calls that waited for approval as cancelled. A `beat` record says when it went on.
    ///
    /// # Errors
    /// When it does not wait to be resumed, and why; or the kernel has stopped.
    pub async fn resume_run(&self, run: RunId) -> Result<Run, ResumeError> {
        let (reply, answer) = oneshot::channel();
        let shared = &self.inner.shared;
        shared.send(Op::Resume { run, reply })?;
        let run = shared.answer(answer).await??;
        Ok(Run::new(Arc::clone(shared), run))
    }

    /// Gives an approver's signed answer to a held call, wherever it came from. What the call then is, its [`Held`]
    /// tells whoever waits for it; the answer here is how far it is.
    ///
    /// # Errors
    /// [`WaitError::Statement`] when the answer does not count: the call waits on. Or the run has stopped.
    ///
    /// [`Held`]: crate::Held
    pub async fn answer(&self, run: RunId, intent: Seq, statement: &str) -> Result<HoldProgress, WaitError> {
        self.inner.shared.give_answer(run, intent, statement).await
    }

    /// Halts every run: nothing new is dispatched from the moment this is polled, and the `halt` records are durable
    /// when it returns. The kernel stays halted until it is opened again.
    ///
    /// # Errors
    /// When the kernel is closed already.
    pub async fn halt(&self, detail: &str) -> Result<(), Stop> {
        match self.halt_scope(&HaltScope::All, detail).await {
            Halted { recorded: true, .. } => Ok(()),
            Halted { .. } => Err(self.stopped().unwrap_or(Stop::Gone)),
        }
    }

    /// Halts a run, all runs of an agent, or everything, as [`Kernel::halt`] does: at once, and then for the record.
    pub async fn halt_scope(&self, scope: &HaltScope, detail: &str) -> Halted {
        self.inner.shared.halt(scope, detail).await
    }

    /// The runs, what they have under way, and how far the log is behind.
    #[must_use]
    pub fn status(&self) -> KernelStatus {
        KernelStatus::of(&self.inner.shared)
    }

    /// Why the kernel has stopped, if it has.
    #[must_use]
    pub fn stopped(&self) -> Option<Stop> {
        self.inner.shared.stopped()
    }

    /// How many records are on disk and not known to be in the log.
    #[must_use]
    pub fn unlogged(&self) -> u64 {
        let progress = *self.inner.shared.progress.borrow();
        progress.committed.saturating_sub(progress.logged)
    }

    /// Waits until every record made so far is on the disk. Only outcomes may not be, for some milliseconds after they were
    /// answered; whatever is proposed, approved, halted or closed takes them along.
    ///
    /// # Errors
    /// When the disk failed, or the kernel is closed.
    pub async fn sync(&self) -> Result<(), Stop> {
        let (reply, answer) = oneshot::channel();
        self.inner.shared.send(Op::Sync { reply })?;
        self.inner.shared.answer(answer).await
    }

    /// Waits until every record made so far is in the log, or was refused by it; `false` when that takes longer than
    /// `patience`, or the kernel is closed or its disk fails first.
    pub async fn drain(&self, patience: Duration) -> bool {
        let reached = async {
            self.sync().await.ok()?;
            let mut progress = self.inner.shared.progress.subscribe();
            let target = progress.borrow().committed;
            let reached = progress.wait_for(|progress| progress.logged >= target || progress.over).await;
            Some(reached.ok()?.logged >= target)
        };
        tokio::time::timeout(patience, reached).await == Ok(Some(true))
    }

    /// The `close` entry of a run, as this kernel signed it: what the kernel that delegated the run settles with
    /// ([`crate::Report::with_close`]). `None` when the run is not closed, or not of this kernel.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn closing(&self, run: RunId) -> Result<Option<String>, StoreError> {
        let last = self.inner.store.run(run)?.pop().map(|stored| stored.entry);
        let entry = last.and_then(|bytes| Entry::parse(bytes).ok());
        let entry =
            entry.filter(|entry| entry.record().is_some_and(|record| matches!(record.body, Body::Close(_))));
        Ok(entry.and_then(|entry| String::from_utf8(entry.into_bytes()).ok()))
    }

    /// The kernel's store, for reading.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Loads a policy bundle: when this returns its digest, it decides for every run that is opened from then on. Runs in
    /// flight go on under the bundle that they were opened with, to their end; their limits are those of that bundle,
    /// also the ones of scope agent and kernel.
    ///
    /// Whatever fails, the bundle before stays in force and nothing halts. A bundle that is not known to be published
    /// ([`BundleError::is_waiting`]) waits: the log is asked again now and then, and the bundle comes into force by
    /// itself, unless another was given meanwhile. A bundle that decided before in this process needs no log.
    ///
    /// # Errors
    /// When it does not compile or cannot be kept, or the log does not prove that the operator has published it.
    pub async fn load_bundle(&self, bundle: Bundle) -> Result<Hash, BundleError> {
        let (shared, registry) = (&self.inner.shared, &self.inner.registry);
        shared.bundles.load(registry, bundle, shared.clock.now()).await
    }

    /// Where the time of calls went since the kernel was opened.
    #[must_use]
    pub fn timings(&self) -> Timings {
        self.inner.shared.stopwatch.read()
    }

    /// Which bundle decides for runs that are opened now, and why the last one that was given does not.
    #[must_use]
    pub fn bundle_status(&self) -> BundleStatus {
        self.inner.shared.bundles.status()
    }

    /// Stops the kernel and waits until its store is closed. Open runs are closed as abandoned by the next start, and
    /// records that are not in the log are uploaded then; to wait for them, call [`Kernel::drain`] first.
    pub async fn close(self) {
        let tasks = std::mem::take(&mut *lock(&self.inner.tasks));
        for task in &tasks {
            task.abort();
        }
        for task in tasks {
            // An aborted task ends with an error, as it should.
            let _ = task.await;
        }
        let retention = lock(&self.inner.retention).take();
        if let Some((end, thread)) = retention {
            drop(end);
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        let _ = self.inner.shared.send(Op::Stop);
        let writer = lock(&self.inner.writer).take();
        if let Some(writer) = writer {
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in lock(&self.tasks).iter() {
            task.abort();
        }
        let _ = self.shared.send(Op::Stop);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new run's identifier.
fn new_run(time: UnixMillis) -> Result<RunId, OpenRunError> {
    let mut random = [0; 10];
    getrandom::fill(&mut random).map_err(|error| OpenRunError::Random(error.to_string()))?;
    Ok(RunId::from_parts(time, &random))
}

/// What an earlier process has learnt of the operator's records. Each was proven when it was kept, and must still hold
/// under the trust file.
fn operator_chain(store: &Store, config: &Config, log: &KeyName) -> Result<Chain, OpenError> {
    let mut chain = Chain::new(log, &config.trust).ok_or(OpenError::NoLog)?;
    for (index, entry) in store.operator()? {
        chain.extend(index, entry).map_err(|error| {
            let (dir, why) = (config.dir.clone(), error.to_string());
            OpenError::OtherOperator { dir, at: index, why }
        })?;
    }
    Ok(chain)
}

fn check_owner(store: &Store, dir: &Path, log: &str, signer: &str) -> Result<(), OpenError> {
    match store.owner()? {
        None => store.set_owner(log, signer)?,
        Some((stored, _)) if stored != log => {
            return Err(OpenError::OtherLog { dir: dir.to_owned(), stored, given: log.to_owned() });
        }
        Some((_, stored)) if stored != signer => {
            return Err(OpenError::OtherKey { dir: dir.to_owned(), stored, given: signer.to_owned() });
        }
        Some(_) => {}
    }
    Ok(())
}
