//! One network namespace among those of the tree: how it knows the others, and they it.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use proto::messages::NetDeviceEntry;

/// Another network namespace of the tree, or the same.
#[derive(Debug, Clone, Copy)]
pub(super) struct Other<'a> {
    /// Its id in images.
    pub id: u32,
    /// The number by which it is known; none if it is not.
    pub number: Option<i32>,
    /// What leads to it.
    pub fd: Option<BorrowedFd<'a>>,
    /// Its devices, as far as they are known.
    pub devices: &'a [NetDeviceEntry],
}

/// A network namespace.
#[derive(Debug, Clone, Default)]
pub(super) struct Space<'a> {
    /// Its id in images.
    pub id: u32,
    /// All of the tree.
    pub others: Vec<Other<'a>>,
}

impl<'a> Space<'a> {
    /// The only one of the tree.
    pub(super) fn new(id: u32) -> Self {
        Self { id, others: Vec::new() }
    }

    /// The only one, whose devices are known.
    pub(super) fn alone(id: u32, devices: &'a [NetDeviceEntry]) -> Self {
        Self { id, others: vec![Other { id, number: None, fd: None, devices }] }
    }

    /// Whether a number is that of a namespace of the tree.
    pub(super) fn knows(&self, number: i32) -> bool {
        self.id_of(number).is_some()
    }

    /// The id of the namespace that is known by a number.
    pub(super) fn id_of(&self, number: i32) -> Option<u32> {
        self.others.iter().find(|other| other.number == Some(number)).map(|other| other.id)
    }

    fn other(&self, id: u32) -> Option<&Other<'_>> {
        self.others.iter().find(|other| other.id == id)
    }

    /// The number by which a namespace is known.
    pub(super) fn number_of(&self, id: u32) -> Option<i32> {
        self.other(id)?.number
    }

    /// The number of our descriptor of a namespace.
    pub(super) fn fd_of(&self, id: u32) -> Option<i32> {
        Some(self.other(id)?.fd?.as_raw_fd())
    }

    /// The name that a device of a namespace has.
    pub(super) fn name_of(&self, id: u32, index: u32) -> Option<&str> {
        let device = self.other(id)?.devices.iter().find(|device| device.ifindex == index);
        device.map(|device| device.name.as_str())
    }
}
