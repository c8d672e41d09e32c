//! Parsers of the text under `/proc`, and of what else the kernel tells of itself: bytes in, struct out.
//!
//! Nothing here opens a file, and nothing here trusts one: a process chooses its own name, its mappings' names and its
//! files' names, and a kernel may be newer than this code. A line that cannot be understood is a [`ParseError`] that
//! says which; a line nobody needs is skipped; no input panics.

mod text;

pub mod auxv;
pub mod btf;
pub mod cgroup;
pub mod children;
pub mod fdinfo;
pub mod fsnotify;
pub mod id_map;
pub mod integer;
pub mod io;
pub mod limits;
pub mod link;
pub mod locks;
pub mod maps;
pub mod mountinfo;
pub mod smaps;
pub mod stat;
pub mod status;
pub mod timens_offsets;
pub mod timer_list;
pub mod timers;

use crate::error::{Class, Explain};

/// A text from the kernel that is not what its documentation says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}, line {line}: expected {expected}, found \"{found}\"")]
pub struct ParseError {
    /// The kind of file: `/proc/PID/stat`.
    pub file: &'static str,
    /// The line, counted from 1.
    pub line: usize,
    /// What should have been there.
    pub expected: &'static str,
    /// What was there instead: the rest of the line, escaped and shortened.
    pub found: String,
}

impl ParseError {
    fn new(file: &'static str, line: usize, expected: &'static str, found: &[u8]) -> Self {
        const SHOWN: usize = 60;
        let found = found.get(..SHOWN).unwrap_or(found).escape_ascii().to_string();
        Self { file, line, expected, found }
    }
}

impl Explain for ParseError {
    fn class(&self) -> Class {
        Class::Bug
    }
}
