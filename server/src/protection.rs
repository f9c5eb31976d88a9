//! What stands before the log, whatever store is open behind it: TLS, tokens, rates, and the payload store. It is made
//! once for a process, and kept when a store is opened again.

use std::sync::Arc;

use crate::access::{Access, Tokens};
use crate::config::{Config, ConfigError};
use crate::limits::{AddressLimits, KeyLimits};
use crate::payloads::Payloads;
use crate::tls::{Tls, TlsConfig};

/// The log's protection.
pub(crate) struct Protection {
    /// TLS on the listener; plain HTTP without it.
    pub(crate) tls: Option<Arc<Tls>>,
    /// Who may ask for what.
    pub(crate) access: Access,
    /// How fast keys may add records.
    pub(crate) keys: Arc<KeyLimits>,
    /// How many records that are nobody's an address may send.
    pub(crate) failures: AddressLimits,
    /// The payload store, where there is one.
    pub(crate) payloads: Option<Arc<Payloads>>,
}

impl Protection {
    /// Reads what the configuration names.
    ///
    /// # Errors
    /// When a file or a variable cannot be read, is not what it should be, or is a secret that others may read.
    pub(crate) fn open(config: &Config) -> Result<Self, ConfigError> {
        Ok(Self {
            tls: config.tls.as_ref().map(Tls::open).transpose()?.map(Arc::new),
            access: Access {
                read: config.access.read_tokens.as_ref().map(Tokens::read).transpose()?,
                certificate_for_writes: config.tls.as_ref().is_some_and(TlsConfig::certificate_for_writes),
            },
            keys: Arc::new(KeyLimits::new(&config.limits)),
            failures: AddressLimits::new(&config.limits),
            payloads: config.payloads.as_ref().map(Payloads::open).transpose()?.map(Arc::new),
        })
    }

    /// What is wrong with the sections of a configuration, with nothing made or started.
    pub(crate) fn check(config: &Config) -> Vec<(&'static str, ConfigError)> {
        let tls = config.tls.as_ref().and_then(|tls| Tls::open(tls).err());
        let access = config.access.read_tokens.as_ref().and_then(|tokens| Tokens::read(tokens).err());
        let payloads = config.payloads.as_ref().and_then(|payloads| payloads.tokens().err());
        let found = [("tls", tls), ("access", access), ("payloads", payloads)];
        found.into_iter().filter_map(|(section, error)| Some((section, error?))).collect()
    }
}
