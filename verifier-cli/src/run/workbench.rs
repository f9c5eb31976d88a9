//! What is kept from one pack to the next: policies, compiled.

use std::collections::VecDeque;
use std::rc::Rc;

use sift_rules::{Decider, PolicyBundle};
use sift_spec::bundle::Bundle;
use sift_spec::hash::bundle_digest;
use sift_spec::types::Hash;

/// Most policies kept: packs come from others, and each may bring one of its own.
const POLICIES_MAX: usize = 4;

/// What one thread keeps from one pack to the next. A policy that many runs share is compiled once.
#[derive(Debug, Default)]
pub(crate) struct Workbench {
    /// The one that was used last stands last.
    policies: VecDeque<(Rc<PolicyBundle>, Decider)>,
}

impl Workbench {
    /// The bundle with this digest, compiled from its bytes.
    pub(super) fn bundle(&mut self, digest: &Hash, bytes: &[u8]) -> Result<Rc<PolicyBundle>, String> {
        // However well the policy is known: these are its bytes, or they are not.
        let found = bundle_digest(bytes);
        if found != *digest {
            return Err(format!("its SHA-256 is {}", found.hex()));
        }
        let known = self.policies.iter().position(|(bundle, _)| bundle.digest() == *digest);
        let policy = match known.and_then(|known| self.policies.remove(known)) {
            Some(policy) => policy,
            None => {
                let bundle = Bundle::decode(bytes).map_err(|error| error.to_string())?;
                let bundle = PolicyBundle::compile(&bundle).map_err(|error| error.to_string())?;
                let decider = bundle.decider();
                (Rc::new(bundle), decider)
            }
        };
        if self.policies.len() == POLICIES_MAX {
            self.policies.pop_front();
        }
        let bundle = Rc::clone(&policy.0);
        self.policies.push_back(policy);
        Ok(bundle)
    }

    /// The decider of the bundle that was asked for last.
    pub(super) fn decider(&mut self) -> Option<&mut Decider> {
        self.policies.back_mut().map(|(_, decider)| decider)
    }
}
