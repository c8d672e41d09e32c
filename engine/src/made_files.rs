//! Files that whoever builds a tree's namespaces has opened there, for whoever restores the rest.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// Open files, by the numbers under which images know them. Equal if they are the same, or both are none.
#[derive(Debug, Clone, Default)]
pub struct MadeFiles(Rc<Vec<(u32, OwnedFd)>>);

impl PartialEq for MadeFiles {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0) || (self.0.is_empty() && other.0.is_empty())
    }
}

impl Eq for MadeFiles {}

impl From<Vec<(u32, OwnedFd)>> for MadeFiles {
    fn from(files: Vec<(u32, OwnedFd)>) -> Self {
        Self(Rc::new(files))
    }
}

impl MadeFiles {
    /// The file with a number.
    pub fn get(&self, number: u32) -> Option<BorrowedFd<'_>> {
        self.0.iter().find(|(known, _)| *known == number).map(|(_, fd)| fd.as_fd())
    }

    /// All of them, with their numbers.
    pub fn files(&self) -> &[(u32, OwnedFd)] {
        &self.0
    }

    /// All numbers.
    pub fn numbers(&self) -> Vec<u32> {
        self.0.iter().map(|(number, _)| *number).collect()
    }
}
