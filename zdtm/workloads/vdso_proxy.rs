//! Functions of the vdso that were found before the dump work where they were, in the process, its thread and children.

use std::fs;
use std::ptr;

use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

type ClockGettime = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> i64;
type Getcpu = unsafe extern "C" fn(*mut u32, *mut u32, *const u8) -> i64;

#[derive(Debug, Clone, Copy)]
struct Vdso {
    clock_gettime: ClockGettime,
    getcpu: Getcpu,
    /// How many processors there are; finding out opens a file.
    cpus: i64,
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let vdso = find()?;
    let before = check(vdso, [0; 3])?;
    let special = mappings()?;
    ensure!(special.len() >= 2, "no vdso or no data of it: {special:?}");
    let child = cx.child(|cx| {
        let mut last = before;
        // Called all the time, so that the dump may come in the middle of one.
        while !cx.passed() {
            last = check(vdso, last)?;
        }
        check(vdso, last)?;
        Ok(())
    })?;
    let thread = cx.thread(move |cx| {
        cx.park()?;
        check(vdso, before).map(drop)
    });

    cx.barrier()?;
    let after = check(vdso, before)?;
    ensure_eq!(mappings()?, special, "mappings of the vdso");
    thread.join()?;
    child.join()?;
    cx.child(|_| check(vdso, after).map(drop))?.join()
}

/// Calls the functions, and compares with the system calls of the same names: nanoseconds of three clocks.
fn check(vdso: Vdso, last: [u128; 3]) -> Result<[u128; 3], Failure> {
    let mut times = [0; 3];
    let clocks = [libc::CLOCK_REALTIME, libc::CLOCK_MONOTONIC, libc::CLOCK_BOOTTIME];
    for ((time, clock), last) in times.iter_mut().zip(clocks).zip(last) {
        let mut kernel = [libc::timespec { tv_sec: 0, tv_nsec: 0 }; 2];
        let mut told = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel writes a time to the place.
        unsafe { libc::syscall(libc::SYS_clock_gettime, clock, &raw mut kernel[0]) };
        // SAFETY: the function has the signature of clock_gettime(2), and the place is valid.
        let result = unsafe { (vdso.clock_gettime)(clock, &raw mut told) };
        // SAFETY: as above.
        unsafe { libc::syscall(libc::SYS_clock_gettime, clock, &raw mut kernel[1]) };
        ensure_eq!(result, 0, "what the vdso returns");
        *time = nanoseconds(told);
        let [before, after] = kernel.map(nanoseconds);
        ensure!((before..=after).contains(time), "clock {clock}: {time} is not in {before}..={after}");
        ensure!(*time >= last, "clock {clock} went from {last} back to {time}");
    }
    let mut cpu = u32::MAX;
    // SAFETY: the function has the signature of getcpu(2), and the first place is valid.
    let result = unsafe { (vdso.getcpu)(&raw mut cpu, ptr::null_mut(), ptr::null()) };
    let cpus = vdso.cpus;
    ensure!(result == 0 && i64::from(cpu) < cpus, "getcpu gave {result}, processor {cpu} of {cpus}");
    Ok(times)
}

fn nanoseconds(time: libc::timespec) -> u128 {
    time.tv_sec as u128 * 1_000_000_000 + time.tv_nsec as u128
}

/// Lines of the vdso and of its data. A proxy would be one more.
fn mappings() -> Result<Vec<String>, Failure> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    Ok(maps
        .lines()
        .filter(|line| line.contains("[vdso") || line.contains("[vvar"))
        .map(str::to_owned)
        .collect())
}

/// The vdso is loaded as a library of its own (vdso(7)).
fn find() -> Result<Vdso, Failure> {
    // SAFETY: the name is terminated, and a library that is there already is not initialized again.
    let vdso = unsafe { libc::dlopen(c"linux-vdso.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
    ensure!(!vdso.is_null(), "the C library does not know the vdso");
    // SAFETY: the handle is valid, the name is terminated.
    let clock_gettime = unsafe { libc::dlsym(vdso, c"__vdso_clock_gettime".as_ptr()) };
    // SAFETY: as above.
    let getcpu = unsafe { libc::dlsym(vdso, c"__vdso_getcpu".as_ptr()) };
    ensure!(!clock_gettime.is_null() && !getcpu.is_null(), "functions are missing");
    // SAFETY: vdso(7) gives the function the signature of clock_gettime(2).
    let clock_gettime = unsafe { std::mem::transmute::<*mut libc::c_void, ClockGettime>(clock_gettime) };
    // SAFETY: vdso(7) gives the function the signature of getcpu(2).
    let getcpu = unsafe { std::mem::transmute::<*mut libc::c_void, Getcpu>(getcpu) };
    // SAFETY: takes a number.
    let cpus = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) };
    Ok(Vdso { clock_gettime, getcpu, cpus })
}
