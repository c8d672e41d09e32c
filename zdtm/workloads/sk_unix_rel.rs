//! A name relative to a directory that the process has left since; the file is where it was, with its permissions.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::unix;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let kind = unix::kind(cx);
    std::fs::create_dir(cx.path("sub"))?;
    std::env::set_current_dir(cx.path("sub"))?;
    let address = unix::file(Path::new("relative.sock"))?;
    let listener = unix::listening(kind, &address)?;
    std::fs::set_permissions("relative.sock", std::fs::Permissions::from_mode(0o640))?;
    let client = unix::connected(kind, &address)?;
    let server = unix::accepted(&listener)?;
    std::env::set_current_dir("/")?;
    cx.barrier()?;
    unix::talk(&client, &server)?;
    ensure_eq!(unix::name(&listener)?, address, "name");
    let path = cx.path("sub/relative.sock");
    ensure_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o640, "permissions");
    let next = unix::connected(kind, &unix::file(&path)?)?;
    let server = unix::accepted(&listener)?;
    unix::talk(&next, &server)
}
