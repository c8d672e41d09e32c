//! Data in a full pipe is kept, to the last byte and in order.

use std::fs::File;
use std::io::Read as _;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{pipe2, write};
use zdtm::workload::{Context, Verdict, check_pattern, pattern};
use zdtm::{ensure, ensure_eq};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (output, input) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
    let bytes = pattern(5, 1 << 20);
    let mut written = 0;
    loop {
        match write(&input, &bytes[written..]) {
            Ok(count) => written += count,
            Err(Errno::EAGAIN) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let size = fcntl(&output, FcntlArg::F_GETPIPE_SZ)?;
    cx.barrier()?;
    ensure_eq!(fcntl(&output, FcntlArg::F_GETPIPE_SZ)?, size, "size of the pipe");
    ensure!(written == size as usize, "{written} bytes filled a pipe of {size}");
    let mut found = vec![0; written];
    File::from(output.try_clone()?).read_exact(&mut found)?;
    check_pattern(&found, 5, "contents")?;
    ensure_eq!(nix::unistd::read(&output, &mut found), Err(Errno::EAGAIN), "reading the empty pipe");
    Ok(())
}
