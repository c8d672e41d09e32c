//! Forks of a test.

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pause};

/// The name of a fork whose call was refused.
const REFUSED: &std::ffi::CStr = c"refused";

/// A fork of ours that has made a system call, and sleeps. It ends when this is dropped.
#[derive(Debug)]
pub struct Forked(Pid);

impl Forked {
    /// Makes it, and waits until it sleeps. The call may touch nothing but what the kernel has of the fork.
    pub fn after(call: &[i64]) -> Self {
        let [number, a, b, c, d, e] = [0, 1, 2, 3, 4, 5].map(|at| call.get(at).copied().unwrap_or(0));
        // SAFETY: the child makes system calls only.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Parent { child } => {
                let place = || std::fs::read_to_string(format!("/proc/{child}/wchan")).expect("its wchan");
                while !place().contains("pause") {
                    std::thread::yield_now();
                }
                Self(child)
            }
            ForkResult::Child => {
                // SAFETY: as is asked for, it touches nothing of the program.
                let made = unsafe { libc::syscall(number, a, b, c, d, e) };
                if made == -1 {
                    // SAFETY: the kernel reads a constant.
                    unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_NAME, REFUSED.as_ptr()) };
                }
                loop {
                    pause();
                }
            }
        }
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.0.as_raw()
    }

    /// Whether the kernel refused the call.
    pub fn was_refused(&self) -> bool {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", self.0)).expect("its name");
        name.trim_end().as_bytes() == REFUSED.to_bytes()
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGKILL).expect("kill");
        waitpid(self.0, None).expect("wait");
    }
}

/// Where our heap ends.
pub fn program_break() -> i64 {
    // SAFETY: asks for no change.
    unsafe { libc::syscall(libc::SYS_brk, 0) }
}
