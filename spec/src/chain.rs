//! Chains: what a record owes to the one before it (SPEC §3.5 and §4.2).
//!
//! A head is all that has to be kept of a run to judge its next record. The log admits by it, the kernel
//! signs by it, the verifier re-checks by it.

use crate::record::{Body, OperatorRecord, Record};
use crate::types::{AgentName, Hash, KeyName, Seq, UnixMillis};

/// Why a record does not continue its chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The first record of a run is `open`, and only the first.
    #[error("a run starts with \"open\" at seq 0, and has no other")]
    Open,
    /// Another log's record.
    #[error("this record is for the log {0}")]
    Log(KeyName),
    /// A seq is missing.
    #[error("seq {got} does not follow: {expected} was expected")]
    Gap {
        /// The next seq of the chain.
        expected: Seq,
        /// What came.
        got: Seq,
    },
    /// `prev` is not the leaf hash of the record before.
    #[error("\"prev\" is not the leaf hash of seq {}: {expected} was expected", .seq)]
    Prev {
        /// Seq of the record before.
        seq: Seq,
        /// Its leaf hash.
        expected: Hash,
    },
    /// The time is before that of the record before.
    #[error("time {got} is before {last}, the time of the record before")]
    Time {
        /// Time of the record before.
        last: UnixMillis,
        /// What came.
        got: UnixMillis,
    },
    /// Another agent than the run's.
    #[error("the run is one of agent {0}")]
    Agent(AgentName),
    /// Another key name than the one that opened the run.
    #[error("the run belongs to the key name {0}")]
    Signer(KeyName),
    /// The run is closed.
    #[error("the run is closed")]
    Closed,
}

/// What the next record of a chain must fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Link {
    seq: Seq,
    leaf: Hash,
    time: UnixMillis,
}

impl Link {
    /// Position and `prev` come first: they say whether this is the next record at all.
    fn check(&self, seq: Seq, prev: Option<Hash>, time: UnixMillis) -> Result<(), ChainError> {
        let expected = self.seq.next().ok_or(ChainError::Closed)?;
        if seq != expected {
            return Err(ChainError::Gap { expected, got: seq });
        }
        if prev != Some(self.leaf) {
            return Err(ChainError::Prev { seq: self.seq, expected: self.leaf });
        }
        if time < self.time {
            return Err(ChainError::Time { last: self.time, got: time });
        }
        Ok(())
    }
}

/// The end of a run so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunHead {
    link: Link,
    agent: AgentName,
    signer: KeyName,
    closed: bool,
}

impl RunHead {
    /// Starts a run with its first record, signed under the key name `signer`, with leaf hash `leaf`.
    ///
    /// # Errors
    /// When the record is not an `open` at seq 0 for the log `log`.
    pub fn open(record: &Record, signer: &KeyName, leaf: Hash, log: &KeyName) -> Result<Self, ChainError> {
        if record.seq != Seq::ZERO {
            return Err(ChainError::Gap { expected: Seq::ZERO, got: record.seq });
        }
        let Body::Open(open) = &record.body else { return Err(ChainError::Open) };
        if open.log != *log {
            return Err(ChainError::Log(open.log.clone()));
        }
        let link = Link { seq: Seq::ZERO, leaf, time: record.time };
        Ok(Self { link, agent: record.agent.clone(), signer: signer.clone(), closed: false })
    }

    /// The head of a run whose last record is known to have been admitted.
    #[must_use]
    pub fn of_last(record: &Record, signer: &KeyName, leaf: Hash) -> Self {
        let link = Link { seq: record.seq, leaf, time: record.time };
        let closed = matches!(record.body, Body::Close(_));
        Self { link, agent: record.agent.clone(), signer: signer.clone(), closed }
    }

    /// Continues the run with its next record.
    ///
    /// # Errors
    /// When the record does not follow; the head stays as it was.
    pub fn extend(&mut self, record: &Record, signer: &KeyName, leaf: Hash) -> Result<(), ChainError> {
        if self.closed {
            return Err(ChainError::Closed);
        }
        self.link.check(record.seq, record.prev, record.time)?;
        if matches!(record.body, Body::Open(_)) {
            return Err(ChainError::Open);
        }
        if record.agent != self.agent {
            return Err(ChainError::Agent(self.agent.clone()));
        }
        if *signer != self.signer {
            return Err(ChainError::Signer(self.signer.clone()));
        }
        self.link = Link { seq: record.seq, leaf, time: record.time };
        self.closed = matches!(record.body, Body::Close(_));
        Ok(())
    }

    /// Seq of the last record.
    #[must_use]
    pub const fn seq(&self) -> Seq {
        self.link.seq
    }

    /// Leaf hash of the last record: the `prev` of the next.
    #[must_use]
    pub const fn leaf(&self) -> Hash {
        self.link.leaf
    }

    /// Time of the last record.
    #[must_use]
    pub const fn time(&self) -> UnixMillis {
        self.link.time
    }

    /// The run's agent.
    #[must_use]
    pub const fn agent(&self) -> &AgentName {
        &self.agent
    }

    /// The key name that the run belongs to.
    #[must_use]
    pub const fn signer(&self) -> &KeyName {
        &self.signer
    }

    /// Whether the run has its `close`.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }
}

/// The end of the operator's chain so far; empty before its first record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OperatorHead {
    link: Option<Link>,
}

impl OperatorHead {
    /// Continues the chain of the log `log`.
    ///
    /// # Errors
    /// When the record does not follow; the head stays as it was.
    pub fn extend(&mut self, record: &OperatorRecord, leaf: Hash, log: &KeyName) -> Result<(), ChainError> {
        if record.log != *log {
            return Err(ChainError::Log(record.log.clone()));
        }
        match &self.link {
            None if record.seq == Seq::ZERO => {}
            None => return Err(ChainError::Gap { expected: Seq::ZERO, got: record.seq }),
            Some(link) => link.check(record.seq, record.prev, record.time)?,
        }
        self.link = Some(Link { seq: record.seq, leaf, time: record.time });
        Ok(())
    }

    /// Seq that the next record must have.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        self.link.and_then(|link| link.seq.next()).unwrap_or_default()
    }

    /// Leaf hash of the last record: the `prev` of the next.
    #[must_use]
    pub fn leaf(&self) -> Option<Hash> {
        self.link.map(|link| link.leaf)
    }

    /// Time of the last record.
    #[must_use]
    pub fn time(&self) -> UnixMillis {
        self.link.map_or(UnixMillis::ZERO, |link| link.time)
    }
}
