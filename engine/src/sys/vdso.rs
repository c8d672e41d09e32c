//! Our own vdso, which every task on this kernel has too.

use crate::error::SysError;
use nix::errno::Errno;

/// Base address of our own vdso.
pub fn base() -> Result<u64, SysError> {
    // SAFETY: reads the auxiliary vector.
    match unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) } {
        0 => Err(SysError { call: "getauxval(AT_SYSINFO_EHDR)", errno: Errno::ENOENT }),
        base => Ok(base),
    }
}

/// Offset of a `syscall` instruction in our own vdso.
pub fn syscall_offset() -> Option<u64> {
    let base = base().ok()?;
    // The vdso is an ELF file of one or two pages; its first page always is mapped, and it always has fallback calls.
    let code = std::ptr::with_exposed_provenance::<u8>(base as usize);
    // SAFETY: the kernel maps at least one page there, for the life of the process.
    let code = unsafe { std::slice::from_raw_parts(code, 4096) };
    code.windows(2).position(|w| w == [0x0f, 0x05]).map(|at| at as u64)
}
