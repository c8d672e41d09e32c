//! `stasis cleanup`.

use crate::error::{Action, Error, TargetState};
use crate::net_lock::{self, Method, Sweep};
use crate::options::CleanupOptions;

use super::grammar::Given;
use super::{Failure, directories, log_options, output, start_log};

pub(super) fn options(given: &Given) -> CleanupOptions {
    let (_, work_dir) = directories(given);
    CleanupOptions { all: given.flag("all"), log: log_options(given, &work_dir) }
}

pub(super) fn run(options: &CleanupOptions) -> Result<u8, Failure> {
    start_log(&options.log)?;
    let which = if options.all { Sweep::All } else { Sweep::Stale };
    let found = net_lock::sweep(which, &Method::ALL);
    let found = found.map_err(|e| Error {
        action: Action::Cleanup,
        target: "network locks".into(),
        problems: vec![e.into()],
        state: TargetState::Untouched,
    })?;
    for lock in &found {
        let done = if lock.removed { "removed" } else { "kept" };
        output::print(&format!("{done} network lock {}: {}\n", lock.name, lock.fate));
    }
    if found.is_empty() {
        output::print("nothing was left behind\n");
    }
    Ok(0)
}
