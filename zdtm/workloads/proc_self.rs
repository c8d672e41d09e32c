//! Descriptors of files in /proc of the process itself still lead to it.

use std::fs::{self, File};
use std::io::Read as _;

use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let mut status = File::open("/proc/self/status")?;
    let folder = File::open("/proc/self")?;
    cx.barrier()?;
    let mut text = String::new();
    status.read_to_string(&mut text)?;
    let line = format!("Pid:\t{}\n", std::process::id());
    ensure!(text.contains(&line), "status does not show the own process id");
    let link = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&folder)))?;
    ensure_eq!(link.to_string_lossy(), format!("/proc/{}", std::process::id()), "the folder");
    Ok(())
}
