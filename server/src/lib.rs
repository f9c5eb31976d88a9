//! The transparency log of Sift.
//!
//! ```text
//! HTTP ─▶ parse ─▶ verify signatures (batch) ─▶ queue ─▶ sequencer ─▶ answer
//! routes   spec      admission                            │ chain, authority, duplicates
//!                                                          │ index, tiles, root, signature
//!                                                          ▼
//!                                        one synced write batch: the commit point (store)
//! ```
//!
//! An answer means: durable, in order, in a signed tree. [`init::init`] makes a log, [`Log::open`] recovers
//! one, [`Log::serve`] runs it until its shutdown future ends.
//!
//! How to run one is told in `server/OPERATING.md`.
//!
//! Out of scope: deciding about calls (the kernel does), judging what records say about each other beyond
//! their chain (the verifier does), keeping payloads.

pub mod config;
pub mod init;
pub mod key_file;
pub mod operator;

mod admission;
mod error;
mod evidence;
mod listener;
mod mark;
mod recovery;
mod routes;
mod sequencer;
mod store;
mod tile;
mod view;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sift_spec::proof::TreeHead;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::admission::Admission;
use crate::config::{Config, ConfigError};
pub use crate::recovery::RecoveryError;
use crate::routes::App;
use crate::sequencer::{Ended, Message, Sequencer};
pub use crate::store::StoreError;

/// Why a log does not start or stopped.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store is not what was signed, or cannot be opened.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The store failed while the log was running. What was answered is durable; start again to recover.
    #[error("stopped, because {0}; everything that was answered is durable")]
    Store(#[from] StoreError),
    /// The network or a thread failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A thread of the log is gone that should not be.
    #[error("a thread of the log ended that should not; everything that was answered is durable")]
    Panicked,
}

/// A log, recovered and not yet serving.
pub struct Log {
    sequencer: Sequencer,
    queue_max: usize,
    connections_max: usize,
}

impl Log {
    /// Opens and recovers the log of a configuration.
    ///
    /// # Errors
    /// When the key does not fit the store, or the store is not the tree that was signed.
    pub fn open(config: &Config) -> Result<Self, LogError> {
        let key = key_file::read_key(&config.log_key)?;
        let operator = config.operator()?;
        if operator.public() == key.verifier().public() {
            let why = "operator: this is the log's own key; the operator's must be another".to_owned();
            return Err(config::content(std::path::Path::new(config::CONFIG_FILE), why).into());
        }
        let sequencer = recovery::open(&config.data, key, operator, &config::read_seen(config)?)?;
        Ok(Self { sequencer, queue_max: config.queue_max, connections_max: config.connections_max })
    }

    /// Size and root of the tree.
    #[must_use]
    pub fn head(&self) -> TreeHead {
        self.sequencer.views.borrow().head
    }

    /// Serves until `shutdown` ends or the store fails; then finishes what was begun.
    ///
    /// # Errors
    /// When the store failed. The process should end: only a new start knows what the disk holds.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), LogError> {
        let (store, views) = (Arc::clone(&self.sequencer.store), self.sequencer.views.subscribe());
        let (submissions, queue) = mpsc::channel(self.queue_max);
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let admission = Admission::start(threads, self.queue_max, &views, &submissions)?;

        let stopping = Arc::new(AtomicBool::new(false));
        let (ended, sequencer_ended) = oneshot::channel();
        let sequencer = self.sequencer;
        let flag = Arc::clone(&stopping);
        let thread = std::thread::Builder::new().name("sequencer".to_owned()).spawn(move || {
            let result = sequencer.run(queue);
            flag.store(true, Ordering::Relaxed);
            let _ = ended.send(());
            result
        })?;

        let app = Arc::new(App::new(store, views.clone(), views, admission, Arc::clone(&stopping)));
        let stop = async move {
            // The store failed (the sequencer ended early), or the caller wants to stop.
            tokio::select! {
                () = shutdown => {}
                _ = sequencer_ended => {}
            }
            stopping.store(true, Ordering::Relaxed);
        };
        listener::serve(listener, routes::router(app), self.connections_max, stop).await?;
        // Connections that would not end keep the door open, but nothing that comes through it is written any more.
        let _ = submissions.send(Message::Stop).await;
        let joined =
            tokio::task::spawn_blocking(move || thread.join()).await.map_err(|_| LogError::Panicked)?;
        match joined {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Ended::Store(error))) => Err(error.into()),
            Ok(Err(Ended::Orphaned)) | Err(_) => Err(LogError::Panicked),
        }
    }
}
