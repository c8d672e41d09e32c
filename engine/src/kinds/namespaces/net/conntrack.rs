//! Tracked connections and those that are expected, over ctnetlink (`include/uapi/linux/netfilter/nfnetlink_conntrack.h`).
//!
//! The images hold the messages that list them, one behind the other.

use netlink_bindings::utils::NLA_F_NESTED;
use proto::catalogue::{ImageType, NETNF_CT, NETNF_EXP};

use super::saved;
use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::{Images, NewImages};
use crate::netlink::{
    CREATE, Message, NETLINK_NETFILTER, Netlink, attribute, attributes, push, push_nested, without,
};

/// What is listed: its image, and the numbers of its subsystem and of the message that makes one.
struct Sort {
    image: &'static ImageType,
    new: u16,
    /// Attributes that are not for setting.
    told: &'static [u16],
}

/// Use, number, counters, security context, time stamps.
const CONNECTIONS: Sort = Sort { image: &NETNF_CT, new: 1 << 8, told: &[9, 10, 11, 12, 19, 20] };
const EXPECTATIONS: Sort = Sort { image: &NETNF_EXP, new: 2 << 8, told: &[5] };
/// `struct nfgenmsg`.
const HEADER: usize = 4;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOINFO: u16 = 4;
const NAT_SRC: u16 = 6;
const NAT_DST: u16 = 13;
/// `IPS_SRC_NAT` and `IPS_DST_NAT` of `include/uapi/linux/netfilter/nf_conntrack_common.h`.
const STATUS_SRC_NAT: u32 = 1 << 4;
const STATUS_DST_NAT: u32 = 1 << 5;

fn list(sort: &Sort) -> Result<Vec<Message>, SysError> {
    // Without connection tracking there is nothing to list.
    let Ok(mut netlink) = Netlink::open(NETLINK_NETFILTER) else { return Ok(Vec::new()) };
    match netlink.list("IPCTNL_MSG_CT_GET", sort.new + 1, &[0; HEADER]) {
        Err(SysError { errno: nix::errno::Errno::EINVAL | nix::errno::Errno::EOPNOTSUPP, .. }) => {
            Ok(Vec::new())
        }
        found => found,
    }
}

pub(super) fn dump(id: u32, images: &mut NewImages) -> Result<(), Problem> {
    for sort in [&CONNECTIONS, &EXPECTATIONS] {
        let all = list(sort).while_trying_to("list tracked connections")?;
        if !all.is_empty() {
            saved::write_plain(images, sort.image, id, &all)?;
        }
    }
    Ok(())
}

pub(super) fn restore(images: &Images, id: u32) -> Result<(), Problem> {
    for sort in [&CONNECTIONS, &EXPECTATIONS] {
        let all = saved::read_plain(images, sort.image, id)?;
        if all.is_empty() {
            continue;
        }
        let mut netlink = Netlink::open(NETLINK_NETFILTER)?;
        for message in all.iter().filter(|message| message.kind == sort.new) {
            let payload = for_making(sort, &message.payload);
            match netlink.request("IPCTNL_MSG_CT_NEW", sort.new, CREATE, &payload) {
                // Our own work made it anew.
                Err(SysError { errno: nix::errno::Errno::EEXIST, .. }) => {}
                made => made.about(object).while_trying_to("restore tracked connections")?,
            }
        }
    }
    Ok(())
}

fn object() -> Object {
    Object::Named { kind: "connection tracking", name: "entry".into() }
}

/// A message that makes what it lists.
fn for_making(sort: &Sort, payload: &[u8]) -> Vec<u8> {
    let mut made = without(payload, HEADER, sort.told);
    if sort.new != CONNECTIONS.new {
        return made;
    }
    if let Some(info) = attribute(payload, HEADER, PROTOINFO) {
        made = without(&made, HEADER, &[PROTOINFO]);
        push_nested(&mut made, PROTOINFO, |nested| push_all_flags(nested, info));
    }
    let status = attribute(payload, HEADER, STATUS).and_then(<[u8]>::first_chunk);
    let status = status.map_or(0, |bytes| u32::from_be_bytes(*bytes));
    if status & (STATUS_SRC_NAT | STATUS_DST_NAT) != 0 {
        push_nat(&mut made, payload, status);
    }
    made
}

/// Flags of TCP are listed with an empty mask of those that are to be set.
fn push_all_flags(bytes: &mut Vec<u8>, info: &[u8]) {
    /// `CTA_PROTOINFO_TCP`, and in it the flags of both directions.
    const TCP: u16 = 1;
    const FLAGS: [u16; 2] = [4, 5];
    for (kind, value) in attributes(info, 0) {
        if kind != TCP {
            push(bytes, kind | NLA_F_NESTED, value);
            continue;
        }
        push_nested(bytes, kind, |tcp| {
            for (kind, value) in attributes(value, 0) {
                match value {
                    [flags, _] if FLAGS.contains(&kind) => push(tcp, kind, &[*flags, u8::MAX]),
                    _ => push(tcp, kind, value),
                }
            }
        });
    }
}

/// Addresses that are translated are told by the answer, which comes to other ends than the question came from; to make it so,
/// the kernel wants the answer as it would be, and what the translation is.
fn push_nat(made: &mut Vec<u8>, payload: &[u8], status: u32) {
    let tuple = |kind| attribute(payload, HEADER, kind).unwrap_or_default();
    let (question, answer) = (Tuple::parse(tuple(TUPLE_ORIG)), Tuple::parse(tuple(TUPLE_REPLY)));
    let (Some(question), Some(answer)) = (question, answer) else { return };
    *made = without(made, HEADER, &[TUPLE_REPLY]);
    push_nested(made, TUPLE_REPLY, |bytes| question.turned().push(bytes));
    if status & STATUS_SRC_NAT != 0 {
        push_nested(made, NAT_SRC, |bytes| answer.push_range(bytes, 1));
    }
    if status & STATUS_DST_NAT != 0 {
        push_nested(made, NAT_DST, |bytes| answer.push_range(bytes, 0));
    }
}

/// Two ends: addresses, and what protocols put beside them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tuple {
    addresses: [Vec<u8>; 2],
    protocol: u8,
    ports: Option<[Vec<u8>; 2]>,
    /// Of ICMP.
    rest: Vec<(u16, Vec<u8>)>,
    /// `CTA_TUPLE_ZONE`.
    zone: Option<Vec<u8>>,
}

impl Tuple {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (ip, proto) = (attribute(bytes, 0, 1)?, attribute(bytes, 0, 2)?);
        let either = |a, b| attribute(ip, 0, a).or_else(|| attribute(ip, 0, b)).map(<[u8]>::to_vec);
        let port = |kind| attribute(proto, 0, kind).map(<[u8]>::to_vec);
        let rest = attributes(proto, 0).filter(|(kind, _)| *kind > 3);
        Some(Self {
            addresses: [either(1, 3)?, either(2, 4)?],
            protocol: *attribute(proto, 0, 1)?.first()?,
            ports: port(2).zip(port(3)).map(|(from, to)| [from, to]),
            rest: rest.map(|(kind, value)| (kind, value.to_vec())).collect(),
            zone: attribute(bytes, 0, 3).map(<[u8]>::to_vec),
        })
    }

    /// The way back.
    fn turned(&self) -> Self {
        let [from, to] = self.addresses.clone();
        let ports = self.ports.clone().map(|[from, to]| [to, from]);
        Self { addresses: [to, from], ports, ..self.clone() }
    }

    fn push(&self, bytes: &mut Vec<u8>) {
        push_nested(bytes, 1, |ip| {
            for (kind, address) in (1..).zip(&self.addresses) {
                push(ip, if address.len() == 4 { kind } else { kind + 2 }, address);
            }
        });
        push_nested(bytes, 2, |proto| {
            push(proto, 1, &[self.protocol]);
            for (kind, port) in (2..).zip(self.ports.iter().flatten()) {
                push(proto, kind, port);
            }
            for (kind, value) in &self.rest {
                push(proto, *kind, value);
            }
        });
        if let Some(zone) = &self.zone {
            push(bytes, 3, zone);
        }
    }

    /// One of the ends as the only one of a range.
    fn push_range(&self, bytes: &mut Vec<u8>, end: usize) {
        let Some(address) = self.addresses.get(end) else { return };
        let kinds = if address.len() == 4 { [1, 2] } else { [4, 5] };
        for kind in kinds {
            push(bytes, kind, address);
        }
        let own = self.ports.as_ref().and_then(|ports| ports.get(end));
        if let Some(port) = own {
            push_nested(bytes, 3, |ports| {
                for kind in [1, 2] {
                    push(ports, kind, port);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple() -> Tuple {
        Tuple {
            addresses: [vec![10, 0, 0, 1], vec![10, 0, 0, 2]],
            protocol: 6,
            ports: Some([vec![0, 80], vec![1, 0]]),
            rest: Vec::new(),
            zone: None,
        }
    }

    #[test]
    fn ends_survive_and_turn() {
        let mut bytes = Vec::new();
        tuple().push(&mut bytes);
        assert_eq!(Tuple::parse(&bytes), Some(tuple()));
        assert_eq!(tuple().turned().turned(), tuple());
        assert_eq!(Tuple::parse(&bytes[..9]), None);
    }

    #[test]
    fn flags_are_all_set() {
        let mut info = Vec::new();
        push_nested(&mut info, 1, |tcp| {
            push(tcp, 1, &[3]);
            push(tcp, 4, &[0x0a, 0]);
        });
        let mut made = Vec::new();
        push_all_flags(&mut made, &info);
        let tcp = attribute(&made, 0, 1).unwrap();
        assert_eq!(attribute(tcp, 0, 4), Some(&[0x0a, 0xff][..]));
        assert_eq!(attribute(tcp, 0, 1), Some(&[3][..]));
    }
}
