//! Hundreds of processes, with pids in no order, all keep their places.

use nix::errno::Errno;
use nix::unistd::{Pid, getpid, getppid, setsid};
use zdtm::ensure_eq;
use zdtm::workload::{Child, Context, Failure, Verdict, exit_now};

const TASKS: usize = 300;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let parent = getpid();
    let mut children = Vec::new();
    let mut pid = 30_000 + parent.as_raw() % 1000;
    for number in 0..TASKS {
        pid -= 1 + number as i32 % 3;
        children.push(child(cx, number, parent, &mut pid)?);
    }
    (0..TASKS).try_for_each(|number| cx.wait_for(&format!("ready-{number}")))?;
    cx.barrier()?;
    children.into_iter().try_for_each(Child::join)
}

/// Makes a child with the highest free pid up to `pid`.
fn child(cx: &Context, number: usize, parent: Pid, pid: &mut i32) -> Result<Child, Failure> {
    loop {
        // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, its size.
        let set_tid = [*pid];
        let pointer = set_tid.as_ptr().expose_provenance() as u64;
        let args = [0, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0, pointer, 1];
        // SAFETY: without a new stack and without shared memory this is fork; no other thread exists.
        let made = unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) };
        match Errno::result(made) {
            Ok(0) => break,
            Ok(made) => return Ok(Child { pid: Pid::from_raw(made as i32) }),
            Err(Errno::EEXIST) => *pid -= 1,
            Err(errno) => return Err(errno.into()),
        }
    }
    let verdict = || -> Verdict {
        if number.is_multiple_of(50) {
            setsid()?;
        }
        let own = getpid();
        cx.post(&format!("ready-{number}"))?;
        cx.park()?;
        ensure_eq!((getpid(), getppid()), (own, parent), "pid and parent");
        Ok(())
    };
    exit_now(i32::from(verdict().is_err()));
}
