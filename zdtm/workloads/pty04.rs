//! Several opens of a slave, with flags of their own; a slave that was closed; one that was never opened.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::write;
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::terminal::{open_pair, read_exactly, slave_name, wait_readable};

/// Whether the master says that all slaves are closed.
fn is_hung_up(master: &impl std::os::fd::AsFd) -> Result<bool, Failure> {
    let mut polled = [PollFd::new(master.as_fd(), PollFlags::empty())];
    Ok(poll(&mut polled, PollTimeout::ZERO)? != 0)
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (master, slave) = open_pair()?;
    let name = slave_name(&master)?;
    let open = |read, write, flags| File::options().read(read).write(write).custom_flags(flags).open(&name);
    let mut reader = open(true, false, libc::O_NOCTTY | libc::O_NONBLOCK)?;
    let mut writer = open(false, true, libc::O_NOCTTY)?;
    drop(slave);
    let (closed, closed_slave) = open_pair()?;
    write(&closed_slave, b"last words")?;
    drop(closed_slave);
    wait_readable(&closed)?;
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let fresh = nix::fcntl::open("/dev/ptmx", flags, Mode::empty())?;
    cx.barrier()?;
    let flags = |fd: &File| fcntl(fd.as_fd(), FcntlArg::F_GETFL).map(|flags| flags & libc::O_NONBLOCK);
    ensure_eq!((flags(&reader)?, flags(&writer)?), (libc::O_NONBLOCK, 0), "flags of the slaves");
    writer.write_all(b"out")?;
    ensure_eq!(read_exactly(&master, 3)?, b"out", "from the writing slave");
    write(&master, b"in\n")?;
    wait_readable(&reader)?;
    let mut line = [0; 8];
    ensure_eq!(reader.read(&mut line)?, 3, "bytes at the reading slave");
    ensure!(!is_hung_up(&master)?, "the master of an open slave is hung up");
    ensure_eq!(read_exactly(&closed, 10)?, b"last words", "what the closed slave had written");
    ensure!(is_hung_up(&closed)?, "the master of a closed slave is not hung up");
    ensure_eq!(nix::unistd::read(&closed, &mut line), Err(Errno::EIO), "a read after that");
    ensure!(!is_hung_up(&fresh)?, "the master of a slave that was never open is hung up");
    ensure_eq!(nix::unistd::read(&fresh, &mut line), Err(Errno::EAGAIN), "a read of it");
    ensure_eq!(
        nix::fcntl::open(slave_name(&fresh)?.as_str(), OFlag::O_NOCTTY, Mode::empty()).err(),
        Some(Errno::EIO),
        "its slave is locked"
    );
    Ok(())
}
