//! `stasis verify`.

use std::path::PathBuf;

use nix::unistd::AccessFlags;

use crate::options::{RestoreOptions, VerifyOptions};

use super::grammar::Given;
use super::{Failure, UsageError, need_directory, output, restore, start_log};

pub(super) fn options(given: &Given) -> Result<VerifyOptions, UsageError> {
    let mut restore = restore::options(given)?;
    if let Some(dir) = given.matches.get_one::<PathBuf>("directory") {
        if restore.work_dir == restore.images_dir {
            restore.work_dir.clone_from(dir);
        }
        restore.images_dir.clone_from(dir);
    }
    Ok(VerifyOptions { restore })
}

pub(super) fn run(options: &VerifyOptions) -> Result<u8, Failure> {
    let RestoreOptions { images_dir, log, .. } = &options.restore;
    need_directory("images directory", images_dir, AccessFlags::R_OK | AccessFlags::X_OK)?;
    start_log(log)?;
    output::print(&crate::verify::verify(options)?.to_string());
    Ok(0)
}
