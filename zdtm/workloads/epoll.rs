//! An event poll keeps its watches: masks, data, edges, and a number that was changed since.

use std::os::fd::AsFd as _;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    let (first, first_end) = nix::unistd::pipe()?;
    let (second, second_end) = nix::unistd::pipe()?;
    epoll.add(&first, EpollEvent::new(EpollFlags::EPOLLIN, 1 << 40))?;
    epoll.add(&second, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 2))?;
    cx.barrier()?;
    let mut events = [EpollEvent::empty(); 4];
    ensure_eq!(epoll.wait(&mut events, EpollTimeout::ZERO)?, 0, "events before anything was written");
    nix::unistd::write(&first_end, b"x")?;
    nix::unistd::write(&second_end, b"y")?;
    ensure_eq!(epoll.wait(&mut events, EpollTimeout::ZERO)?, 2, "events");
    let mut data: Vec<u64> = events.iter().take(2).map(EpollEvent::data).collect();
    data.sort_unstable();
    ensure_eq!(data, [2, 1 << 40], "data of the events");
    ensure_eq!(epoll.wait(&mut events, EpollTimeout::ZERO)?, 1, "events when the edge is spent");
    ensure_eq!(events.first().map(EpollEvent::data), Some(1 << 40), "the level-triggered one");
    ensure!(
        epoll.modify(second.as_fd(), &mut EpollEvent::empty()).is_ok(),
        "the watch is known by its number"
    );
    epoll.delete(&first)?;
    Ok(())
}
