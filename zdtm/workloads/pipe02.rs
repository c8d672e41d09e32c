//! A pipe whose writers are all gone gives its data, then its end.

use std::fs::File;
use std::io::Read as _;

use nix::errno::Errno;
use nix::unistd::{pipe, write};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (output, input) = pipe()?;
    write(&input, b"last words")?;
    drop(input);
    let (unread, to_nobody) = pipe()?;
    drop(unread);
    cx.barrier()?;
    let mut text = String::new();
    File::from(output).read_to_string(&mut text)?;
    ensure_eq!(text, "last words", "contents");
    // The runtime ignores SIGPIPE, so that the error is seen.
    ensure_eq!(write(&to_nobody, b"x"), Err(Errno::EPIPE), "writing to a pipe without readers");
    Ok(())
}
