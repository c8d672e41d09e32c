//! A file covers the name of a unix socket that listens; when it is uncovered, the socket is reached again.

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::{mounting, unix};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let kind = unix::kind(cx);
    let below = cx.path("below");
    let address = unix::file(&below)?;
    let listener = unix::listening(kind, &address)?;
    let client = unix::connected(kind, &address)?;
    let server = unix::accepted(&listener)?;
    mounting::covered_barrier(cx, &below)?;
    unix::talk(&client, &server)?;
    ensure_eq!(unix::name(&listener)?, address, "name");
    let client = unix::connected(kind, &address)?;
    unix::talk(&client, &unix::accepted(&listener)?)
}
