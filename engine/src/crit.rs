//! Looking at image files: as JSON, in summary, and explored as a set. What `stasis crit` does.
//!
//! Everything is written to what the caller passes; nothing here knows about the command line.

mod convert;
mod fds;
mod image_set;
mod mems;
mod ps;
mod rss;

use std::io;
use std::path::PathBuf;

pub use convert::{decode, encode, info};
pub use fds::fds;
pub use image_set::ImageSet;
pub use mems::mems;
pub use proto::json::{Form, RawBytes};
pub use ps::ps;
pub use rss::rss;

/// Why images could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum CritError {
    /// The operating system refused to open, read or write a file.
    #[error("{path}: {source}", path = shown(path))]
    File { path: PathBuf, source: io::Error },

    /// An image is damaged, or its JSON is not what it should be.
    #[error("{path}: {source}", path = shown(path))]
    Content { path: PathBuf, source: proto::json::JsonError },

    /// The output could not be written.
    #[error("write output: {0}")]
    Output(#[from] io::Error),
}

/// A path with nothing in it that could disturb a terminal.
fn shown(path: &std::path::Path) -> String {
    path.display().to_string().escape_debug().to_string()
}
