//! A memory file with code, sealed against future writing, and one without, whose mode is sealed: two processes run the
//! code, and change it through the mapping that is older than the seals.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags};
use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::mapping::{Mapping, PAGE, READ_WRITE};

/// `MFD_EXEC`, `MFD_NOEXEC_SEAL` and `F_SEAL_EXEC`, Linux 6.3.
const MFD_EXEC: MFdFlags = MFdFlags::from_bits_retain(0x10);
const MFD_NOEXEC_SEAL: MFdFlags = MFdFlags::from_bits_retain(0x8);
const F_SEAL_EXEC: SealFlag = SealFlag::from_bits_retain(0x20);
/// `mov $7, %eax; ret`: the second byte is what it returns.
const CODE: [u8; 6] = [0xb8, 7, 0, 0, 0, 0xc3];

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let data = File::from(memfd_create("data", MFD_NOEXEC_SEAL)?);
    data.set_len(PAGE as u64)?;
    let code = File::from(memfd_create("code", MFD_EXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    code.write_all_at(&CODE, 0)?;
    code.set_len(PAGE as u64)?;
    let mut shared = Mapping::file(&code, PAGE, READ_WRITE, MapFlags::MAP_SHARED)?;
    let runs = ProtFlags::PROT_READ | ProtFlags::PROT_EXEC;
    let shown = Mapping::file(&code, PAGE, runs, MapFlags::MAP_SHARED)?;
    let mut private = Mapping::file(&code, PAGE, READ_WRITE | ProtFlags::PROT_EXEC, MapFlags::MAP_PRIVATE)?;
    private.bytes_mut()[1] = 8;
    fcntl(code.as_fd(), FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_FUTURE_WRITE))?;
    let before = [seals(&code)?, seals(&data)?];
    ensure!(before[1] & F_SEAL_EXEC.bits() != 0, "the kernel does not seal the mode");
    let child = cx.child(|cx| {
        private.bytes_mut()[1] = 9;
        cx.post("child-ready")?;
        cx.park()?;
        cx.wait_for("changed")?;
        ensure_eq!([call(shown), call(private)], [10, 9], "what the code of the child returns");
        Ok(())
    })?;
    cx.wait_for("child-ready")?;

    cx.barrier()?;
    ensure_eq!([seals(&code)?, seals(&data)?], before, "seals");
    ensure_eq!([mode(&code)?, mode(&data)?], [0o777, 0o666], "modes");
    ensure_eq!([call(shown), call(private)], [7, 8], "what the code returns");
    shared.bytes_mut()[1] = 10;
    ensure_eq!([call(shown), call(private)], [10, 8], "the same, after a change");
    cx.post("changed")?;
    child.join()?;
    ensure!(code.write_at(b"x", 0).is_err(), "the sealed file can be written");
    let again = Mapping::file(&code, PAGE, READ_WRITE, MapFlags::MAP_SHARED);
    ensure!(again.is_err(), "the sealed file can be mapped for writing");
    let executable = data.set_permissions(fs::Permissions::from_mode(0o777));
    let executable = executable.map_err(|error| error.raw_os_error());
    ensure_eq!(executable, Err(Some(Errno::EPERM as i32)), "making the data executable");
    data.write_all_at(b"x", 0)?;
    fcntl(code.as_fd(), FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK))?;
    Ok(())
}

fn call(code: Mapping) -> i32 {
    let start = code.start.as_ptr();
    // SAFETY: the mapping begins with a function that takes nothing and returns a number.
    let function = unsafe { std::mem::transmute::<*mut libc::c_void, extern "C" fn() -> i32>(start) };
    function()
}

fn seals(file: &File) -> Result<i32, Failure> {
    Ok(fcntl(file.as_fd(), FcntlArg::F_GET_SEALS)?)
}

fn mode(file: &File) -> Result<u32, Failure> {
    Ok(file.metadata()?.mode() & 0o7777)
}
