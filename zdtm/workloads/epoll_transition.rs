//! An event poll delivers while it is dumped: every byte that a child writes is announced, and read once.

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::unistd::{pipe, read, write};
use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

/// Pipes.
const PIPES: u64 = 8;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut pipes = Vec::new();
    for index in 0..PIPES {
        let (reader, writer) = pipe()?;
        let edge = if index % 2 == 0 { EpollFlags::EPOLLET } else { EpollFlags::empty() };
        epoll.add(&reader, EpollEvent::new(EpollFlags::EPOLLIN | edge, index))?;
        pipes.push((reader, writer));
    }
    let writer = cx.child(|cx| {
        let mut counter = 0_u8;
        while !cx.passed() {
            for (_, writer) in &pipes {
                write(writer, &[counter])?;
            }
            counter = counter.wrapping_add(1);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Ok(())
    })?;
    let reader = cx.child(|cx| {
        let mut next = [0_u8; PIPES as usize];
        let mut open = PIPES;
        for (_, writer) in &pipes {
            // SAFETY: the child's copy of a descriptor, which it does not use otherwise, and never returns from here.
            unsafe { libc::close(std::os::fd::AsRawFd::as_raw_fd(writer)) };
        }
        cx.post("reads")?;
        while open > 0 {
            let mut events = [EpollEvent::empty(); PIPES as usize];
            let count = match epoll.wait(&mut events, 5000_u16) {
                // A stop ends it, as signal(7) says.
                Err(Errno::EINTR) => continue,
                waited => waited?,
            };
            ensure!(count > 0, "no event for five seconds");
            for event in events.iter().take(count) {
                let index = event.data() as usize;
                let mut bytes = [0; 4096];
                loop {
                    let length = read(&pipes[index].0, &mut bytes)?;
                    for byte in &bytes[..length] {
                        ensure_eq!(*byte, next[index], "a byte of a pipe");
                        next[index] = byte.wrapping_add(1);
                    }
                    if length == 0 {
                        epoll.delete(&pipes[index].0)?;
                        open -= 1;
                        break;
                    }
                    // Of a pipe whose writer has gone an edge is told no more, whatever is left in it.
                    if !event.events().contains(EpollFlags::EPOLLHUP) {
                        break;
                    }
                }
            }
        }
        Ok(())
    })?;
    drop(pipes);
    cx.wait_for("reads")?;
    cx.barrier()?;
    writer.join()?;
    reader.join()
}
