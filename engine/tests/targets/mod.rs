//! The program under test, and programs for it to dump. In a folder, since a file here would be a test program itself.
#![allow(dead_code, reason = "each test program uses its part of this")]

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

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

/// Waits until something is so.
#[track_caller]
pub(crate) fn wait_for(what: impl Fn() -> bool, name: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !what() {
        assert!(Instant::now() < deadline, "in vain: {name}");
        std::thread::sleep(Duration::from_millis(2));
    }
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

/// Moments of a run, spread evenly and without chance over a little more than it takes.
pub(crate) fn moments(count: u64, longest: Duration) -> impl Iterator<Item = Duration> {
    (0..count).map(move |i| longest * ((i * 37 % count) as u32) / count as u32)
}

/// State letter and tracer of a process; none if it is gone.
pub(crate) fn state(pid: i32) -> Option<(char, i32)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    Some((field("State:")?.chars().next()?, field("TracerPid:")?.parse().ok()?))
}

/// How long a command takes here and now, and a little more, for moments spread over it.
pub(crate) fn a_little_longer_than(mut run: impl FnMut()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed() * 5 / 4
}

/// Waits until no stasis process that dumps this pid is left.
pub(crate) fn wait_for_workers(pid: i32) {
    let needle = format!("\0{pid}\0");
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let busy = fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            let cmdline = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            cmdline.starts_with(STASIS) && cmdline.contains(&needle)
        });
        if !busy {
            return;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    panic!("a worker does not end");
}

/// Reaps what has been given to us.
pub(crate) fn reap(pid: i32) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while state(pid).is_some() {
        let _not_ours = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
        assert!(Instant::now() < deadline, "pid {pid} does not go away: {:?}", state(pid));
        std::thread::sleep(Duration::from_micros(200));
    }
}
