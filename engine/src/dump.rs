//! From a running process tree to a directory of image files.

use crate::error::Result;
use crate::options::DumpOptions;

/// Dumps the tree at `options.tree`.
pub fn dump(_options: &DumpOptions) -> Result<()> {
    Ok(())
}
