//! Work on many things that are alike, by as many threads as there are processors.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

use nix::sched::{sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use crate::sys::process;

/// Fewer things than these are not worth a thread.
const FEW: usize = 16;
/// More threads would wait for the same locks of the kernel.
const MOST_THREADS: usize = 8;
/// More threads than these do not copy faster.
const MOST_COPYING: usize = 4;
/// Fewer bytes than these are not worth another thread that copies.
pub const ALONE: u64 = 4 << 20;
/// Results that are handed over together.
const PORTION: usize = 8;
/// Portions that may wait to be taken.
const WAITING: usize = 2;
/// Portions that may wait for one before them.
const EARLY: usize = 8;

/// Lets a thread that was just spawned begin.
///
/// The kernel may put it on our processor, though another one is idle, and there it waits until we do: then it goes elsewhere.
fn elsewhere(spawner: Option<usize>) {
    let here = sched_getcpu().ok();
    let own = Pid::from_raw(0);
    let (Some(here), Ok(allowed)) = (here.filter(|here| Some(*here) == spawner), sched_getaffinity(own))
    else {
        return;
    };
    let mut others = allowed;
    // Where there are no others, this changes nothing.
    if others.unset(here).is_ok() && sched_setaffinity(own, &others).is_ok() {
        let _ = sched_setaffinity(own, &allowed);
    }
}

fn threads(count: usize) -> usize {
    if count < FEW { 1 } else { processors().min(MOST_THREADS) }
}

/// How many threads can run at a time. To find that out takes longer than many a thing that is done by one: it is in files of
/// the control group.
fn processors() -> usize {
    static FOUND: OnceLock<usize> = OnceLock::new();
    *FOUND.get_or_init(|| thread::available_parallelism().map_or(1, usize::from))
}

/// What both make: the calling thread does `own`, and waits for others a lot, which need a processor for that; another one does
/// `other`, which is long.
pub fn both<T: Send, O>(other: impl FnOnce() -> T + Send, own: impl FnOnce() -> O) -> (T, O) {
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            // Else those others, having been asked, wait for a processor until this thread has had its time, though another has nothing
            // to do. It is only slower.
            if let Err(e) = process::run_long_at_a_time() {
                log::debug!("a thread cannot be told to run long at a time: {e}");
            }
            other()
        });
        let own = own();
        (other.join().unwrap_or_else(|panic| resume_unwind(panic)), own)
    })
}

/// What `work` makes of each item, in their order.
pub fn map<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    map_while(items, work, || ()).0
}

/// What `work` makes of each item, in their order, and what `own` makes: the calling thread does that first, while others
/// begin with the items.
pub fn map_while<T: Sync, R: Send, O>(
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
    own: impl FnOnce() -> O,
) -> (Vec<R>, O) {
    let threads = threads(items.len());
    if threads == 1 {
        let own = own();
        return (items.iter().map(work).collect(), own);
    }
    // Small enough that nobody waits long for the last.
    let portion = (items.len() / (threads * PORTION)).clamp(1, PORTION);
    let portions: Vec<&[T]> = items.chunks(portion).collect();
    let next = AtomicUsize::new(0);
    let (portions, next, work) = (&portions, &next, &work);
    let take_portions = move || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(portion) = portions.get(at) else { return done };
            done.push((at, portion.iter().map(work).collect::<Vec<R>>()));
        }
    };
    thread::scope(|scope| {
        let here = sched_getcpu().ok();
        let take_elsewhere = move || {
            elsewhere(here);
            take_portions()
        };
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(take_elsewhere)).collect();
        thread::yield_now();
        let own = own();
        let mut done = take_portions();
        for other in others {
            done.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        done.sort_unstable_by_key(|(at, _)| *at);
        (done.into_iter().flat_map(|(_, results)| results).collect(), own)
    })
}

/// Hands what `work` makes of each item to `take`, in their order. Only some results wait at a time.
pub fn in_order<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync, mut take: impl FnMut(R)) {
    let threads = threads(items.len());
    if threads == 1 {
        return items.iter().map(work).for_each(take);
    }
    let portions: Vec<&[T]> = items.chunks(PORTION).collect();
    let next = AtomicUsize::new(0);
    let work_on = || {
        let at = next.fetch_add(1, Ordering::Relaxed);
        Some((at, portions.get(at)?.iter().map(&work).collect::<Vec<R>>()))
    };
    let work_on = &work_on;
    thread::scope(|scope| {
        let (sender, results) = sync_channel(WAITING);
        for _ in 1..threads {
            let sender = sender.clone();
            scope.spawn(move || while work_on().is_some_and(|done| sender.send(done).is_ok()) {});
        }
        drop(sender);
        let mut early = BTreeMap::new();
        for wanted in 0..portions.len() {
            while !early.contains_key(&wanted) {
                let worked = || if early.len() < EARLY { work_on() } else { None };
                // All others are being worked on; whoever panics instead has us panic in the end.
                let Some((at, done)) =
                    results.try_recv().ok().or_else(worked).or_else(|| results.recv().ok())
                else {
                    return;
                };
                early.insert(at, done);
            }
            early.remove(&wanted).into_iter().flatten().for_each(&mut take);
        }
    });
}

/// Has `work` do one portion after the other until it has none left or one fails; by several threads if that is worth it for so
/// many bytes. The calling thread works, too, and is the one that tells `told` how much is done; when that fails, it ends.
pub fn work_off<E: Send>(
    bytes: u64,
    work: impl Fn() -> Option<Result<u64, E>> + Sync,
    told: &mut dyn FnMut(u64) -> Result<(), E>,
) -> Result<(), E> {
    let threads = if bytes > ALONE { processors().min(MOST_COPYING) } else { 1 };
    let (by_others, has_failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let (work, by_others, has_failed) = (&work, &by_others, &has_failed);
    let run = move |told: &mut dyn FnMut(u64) -> Result<(), E>| {
        while !has_failed.load(Ordering::Relaxed)
            && let Some(done) = work()
        {
            done.and_then(&mut *told).inspect_err(|_| has_failed.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let count = move |done| {
            by_others.fetch_add(done, Ordering::Relaxed);
            Ok(())
        };
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(move || run(&mut { count }))).collect();
        let own = run(&mut |done| told(done + by_others.swap(0, Ordering::Relaxed)));
        let results: Vec<_> = others
            .into_iter()
            .map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect();
        own?;
        results.into_iter().collect::<Result<(), E>>()?;
        told(by_others.swap(0, Ordering::Relaxed))
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
            let both = map_while(&items, |item| item + 1, || "own");
            assert_eq!(both, ((1..=count).collect::<Vec<_>>(), "own"));
        }
    }

    #[test]
    fn results_are_taken_in_order() {
        for count in [0, 1, FEW, 1000] {
            let items: Vec<usize> = (0..count).collect();
            let mut taken = Vec::new();
            in_order(&items, |item| item + 1, |item| taken.push(item));
            assert_eq!(taken, (1..=count).collect::<Vec<_>>());
        }
    }
}
