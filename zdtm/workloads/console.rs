//! The console and a virtual terminal are open again under their names.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;

use nix::sys::termios::tcgetattr;
use zdtm::ensure;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let open = |path| File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path);
    let terminals = [open("/dev/console")?, open("/dev/tty0")?];
    let before = terminals.each_ref().map(|terminal| tcgetattr(terminal).ok());
    cx.barrier()?;
    let after = terminals.each_ref().map(|terminal| tcgetattr(terminal).ok());
    ensure!(before == after, "settings: {after:?} instead of {before:?}");
    Ok(())
}
