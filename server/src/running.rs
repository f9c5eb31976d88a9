//! A log at work: one open store with its sequencer, its admission threads and the router over them.
//!
//! When the sequencer ends because the disk is full, the store stays open for readers, and nothing is written to it any
//! more: what the failed write left on the disk is not known. Once there is space, everything that holds the store lets
//! go of it, and it is opened as on every start: by [`crate::recovery`], which refuses a tree that does not extend the
//! last head that was signed. RocksDB has a way of its own to go on after such a failure; it is not relied upon.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::admin::Admin;
use crate::admission::Admission;
use crate::config::Config;
use crate::disk::Disk;
use crate::door::Door;
use crate::feed::Feed;
use crate::metrics::Metrics;
use crate::payloads::{self, Payloads};
use crate::protection::Protection;
use crate::publish::{Outlets, PublishError, Publishing};
use crate::recovery::RecoveryError;
use crate::routes::{self, App};
use crate::sequencer::{Ended, Message};
use crate::store::Store;
use crate::view::View;
use crate::{AbortOnDrop, Log, LogError};

/// Pause between two looks at what is waited for here.
const PAUSE: Duration = Duration::from_millis(20);

/// Pause before a store that failed is opened again, so that a disk which only seems to have space is not tried all
/// the time.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// How long requests may hold a store that is to be closed.
const RELEASE_MAX: Duration = Duration::from_secs(60);

/// One open store being served.
pub(crate) struct Running {
    /// What answers requests; none once the store is to be closed.
    app: Option<Arc<App>>,
    store: Option<Arc<Store>>,
    views: watch::Receiver<Arc<View>>,
    submissions: mpsc::Sender<Message>,
    /// Set while no records are taken.
    stopping: Arc<AtomicBool>,
    disk: Arc<Disk>,
    /// Ends the streams of checkpoints, for which nobody waits.
    end_streams: watch::Sender<bool>,
    sequencer: Sequencing,
    /// The task of the admin socket, which holds the store.
    admin: Option<JoinHandle<()>>,
    /// Where there are witnesses, and until it ended.
    publisher: Option<JoinHandle<Result<(), PublishError>>>,
    /// Tells the publisher to stop, when it is dropped.
    publishes: Option<oneshot::Sender<()>>,
    protection: Arc<Protection>,
    /// Deletes old payloads now and then.
    _sweeper: Option<AbortOnDrop>,
}

/// The sequencer's thread.
enum Sequencing {
    Runs(oneshot::Receiver<Result<(), Ended>>),
    Ended,
}

impl Running {
    /// Starts the threads of a log.
    pub(crate) fn start(log: Log, metrics: &Arc<Metrics>) -> Result<Self, LogError> {
        let Log { config, mut sequencer, publishing, protection } = log;
        sequencer.metrics = Arc::clone(&metrics.commits);
        let (store, views) = (Arc::clone(&sequencer.store), sequencer.views.subscribe());
        let disk = Arc::new(Disk::new(&config.data, &config.disk));
        let (submissions, queue) = mpsc::channel(config.queue_max);
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let admission = Admission::start(threads, config.queue_max, &views, &submissions)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let (ended, runs) = oneshot::channel();
        let (flag, space) = (Arc::clone(&stopping), Arc::clone(&disk));
        std::thread::Builder::new().name("sequencer".to_owned()).spawn(move || {
            // The sequencer and its hold of the store are gone when this is told.
            let result = sequencer.run(queue, &space, &flag);
            flag.store(true, Ordering::Relaxed);
            let _ = ended.send(result);
        })?;
        let (publishes, stop) = oneshot::channel();
        let (publisher, outlets) = match publishing.map(Publishing::start) {
            Some((publisher, outlets)) => (Some(tokio::spawn(publisher.run(stop))), outlets),
            None => (None, Outlets::unwitnessed(&views)),
        };
        let (end_streams, ended_streams) = watch::channel(false);
        let feed = Feed::new(&config.feed, outlets.status.mode(), ended_streams);
        let app = App::new(
            Arc::clone(&store),
            views.clone(),
            outlets,
            admission,
            Arc::clone(&stopping),
            Arc::clone(&disk),
            feed,
            Arc::clone(metrics),
            Arc::clone(&protection),
        );
        let app = Arc::new(app);
        metrics.look_at(&app, submissions.downgrade());
        // Without it the log is served all the same; only what needs it, such as a backup, is not to be had.
        let admin = match Admin::bind(&config.data) {
            Ok(admin) => Some(tokio::spawn(admin.serve(Arc::clone(&store)))),
            Err(error) => {
                tracing::warn!(%error, "there is no admin socket: backups need the log to be stopped");
                None
            }
        };
        let sweeper = protection.payloads.clone();
        let _sweeper = sweeper.map(|store| AbortOnDrop(tokio::spawn(sweep(store, views.clone()))));
        let (app, store, sequencer) = (Some(app), Some(store), Sequencing::Runs(runs));
        Ok(Self {
            app,
            store,
            views,
            submissions,
            stopping,
            disk,
            end_streams,
            sequencer,
            admin,
            publisher,
            publishes: Some(publishes),
            protection,
            _sweeper,
        })
    }

    /// What answers requests.
    pub(crate) fn router(&self) -> Router {
        self.app.as_ref().map_or_else(Router::new, |app| routes::router(Arc::clone(app)))
    }

    /// Ends when the sequencer does, with its reason; or with that of the publisher, where it has one to stop.
    pub(crate) async fn ended(&mut self) -> Result<(), LogError> {
        let Sequencing::Runs(runs) = &mut self.sequencer else { return Ok(()) };
        let mut unpublished = Ok(());
        let result = tokio::select! {
            result = &mut *runs => result,
            ended = failed(&mut self.publisher) => {
                unpublished = ended;
                self.stopping.store(true, Ordering::Relaxed);
                let _ = self.submissions.send(Message::Stop).await;
                runs.await
            }
        };
        self.sequencer = Sequencing::Ended;
        // Publishing writes to the same store, which a failed write has ended.
        self.publishes = None;
        unpublished?;
        match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Ended::Store(error))) => Err(error.into()),
            Ok(Err(Ended::Orphaned)) | Err(_) => Err(LogError::Panicked),
        }
    }

    /// Takes no more records, and ends what would not end by itself. Nothing more is published: who waits to be
    /// witnessed is answered now.
    pub(crate) fn refuse(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.end_streams.send_replace(true);
        self.publishes = None;
    }

    /// Lets the sequencer finish what came before, and waits for it.
    pub(crate) async fn finish(&mut self) -> Result<(), LogError> {
        self.end_admin().await;
        let _ = self.submissions.send(Message::Stop).await;
        let ended = self.ended().await;
        ended.and(self.unpublish().await)
    }

    /// Waits until nothing is published any more and the publisher has let go of the store.
    async fn unpublish(&mut self) -> Result<(), LogError> {
        self.publishes = None;
        match self.publisher.take() {
            Some(publisher) => Ok(publisher.await.map_err(|_| LogError::Panicked)??),
            None => Ok(()),
        }
    }

    /// Waits for space, then closes the store and opens it again, as on every start. Whoever comes to the door in
    /// between waits there.
    pub(crate) async fn reopen(&mut self, config: &Config, door: &Door) -> Result<Log, LogError> {
        loop {
            tokio::time::sleep(REOPEN_PAUSE).await;
            if !self.disk.has_room_again() {
                continue;
            }
            door.shut();
            self.close().await?;
            let known = self.views.borrow().checkpoint.clone().into_bytes();
            let (config, protection) = (config.clone(), Arc::clone(&self.protection));
            let opened =
                tokio::task::spawn_blocking(move || Log::open_known(&config, &[known], Some(protection)))
                    .await;
            match opened.map_err(|_| LogError::Panicked)? {
                Err(LogError::Recovery(RecoveryError::Store(error))) if error.is_no_space() => {
                    tracing::error!(%error, "the store cannot be opened again yet");
                }
                opened => {
                    let mut log = opened?;
                    log.ask_witnesses().await?;
                    tracing::info!(size = %log.head().size, "the store is open again, after a full disk");
                    return Ok(log);
                }
            }
        }
    }

    async fn end_admin(&mut self) {
        if let Some(admin) = self.admin.take() {
            admin.abort();
            // Once it is gone, so is its hold of the store.
            let _ = admin.await;
        }
    }

    /// Closes the store once the last request has let go of it.
    async fn close(&mut self) -> Result<(), LogError> {
        self.app = None;
        self.end_streams.send_replace(true);
        self.end_admin().await;
        if let Err(error) = self.unpublish().await {
            tracing::error!(%error, "publishing ended");
        }
        let Some(mut store) = self.store.take() else { return Ok(()) };
        let released = async {
            loop {
                match Arc::try_unwrap(store) {
                    Ok(store) => return store,
                    Err(held) => store = held,
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let store = tokio::time::timeout(RELEASE_MAX, released).await.map_err(|_| LogError::Held)?;
        tokio::task::spawn_blocking(move || drop(store)).await.map_err(|_| LogError::Panicked)
    }
}

/// Ends when the publisher has a reason to stop the log. One that ended because the sequencer did, or was told to, has
/// none.
async fn failed(publisher: &mut Option<JoinHandle<Result<(), PublishError>>>) -> Result<(), LogError> {
    if let Some(running) = publisher {
        let ended = running.await;
        *publisher = None;
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(LogError::Panicked),
        }
    }
    std::future::pending().await
}

/// Deletes payloads that are older than they may be or erased: on start, and then every hour.
async fn sweep(payloads: Arc<Payloads>, views: watch::Receiver<Arc<View>>) {
    let mut every = tokio::time::interval(payloads::SWEEP_EVERY);
    loop {
        every.tick().await;
        let (payloads, keys) = (Arc::clone(&payloads), Arc::clone(&views.borrow().keys));
        let swept = tokio::task::spawn_blocking(move || {
            payloads.sweep(std::time::SystemTime::now(), |digest| keys.is_erased(digest))
        });
        match swept.await {
            Ok(Ok(swept)) if swept == payloads::Swept::default() => {}
            Ok(Ok(payloads::Swept { old, erased, bytes })) => {
                tracing::info!(old, erased, bytes, "payloads were deleted");
            }
            Ok(Err(error)) => tracing::error!(%error, "payloads could not be looked through"),
            Err(_) => return,
        }
    }
}
