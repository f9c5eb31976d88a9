//! Which tokens were used: a token counts once.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use redb::{
    Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, TableDefinition,
};
use sift_spec::types::{Hash, UnixMillis};

/// Most tokens that are remembered at a time: used, and not expired.
pub const SPENT_MAX: usize = 1_000_000;

/// Remembers which tokens were used. Several processes that serve one audience need one memory.
pub trait Spent: Send + Sync {
    /// Remembers a token by its nonce until it expires. `false` when it is remembered already: of all callers with one
    /// nonce, however many at once, one is told `true`.
    ///
    /// # Errors
    /// When that cannot be told or kept. The token is then refused.
    fn spend(&self, nonce: Hash, until: UnixMillis, now: UnixMillis) -> Result<bool, String>;
}

/// Remembers in memory, at most [`SPENT_MAX`] tokens. A restart forgets, so it must last longer than tokens do.
#[derive(Debug, Default)]
pub struct MemorySpent {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: HashSet<Hash>,
    by_expiry: BTreeSet<(UnixMillis, Hash)>,
    /// The latest time seen: a clock that goes back must not bring forgotten tokens to life.
    latest: UnixMillis,
}

impl Spent for MemorySpent {
    fn spend(&self, nonce: Hash, until: UnixMillis, now: UnixMillis) -> Result<bool, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.latest = state.latest.max(now);
        let latest = state.latest;
        while let Some((expires, old)) =
            state.by_expiry.first().copied().filter(|(expires, _)| *expires < latest)
        {
            state.by_expiry.remove(&(expires, old));
            state.known.remove(&old);
        }
        if until < latest {
            return Err("the clock went back".to_owned());
        }
        if state.known.contains(&nonce) {
            return Ok(false);
        }
        if state.known.len() >= SPENT_MAX {
            return Err("too many tokens are in use".to_owned());
        }
        state.known.insert(nonce);
        state.by_expiry.insert((until, nonce));
        Ok(true)
    }
}

/// Nonce to the time at which the token expires, in milliseconds.
const TABLE: TableDefinition<'_, &[u8], u64> = TableDefinition::new("spent");

/// Remembers in a file, so that a restart forgets nothing. One process at a time.
#[derive(Debug)]
pub struct FileSpent {
    database: Database,
}

impl FileSpent {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// When it cannot be opened, or another process has it.
    pub fn open(path: &Path) -> Result<Self, String> {
        let database = Database::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { database })
    }

    /// `None` when there is no room.
    fn try_spend(
        &self,
        nonce: Hash,
        until: UnixMillis,
        now: UnixMillis,
    ) -> Result<Option<bool>, redb::Error> {
        // redb has one writer at a time, and the commit is durable when it returns.
        let write = self.database.begin_write()?;
        let fresh = {
            let mut table = write.open_table(TABLE)?;
            let known = table.get(nonce.as_bytes().as_slice())?.is_some();
            if !known {
                if table.len()? >= SPENT_MAX as u64 {
                    table.retain(|_, expires| expires >= now.get())?;
                }
                if table.len()? >= SPENT_MAX as u64 {
                    return Ok(None);
                }
                table.insert(nonce.as_bytes().as_slice(), until.get())?;
            }
            !known
        };
        write.commit()?;
        Ok(Some(fresh))
    }

    /// How many tokens it remembers.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn count(&self) -> Result<u64, String> {
        let count = || -> Result<u64, redb::Error> {
            let read = self.database.begin_read()?;
            match read.open_table(TABLE) {
                Err(redb::TableError::TableDoesNotExist(_)) => Ok(0),
                table => Ok(table?.len()?),
            }
        };
        count().map_err(|error| error.to_string())
    }
}

impl Spent for FileSpent {
    fn spend(&self, nonce: Hash, until: UnixMillis, now: UnixMillis) -> Result<bool, String> {
        let spent = self.try_spend(nonce, until, now).map_err(|error| error.to_string())?;
        spent.ok_or_else(|| "too many tokens are in use".to_owned())
    }
}
