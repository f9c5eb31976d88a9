//! Policy bundles in force: which one decides for runs that are opened now, and how another takes its place.
//!
//! A run is decided by the bundle that was in force when it was opened, to its end (SPEC §3.3). So a swap changes
//! nothing for runs in flight: each holds its own [`Rules`], with deciders of its own. A new bundle passes, in this
//! order, and the first failure leaves the one in force where it is:
//!
//! 1. It compiles.
//! 2. Its bytes are in the store: no run names a bundle that is nowhere.
//! 3. The operator has published it in the log, because the log refuses runs under any other. The log is asked, and
//!    proves it: the operator's record, and that it is in the tree. Until then the bundle waits and the log is asked
//!    again now and then; a folder that was read while somebody wrote to it makes a bundle that nobody publishes.
//!
//! The last bundle that was given is the only one that can still come into force. A log that hides a publication only
//! keeps the old bundle in force; it cannot make a bundle of its own count, as far as the trust file names the operator.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sift_rules::{CompileError, Decider, PolicyBundle};
use sift_spec::bundle::Bundle;
use sift_spec::entry::{Content, Entry};
use sift_spec::receipt::Receipt;
use sift_spec::record::OperatorBody;
use sift_spec::trust::TrustPolicy;
use sift_spec::types::{Hash, UnixMillis};

use crate::error::BundleError;
use crate::log::{LogClient, LogError};
use crate::store::Store;

/// A compiled bundle with what it takes to decide by it.
#[derive(Debug)]
pub(crate) struct Rules {
    bundle: PolicyBundle,
    /// Idle deciders. Every decision takes one out: the one that was put back last.
    deciders: Mutex<Vec<Decider>>,
}

/// Most deciders with a policy of their own; what decides at the same time beyond that shares one.
const OWN_DECIDERS_MAX: usize = 16;

impl Rules {
    pub(crate) fn compile(bundle: &Bundle) -> Result<Arc<Self>, CompileError> {
        let bundle = PolicyBundle::compile(bundle)?;
        // Now, because it takes as long as compiling: not while an agent waits for its first decision. One for each core.
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(OWN_DECIDERS_MAX);
        let mut deciders = vec![bundle.decider()];
        std::thread::scope(|scope| {
            let make = |_| std::thread::Builder::new().spawn_scoped(scope, || bundle.own_decider()).ok();
            let own: Vec<_> = (1..cores).filter_map(make).collect();
            // In place of one that could not be made, a shared one is taken when it is needed.
            deciders.extend(own.into_iter().filter_map(|making| making.join().ok()));
        });
        Ok(Arc::new(Self { bundle, deciders: Mutex::new(deciders) }))
    }

    pub(crate) const fn bundle(&self) -> &PolicyBundle {
        &self.bundle
    }

    /// Decides on the exact bytes of a policy input.
    pub(crate) fn decide(&self, input: &[u8]) -> sift_rules::Verdict {
        let idle = lock(&self.deciders).pop();
        let mut decider = idle.unwrap_or_else(|| self.bundle.decider());
        let verdict = decider.decide(input);
        lock(&self.deciders).push(decider);
        verdict
    }
}

/// Which bundle decides for new runs, and what became of the last one that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleStatus {
    /// Digest of the bundle that decides for runs that are opened now.
    pub in_force: Hash,
    /// Its engine and version, as in the field `engine` of `open` records.
    pub engine: &'static str,
    /// Since when, by the kernel's clock.
    pub since: UnixMillis,
    /// A bundle that compiles and is not in force, because it is not known to be published. The log is asked again now
    /// and then.
    pub waiting: Option<Hash>,
    /// Why the last bundle that was given is not in force; `None` when it is. Says whose fault it is and what to do.
    pub problem: Option<String>,
}

/// The bundles of a kernel.
#[derive(Debug)]
pub(crate) struct Bundles {
    state: Mutex<State>,
    /// Taken by whoever loads, so that of two loads the later one counts.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    in_force: Arc<Rules>,
    since: UnixMillis,
    waiting: Option<Arc<Rules>>,
    problem: Option<String>,
    /// Bundles that decided before in this process, or were proven to be published: a publication is never taken back.
    published: Vec<Hash>,
}

/// Where bundles are kept, and who says that they are published.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    pub(crate) store: Arc<Store>,
    pub(crate) client: LogClient,
    pub(crate) trust: TrustPolicy,
}

impl Bundles {
    pub(crate) fn new(first: Arc<Rules>, now: UnixMillis) -> Self {
        let published = vec![first.bundle.digest()];
        let state = State { in_force: first, since: now, waiting: None, problem: None, published };
        Self { state: Mutex::new(state), turn: tokio::sync::Mutex::new(()) }
    }

    /// The bundle that decides for runs that are opened now.
    pub(crate) fn in_force(&self) -> Arc<Rules> {
        Arc::clone(&lock(&self.state).in_force)
    }

    pub(crate) fn status(&self) -> BundleStatus {
        let state = lock(&self.state);
        BundleStatus {
            in_force: state.in_force.bundle.digest(),
            engine: state.in_force.bundle.engine(),
            since: state.since,
            waiting: state.waiting.as_ref().map(|rules| rules.bundle.digest()),
            problem: state.problem.clone(),
        }
    }

    /// Loads a bundle: compiled, kept, published, in force.
    pub(crate) async fn load(
        &self,
        registry: &Registry,
        bundle: Bundle,
        now: UnixMillis,
    ) -> Result<Hash, BundleError> {
        let _turn = self.turn.lock().await;
        let loaded = self.prepare(registry, bundle).await;
        let loaded = match loaded {
            Ok(rules) => self.publish(registry, rules, now).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &loaded {
            self.refuse(error);
        }
        loaded
    }

    /// A folder, or whatever bundles come from, has none to give. What waited is not wanted any more.
    pub(crate) fn refuse(&self, error: &BundleError) {
        let mut state = lock(&self.state);
        if !error.is_waiting() {
            state.waiting = None;
        }
        let problem = error.to_string();
        if state.problem.as_ref() != Some(&problem) {
            let in_force = state.in_force.bundle.digest().hex();
            tracing::error!(in_force, problem, "a policy bundle is not in force; the one before stays");
            state.problem = Some(problem);
        }
    }

    /// Asks the log again about the bundle that waits, if one does.
    pub(crate) async fn ask_again(&self, registry: &Registry, now: UnixMillis) {
        let _turn = self.turn.lock().await;
        let Some(rules) = lock(&self.state).waiting.clone() else { return };
        if let Err(error) = self.publish(registry, rules, now).await {
            self.refuse(&error);
        }
    }

    async fn prepare(&self, registry: &Registry, bundle: Bundle) -> Result<Arc<Rules>, BundleError> {
        let store = Arc::clone(&registry.store);
        // Compiling takes a processor, and the store the disk.
        let prepared = tokio::task::spawn_blocking(move || {
            let rules = Rules::compile(&bundle)?;
            store.put_bundle(&rules.bundle.digest(), rules.bundle.encoding())?;
            Ok(rules)
        });
        prepared.await.unwrap_or_else(|error| Err(BundleError::Crashed { why: error.to_string() }))
    }

    /// Takes a bundle in force if it is published; else it waits.
    async fn publish(
        &self,
        registry: &Registry,
        rules: Arc<Rules>,
        now: UnixMillis,
    ) -> Result<Hash, BundleError> {
        let digest = rules.bundle.digest();
        let known = lock(&self.state).published.contains(&digest);
        if !known {
            lock(&self.state).waiting = Some(Arc::clone(&rules));
            registry.prove_published(digest).await?;
        }
        let mut state = lock(&self.state);
        if !known {
            state.published.push(digest);
        }
        (state.waiting, state.problem) = (None, None);
        if state.in_force.bundle.digest() != digest {
            let before = state.in_force.bundle.digest().hex();
            tracing::info!(before, bundle = digest.hex(), "a policy bundle is in force for new runs");
            (state.in_force, state.since) = (rules, now);
        }
        Ok(digest)
    }
}

impl Registry {
    /// Succeeds when the operator's record that publishes the bundle is in the log.
    async fn prove_published(&self, bundle: Hash) -> Result<(), BundleError> {
        let asked = |error: LogError| BundleError::Unasked { bundle, why: error.to_string() };
        let wrong = |why: String| BundleError::Unproven { bundle, why };
        // 1. Where the log says that it is.
        let index = self.client.policy(&bundle).await.map_err(asked)?;
        let index = index.ok_or(BundleError::NotPublished { bundle })?;
        // 2. The record there publishes this bundle, and the operator signed it.
        let entry = self.client.record(index).await.map_err(asked)?;
        let entry = Entry::parse(entry).map_err(|error| wrong(error.to_string()))?;
        let Content::Operator(record) = entry.content() else {
            return Err(wrong(format!("entry {index} is not the operator's")));
        };
        if !matches!(&record.body, OperatorBody::Policy(policy) if policy.bundle == bundle) {
            return Err(wrong(format!("entry {index} does not publish it")));
        }
        if let Some(operator) = self.trust.operator() {
            entry.verify(operator).map_err(|error| wrong(error.to_string()))?;
        }
        // 3. It is in a tree that is believed.
        let receipt = self.client.receipt(index).await.map_err(asked)?;
        let receipt = Receipt::parse(&receipt).map_err(|error| wrong(error.to_string()))?;
        if receipt.index != index {
            return Err(wrong(format!("the receipt is of entry {}, not {index}", receipt.index)));
        }
        receipt.verify(entry.leaf(), &self.trust).map_err(|error| wrong(error.to_string()))?;
        Ok(())
    }
}

/// The rules of a bundle that decided here before.
pub(crate) fn stored(store: &Store, digest: &Hash) -> Result<Arc<Rules>, BundleError> {
    let damaged = |why: &dyn std::fmt::Display| store.error(format!("the bundle {}: {why}", digest.hex()));
    let encoding = store.bundle(digest)?.ok_or_else(|| damaged(&"is missing"))?;
    let bundle = Bundle::decode(&encoding).map_err(|error| damaged(&error))?;
    Ok(Rules::compile(&bundle)?)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is changed under these locks can be left half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
