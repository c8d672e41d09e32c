//! Watched files that were closed or replaced under their number, and live on under another or in a child, are watched.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::unistd::{dup2_raw, pipe, write};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

/// The data of all events, in order.
fn ready(epoll: &Epoll) -> Result<Vec<u64>, Failure> {
    let mut events = [EpollEvent::empty(); 16];
    let count = epoll.wait(&mut events, EpollTimeout::ZERO)?;
    let mut data: Vec<u64> = events.iter().take(count).map(EpollEvent::data).collect();
    data.sort_unstable();
    Ok(data)
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let watch = |fd: &OwnedFd, data| epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, data));
    let (closed, closed_end) = pipe()?;
    let (replaced, replaced_end) = pipe()?;
    let (given_away, given_end) = pipe()?;
    let (twice, twice_end) = pipe()?;
    let (other, other_end) = pipe()?;
    watch(&closed, 1)?;
    watch(&replaced, 2)?;
    watch(&given_away, 3)?;
    watch(&twice, 4)?;
    // One number, watched as two files, one of which has it still.
    let kept = [closed.as_fd().try_clone_to_owned()?, replaced.as_fd().try_clone_to_owned()?];
    let first = twice.as_fd().try_clone_to_owned()?;
    // SAFETY: the number stays ours; only what it leads to is another pipe.
    let _same_number = std::os::fd::IntoRawFd::into_raw_fd(unsafe { dup2_raw(&other, twice.as_raw_fd()) }?);
    watch(&twice, 5)?;
    drop(closed);
    // SAFETY: as above.
    let _same_number =
        std::os::fd::IntoRawFd::into_raw_fd(unsafe { dup2_raw(&other, replaced.as_raw_fd()) }?);
    let child = cx.child(|cx| {
        let _held = &given_away;
        cx.wait_for("end")
    })?;
    drop(given_away);
    cx.barrier()?;
    ensure_eq!(ready(&epoll)?, Vec::<u64>::new(), "events before anything was written");
    for (end, expected) in [
        (&closed_end, vec![1]),
        (&replaced_end, vec![1, 2]),
        (&given_end, vec![1, 2, 3]),
        (&twice_end, vec![1, 2, 3, 4]),
        (&other_end, vec![1, 2, 3, 4, 5]),
    ] {
        write(end, b"x")?;
        ensure_eq!(ready(&epoll)?, expected, "events");
    }
    let mut byte = [0];
    nix::unistd::read(&replaced, &mut byte)?;
    ensure_eq!(ready(&epoll)?, [1, 2, 3, 4], "events when the number's new file was read");
    nix::unistd::read(&kept[0], &mut byte)?;
    nix::unistd::read(&kept[1], &mut byte)?;
    nix::unistd::read(&first, &mut byte)?;
    ensure_eq!(ready(&epoll)?, [3], "events when the others were read");
    cx.post("end")?;
    child.join()
}
