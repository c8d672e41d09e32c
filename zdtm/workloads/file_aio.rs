//! Writes and reads of a file by aio(7), all the time, reach the file and the memory.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict, check_pattern, pattern};

const LENGTH: usize = 20_000;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(cx.path("file"))?;
    let child = cx.child(|cx| {
        let mut round = 0;
        while !cx.passed() || round == 0 {
            let mut bytes = pattern(round, LENGTH);
            transfer(file.as_raw_fd(), libc::aio_write, &mut bytes, round)?;
            bytes.fill(0);
            transfer(file.as_raw_fd(), libc::aio_read, &mut bytes, round)?;
            check_pattern(&bytes, round, "what was read")?;
            round += 1;
            if round == 1 {
                cx.post("working")?;
            }
        }
        Ok(())
    })?;
    cx.wait_for("working")?;
    cx.barrier()?;
    child.join()
}

/// Begins a transfer, and waits until it is complete.
fn transfer(
    fd: i32,
    begin: unsafe extern "C" fn(*mut libc::aiocb) -> i32,
    bytes: &mut [u8],
    round: u64,
) -> Result<(), Failure> {
    // SAFETY: a control block is plain memory.
    let mut block: libc::aiocb = unsafe { std::mem::zeroed() };
    block.aio_fildes = fd;
    block.aio_buf = bytes.as_mut_ptr().cast();
    block.aio_nbytes = bytes.len();
    block.aio_offset = (round % 7 * 1000) as i64;
    block.aio_sigevent.sigev_notify = libc::SIGEV_NONE;
    // SAFETY: block and buffer live, and are not touched, until the transfer is complete.
    Errno::result(unsafe { begin(&raw mut block) })?;
    let list = [&raw const block];
    loop {
        // SAFETY: the block lives.
        match unsafe { libc::aio_error(&raw const block) } {
            // SAFETY: the list and what it names live.
            libc::EINPROGRESS => unsafe { libc::aio_suspend(list.as_ptr(), 1, std::ptr::null()) },
            error => {
                ensure_eq!(error, 0, "the error of a transfer");
                break;
            }
        };
    }
    // SAFETY: the transfer is complete, and nobody has asked yet.
    ensure_eq!(unsafe { libc::aio_return(&raw mut block) }, bytes.len() as isize, "bytes of a transfer");
    Ok(())
}
