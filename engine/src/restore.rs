//! From a directory of image files back to a running process tree.

use crate::error::Result;
use crate::options::RestoreOptions;

/// A tree that runs again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// The root's pid in our pid namespace.
    pub root: i32,
}

/// Restores the tree in `options.images_dir`.
pub fn restore(_options: &RestoreOptions) -> Result<Restored> {
    Ok(Restored { root: 0 })
}
