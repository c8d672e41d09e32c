//! Calls that only `check` makes, to find out whether the kernel knows them.

use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::errno::Errno;

use crate::error::SysError;

/// The result of a call that returns -1 and `errno`.
fn done(call: &'static str, result: i64) -> Result<i64, SysError> {
    if result < 0 { Err(SysError::last(call)) } else { Ok(result) }
}

/// Runs a function in a child, and returns what it returned, by error number.
///
/// The child is a fork of the calling thread alone: the function must not wait for another thread.
pub fn in_child(function: fn() -> Result<(), Errno>) -> Result<Result<(), Errno>, SysError> {
    let pid = fork()?;
    if pid == 0 {
        exit(function().err().map_or(0, |errno| errno as i32));
    }
    match nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).map_err(SysError::of("waitpid"))? {
        nix::sys::wait::WaitStatus::Exited(_, 0) => Ok(Ok(())),
        nix::sys::wait::WaitStatus::Exited(_, code) => Ok(Err(Errno::from_raw(code))),
        _ => Ok(Err(Errno::EINTR)),
    }
}

/// Starts a child that runs a function and then does nothing until it is killed; it does not outlive the calling thread.
///
/// Returns when the child has run the function.
pub fn idle_child(first: fn() -> Result<(), Errno>) -> Result<i32, SysError> {
    let (done, ready) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(SysError::of("pipe2"))?;
    let pid = fork()?;
    if pid == 0 {
        let prepared =
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).and_then(|()| first());
        drop(ready);
        while prepared.is_ok() {
            nix::unistd::pause();
        }
        exit(1);
    }
    drop(ready);
    // End of file: the child has closed the other end.
    nix::unistd::read(done, &mut [0]).map_err(SysError::of("read"))?;
    Ok(pid)
}

/// Gives the calling process a seccomp filter that allows everything.
pub fn install_empty_filter() -> Result<(), Errno> {
    // BPF_RET | BPF_K, of linux/filter.h
    let mut filter = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW }];
    let program = libc::sock_fprog { len: 1, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel reads one instruction through a program that lives.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    Errno::result(result).map(drop)
}

fn fork() -> Result<i32, SysError> {
    // SAFETY: the child (in the two callers above) makes system calls and ends in `_exit`; it returns to no frame of
    // another thread and takes no lock that one could hold, apart from the allocator's, which glibc resets in fork.
    let pid = unsafe { libc::fork() };
    done("fork", pid.into()).map(|pid| pid as i32)
}

fn exit(code: i32) -> ! {
    // SAFETY: ends the process at once; there is nothing to uphold.
    unsafe { libc::_exit(code) }
}

/// Starts a child with this pid, which ends at once, and reaps it.
pub fn clone3_set_tid(pid: i32) -> Result<(), SysError> {
    let tids = [pid];
    let args = libc::clone_args {
        flags: 0,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: (&raw const tids) as u64,
        set_tid_size: 1,
        cgroup: 0,
    };
    // SAFETY: without CLONE_VM this is a fork, with a copy of this stack; `args` and `tids` live, and the size is
    // theirs. The child only calls `_exit`.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    if result == 0 {
        exit(0);
    }
    let got = done("clone3(set_tid)", result)? as i32;
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(got), None).map_err(SysError::of("waitpid"))?;
    if got == pid { Ok(()) } else { Err(SysError { call: "clone3(set_tid)", errno: Errno::EINVAL }) }
}

/// `PTRACE_SECCOMP_GET_FILTER` (0x420c) of the first filter, by length only.
pub fn seccomp_get_filter(tid: i32) -> Result<i64, SysError> {
    // SAFETY: with a null pointer the kernel writes nothing.
    let result = unsafe { libc::ptrace(0x420c, tid, 0, std::ptr::null_mut::<libc::sock_filter>()) };
    done("ptrace(PTRACE_SECCOMP_GET_FILTER)", result)
}

/// Sets `PTRACE_O_SUSPEND_SECCOMP` (1 << 21) on a stopped tracee.
pub fn suspend_seccomp(tid: i32) -> Result<(), SysError> {
    // SAFETY: takes numbers only.
    let result = unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, tid, 0, 1_u64 << 21) };
    done("ptrace(PTRACE_O_SUSPEND_SECCOMP)", result).map(drop)
}

/// Writes a debug register of a stopped tracee.
pub fn poke_debug_register(tid: i32, register: usize, value: u64) -> Result<(), SysError> {
    let offset = std::mem::offset_of!(libc::user, u_debugreg) + register * size_of::<u64>();
    // SAFETY: offset and value are numbers, checked by the kernel; the tracee's memory is not touched.
    let result = unsafe { libc::ptrace(libc::PTRACE_POKEUSER, tid, offset, value) };
    done("ptrace(PTRACE_POKEUSER)", result).map(drop)
}

/// The layout fields of `PR_SET_MM_MAP` (`struct prctl_mm_map` of `linux/prctl.h`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct MmMap {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub brk: u64,
    pub start_stack: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    /// Null: the auxiliary vector stays.
    pub auxv: u64,
    pub auxv_size: u32,
    /// All ones: `/proc/self/exe` stays.
    pub exe_fd: u32,
}

/// `PR_SET_MM_MAP` (14) of `PR_SET_MM`; with our own values it changes nothing.
pub fn set_mm_map(map: &MmMap) -> Result<(), SysError> {
    // SAFETY: the kernel reads a structure of the given size, which lives; the fields are bounds that it reports and
    // checks, it maps or unmaps nothing.
    let result = unsafe { libc::prctl(libc::PR_SET_MM, 14, std::ptr::from_ref(map), size_of::<MmMap>(), 0) };
    done("prctl(PR_SET_MM_MAP)", result.into()).map(drop)
}

/// The end of the heap, as `brk(0)` says it.
pub fn current_brk() -> u64 {
    // SAFETY: with an address of 0 the break stays.
    unsafe { libc::syscall(libc::SYS_brk, 0) as u64 }
}

/// `PR_GET_TID_ADDRESS` (40).
pub fn tid_address() -> Result<u64, SysError> {
    let mut address = 0_u64;
    // SAFETY: the kernel writes one word to a live variable.
    let result = unsafe { libc::prctl(40, &raw mut address) };
    done("prctl(PR_GET_TID_ADDRESS)", result.into()).map(|_| address)
}

/// Whether timers can be made with given ids (`PR_TIMER_CREATE_RESTORE_IDS`, 77; operation `GET`, 2).
pub fn timer_restore_ids() -> Result<(), SysError> {
    // SAFETY: takes numbers only.
    let result = unsafe { libc::prctl(77, 2, 0, 0, 0) };
    done("prctl(PR_TIMER_CREATE_RESTORE_IDS)", result.into()).map(drop)
}

/// `ARCH_MAP_VDSO_64` (0x2003) or `ARCH_MAP_VDSO_32` (0x2002); `EEXIST` where a vdso is mapped already.
pub fn map_vdso(operation: i32) -> Result<(), SysError> {
    // SAFETY: takes numbers; the kernel maps the vdso, if at all, where nothing is mapped.
    let result = unsafe { libc::syscall(libc::SYS_arch_prctl, operation, 0) };
    done("arch_prctl(ARCH_MAP_VDSO)", result).map(drop)
}

/// `MEMBARRIER_CMD_GET_REGISTRATIONS` (1 << 9).
pub fn membarrier_registrations() -> Result<i64, SysError> {
    // SAFETY: takes numbers only; the command asks and changes nothing.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, 1 << 9, 0, 0) };
    done("membarrier(MEMBARRIER_CMD_GET_REGISTRATIONS)", result)
}

/// `move_mount` with `MOVE_MOUNT_SET_GROUP` and descriptors that are none: `EBADF` where the flag is known.
pub fn move_mount_set_group() -> Result<(), SysError> {
    // MOVE_MOUNT_SET_GROUP, and MOVE_MOUNT_T_EMPTY_PATH and MOVE_MOUNT_F_EMPTY_PATH for paths that are empty.
    const FLAGS: u32 = 0x100 | 0x40 | 0x4;
    let empty = c"".as_ptr();
    // SAFETY: both paths are live, terminated strings.
    let result = unsafe { libc::syscall(libc::SYS_move_mount, -1, empty, -1, empty, FLAGS) };
    done("move_mount(MOVE_MOUNT_SET_GROUP)", result).map(drop)
}

/// `userfaultfd` and its handshake; returns the features that the kernel offers.
pub fn userfaultfd_features() -> Result<u64, SysError> {
    // _IOWR(0xaa, 0x3f, struct uffdio_api)
    const UFFDIO_API: u64 = 0xc018_aa3f;
    // SAFETY: takes a number only.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    let fd = done("userfaultfd", fd)? as i32;
    // SAFETY: the kernel just made this descriptor, and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // struct uffdio_api: the version (UFFD_API), the features, the ioctls.
    let mut api = [0xaa_u64, 0, 0];
    // SAFETY: the kernel reads and writes three words, which is what `api` holds.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &raw mut api) };
    done("ioctl(UFFDIO_API)", result.into()).map(|_| api[1])
}

/// `ioctl` with a request that takes nothing and returns a descriptor.
pub fn ioctl_fd(fd: impl AsFd, request: Request) -> Result<OwnedFd, SysError> {
    // SAFETY: the requests of `Request` take no pointer.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request as u64, 0) };
    let call = match request {
        Request::SocketNamespace => "ioctl(SIOCGSKNS)",
        Request::UnixFile => "ioctl(SIOCUNIXFILE)",
    };
    let fd = done(call, result.into())?;
    // SAFETY: the kernel just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Requests that take no pointer and return a descriptor (`linux/sockios.h`, `linux/un.h`).
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
pub enum Request {
    /// `SIOCGSKNS`: the network namespace of a socket.
    SocketNamespace = 0x894c,
    /// `SIOCUNIXFILE`: the file that a unix socket is bound to.
    UnixFile = 0x89e0,
}

/// `TFD_IOC_SET_TICKS`: makes a timerfd readable.
pub fn timerfd_set_ticks(timer: impl AsFd, ticks: u64) -> Result<(), SysError> {
    // _IOW('T', 0, u64)
    // SAFETY: the kernel reads one word from a live variable.
    let result = unsafe { libc::ioctl(timer.as_fd().as_raw_fd(), 0x4008_5400, &raw const ticks) };
    done("ioctl(TFD_IOC_SET_TICKS)", result.into()).map(drop)
}

/// `TUNGETFEATURES` on `/dev/net/tun`.
pub fn tun_features(tun: impl AsFd) -> Result<u32, SysError> {
    let mut features = 0_u32;
    // _IOR('T', 207, unsigned int)
    // SAFETY: the kernel writes one 32-bit number to a live variable.
    let result = unsafe { libc::ioctl(tun.as_fd().as_raw_fd(), 0x8004_54cf, &raw mut features) };
    done("ioctl(TUNGETFEATURES)", result.into()).map(|_| features)
}

/// `setsockopt` with a number.
pub fn set_socket_option(socket: impl AsFd, level: i32, option: i32, value: i32) -> Result<(), SysError> {
    let value: libc::c_int = value;
    let size = size_of::<libc::c_int>() as u32;
    // SAFETY: the kernel reads one int from a live variable.
    let result = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const value).cast(), size)
    };
    done("setsockopt", result.into()).map(drop)
}

/// Makes an asynchronous I/O context and moves its ring to another address, as a restore must; then destroys it.
pub fn aio_remap() -> Result<(), SysError> {
    let mut context = 0_u64;
    // SAFETY: the kernel writes one word to a live variable, and maps a ring where nothing is mapped.
    done("io_setup", unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut context) })?;
    let ring = std::ptr::with_exposed_provenance_mut::<libc::c_void>(context as usize);
    // The kernel makes room for more events than it was asked for.
    let size = ring_size(context).ok_or(SysError { call: "io_setup", errno: Errno::ENOENT })?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a fresh mapping, where nothing is mapped.
    let target = unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_NONE, flags, -1, 0) };
    if target == libc::MAP_FAILED {
        return Err(SysError::last("mmap"));
    }
    // SAFETY: replaces the fresh mapping above, to which nothing points, by the ring, which only the kernel uses.
    let moved = unsafe { libc::mremap(ring, size, size, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, target) };
    if moved == libc::MAP_FAILED {
        return Err(SysError::last("mremap"));
    }
    // SAFETY: the context's address is where its ring was moved to; the kernel unmaps it.
    done("io_destroy", unsafe { libc::syscall(libc::SYS_io_destroy, moved) }).map(drop)
}

fn ring_size(context: u64) -> Option<usize> {
    let maps = crate::procfs::maps::parse(&std::fs::read("/proc/self/maps").ok()?).ok()?;
    maps.iter().find(|vma| vma.start == context).and_then(|vma| usize::try_from(vma.len()).ok())
}

/// Maps the beginning of a file, read-only and for good; returns the address.
pub fn map_file(file: impl AsFd, length: usize) -> Result<u64, SysError> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: a fresh mapping, where nothing is mapped.
    let address =
        unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_PRIVATE, fd, 0) };
    if address == libc::MAP_FAILED { Err(SysError::last("mmap")) } else { Ok(address.addr() as u64) }
}
