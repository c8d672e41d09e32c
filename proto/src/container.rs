//! The container that all image files share: a header, then entries of a length word and a message, each followed by
//! raw bytes where [`Extra`](crate::catalogue::Extra) says so. Words are little endian.

mod reader;
mod writer;

pub use reader::{MAX_ENTRY, Reader};
pub use writer::Writer;
