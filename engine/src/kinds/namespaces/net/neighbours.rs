//! Neighbours that do not come and go by themselves: permanent ones, proxies, static entries of bridges, and where a virtual LAN
//! has others (rtnetlink(7), bridge(8)).

use proto::catalogue::STASIS_NEIGHBOURS;
use proto::messages::StasisNetlinkMessage;

use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::{Images, NewImages, invalid};
use crate::netlink::{APPEND, Message, Netlink, REPLACE, attribute, number, without};

/// Messages and attributes of `include/uapi/linux/{rtnetlink,neighbour}.h`.
const NEWNEIGH: u16 = 28;
const GETNEIGH: u16 = 30;
/// `struct ndmsg`, and where in it state and flags are.
const HEADER: usize = 12;
const STATE_AT: usize = 8;
const FLAGS_AT: usize = 10;
const DST: u16 = 1;
const LLADDR: u16 = 2;
const CACHEINFO: u16 = 3;
const PROBES: u16 = 4;
const NOARP: u16 = 0x40;
const PERMANENT: u16 = 0x80;
const PROXY: u8 = 0x08;
const AF_BRIDGE: u8 = libc::AF_BRIDGE as u8;

fn list(netlink: &mut Netlink) -> Result<Vec<Message>, SysError> {
    let mut request = [0; HEADER];
    let mut all = netlink.list("RTM_GETNEIGH", GETNEIGH, &request)?;
    request[FLAGS_AT] = PROXY;
    all.extend(netlink.list("RTM_GETNEIGH(NTF_PROXY)", GETNEIGH, &request)?);
    request[FLAGS_AT] = 0;
    request[0] = AF_BRIDGE;
    // A kernel without bridges knows no such neighbours.
    all.extend(netlink.list("RTM_GETNEIGH(AF_BRIDGE)", GETNEIGH, &request).unwrap_or_default());
    all.retain(|message| message.kind == NEWNEIGH && is_lasting(&message.payload));
    Ok(all)
}

/// Whether somebody made it on purpose. Bridges have permanent entries for the addresses of their ports, of their own accord.
fn is_lasting(payload: &[u8]) -> bool {
    let state = payload.get(STATE_AT..).and_then(<[u8]>::first_chunk).map_or(0, |b| u16::from_ne_bytes(*b));
    let is_proxy = payload.get(FLAGS_AT).is_some_and(|flags| flags & PROXY != 0);
    match payload.first() {
        Some(&AF_BRIDGE) => state & NOARP != 0 || (state & PERMANENT != 0 && is_remote(payload)),
        _ => state & PERMANENT != 0 || is_proxy,
    }
}

/// Whether it says where else frames of a virtual LAN go; else a device of its own has the address.
fn is_remote(payload: &[u8]) -> bool {
    payload.first() == Some(&AF_BRIDGE) && attribute(payload, HEADER, DST).is_some()
}

/// How it is added. Frames to many may go to several places of a virtual LAN, of which none replaces another.
fn flags(payload: &[u8]) -> u16 {
    let address = attribute(payload, HEADER, LLADDR).unwrap_or_default();
    let is_of_many =
        address.first().is_some_and(|first| first & 1 != 0) || address.iter().all(|byte| *byte == 0);
    if is_remote(payload) && is_of_many { APPEND & !(libc::NLM_F_EXCL as u16) } else { REPLACE }
}

pub(super) fn dump(netlink: &mut Netlink, id: u32, images: &mut NewImages) -> Result<(), Problem> {
    let all = list(netlink).while_trying_to("list neighbours")?;
    if all.is_empty() {
        return Ok(());
    }
    let plain = |message: Message| StasisNetlinkMessage {
        r#type: message.kind.into(),
        payload: without(&message.payload, HEADER, &[CACHEINFO, PROBES]),
    };
    images.write(&STASIS_NEIGHBOURS, id.into(), &all.into_iter().map(plain).collect::<Vec<_>>())
}

pub(super) fn restore(netlink: &mut Netlink, images: &Images, id: u32) -> Result<(), Problem> {
    if !images.has(&STASIS_NEIGHBOURS, id.into()) {
        return Ok(());
    }
    let all: Vec<StasisNetlinkMessage> = images.read(&STASIS_NEIGHBOURS, id.into())?;
    if all.iter().any(|message| message.r#type != u32::from(NEWNEIGH)) {
        return Err(invalid(&STASIS_NEIGHBOURS, id.into(), "a message is not of a neighbour"));
    }
    for message in all {
        let added = netlink.request("RTM_NEWNEIGH", NEWNEIGH, flags(&message.payload), &message.payload);
        added.about(|| object(&message.payload)).while_trying_to("restore neighbours")?;
    }
    Ok(())
}

fn object(payload: &[u8]) -> Object {
    let address = attribute(payload, HEADER, DST).map(super::address).unwrap_or_default();
    let device = number(payload, 4).unwrap_or_default();
    Object::Named { kind: "neighbour", name: format!("{address} of device {device}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_learned_is_left_out() {
        let neighbour = |family: i32, state: u16, flags: u8| {
            let mut payload = vec![family as u8, 0, 0, 0, 2, 0, 0, 0];
            payload.extend(state.to_ne_bytes());
            payload.extend([flags, 1]);
            is_lasting(&payload)
        };
        assert!(neighbour(libc::AF_INET, PERMANENT, 0));
        assert!(neighbour(libc::AF_INET6, 0, PROXY));
        assert!(!neighbour(libc::AF_INET, 0x02, 0));
        assert!(!neighbour(libc::AF_BRIDGE, PERMANENT, 0));
        assert!(neighbour(libc::AF_BRIDGE, NOARP, 0));
    }
}
