//! Full tiles with all their nodes, those that were asked for last: what makes a proof for an old entry a few look-ups.
//!
//! A full tile never changes, so nothing here is ever out of date.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sift_spec::tile::TileId;

use crate::tile::Tile;

/// Tiles of one generation; a tile with all its nodes takes 16 KiB, so both together take at most 16 MiB.
const GENERATION_TILES_MAX: usize = 512;

/// A bounded cache: tiles that were not asked for during a whole generation leave it.
#[derive(Debug, Default)]
pub(crate) struct TileCache {
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    /// Asked for since the last change of generations.
    young: HashMap<TileId, Arc<Tile>>,
    /// Asked for during the generation before.
    old: HashMap<TileId, Arc<Tile>>,
}

impl TileCache {
    /// The tile, from the cache or else from `read`. Two who miss at the same time both read it.
    pub(crate) fn get<E>(
        &self,
        id: TileId,
        read: impl FnOnce() -> Result<Arc<Tile>, E>,
    ) -> Result<Arc<Tile>, E> {
        if let Some(tile) = self.with(|generations| generations.get(id)) {
            return Ok(tile);
        }
        let tile = read()?;
        self.with(|generations| generations.put(id, Arc::clone(&tile)));
        Ok(tile)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Generations) -> T) -> T {
        // Nothing in here can be left half done.
        work(&mut self.generations.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Generations {
    fn get(&mut self, id: TileId) -> Option<Arc<Tile>> {
        if let Some(tile) = self.young.get(&id) {
            return Some(Arc::clone(tile));
        }
        let tile = self.old.remove(&id)?;
        self.put(id, Arc::clone(&tile));
        Some(tile)
    }

    fn put(&mut self, id: TileId, tile: Arc<Tile>) {
        if self.young.len() >= GENERATION_TILES_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id, tile);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_the_rest_goes() {
        let cache = TileCache::default();
        let mut reads = Vec::new();
        let mut get = |index| {
            let id = TileId { level: 0, index };
            let read = || {
                reads.push(index);
                Ok::<_, ()>(Arc::new(Tile::default()))
            };
            assert!(cache.get(id, read).is_ok());
        };
        for index in 1..10_000 {
            get(0);
            get(index);
        }
        assert_eq!(reads.iter().filter(|index| **index == 0).count(), 1, "asked for all the time");
        assert_eq!(reads.len(), 10_000);
        let held = cache.with(|generations| generations.young.len() + generations.old.len());
        assert!(held <= 2 * GENERATION_TILES_MAX, "{held} tiles are held");
    }
}
