//! A socket's name was taken by a fifo: both stay what they are, and the fifo keeps what it holds.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;

use nix::sys::socket::SockType;
use nix::sys::stat::Mode;
use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::unix;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("contested");
    let address = unix::file(&path)?;
    let listener = unix::listening(SockType::Stream, &address)?;
    let client = unix::connected(SockType::Stream, &address)?;
    let server = if cx.args().is_empty() { Some(unix::accepted(&listener)?) } else { None };
    std::fs::remove_file(&path)?;
    nix::unistd::mkfifo(&path, Mode::S_IRWXU)?;
    let mut fifo = OpenOptions::new().read(true).write(true).open(&path)?;
    fifo.write_all(b"in the fifo")?;
    cx.barrier()?;
    ensure!(std::fs::metadata(&path)?.file_type().is_fifo(), "the fifo is none any more");
    let mut held = [0; 11];
    fifo.read_exact(&mut held)?;
    ensure_eq!(&held, b"in the fifo", "what the fifo holds");
    let server = server.map_or_else(|| unix::accepted(&listener), Ok)?;
    unix::talk(&client, &server)?;
    ensure_eq!(unix::name(&listener)?, address, "name");
    Ok(())
}
