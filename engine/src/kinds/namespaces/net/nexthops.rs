//! Next hops with numbers of their own, which routes refer to (`ip nexthop`, Linux 5.3; `include/uapi/linux/nexthop.h`).

use proto::catalogue::STASIS_NEXTHOPS;
use proto::messages::StasisNetlinkMessage;

use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::{Images, NewImages, invalid};
use crate::netlink::{CREATE, Message, Netlink, attribute, number, without};

/// Messages of `include/uapi/linux/rtnetlink.h`.
const NEWNEXTHOP: u16 = 104;
const GETNEXTHOP: u16 = 106;
/// `struct nhmsg`, in which a request has neither scope nor flags but `RTNH_F_ONLINK`.
const HEADER: usize = 8;
const SCOPE_AT: usize = 1;
const FLAGS_AT: usize = 4;
const ONLINK: u32 = 4;
/// `NHA_*`.
const ID: u16 = 1;
const GROUP: u16 = 2;
const RESILIENT: u16 = 12;
/// What the kernel tells of a group, and does not take: `NHA_RES_BUCKET`, `NHA_OP_FLAGS`, statistics.
const TOLD: [u16; 5] = [13, 14, 15, 16, 17];
/// `NHA_RES_GROUP_UNBALANCED_TIME`.
const UNBALANCED_TIME: u16 = 4;

fn list(netlink: &mut Netlink) -> Vec<Message> {
    // Linux before 5.3 has none.
    let found = netlink.list("RTM_GETNEXTHOP", GETNEXTHOP, &[0; HEADER]).unwrap_or_default();
    found.into_iter().filter(|message| message.kind == NEWNEXTHOP).collect()
}

/// A message that is taken.
fn for_adding(payload: &[u8]) -> Vec<u8> {
    let mut kept = without(payload, HEADER, &TOLD);
    if let Some(group) = attribute(payload, HEADER, RESILIENT) {
        kept = without(&kept, HEADER, &[RESILIENT]);
        let group = without(group, 0, &[UNBALANCED_TIME]);
        crate::netlink::push_nested(&mut kept, RESILIENT, |bytes| bytes.extend(group));
    }
    let flags = number(&kept, FLAGS_AT).unwrap_or_default() & ONLINK;
    if let Some(place) = kept.get_mut(FLAGS_AT..HEADER) {
        place.copy_from_slice(&flags.to_ne_bytes());
    }
    if let Some(scope) = kept.get_mut(SCOPE_AT) {
        *scope = 0;
    }
    kept
}

pub(super) fn dump(netlink: &mut Netlink, id: u32, images: &mut NewImages) -> Result<(), Problem> {
    // Those that groups are made of come before these.
    let (groups, plain): (Vec<_>, Vec<_>) =
        list(netlink).into_iter().partition(|message| attribute(&message.payload, HEADER, GROUP).is_some());
    let entry = |message: Message| StasisNetlinkMessage {
        r#type: message.kind.into(),
        payload: for_adding(&message.payload),
    };
    let all: Vec<StasisNetlinkMessage> = plain.into_iter().chain(groups).map(entry).collect();
    if all.is_empty() { Ok(()) } else { images.write(&STASIS_NEXTHOPS, id.into(), &all) }
}

pub(super) fn restore(netlink: &mut Netlink, images: &Images, id: u32) -> Result<(), Problem> {
    if !images.has(&STASIS_NEXTHOPS, id.into()) {
        return Ok(());
    }
    let all: Vec<StasisNetlinkMessage> = images.read(&STASIS_NEXTHOPS, id.into())?;
    if all.iter().any(|message| message.r#type != u32::from(NEWNEXTHOP)) {
        return Err(invalid(&STASIS_NEXTHOPS, id.into(), "a message is not of a next hop"));
    }
    for message in all {
        let added: Result<(), SysError> =
            netlink.request("RTM_NEWNEXTHOP", NEWNEXTHOP, CREATE, &message.payload);
        added.about(|| object(&message.payload)).while_trying_to("restore next hops")?;
    }
    Ok(())
}

fn object(payload: &[u8]) -> Object {
    let number = attribute(payload, HEADER, ID).and_then(|id| number(id, 0)).unwrap_or_default();
    Object::Named { kind: "next hop", name: format!("with number {number}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{push, push_nested};

    #[test]
    fn what_the_kernel_tells_of_the_moment_is_left_out() {
        let mut payload = vec![2, 253, 3, 0];
        payload.extend((ONLINK | 0x10).to_ne_bytes());
        push(&mut payload, ID, &7_u32.to_ne_bytes());
        push_nested(&mut payload, RESILIENT, |group| {
            push(group, 1, &[8, 0]);
            push(group, UNBALANCED_TIME, &[0; 8]);
        });
        push(&mut payload, 14, &[0; 4]);
        let added = for_adding(&payload);
        assert_eq!(added[..HEADER], [2, 0, 3, 0, 4, 0, 0, 0]);
        assert!(attribute(&added, HEADER, ID).is_some() && attribute(&added, HEADER, 14).is_none());
        let group = attribute(&added, HEADER, RESILIENT).unwrap();
        assert!(attribute(group, 0, 1).is_some() && attribute(group, 0, UNBALANCED_TIME).is_none());
    }
}
