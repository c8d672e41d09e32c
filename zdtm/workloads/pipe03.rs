//! Flags and sizes of pipes are kept: nonblocking ends, a changed size, packets that keep their bounds.

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{pipe2, read, write};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (output, input) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&output, FcntlArg::F_SETPIPE_SZ(1 << 14))?;
    fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let (packets_out, packets_in) = pipe2(OFlag::O_DIRECT)?;
    for packet in [&b"one"[..], b"four", b"seven77"] {
        write(&packets_in, packet)?;
    }
    let ends = [&output, &input, &packets_out, &packets_in];
    let flags = || ends.map(|end| (fcntl(end, FcntlArg::F_GETFL), fcntl(end, FcntlArg::F_GETFD)));
    let before = flags();
    cx.barrier()?;
    ensure_eq!(flags(), before, "flags");
    ensure_eq!(fcntl(&input, FcntlArg::F_GETPIPE_SZ)?, 1 << 14, "size");
    let mut bytes = [0; 64];
    for length in [3, 4, 7] {
        ensure_eq!(read(&packets_out, &mut bytes)?, length, "length of a packet");
    }
    Ok(())
}
