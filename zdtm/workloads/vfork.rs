//! A thread waits for a child made by vfork, which has borrowed its memory: nobody can stop it meanwhile.

use std::ffi::{CString, c_void};
use std::os::unix::ffi::OsStrExt as _;

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let waiter = cx.thread(|cx| {
        let end = CString::new(cx.path("end").as_os_str().as_bytes())?;
        let mut stack = vec![0_u8; 64 << 10];
        // SAFETY: one past the end of the stack, which the child uses downwards.
        let top = unsafe { stack.as_mut_ptr().add(stack.len()) };
        cx.post("waits")?;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: the child has a stack of its own, which lives until it has ended, and makes system calls only.
        let pid =
            unsafe { libc::clone(wait_for_end, top.cast(), flags, end.as_ptr().cast_mut().cast::<c_void>()) };
        Errno::result(pid)?;
        let mut status = -1;
        // SAFETY: the status lives during the call.
        Errno::result(unsafe { libc::waitpid(pid, &raw mut status, 0) })?;
        ensure_eq!(status, 0, "how the child ended");
        Ok(())
    });
    cx.wait_for("waits")?;
    std::thread::sleep(std::time::Duration::from_millis(50));
    cx.barrier()?;
    cx.post("end")?;
    waiter.join()
}

/// What the child does: ends when there is a file of this name.
extern "C" fn wait_for_end(path: *mut c_void) -> i32 {
    // SAFETY: the name lives as long as the thread that waits for us.
    while unsafe { libc::access(path.cast(), libc::F_OK) } != 0 {
        // SAFETY: no pointers.
        unsafe { libc::usleep(5000) };
    }
    0
}
