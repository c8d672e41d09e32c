//! A userfaultfd that watches memory of its own process for missing pages and for what becomes of the mapping.

use std::io::Read as _;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

/// From `include/uapi/linux/userfaultfd.h`.
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_ZEROPAGE: u64 = 0xc020_aa04;
const USER_MODE_ONLY: i32 = 1;
const API: u64 = 0xaa;
const FEATURE_EVENT_REMOVE: u64 = 1 << 3;
const FEATURE_EVENT_UNMAP: u64 = 1 << 6;
const MODE_MISSING: u64 = 1;
const EVENT_PAGEFAULT: u8 = 0x12;
const EVENT_REMOVE: u8 = 0x15;
const EVENT_UNMAP: u8 = 0x16;

const PAGE: usize = 4096;
const LENGTH: usize = 16 * PAGE;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    // One for accesses in user mode, which needs no privilege.
    let flags = USER_MODE_ONLY | libc::O_CLOEXEC;
    // SAFETY: takes numbers only.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })?;
    // SAFETY: the kernel just made this descriptor for us.
    let mut faults = unsafe { std::fs::File::from_raw_fd(fd as i32) };
    request(&faults, UFFDIO_API, &mut [API, FEATURE_EVENT_REMOVE | FEATURE_EVENT_UNMAP, 0])?;
    let length = LENGTH.try_into()?;
    let (protection, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE);
    // SAFETY: a new mapping where there was none.
    let memory = unsafe { mmap_anonymous(None, length, protection, flags) }?;
    let start = memory.as_ptr().expose_provenance();
    request(&faults, UFFDIO_REGISTER, &mut [start as u64, LENGTH as u64, MODE_MISSING, 0])?;
    cx.barrier()?;
    let toucher = cx.thread(move |_| {
        // SAFETY: the mapping lives until this thread has ended.
        ensure_eq!(unsafe { std::ptr::with_exposed_provenance::<u8>(start).read_volatile() }, 0, "the page");
        Ok(())
    });
    ensure_eq!(event(&mut faults)?, EVENT_PAGEFAULT, "the event of an access");
    request(&faults, UFFDIO_ZEROPAGE, &mut [start as u64, PAGE as u64, 0, 0])?;
    toucher.join()?;
    let remover = cx.thread(move |_| {
        let memory = NonNull::new(std::ptr::with_exposed_provenance_mut(start));
        let memory = memory.ok_or_else(|| Failure::new("no memory"))?;
        // SAFETY: nobody uses the mapping any more.
        unsafe { madvise(memory, PAGE, nix::sys::mman::MmapAdvise::MADV_DONTNEED) }?;
        // SAFETY: as above.
        Ok(unsafe { munmap(memory, LENGTH) }?)
    });
    ensure_eq!(event(&mut faults)?, EVENT_REMOVE, "the event of advice");
    ensure_eq!(event(&mut faults)?, EVENT_UNMAP, "the event of the end");
    remover.join()
}

/// The next event; `struct uffd_msg` begins with its sort, and has 32 bytes.
fn event(faults: &mut std::fs::File) -> Result<u8, Failure> {
    let mut message = [0_u8; 32];
    faults.read_exact(&mut message)?;
    let [sort, ..] = message;
    Ok(sort)
}

fn request<const N: usize>(faults: &std::fs::File, number: u64, words: &mut [u64; N]) -> Verdict {
    // SAFETY: the requests above read and write structures of as many words.
    Errno::result(unsafe { libc::ioctl(faults.as_raw_fd(), number, words.as_mut_ptr()) })?;
    Ok(())
}
