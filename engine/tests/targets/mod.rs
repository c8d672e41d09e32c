//! The program under test, and programs for it to dump. In a folder, since a file here would be a test program itself.
#![allow(dead_code, reason = "each test program uses its part of this")]

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};

/// The program under test.
pub(crate) const STASIS: &str = env!("CARGO_BIN_EXE_stasis");

/// Whether we are root; it is said if we are not.
pub(crate) fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

/// Whether tests with Python programs can run here; it is said if they cannot.
pub(crate) fn has_root_and_python() -> bool {
    let python = Command::new("python3").arg("--version").output().is_ok_and(|o| o.status.success());
    if !python {
        println!("skipped: needs python3");
    }
    is_root() && python
}

/// Makes a program one that can be dumped: of a session of its own, without descriptors of ours.
pub(crate) fn alone(command: &mut Command) -> &mut Command {
    let alone = || {
        nix::unistd::setsid()?;
        // SAFETY: marks descriptors that nobody uses before the program is executed.
        unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        Ok(())
    };
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: what is called after the fork is async-signal-safe.
    unsafe { command.pre_exec(alone) }
}

/// Asserts the exit code, and that the message has all parts.
#[track_caller]
pub(crate) fn assert_refused(output: &Output, code: i32, parts: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in parts {
        assert!(text.contains(part), "\"{part}\" is not in:\n{text}");
    }
}
