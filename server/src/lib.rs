//! The transparency log of Sift.
//!
//! ```text
//! HTTP ─▶ parse ─▶ verify signatures (batch) ─▶ queue ─▶ sequencer ─▶ answer
//! routes   spec      admission                            │ chain, authority, duplicates
//!                                                          │ index, tiles, root, signature
//!                                                          ▼
//!                                        one synced write batch: the commit point (store)
//!                                                          │
//!                 readers ◀── published ◀── witnesses ◀────┘
//!                              publish        witness
//! ```
//!
//! An answer means: durable, in order, in a signed tree. [`init::init`] makes a log, [`Log::open`] recovers
//! one, [`Log::serve`] runs it until its shutdown future ends.
//!
//! How to run one is told in `server/OPERATING.md`.
//!
//! Out of scope: deciding about calls (the kernel does), judging what records say about each other beyond
//! their chain (the verifier does).

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod access;
pub mod backup;
pub mod check;
pub mod config;
pub mod fsck;
pub mod init;
pub mod key_file;
pub mod limits;
pub mod operator;
pub mod payloads;
pub mod rotation;
pub mod settings;
pub mod tls;
pub mod witness;

mod admin;
mod admission;
mod disk;
mod door;
mod error;
mod evidence;
mod feed;
mod health;
mod listener;
mod mark;
mod metrics;
mod openapi;
mod patience;
mod protection;
mod publish;
mod recovery;
mod routes;
mod running;
mod sequencer;
#[cfg(test)]
mod simulation;
mod store;
mod tile;
mod tile_cache;
mod view;

use std::future::Future;
use std::sync::Arc;

use sift_spec::api::Publish;
use sift_spec::proof::TreeHead;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::config::{Config, ConfigError};
pub use crate::disk::DiskConfig;
use crate::door::Door;
use crate::metrics::Metrics;
use crate::protection::Protection;
use crate::publish::{PublishError, Publishing};
pub use crate::recovery::RecoveryError;
use crate::running::Running;
use crate::sequencer::Sequencer;
pub use crate::store::{StoreConfig, StoreError};
use crate::tls::Tls;
use crate::witness::{WitnessStop, Witnesses};

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
    /// The store is a copy, and nobody has shown that it is the newest.
    #[error(transparent)]
    Stale(#[from] backup::StaleError),
    /// A witness has seen more of this log than the store holds, or something else.
    #[error("{0}; everything that was answered is durable")]
    Witness(#[from] WitnessStop),
    /// The network or a thread failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The store ran out of space and cannot be opened again beside requests that hold it.
    #[error(
        "stopped, because the disk was full and requests did not let go of the store; everything that was answered is \
         durable"
    )]
    Held,
    /// A thread of the log is gone that should not be.
    #[error("a thread of the log ended that should not; everything that was answered is durable")]
    Panicked,
}

impl From<PublishError> for LogError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Store(error) => error.into(),
            PublishError::Stop(stop) => stop.into(),
            PublishError::Panicked => Self::Panicked,
        }
    }
}

/// A log, recovered and not yet serving.
pub struct Log {
    config: Config,
    sequencer: Sequencer,
    /// Where there are witnesses.
    publishing: Option<Publishing>,
    protection: Arc<Protection>,
}

impl Log {
    /// Opens and recovers the log of a configuration.
    ///
    /// # Errors
    /// When the key does not fit the store, or the store is not the tree that was signed.
    pub fn open(config: &Config) -> Result<Self, LogError> {
        Self::open_known(config, &[], None)
    }

    /// The same, for a process that has signed the checkpoints `known`, which the store must extend, and that has its
    /// protection already.
    fn open_known(
        config: &Config,
        known: &[Vec<u8>],
        protection: Option<Arc<Protection>>,
    ) -> Result<Self, LogError> {
        let keys = rotation::log_keys(config)?;
        let vkeys: Vec<_> = keys.iter().map(|key| key.verifier().clone()).collect();
        let operator = config.operator()?;
        if vkeys.iter().any(|key| key.public() == operator.public()) {
            let why = "operator: this is the log's own key; the operator's must be another".to_owned();
            return Err(config::content(std::path::Path::new(config::CONFIG_FILE), why).into());
        }
        let witnesses =
            config.witnesses.as_ref().map(|section| Witnesses::read(section, &vkeys)).transpose()?;
        let mut seen = config::read_seen(config)?;
        seen.extend_from_slice(known);
        let protection = match protection {
            Some(protection) => protection,
            None => Arc::new(Protection::open(config)?),
        };
        let (mut sequencer, seen) =
            recovery::open(&config.data, &config.store, keys, operator.clone(), &seen)?;
        sequencer.limits = Arc::clone(&protection.keys);
        let stored = sequencer.views.borrow().head;
        backup::check_fresh(&config.data, stored, &seen, config.seen_none_newer)?;
        let publishing = match witnesses {
            None => {
                if sequencer.store.published()?.is_some() {
                    sequencer.store.forget_published()?;
                }
                None
            }
            Some(witnesses) => {
                sequencer.keeps_checkpoints = witnesses.config.publish == Publish::Signed;
                let (store, committed) = (Arc::clone(&sequencer.store), sequencer.views.subscribe());
                let keys = &sequencer.log_keys;
                Some(Publishing::restore(witnesses, store, committed, keys, &operator)?)
            }
        };
        Ok(Self { config: config.clone(), sequencer, publishing, protection })
    }

    /// Asks every witness for the last tree that it cosigned, once. [`Log::serve`] does it where it was not done.
    ///
    /// # Errors
    /// When one has cosigned more than the store holds, or another tree, or must answer and does not.
    pub async fn ask_witnesses(&mut self) -> Result<(), LogError> {
        match &mut self.publishing {
            Some(publishing) => Ok(publishing.ask().await?),
            None => Ok(()),
        }
    }

    /// Size and root of the tree.
    #[must_use]
    pub fn head(&self) -> TreeHead {
        self.sequencer.views.borrow().head
    }

    /// Serves until `shutdown` ends, the store fails or a witness gives reason to stop; then finishes what was begun. A
    /// store that failed because the disk is full is opened again when there is space; until then it is read and not
    /// written.
    ///
    /// # Errors
    /// When the store failed otherwise: the process should end, because only a new start knows what the disk holds. When
    /// a witness has seen more than this log, or something else.
    pub async fn serve(
        mut self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), LogError> {
        self.ask_witnesses().await?;
        let config = self.config.clone();
        let door = Door::new();
        let (close, closed) = oneshot::channel::<()>();
        let end = async move {
            let _ = closed.await;
        };
        let tls = self.protection.tls.clone();
        let _reload = tls.clone().map(|tls| AbortOnDrop(tokio::spawn(reload_on_hangup(tls))));
        let listening =
            tokio::spawn(listener::serve(listener, door.router(), config.connections_max, tls, end));
        tokio::pin!(shutdown);
        let metrics = Arc::new(Metrics::new());
        let mut running = Running::start(self, &metrics)?;
        door.open(running.router());
        let result = loop {
            tokio::select! {
                () = &mut shutdown => break Ok(()),
                ended = running.ended() => match ended {
                    Err(LogError::Store(error)) if error.is_no_space() => {
                        tracing::error!(%error, "a write failed: records are refused until there is space");
                    }
                    other => break other,
                },
            }
            tokio::select! {
                () = &mut shutdown => break Ok(()),
                reopened = running.reopen(&config, &door) => match reopened {
                    Ok(log) => running = Running::start(log, &metrics)?,
                    Err(error) => break Err(error),
                },
            }
            door.open(running.router());
        };
        running.refuse();
        let _ = close.send(());
        listening.await.map_err(|_| LogError::Panicked)??;
        // Connections that would not end keep the door open, but nothing that comes through it is written any more.
        let finished = running.finish().await;
        result.and(finished)
    }
}

/// Reads certificate and key again at every SIGHUP.
#[cfg(unix)]
async fn reload_on_hangup(tls: Arc<Tls>) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while hangup.recv().await.is_some() {
        match tls.reload() {
            Ok(()) => tracing::info!("certificate and key were read again"),
            Err(error) => tracing::error!(%error, "certificate and key stay as they were"),
        }
    }
}

#[cfg(not(unix))]
async fn reload_on_hangup(_: Arc<Tls>) {}

/// A task that ends with whoever holds this.
pub(crate) struct AbortOnDrop(pub(crate) tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
