//! A child in strict mode goes on to read and write, and is killed for anything else.

use std::os::fd::AsRawFd as _;

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

const PR_SECCOMP_STRICT: i32 = 1;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (to_child, from_us) = (nix::unistd::pipe()?, nix::unistd::pipe()?);
    let child = cx.child(|_| {
        let (reader, writer) = (to_child.0.as_raw_fd(), from_us.1.as_raw_fd());
        // SAFETY: takes numbers only.
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, PR_SECCOMP_STRICT, 0, 0, 0) };
        let mut byte = 0_u8;
        loop {
            // SAFETY: reads one byte into a live variable.
            unsafe { libc::syscall(libc::SYS_read, reader, &raw mut byte, 1) };
            if byte == b'x' {
                // SAFETY: takes nothing; strict mode kills for it.
                unsafe { libc::syscall(libc::SYS_getppid) };
            }
            byte += 1;
            // SAFETY: writes one byte of a live variable.
            unsafe { libc::syscall(libc::SYS_write, writer, &raw const byte, 1) };
        }
    })?;
    let ask = |byte: u8| -> Result<u8, nix::Error> {
        let mut answer = [0];
        nix::unistd::write(&to_child.1, &[byte])?;
        nix::unistd::read(&from_us.0, &mut answer)?;
        Ok(answer[0])
    };
    ensure_eq!(ask(b'a')?, b'b', "answer before");
    cx.barrier()?;
    ensure_eq!(ask(b'c')?, b'd', "answer after");
    nix::unistd::write(&to_child.1, b"x")?;
    let status = waitpid(child.pid, None)?;
    let killed = matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _));
    ensure!(killed, "strict mode is not in force: {status:?}");
    Ok(())
}
