//! The vdso that the auxiliary vector names is there, unchanged, and its functions can be called.

use std::ptr;

use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

type Getcpu = unsafe extern "C" fn(*mut u32, *mut u32, *const u8) -> i64;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    // SAFETY: the call takes a number.
    let address = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    ensure!(address != 0, "no vdso");
    let getcpu = function()?;
    let before = head(address as usize);
    cx.barrier()?;
    // SAFETY: as above.
    ensure_eq!(unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) }, address, "address of the vdso");
    ensure_eq!(head(address as usize), before, "head of the vdso");
    let mut cpu = u32::MAX;
    // SAFETY: the function has the signature of getcpu(2), and the first place is valid.
    let result = unsafe { getcpu(&raw mut cpu, ptr::null_mut(), ptr::null()) };
    ensure!(result == 0 && cpu < 1 << 16, "getcpu gave {result}, processor {cpu}");
    Ok(())
}

fn head(address: usize) -> [u8; 64] {
    // SAFETY: the kernel maps the vdso there, which begins with the 64 bytes of an ELF header.
    unsafe { ptr::with_exposed_provenance::<[u8; 64]>(address).read_volatile() }
}

/// The vdso is loaded as a library of its own; dlvsym finds its functions by their version (vdso(7)).
fn function() -> Result<Getcpu, Failure> {
    // SAFETY: the name is terminated, and a library that is there already is not initialized again.
    let vdso = unsafe { libc::dlopen(c"linux-vdso.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
    ensure!(!vdso.is_null(), "the C library does not know the vdso");
    // SAFETY: the handle is valid, the name is terminated.
    let symbol = unsafe { libc::dlsym(vdso, c"__vdso_getcpu".as_ptr()) };
    ensure!(!symbol.is_null(), "no __vdso_getcpu");
    // SAFETY: vdso(7) gives the function the signature of getcpu(2).
    Ok(unsafe { std::mem::transmute::<*mut libc::c_void, Getcpu>(symbol) })
}
