//! One network namespace among those of the tree: how it knows the others, and they it.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use proto::catalogue::NETNS;
use proto::messages::{NetDeviceEntry, NetnsEntry, NetnsId};

use crate::error::{Context as _, Problem};
use crate::image::Images;
use crate::netlink::{CHANGE, Netlink, attribute, number, push};

/// Messages and attributes of `include/uapi/linux/{rtnetlink,net_namespace}.h`.
const NEWNSID: u16 = 88;
const GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// `struct rtgenmsg`, with what aligns it.
const HEADER: usize = 4;

/// The number by which the namespace that we are in knows another one.
pub(super) fn number_of(netlink: &mut Netlink, other: impl AsFd) -> Result<Option<i32>, Problem> {
    let mut payload = vec![0; HEADER];
    push(&mut payload, NETNSA_FD, &other.as_fd().as_raw_fd().to_ne_bytes());
    let found = netlink.get("RTM_GETNSID", GETNSID, &payload)?;
    let number = attribute(&found.payload, HEADER, NETNSA_NSID).and_then(|value| number(value, 0));
    Ok(number.map(|number| number as i32).filter(|number| *number >= 0))
}

/// Another network namespace of the tree, or the same.
#[derive(Debug, Clone, Copy)]
pub(super) struct Other<'a> {
    /// Its id in images.
    pub id: u32,
    /// The number by which it is known; none if it is not.
    pub number: Option<i32>,
    /// What leads to it.
    pub fd: BorrowedFd<'a>,
    /// Its devices, as far as they are known.
    pub devices: &'a [NetDeviceEntry],
}

/// A network namespace.
#[derive(Debug)]
pub(super) struct Space<'a> {
    /// Its id in images.
    pub id: u32,
    /// All of the tree.
    pub others: Vec<Other<'a>>,
}

impl Space<'_> {
    /// Gives the others the numbers by which they were known, and learns those that there are.
    pub(super) fn know_others(&mut self, netlink: &mut Netlink, images: &Images) -> Result<(), Problem> {
        let entry: NetnsEntry = images.read_single(&NETNS, self.id.into())?;
        for other in &mut self.others {
            other.number = number_of(netlink, other.fd)?;
            let wanted = entry.nsids.iter().find(|known| known.target_ns_id == other.id);
            if let (Some(wanted), None) = (wanted, other.number) {
                let mut payload = vec![0; HEADER];
                push(&mut payload, NETNSA_NSID, &wanted.netnsid_value.to_ne_bytes());
                push(&mut payload, NETNSA_FD, &other.fd.as_raw_fd().to_ne_bytes());
                let made = netlink.request("RTM_NEWNSID", NEWNSID, CHANGE, &payload);
                made.while_trying_to("number network namespaces")?;
                other.number = Some(wanted.netnsid_value);
            }
        }
        Ok(())
    }

    /// The numbers by which others are known.
    pub(super) fn numbers(&self) -> Vec<NetnsId> {
        let numbered =
            |other: &Other<'_>| Some(NetnsId { target_ns_id: other.id, netnsid_value: other.number? });
        self.others.iter().filter_map(numbered).collect()
    }

    /// Whether it is that of the root of the tree, which comes first.
    pub(super) fn is_home(&self) -> bool {
        self.others.first().is_none_or(|home| home.id == self.id)
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
        Some(self.other(id)?.fd.as_raw_fd())
    }

    /// The name that a device of a namespace has.
    pub(super) fn name_of(&self, id: u32, index: u32) -> Option<&str> {
        let device = self.other(id)?.devices.iter().find(|device| device.ifindex == index);
        device.map(|device| device.name.as_str())
    }
}
