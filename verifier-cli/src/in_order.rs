//! Work on many things at once, and results one after the other.

use std::num::NonZeroUsize;
use std::sync::mpsc::sync_channel;

/// Results that one worker may be ahead of whoever takes them: what memory holds is bounded by it.
const AHEAD: usize = 8;

/// Does `work` on every item, on as many threads, each with a bench of its own; gives the results in the order of the
/// items.
pub(crate) fn in_order<I: Sync, B: Default, R: Send>(
    items: &[I],
    threads: NonZeroUsize,
    work: impl Fn(&mut B, &I) -> R + Sync,
    mut take: impl FnMut(R),
) {
    let threads = threads.get().min(items.len());
    std::thread::scope(|scope| {
        let results: Vec<_> = (0..threads)
            .map(|first| {
                let (give, results) = sync_channel(AHEAD);
                let work = &work;
                scope.spawn(move || {
                    let mut bench = B::default();
                    for item in items.iter().skip(first).step_by(threads) {
                        // Nobody takes it: whoever asked is gone.
                        if give.send(work(&mut bench, item)).is_err() {
                            return;
                        }
                    }
                });
                results
            })
            .collect();
        // A worker that panics closes its channel; the scope passes the panic on.
        let mut given = (0..items.len()).map_while(|item| results.get(item % threads)?.recv().ok());
        given.by_ref().for_each(&mut take);
    });
}

/// As many threads as are asked for, or as there are cores.
pub(crate) fn threads(wanted: Option<NonZeroUsize>) -> NonZeroUsize {
    wanted.unwrap_or_else(|| std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_comes_once_and_in_order() {
        for (items, workers) in [(0, 1), (1, 4), (100, 1), (257, 3), (1000, 16)] {
            let items: Vec<usize> = (0..items).collect();
            let mut taken = Vec::new();
            let workers = NonZeroUsize::new(workers).unwrap();
            in_order(
                &items,
                workers,
                |done: &mut usize, item| {
                    *done += 1;
                    // Some take longer than others.
                    (0..(item % 7) * 1000).for_each(|n| _ = std::hint::black_box(n));
                    item * 2
                },
                |result| taken.push(result),
            );
            assert_eq!(taken, items.iter().map(|item| item * 2).collect::<Vec<_>>());
        }
    }
}
