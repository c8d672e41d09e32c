//! Descriptors that are refused by name, one by argument.

use std::os::fd::{FromRawFd as _, OwnedFd};

use nix::errno::Errno;
use zdtm::ensure;
use zdtm::workload::{Context, Failure, Verdict};

fn open(name: &str) -> Result<OwnedFd, Failure> {
    let mut attributes = [0_u32; 32];
    let attributes_at = attributes.as_mut_ptr();
    let made = match name {
        "perf-event" => {
            // struct perf_event_attr: type (PERF_TYPE_SOFTWARE), size, config (PERF_COUNT_SW_CPU_CLOCK).
            attributes[..2].copy_from_slice(&[1, 128]);
            // SAFETY: the kernel reads as many bytes as the size says, which the array has.
            unsafe { libc::syscall(libc::SYS_perf_event_open, attributes_at, 0, -1, -1, 0) }
        }
        "io-uring" => {
            // SAFETY: the kernel writes struct io_uring_params, of 120 bytes.
            unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, attributes_at) }
        }
        "userfaultfd" => {
            // SAFETY: takes numbers only.
            unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) }
        }
        "fanotify-permission" => {
            let class = libc::FAN_CLASS_CONTENT;
            // SAFETY: takes numbers only.
            let group = Errno::result(unsafe { libc::fanotify_init(class, 0) })?;
            let on = (libc::FAN_MARK_ADD, libc::FAN_OPEN_PERM, libc::AT_FDCWD);
            // SAFETY: the kernel reads a terminated string.
            Errno::result(unsafe { libc::fanotify_mark(group, on.0, on.1, on.2, c".".as_ptr()) })?;
            i64::from(group)
        }
        name => {
            let fd = nix::fcntl::open(name, nix::fcntl::OFlag::O_RDWR, nix::sys::stat::Mode::empty())?;
            return Ok(fd);
        }
    };
    let fd = Errno::result(made)? as i32;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let name = cx.args().first().cloned().unwrap_or_default();
    let fd = open(&name)?;
    cx.barrier()?;
    ensure!(nix::sys::stat::fstat(&fd).is_ok(), "{name} is not open any more");
    Ok(())
}
