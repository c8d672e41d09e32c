//! Processes that share something go on sharing it, and nothing else: what one changes, the other has.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, getpid};
use zdtm::ensure_eq;
use zdtm::workload::{Child, Context, Failure, Verdict};

/// From `include/uapi/linux/kcmp.h`.
pub(crate) const KCMP_FILES: i32 = 2;

/// Flag of clone(2), its name here, and its number for kcmp(2).
const THINGS: [(i32, &str, i32); 4] = [
    (libc::CLONE_VM, "vm", 1),
    (libc::CLONE_FILES, "files", KCMP_FILES),
    (libc::CLONE_FS, "fs", 3),
    (libc::CLONE_SIGHAND, "sighand", 4),
];
/// What the child makes of the umask, which descriptor it closes, and what it writes to memory.
const UMASK: Mode = Mode::from_bits_truncate(0o35);
const CLOSED: i32 = 40;
const WRITTEN: u32 = 77;

static MEMORY: AtomicU32 = AtomicU32::new(0);

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let flags = THINGS.iter().filter(|(_, name, _)| cx.args().iter().any(|arg| arg == name));
    let flags = flags.fold(0, |all, (flag, ..)| all | flag);
    let len = std::num::NonZeroUsize::new(4096).ok_or(Errno::EINVAL)?;
    // SAFETY: a new mapping, which is never unmapped.
    let page = unsafe {
        mmap_anonymous(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED)
    }?;
    // SAFETY: aligned, zeroed, and there as long as the process.
    let go = unsafe { page.cast::<AtomicU32>().as_ref() };
    // SAFETY: nobody owns that number.
    unsafe { libc::dup2(0, CLOSED) };
    let old = umask(Mode::from_bits_truncate(0o22));
    let child = share(flags, go)?;
    check(flags, child.pid)?;
    cx.barrier()?;
    check(flags, child.pid)?;
    go.store(1, Ordering::Release);
    let pid = child.pid;
    while go.load(Ordering::Acquire) != 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let has = |flag: i32| flags & flag != 0;
    ensure_eq!(umask(old) == UMASK, has(libc::CLONE_FS), "whether its umask is ours");
    // SAFETY: asks about a number.
    let closed = unsafe { libc::fcntl(CLOSED, libc::F_GETFD) } < 0;
    ensure_eq!(closed, has(libc::CLONE_FILES), "whether its descriptors are ours");
    ensure_eq!(MEMORY.load(Ordering::Relaxed) == WRITTEN, has(libc::CLONE_VM), "whether its memory is ours");
    ensure_eq!(ignores_usr2()?, has(libc::CLONE_SIGHAND), "whether its handlers are ours");
    go.store(3, Ordering::Release);
    Child { pid }.join()
}

/// Makes a child that changes everything when it is told to. It has our thread-local variables, so it calls the kernel only.
fn share(flags: i32, go: &'static AtomicU32) -> Result<Child, Failure> {
    extern "C" fn body(go: *mut libc::c_void) -> i32 {
        // SAFETY: the page is there as long as the process.
        let go = unsafe { &*go.cast::<AtomicU32>() };
        let nap = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        let wait = |value| {
            while go.load(Ordering::Acquire) != value {
                // SAFETY: reads a live structure.
                unsafe { libc::syscall(libc::SYS_nanosleep, &raw const nap, 0) };
            }
        };
        wait(1);
        MEMORY.store(WRITTEN, Ordering::Relaxed);
        // SAFETY: these take numbers only.
        unsafe { libc::syscall(libc::SYS_umask, UMASK.bits()) };
        // SAFETY: see above.
        unsafe { libc::syscall(libc::SYS_close, CLOSED) };
        let ignore = [1_u64, 0, 0, 0];
        // SAFETY: reads a live structure, which asks to ignore the signal.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, libc::SIGUSR2, ignore.as_ptr(), 0, 8) };
        go.store(2, Ordering::Release);
        wait(3);
        0
    }
    let stack = Box::leak(vec![0_u8; 64 * 1024].into_boxed_slice());
    let go = std::ptr::from_ref(go).cast_mut().cast();
    // SAFETY: the stack is the child's alone, and stays.
    let pid = unsafe { libc::clone(body, stack.as_mut_ptr_range().end.cast(), flags | libc::SIGCHLD, go) };
    Ok(Child { pid: Pid::from_raw(Errno::result(pid)?) })
}

/// Compares each thing of both processes.
fn check(flags: i32, child: Pid) -> Verdict {
    for (flag, name, number) in THINGS {
        let both = share_thing(getpid().as_raw(), child.as_raw(), number)?;
        ensure_eq!(both, flags & flag != 0, format!("whether both share {name}"));
    }
    Ok(())
}

/// Whether two processes have a thing in common, which has this number for kcmp(2).
pub(crate) fn share_thing(a: i32, b: i32, number: i32) -> Result<bool, Failure> {
    // SAFETY: takes numbers only.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, a, b, number, 0, 0) };
    Ok(Errno::result(order)? == 0)
}

fn ignores_usr2() -> Result<bool, Failure> {
    let ignored = zdtm::workload::status_line("/proc/self/status", "SigIgn")?;
    Ok(u64::from_str_radix(&ignored, 16)? & 1 << (libc::SIGUSR2 - 1) != 0)
}
