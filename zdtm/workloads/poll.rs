//! A poll that waits when it is dumped goes on waiting, and is told of what happens afterwards.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{pipe, write};
use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (reader, writer) = pipe()?;
    let (silent, silent_end) = pipe()?;
    let child = cx.child(|cx| {
        let mut fds =
            [PollFd::new(silent.as_fd(), PollFlags::POLLIN), PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        cx.post("waits")?;
        ensure_eq!(poll(&mut fds, PollTimeout::NONE)?, 1, "files that are ready");
        ensure_eq!(fds[0].revents(), Some(PollFlags::empty()), "the silent pipe");
        ensure_eq!(fds[1].revents(), Some(PollFlags::POLLIN), "the pipe that was written to");
        Ok(())
    })?;
    let limited = cx.child(|cx| {
        let mut fds = [PollFd::new(silent.as_fd(), PollFlags::POLLIN)];
        let begun = Instant::now();
        cx.post("waits too")?;
        ensure_eq!(poll(&mut fds, 3000_u16)?, 0, "files that are ready when the time is over");
        ensure!(begun.elapsed() >= Duration::from_secs(3), "over after {:?}", begun.elapsed());
        Ok(())
    })?;
    cx.wait_for("waits")?;
    cx.wait_for("waits too")?;
    cx.barrier()?;
    write(&writer, b"x")?;
    child.join()?;
    limited.join()?;
    drop(silent_end);
    Ok(())
}
