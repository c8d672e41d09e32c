//! Addresses of network devices, over rtnetlink(7).
//!
//! The image holds the messages that list them, as `ip addr save` writes them. What the kernel adds by itself when a device
//! comes up is not added twice, and what it adds beyond the list is taken away again (`prune`).

use proto::catalogue::IFADDR;

use super::saved;
use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::{Images, NewImages};
use crate::netlink::{CHANGE, Message, Netlink, REPLACE, attribute, number, push, without};

/// Messages and attributes of `include/uapi/linux/{rtnetlink,if_addr}.h`.
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;
/// `struct ifaddrmsg`.
const HEADER: usize = 8;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const FLAGS: u16 = 8;
const NODAD: u32 = 0x02;
const DADFAILED: u32 = 0x08;
const TENTATIVE: u32 = 0x40;
/// The first word of the image.
const MAGIC: u32 = 0x4736_1222;

pub(super) fn list(netlink: &mut Netlink) -> Result<Vec<Message>, SysError> {
    let found = netlink.list("RTM_GETADDR", GETADDR, &[0; HEADER])?;
    Ok(found.into_iter().filter(|message| message.kind == NEWADDR).collect())
}

pub(super) fn dump(netlink: &mut Netlink, id: u32, images: &mut NewImages) -> Result<(), Problem> {
    let all = list(netlink)?;
    images.write_raw(&IFADDR, id.into(), &saved::write(MAGIC, &all))
}

pub(super) fn read(images: &Images, id: u32) -> Result<Vec<Message>, Problem> {
    saved::read(images, &IFADDR, id, MAGIC)
}

/// Adds those of an image that are addresses of these devices.
pub(super) fn restore(netlink: &mut Netlink, all: &[Message]) -> Result<(), Problem> {
    // A new address of IPv6 comes before those of its scope, one of IPv4 behind them.
    let (newest_first, in_order): (Vec<&Message>, Vec<&Message>) = all
        .iter()
        .filter(|message| message.kind == NEWADDR)
        .partition(|message| message.payload.first() == Some(&(libc::AF_INET6 as u8)));
    for message in in_order.into_iter().chain(newest_first.into_iter().rev()) {
        for payload in known_to_be_unique(&message.payload).iter().chain([&message.payload]) {
            let added = netlink.request("RTM_NEWADDR", NEWADDR, REPLACE, payload);
            added.about(|| object(payload)).while_trying_to("add an address")?;
        }
    }
    Ok(())
}

/// An address of IPv6 that was found to be nobody else's needs no search for duplicates (RFC 4862), during which nobody can use
/// it: it is added as one that is not to be looked for, which then can be said to be an ordinary one.
fn known_to_be_unique(payload: &[u8]) -> Option<Vec<u8>> {
    let flags = attribute(payload, HEADER, FLAGS).and_then(|value| number(value, 0)).unwrap_or_default();
    if payload.first() != Some(&(libc::AF_INET6 as u8)) || flags & (TENTATIVE | DADFAILED) != 0 {
        return None;
    }
    let mut changed = without(payload, HEADER, &[FLAGS]);
    push(&mut changed, FLAGS, &(flags | NODAD).to_ne_bytes());
    Some(changed)
}

/// Removes addresses that are not in the list.
pub(super) fn prune(netlink: &mut Netlink, all: &[Message]) -> Result<(), Problem> {
    let wanted: Vec<_> = all.iter().map(|message| key(&message.payload)).collect();
    for message in list(netlink)? {
        if !wanted.contains(&key(&message.payload)) {
            netlink
                .request("RTM_DELADDR", DELADDR, CHANGE, &message.payload)
                .about(|| object(&message.payload))
                .while_trying_to("remove an address")?;
        }
    }
    Ok(())
}

/// Family, length of the prefix, device, and address.
fn key(payload: &[u8]) -> (Option<[u8; 2]>, Option<u32>, Vec<u8>) {
    let address = attribute(payload, HEADER, LOCAL).or_else(|| attribute(payload, HEADER, ADDRESS));
    (payload.first_chunk().copied(), number(payload, 4), address.unwrap_or_default().to_vec())
}

fn object(payload: &[u8]) -> Object {
    let (head, device, address) = key(payload);
    let [_, prefix] = head.unwrap_or_default();
    let name = format!("{}/{prefix} of device {}", super::address(&address), device.unwrap_or_default());
    Object::Named { kind: "address", name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::text;

    #[test]
    fn addresses_that_are_in_use_are_not_looked_for() {
        let mut payload = vec![libc::AF_INET6 as u8, 64, 0, 0, 3, 0, 0, 0];
        push(&mut payload, ADDRESS, &[1; 16]);
        push(&mut payload, FLAGS, &0x80_u32.to_ne_bytes());
        let changed = known_to_be_unique(&payload).unwrap();
        let flags = |payload: &[u8]| number(attribute(payload, HEADER, FLAGS).unwrap(), 0);
        assert_eq!(flags(&changed), Some(0x82));
        let mut tentative = without(&payload, HEADER, &[FLAGS]);
        push(&mut tentative, FLAGS, &TENTATIVE.to_ne_bytes());
        assert_eq!(known_to_be_unique(&tentative), None);
    }

    #[test]
    fn every_host_has_the_address_of_the_loopback_device() {
        let mut netlink = Netlink::open(crate::netlink::NETLINK_ROUTE).unwrap();
        let all = list(&mut netlink).unwrap();
        let label = |message: &Message| attribute(&message.payload, HEADER, 3).map(text);
        assert!(all.iter().any(|message| label(message).as_deref() == Some("lo")));
    }
}
