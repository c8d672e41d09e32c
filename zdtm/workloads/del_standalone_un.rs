//! A socket that is bound, and whose file was removed, keeps its name; the file does not come back.

use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::unix;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("standalone.sock");
    let address = unix::file(&path)?;
    let kind = unix::kind(cx);
    let bound = unix::bound(kind, &address)?;
    std::fs::remove_file(&path)?;
    let second = unix::listening(kind, &address)?;
    std::fs::remove_file(&path)?;
    cx.barrier()?;
    ensure!(!path.exists(), "the socket's file came back");
    for socket in [&bound, &second] {
        ensure_eq!(unix::name(socket)?, address, "name");
    }
    Ok(())
}
