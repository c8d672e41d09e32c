//! A virtual terminal, open under a name of our own for its device, is open again under that name.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::termios::tcgetattr;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

/// `/dev/tty5`, of the major number 4 of `Documentation/admin-guide/devices.txt`.
const DEVICE: (u64, u64) = (4, 5);

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let device = makedev(DEVICE.0, DEVICE.1);
    let path = cx.path("terminal");
    mknod(&path, SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, device)?;
    let terminal = File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(&path)?;
    let settings = tcgetattr(&terminal)?;
    cx.barrier()?;
    ensure_eq!(terminal.metadata()?.rdev(), device, "the device");
    let link = std::fs::read_link(format!("/proc/self/fd/{}", terminal.as_raw_fd()))?;
    ensure_eq!(link, path, "the name");
    ensure_eq!(tcgetattr(&terminal)?, settings, "its settings");
    Ok(())
}
