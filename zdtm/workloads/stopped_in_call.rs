//! A child that was stopped inside of a system call goes on with the call when it is continued, and not with an error.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::gettid;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (mut reader, mut writer) = std::io::pipe()?;
    let mut readers = (reader.try_clone()?, reader.try_clone()?);
    let child = cx.child(|cx| {
        let thread = cx.thread(move |cx| {
            cx.post(&format!("in-call.{}", gettid()))?;
            let mut byte = [0];
            ensure_eq!(readers.0.read(&mut byte)?, 1, "bytes that the thread read");
            Ok(())
        });
        cx.post("child-ready")?;
        let mut byte = [0];
        ensure_eq!(readers.1.read(&mut byte)?, 1, "bytes that the child read");
        thread.join()
    })?;
    cx.wait_for("child-ready")?;
    // Until all of its threads are in their calls (number 0 is read).
    let in_calls = || -> std::io::Result<bool> {
        let mut threads =
            std::fs::read_dir(format!("/proc/{}/task", child.pid))?.collect::<Result<Vec<_>, _>>()?;
        threads.retain(|thread| {
            std::fs::read_to_string(thread.path().join("syscall")).is_ok_and(|call| call.starts_with("0 "))
        });
        Ok(threads.len() == 2)
    };
    while !in_calls()? {
        std::thread::sleep(Duration::from_millis(1));
    }
    kill(child.pid, Signal::SIGSTOP)?;
    let stopped = WaitStatus::Stopped(child.pid, Signal::SIGSTOP);
    ensure_eq!(waitpid(child.pid, Some(WaitPidFlag::WUNTRACED))?, stopped, "the stop");
    cx.barrier()?;
    kill(child.pid, Signal::SIGCONT)?;
    std::thread::sleep(Duration::from_millis(20));
    writer.write_all(b"ab")?;
    child.join()?;
    drop(writer);
    ensure_eq!(reader.read(&mut [0])?, 0, "bytes left");
    Ok(())
}
