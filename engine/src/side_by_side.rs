//! Work on many things that are alike, by as many threads as there are processors.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

/// Fewer things than these are not worth a thread.
const FEW: usize = 16;
/// More threads would wait for the same locks of the kernel.
const MOST_THREADS: usize = 8;
/// Results that are handed over together.
const PORTION: usize = 8;
/// Portions that may wait to be taken.
const WAITING: usize = 2;

fn threads(count: usize) -> usize {
    if count < FEW { 1 } else { thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS) }
}

/// What `work` makes of each item, in their order.
pub fn map<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = threads(items.len());
    if threads == 1 {
        return items.iter().map(work).collect();
    }
    let mut shares = items.chunks(items.len().div_ceil(threads));
    let own = shares.next().unwrap_or_default();
    thread::scope(|scope| {
        let work = &work;
        let others: Vec<_> =
            shares.map(|share| scope.spawn(move || share.iter().map(work).collect::<Vec<R>>())).collect();
        let mut results: Vec<R> = own.iter().map(work).collect();
        for other in others {
            results.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        results
    })
}

/// Hands what `work` makes of each item to `take`, in any order, until that fails. Only a few results wait at a time.
pub fn feed<T: Sync, R: Send, E>(
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
    mut take: impl FnMut(&T, R) -> Result<(), E>,
) -> Result<(), E> {
    let threads = threads(items.len());
    if threads == 1 {
        return items.iter().try_for_each(|item| take(item, work(item)));
    }
    let portions: Vec<&[T]> = items.chunks(PORTION).collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (sender, results) = sync_channel(WAITING);
        for _ in 1..threads {
            let (sender, next, portions, work) = (sender.clone(), &next, &portions, &work);
            scope.spawn(move || {
                // Nobody listens any more when taking has failed.
                while let Some(portion) = portions.get(next.fetch_add(1, Ordering::Relaxed))
                    && sender.send((*portion, portion.iter().map(work).collect::<Vec<R>>())).is_ok()
                {
                }
            });
        }
        drop(sender);
        for (portion, results) in results {
            portion.iter().zip(results).try_for_each(|(item, result)| take(item, result))?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order() {
        for count in [0, 1, FEW, 1000] {
            let items: Vec<usize> = (0..count).collect();
            assert_eq!(map(&items, |item| item + 1), (1..=count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn all_are_taken_until_one_is_not() {
        let items: Vec<usize> = (0..1000).collect();
        let mut sum = 0;
        let taken: Result<(), ()> = feed(
            &items,
            |item| *item,
            |_, item| {
                sum += item;
                Ok(())
            },
        );
        assert_eq!((taken, sum), (Ok(()), 499_500));
        let failed = feed(&items, |item| *item, |_, item| if item == 500 { Err(item) } else { Ok(()) });
        assert_eq!(failed, Err(500));
    }
}
