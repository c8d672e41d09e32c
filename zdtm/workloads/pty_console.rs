//! A pseudo-terminal is mounted at `/dev/console`, as in containers, and open under both names.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::unistd::write;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::mounting;
use crate::terminal::{open_pair, read_exactly, slave_name, wait_readable};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let console = Path::new("/dev/console");
    if !console.exists() {
        File::create(console)?;
    }
    let (master, slave) = open_pair()?;
    mounting::bind(Path::new(&slave_name(&master)?), console)?;
    let open = || File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(console);
    let held = open()?;
    let device = held.metadata()?.rdev();
    write(&held, b"before")?;
    mounting::barrier(cx)?;
    ensure_eq!(held.metadata()?.rdev(), device, "the device");
    let link = std::fs::read_link(format!("/proc/self/fd/{}", held.as_raw_fd()))?;
    ensure_eq!(link, console, "the name");
    ensure_eq!(read_exactly(&master, 6)?, b"before", "what was written before");
    write(&held, b"one")?;
    write(&open()?, b"two")?;
    write(&slave, b"three")?;
    ensure_eq!(read_exactly(&master, 11)?, b"onetwothree", "what all of them write");
    write(&master, b"line\n")?;
    wait_readable(&held)?;
    let mut line = [0; 8];
    ensure_eq!(nix::unistd::read(&held, &mut line)?, 5, "bytes that the console reads");
    Ok(())
}
