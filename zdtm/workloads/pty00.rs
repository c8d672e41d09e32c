//! Both sides of a raw pseudo-terminal keep number, size, settings, owner, and what was written but not read.

use std::os::unix::fs::MetadataExt as _;

use nix::sys::stat::Mode;
use nix::sys::termios::{SetArg, tcgetattr, tcsetattr};
use nix::unistd::write;
use zdtm::workload::{Context, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

use crate::terminal::{
    get_number, make_raw, open_pair, read_exactly, set_window, slave_name, wait_readable, window,
};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (master, slave) = open_pair()?;
    // A number in the middle of free ones.
    let (unused, other) = (open_pair()?, open_pair()?);
    let index = get_number(&other.0, libc::TIOCGPTN)?;
    drop(unused);
    make_raw(&slave)?;
    let mut settings = tcgetattr(&slave)?;
    settings.control_chars[libc::VTIME] = 7;
    tcsetattr(&slave, SetArg::TCSANOW, &settings)?;
    set_window(&slave, [31, 97, 640, 480])?;
    nix::unistd::fchown(&slave, Some(12.into()), Some(34.into()))?;
    nix::sys::stat::fchmod(&slave, Mode::from_bits_truncate(0o640))?;
    write(&master, &pattern(1, 3000))?;
    write(&slave, &pattern(2, 2000))?;
    write(&other.1, b"other\n")?;
    wait_readable(&master)?;
    cx.barrier()?;
    ensure!(tcgetattr(&slave)? == settings, "settings: {:?}", tcgetattr(&slave)?);
    ensure_eq!(window(&master)?, [31, 97, 640, 480], "size, asked of the master");
    ensure_eq!(get_number(&other.0, libc::TIOCGPTN)?, index, "number of the other one");
    let name = std::fs::metadata(slave_name(&master)?)?;
    ensure_eq!((name.uid(), name.gid(), name.mode() & 0o7777), (12, 34, 0o640), "owner and permissions");
    check_pattern(&read_exactly(&slave, 3000)?, 1, "from the master")?;
    check_pattern(&read_exactly(&master, 2000)?, 2, "from the slave")?;
    ensure_eq!(read_exactly(&other.0, 7)?, b"other\r\n", "from the other slave");
    write(&master, b"again")?;
    ensure_eq!(read_exactly(&slave, 5)?, b"again", "written after the restore");
    Ok(())
}
