//! Devices of a network namespace, over rtnetlink(7): what each is, and what it is tied to.
//!
//! A device is made again under its index (`ifi_index` of `RTM_NEWLINK`), from the attributes of its kind as the kernel lists
//! them. First all are made, those that others are on top of before these; then bridges get their ports; then all are set up.
//!
//! The format has devices of a few kinds only, and of each a few properties: those are written as it wants them, and all that
//! the kernel tells goes into an image of our own, which a restore prefers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use proto::catalogue::STASIS_LINKS;
use proto::messages::{
    MacvlanLinkEntry, NdType, NetDeviceEntry, SitEntry, StasisLinkEntry, StasisNetlinkAttribute, TunLinkEntry,
};

use super::link_kinds::{self, LinkKind, Made};
use super::{NetRefusal, Space};
use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::Images;
use crate::netlink::{
    self, CHANGE, CREATE, Netlink, attribute, attributes, number, push, push_nested, push_text,
};
use crate::procfs::id_map::{self, IdMaps};
use crate::sys::tun;

/// Messages and attributes of `include/uapi/linux/{rtnetlink,if_link}.h`.
pub(super) const NEWLINK: u16 = 16;
pub(super) const GETLINK: u16 = 18;
const NEWLINKPROP: u16 = 108;
/// `struct ifinfomsg`.
pub(super) const HEADER: usize = 16;
const ADDRESS: u16 = 1;
const BROADCAST: u16 = 2;
pub(super) const IFNAME: u16 = 3;
pub(super) const MTU: u16 = 4;
pub(super) const LINK: u16 = 5;
pub(super) const MASTER: u16 = 10;
const TXQLEN: u16 = 13;
pub(super) const LINKINFO: u16 = 18;
const IFALIAS: u16 = 20;
const GROUP: u16 = 27;
const NUM_TX_QUEUES: u16 = 31;
const NUM_RX_QUEUES: u16 = 32;
const LINK_NETNSID: u16 = 37;
const PROTO_DOWN: u16 = 39;
const PROP_LIST: u16 = 52;
const ALT_IFNAME: u16 = 53;
const NET_NS_FD: u16 = 28;
pub(super) const INFO_KIND: u16 = 1;
pub(super) const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
pub(super) const VETH_INFO_PEER: u16 = 1;
/// Properties that every device has.
const KEPT: [u16; 7] = [BROADCAST, TXQLEN, IFALIAS, GROUP, NUM_TX_QUEUES, NUM_RX_QUEUES, PROTO_DOWN];
/// Those that are given at birth only.
const AT_BIRTH: [u16; 2] = [NUM_TX_QUEUES, NUM_RX_QUEUES];

/// Flags of `include/uapi/linux/if.h`: a user may set these and `IFF_UP` (`dev_change_flags`).
const SETTABLE: u32 = 0x4 | 0x20 | 0x80 | 0x100 | 0x200 | 0x1000 | 0x2000 | 0x4000 | 0x8000;
pub(super) const UP: u32 = libc::IFF_UP as u32;
pub(super) const LOOPBACK: &str = "lo";

/// A device as the kernel lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub index: u32,
    pub flags: u32,
    pub name: String,
    pub mtu: u32,
    pub address: Vec<u8>,
    pub kind: Option<String>,
    data: Vec<(u16, Vec<u8>)>,
    port: Vec<(u16, Vec<u8>)>,
    port_of: Option<String>,
    master: Option<u32>,
    /// What it is on top of, or the other end of a pair.
    pub lower: Option<u32>,
    /// By which number this namespace knows the one that `lower` is in, if that is another one.
    pub lower_space: Option<i32>,
    kept: Vec<(u16, Vec<u8>)>,
    alternative_names: Vec<String>,
}

impl Link {
    fn parse(payload: &[u8]) -> Option<Self> {
        let mut link = Self { index: number(payload, 4)?, flags: number(payload, 8)?, ..Self::default() };
        for (kind, value) in attributes(payload, HEADER) {
            match kind {
                ADDRESS => link.address = value.to_vec(),
                IFNAME => link.name = netlink::text(value),
                MTU => link.mtu = number(value, 0)?,
                LINK => link.lower = number(value, 0),
                LINK_NETNSID => link.lower_space = number(value, 0).map(|id| id as i32),
                MASTER => link.master = number(value, 0),
                LINKINFO => link.parse_info(value),
                PROP_LIST => {
                    let names = attributes(value, 0).filter(|(kind, _)| *kind == ALT_IFNAME);
                    link.alternative_names = names.map(|(_, name)| netlink::text(name)).collect();
                }
                _ if KEPT.contains(&kind) => link.kept.push((kind, value.to_vec())),
                _ => {}
            }
        }
        Some(link)
    }

    fn parse_info(&mut self, info: &[u8]) {
        let all = |value: &[u8]| attributes(value, 0).map(|(kind, value)| (kind, value.to_vec())).collect();
        for (kind, value) in attributes(info, 0) {
            match kind {
                INFO_KIND => self.kind = Some(netlink::text(value)),
                INFO_DATA => self.data = all(value),
                INFO_SLAVE_KIND => self.port_of = Some(netlink::text(value)),
                INFO_SLAVE_DATA => self.port = all(value),
                _ => {}
            }
        }
    }

    pub(super) fn object(&self) -> Object {
        Object::Named { kind: "network device", name: self.name.clone() }
    }

    pub(super) fn is_loopback(&self) -> bool {
        self.name == LOOPBACK && self.kind.is_none()
    }

    pub(super) fn has_kind(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }

    fn datum(&self, kind: u16) -> Option<u32> {
        let value = &self.data.iter().find(|(number, _)| *number == kind)?.1;
        match value.as_slice() {
            [byte] => Some((*byte).into()),
            [a, b] => Some(u16::from_ne_bytes([*a, *b]).into()),
            longer => number(longer, 0),
        }
    }
}

/// All devices of the network namespace that we are in.
pub(super) fn list(netlink: &mut Netlink) -> Result<Vec<Link>, Problem> {
    let found = netlink.list("RTM_GETLINK", GETLINK, &[0; HEADER])?;
    Ok(found.iter().filter_map(|message| Link::parse(&message.payload)).collect())
}

/// Finds devices that cannot be dumped.
pub(super) fn look(links: &[Link], space: &Space<'_>, problems: &mut Vec<Problem>) {
    for link in links {
        if let Some(refusal) = refuse(link, links, space) {
            problems.push(Problem::new(refusal).object(link.object()));
        }
    }
}

fn refuse(link: &Link, links: &[Link], space: &Space<'_>) -> Option<NetRefusal> {
    if link.is_loopback() {
        return None;
    }
    let Some(kind) = &link.kind else { return Some(NetRefusal::Hardware) };
    let known = link_kinds::find(kind);
    if known.is_none_or(|known| known.unsupported(&link.data)) {
        return Some(NetRefusal::Device(kind.clone()));
    }
    if kind == "tun" && !space.is_home() {
        return Some(NetRefusal::Elsewhere(kind.clone()));
    }
    if let Some(port_of) = link.port_of.as_deref().filter(|port_of| *port_of != "bridge" && *port_of != "vrf")
    {
        return Some(NetRefusal::Port(port_of.to_owned()));
    }
    let is_here = |index: u32| links.iter().any(|other| other.index == index);
    match (link.lower, link.lower_space) {
        // The other end of a pair outside is made again outside; so is what is on top of an outer device.
        (_, Some(number)) if !space.knows(number) => {
            let can_be_tied = space.is_home() && (kind == "veth" || kind == "macvlan");
            (!can_be_tied).then(|| NetRefusal::LowerOutside(kind.clone()))
        }
        (Some(lower), None) if lower != 0 && !is_here(lower) => Some(NetRefusal::LowerOutside(kind.clone())),
        _ => None,
    }
}

/// What images say of the devices.
pub(super) fn dump(
    links: &[Link],
    space: &Space<'_>,
    ids: &IdMaps,
) -> (Vec<NetDeviceEntry>, Vec<StasisLinkEntry>) {
    let entry = |link: &Link| NetDeviceEntry {
        r#type: nd_type(link).into(),
        ifindex: link.index,
        mtu: link.mtu,
        flags: link.flags,
        name: link.name.clone(),
        address: (!link.is_loopback()).then(|| link.address.clone()),
        master: link.master,
        macvlan: link.has_kind("macvlan").then(|| MacvlanLinkEntry {
            mode: link.datum(1).unwrap_or_default(),
            flags: Some(link.datum(2).unwrap_or_default()),
        }),
        tun: link.has_kind("tun").then(|| tun_entry(link, ids)),
        sit: link.has_kind("sit").then(|| sit_entry(link)),
        peer_ifindex: link.has_kind("veth").then_some(link.lower).flatten(),
        peer_nsid: link.has_kind("veth").then(|| peer_space(link, space)).flatten(),
        ..NetDeviceEntry::default()
    };
    let plain = |all: &[(u16, Vec<u8>)]| {
        let attribute = |(number, value): &(u16, Vec<u8>)| StasisNetlinkAttribute {
            number: (*number).into(),
            value: value.clone(),
        };
        all.iter().map(attribute).collect()
    };
    let own = |link: &Link| StasisLinkEntry {
        ifindex: link.index,
        kind: link.kind.clone(),
        data: plain(&link.data),
        port: plain(&link.port),
        attributes: plain(&link.kept),
        alternative_names: link.alternative_names.clone(),
        // Of one outside the index means nothing.
        lower: link.lower.filter(|_| link.lower_space.is_none_or(|number| space.knows(number))),
        lower_ns_id: link.lower_space.and_then(|number| space.id_of(number)),
    };
    (links.iter().map(entry).collect(), links.iter().map(own).collect())
}

/// The id of the namespace of the other end; none if it is not one of the tree's.
fn peer_space(link: &Link, space: &Space<'_>) -> Option<u32> {
    match link.lower_space {
        None => Some(space.id),
        Some(number) => space.id_of(number),
    }
}

fn nd_type(link: &Link) -> NdType {
    match link.kind.as_deref() {
        None => NdType::Loopback,
        Some("veth") => NdType::Veth,
        Some("tun") => NdType::Tun,
        Some("bridge") => NdType::Bridge,
        Some("macvlan") => NdType::Macvlan,
        Some("sit") => NdType::Sit,
        Some(_) => NdType::Extlink,
    }
}

/// Numbers of `IFLA_TUN_*`.
fn tun_entry(link: &Link, ids: &IdMaps) -> TunLinkEntry {
    let has = |kind: u16, flag: u32| if link.datum(kind) == Some(1) { flag } else { 0 };
    let kind = link.datum(3).unwrap_or(tun::IFF_TUN);
    let no_pi = if link.datum(4) == Some(1) { 0 } else { tun::IFF_NO_PI };
    let flags =
        kind | no_pi | has(5, tun::IFF_VNET_HDR) | has(6, tun::IFF_PERSIST) | has(7, tun::IFF_MULTI_QUEUE);
    TunLinkEntry {
        flags,
        owner: link.datum(1).map_or(-1, |id| id_map::inside(&ids.uids, id) as i32),
        group: link.datum(2).map_or(-1, |id| id_map::inside(&ids.gids, id) as i32),
        vnethdr: tun::DEFAULT_HEADER,
        sndbuf: i32::MAX as u32,
    }
}

/// Numbers of `IFLA_IPTUN_*` (`include/uapi/linux/if_tunnel.h`).
fn sit_entry(link: &Link) -> SitEntry {
    let word = |kind| link.datum(kind);
    SitEntry {
        link: word(1),
        local: word(2).map(|address| vec![address]).unwrap_or_default(),
        remote: word(3).map(|address| vec![address]).unwrap_or_default(),
        ttl: word(4),
        tos: word(5),
        flags: word(8),
        proto: word(9),
        pmtudisc: word(10).map(|value| value != 0),
        encap_type: word(15),
        encap_flags: word(16),
        encap_sport: word(17),
        encap_dport: word(18),
        ..SitEntry::default()
    }
}

/// What an image set has of the devices of a namespace beyond the format.
pub(super) fn more(images: &Images, id: u32) -> Result<Vec<StasisLinkEntry>, Problem> {
    if images.has(&STASIS_LINKS, id.into()) { images.read(&STASIS_LINKS, id.into()) } else { Ok(Vec::new()) }
}

/// Makes the devices of a namespace that are not there yet, and gives all of them their properties but for being up.
pub(super) fn restore(
    netlink: &mut Netlink,
    devices: &[NetDeviceEntry],
    more: &[StasisLinkEntry],
    space: &Space<'_>,
) -> Result<(), Problem> {
    let mut there: BTreeSet<u32> = list(netlink)?.iter().map(|link| link.index).collect();
    let mut waiting: Vec<&NetDeviceEntry> = devices.iter().collect();
    while !waiting.is_empty() {
        let before = waiting.len();
        let mut later = Vec::new();
        for device in waiting {
            let own = more.iter().find(|own| own.ifindex == device.ifindex);
            if there.contains(&device.ifindex) {
                continue;
            }
            if lower_in(own, device, space).is_some_and(|lower| !there.contains(&lower)) {
                later.push(device);
                continue;
            }
            make(netlink, device, own, space)
                .about(|| object(device))
                .while_trying_to("make a network device")?;
            there.insert(device.ifindex);
            if is_pair_here(device, space) {
                there.extend(device.peer_ifindex);
            }
        }
        if let Some(stuck) = later.first().filter(|_| later.len() == before) {
            return Err(Problem::new(NetRefusal::Circle).object(object(stuck)));
        }
        waiting = later;
    }
    for device in devices {
        let own = more.iter().find(|own| own.ifindex == device.ifindex);
        configure(netlink, device, own)
            .about(|| object(device))
            .while_trying_to("configure a network device")?;
    }
    Ok(())
}

pub(super) fn object(device: &NetDeviceEntry) -> Object {
    Object::Named { kind: "network device", name: device.name.clone() }
}

fn is_pair_here(device: &NetDeviceEntry, space: &Space<'_>) -> bool {
    device.r#type() == NdType::Veth && device.peer_nsid == Some(space.id)
}

/// The device of the same namespace that must be made before.
fn lower_in(own: Option<&StasisLinkEntry>, device: &NetDeviceEntry, space: &Space<'_>) -> Option<u32> {
    if device.r#type() == NdType::Veth {
        return None;
    }
    let own = own.filter(|own| own.lower_ns_id.is_none_or(|id| id == space.id))?;
    own.lower.filter(|lower| *lower != 0 && *lower != device.ifindex)
}

fn make(
    netlink: &mut Netlink,
    device: &NetDeviceEntry,
    own: Option<&StasisLinkEntry>,
    space: &Space<'_>,
) -> Result<(), Problem> {
    let kind = own.and_then(|own| own.kind.as_deref());
    let kind = match (kind, device.r#type()) {
        (Some(kind), _) => kind,
        (None, NdType::Veth) => "veth",
        (None, NdType::Tun) => "tun",
        (None, NdType::Bridge) => "bridge",
        (None, NdType::Macvlan) => "macvlan",
        (None, NdType::Sit) => "sit",
        (None, other) => return Err(Problem::new(NetRefusal::Device(other.as_str_name().to_owned()))),
    };
    let Some(known) = link_kinds::find(kind) else {
        return Err(Problem::new(NetRefusal::Device(kind.to_owned())));
    };
    match known.made {
        Made::Tun => return Err(Problem::new(NetRefusal::Device(kind.to_owned()))),
        Made::Pair if device.peer_nsid.is_none() => return Err(Problem::new(NetRefusal::NoOuterEnd)),
        Made::Pair | Made::Netlink | Made::Bare => {}
    }
    let mut payload = header(device.ifindex, 0, 0);
    push_names(&mut payload, device);
    let attributes = own.map(|own| own.attributes.as_slice()).unwrap_or_default();
    push_all(&mut payload, attributes, |kind, _| AT_BIRTH.contains(&kind));
    if let Some(lower) = own.and_then(|own| own.lower).filter(|_| known.made == Made::Netlink) {
        push(&mut payload, LINK, &lower.to_ne_bytes());
        if let Some(number) = own.and_then(|own| own.lower_ns_id).and_then(|id| space.number_of(id)) {
            push(&mut payload, LINK_NETNSID, &number.to_ne_bytes());
        }
    }
    push_nested(&mut payload, LINKINFO, |info| {
        push(info, INFO_KIND, kind.as_bytes());
        push_nested(info, INFO_DATA, |bytes| match known.made {
            Made::Pair => push_peer(bytes, device, space),
            Made::Bare => {}
            _ => match own {
                None => push_data(bytes, device),
                Some(own) => push_asked(bytes, &own.data, known),
            },
        });
    });
    netlink.request("RTM_NEWLINK", NEWLINK, CREATE, &payload)?;
    Ok(())
}

/// Those of these attributes that are wanted.
fn push_all(bytes: &mut Vec<u8>, all: &[StasisNetlinkAttribute], wanted: impl Fn(u16, &[u8]) -> bool) {
    for attribute in all {
        if let Ok(number) = u16::try_from(attribute.number)
            && wanted(number, &attribute.value)
        {
            push(bytes, number, &attribute.value);
        }
    }
}

/// What a request for a device of a kind takes of these attributes.
fn push_asked(bytes: &mut Vec<u8>, all: &[StasisNetlinkAttribute], kind: &LinkKind) {
    for attribute in all {
        if let Ok(number) = u16::try_from(attribute.number)
            && let Some(value) = kind.asked(number, &attribute.value)
        {
            push(bytes, number, value);
        }
    }
}

/// What the format knows of a kind.
pub(super) fn push_data(bytes: &mut Vec<u8>, device: &NetDeviceEntry) {
    if let Some(macvlan) = &device.macvlan {
        push(bytes, 1, &macvlan.mode.to_ne_bytes());
        push(bytes, 2, &(macvlan.flags.unwrap_or_default() as u16).to_ne_bytes());
    }
    if let Some(sit) = &device.sit {
        let addresses = [(2, sit.local.first()), (3, sit.remote.first())];
        for (kind, address) in addresses.into_iter().filter_map(|(kind, a)| Some((kind, a?))) {
            push(bytes, kind, &address.to_ne_bytes());
        }
        for (kind, byte) in [(4, sit.ttl), (5, sit.tos), (9, sit.proto), (10, sit.pmtudisc.map(u32::from))] {
            if let Some(byte) = byte {
                push(bytes, kind, &[byte as u8]);
            }
        }
    }
}

/// The other end of a pair: what it lacks, it gets as the device that it is.
fn push_peer(bytes: &mut Vec<u8>, device: &NetDeviceEntry, space: &Space<'_>) {
    let peer = device.peer_ifindex.unwrap_or_default();
    push_nested(bytes, VETH_INFO_PEER, |nested| {
        nested.extend(header(peer, 0, 0));
        if let Some(name) = device.peer_nsid.and_then(|id| space.name_of(id, peer)) {
            push_text(nested, IFNAME, name);
        }
        if let Some(fd) = device.peer_nsid.filter(|id| *id != space.id).and_then(|id| space.fd_of(id)) {
            push(nested, NET_NS_FD, &fd.to_ne_bytes());
        }
    });
}

/// What every device is told at its birth.
pub(super) fn push_names(payload: &mut Vec<u8>, device: &NetDeviceEntry) {
    push_text(payload, IFNAME, &device.name);
    push(payload, MTU, &device.mtu.to_ne_bytes());
    if let Some(address) = device.address.as_ref().filter(|address| !address.is_empty()) {
        push(payload, ADDRESS, address);
    }
}

/// `struct ifinfomsg`: the device, its flags, and which of them are to be changed.
pub fn header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend(index.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(change.to_ne_bytes());
    bytes
}

/// Name, size of packets, address, flags, master: what a device that was there already, or was born with another one, lacks.
fn configure(
    netlink: &mut Netlink,
    device: &NetDeviceEntry,
    own: Option<&StasisLinkEntry>,
) -> Result<(), Problem> {
    let here = netlink.get("RTM_GETLINK", GETLINK, &header(device.ifindex, 0, 0))?;
    let link = Link::parse(&here.payload).unwrap_or_default();
    let mut payload = header(device.ifindex, device.flags & SETTABLE, SETTABLE);
    if link.name != device.name {
        push_text(&mut payload, IFNAME, &device.name);
    }
    if link.mtu != device.mtu {
        push(&mut payload, MTU, &device.mtu.to_ne_bytes());
    }
    if let Some(address) = device.address.as_ref().filter(|a| !a.is_empty() && **a != link.address) {
        push(&mut payload, ADDRESS, address);
    }
    let attributes = own.map(|own| own.attributes.as_slice()).unwrap_or_default();
    push_all(&mut payload, attributes, |kind, value| {
        let changes = attribute(&here.payload, HEADER, kind) != Some(value);
        KEPT.contains(&kind) && !AT_BIRTH.contains(&kind) && changes
    });
    netlink.request("RTM_NEWLINK", NEWLINK, CHANGE, &payload)?;
    if let Some(master) = device.master {
        let mut payload = header(device.ifindex, 0, 0);
        push(&mut payload, MASTER, &master.to_ne_bytes());
        netlink.request("RTM_NEWLINK(IFLA_MASTER)", NEWLINK, CHANGE, &payload)?;
    }
    if let Some(own) = own {
        change_info(netlink, device, own)?;
    }
    let names = own.map(|own| own.alternative_names.as_slice()).unwrap_or_default();
    for name in names.iter().filter(|name| !link.alternative_names.contains(name)) {
        let mut payload = header(device.ifindex, 0, 0);
        push_nested(&mut payload, PROP_LIST, |list| push_text(list, ALT_IFNAME, name));
        netlink.request("RTM_NEWLINKPROP", NEWLINKPROP, CREATE, &payload)?;
    }
    Ok(())
}

/// Changes properties of its kind, or of a port of a bridge, that it was born with.
fn change_info(netlink: &mut Netlink, device: &NetDeviceEntry, own: &StasisLinkEntry) -> Result<(), Problem> {
    let here = netlink.get("RTM_GETLINK", GETLINK, &header(device.ifindex, 0, 0))?;
    let now = Link::parse(&here.payload).unwrap_or_default();
    let differs = |all: &[(u16, Vec<u8>)], kind: u16, value: &[u8]| {
        !all.iter().any(|(number, now)| *number == kind && now == value)
    };
    let mut data = Vec::new();
    if let Some(kind) = own.kind.as_deref().and_then(link_kinds::find).filter(|kind| kind.made == Made::Bare)
    {
        push_all(&mut data, &own.data, |number, value| {
            kind.takes(number) && differs(&now.data, number, value)
        });
    }
    let mut port = Vec::new();
    push_all(&mut port, &own.port, |number, value| {
        link_kinds::BRIDGE_PORT.contains(&number) && differs(&now.port, number, value)
    });
    let kinds = [
        (INFO_KIND, own.kind.as_deref().unwrap_or_default(), INFO_DATA, data),
        (INFO_SLAVE_KIND, "bridge", INFO_SLAVE_DATA, port),
    ];
    for (kind, name, place, attributes) in kinds.into_iter().filter(|(.., attributes)| !attributes.is_empty())
    {
        let mut payload = header(device.ifindex, 0, 0);
        push_nested(&mut payload, LINKINFO, |info| {
            push(info, kind, name.as_bytes());
            push_nested(info, place, |bytes| bytes.extend(attributes));
        });
        netlink.request("RTM_NEWLINK(IFLA_LINKINFO)", NEWLINK, CHANGE, &payload)?;
    }
    Ok(())
}

/// Sets a device up. A macvlan may have to wait for the one that it was: the namespace that was dumped is taken down by a
/// worker of the kernel (`cleanup_net` of net/core/net_namespace.c), some time after its last task has ended, and until then the address
/// is in use (`macvlan_open` of drivers/net/macvlan.c).
fn set_one_up(netlink: &mut Netlink, device: &NetDeviceEntry) -> Result<(), SysError> {
    const LIMIT: Duration = Duration::from_secs(2);
    let deadline = Instant::now() + LIMIT;
    loop {
        let up = netlink.request("RTM_NEWLINK", NEWLINK, CHANGE, &header(device.ifindex, UP, UP));
        match up {
            Err(SysError { errno: nix::errno::Errno::EADDRINUSE, .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            up => return up,
        }
    }
}

/// Sets devices up that were: those that others are on top of first, as they have the lower numbers as a rule.
pub(super) fn set_up(netlink: &mut Netlink, devices: &[NetDeviceEntry]) -> Result<(), Problem> {
    let mut waiting: Vec<&NetDeviceEntry> = devices.iter().filter(|device| device.flags & UP != 0).collect();
    for last in [false, true] {
        let mut failed = Vec::new();
        for device in waiting {
            match set_one_up(netlink, device) {
                Ok(()) => {}
                // What it is on top of is not up yet.
                Err(SysError { errno: nix::errno::Errno::ENETDOWN, .. }) if !last => failed.push(device),
                Err(e) => return Err(Problem::new(e).object(object(device)).step("set a network device up")),
            }
        }
        waiting = failed;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_taken_apart() {
        let mut payload = header(7, UP, 0);
        push_text(&mut payload, IFNAME, "v0");
        push(&mut payload, MTU, &1400_u32.to_ne_bytes());
        push(&mut payload, LINK, &8_u32.to_ne_bytes());
        push_nested(&mut payload, LINKINFO, |info| {
            push_text(info, INFO_KIND, "macvlan");
            push_nested(info, INFO_DATA, |data| push(data, 1, &4_u32.to_ne_bytes()));
        });
        let link = Link::parse(&payload).unwrap();
        assert_eq!((link.index, link.name.as_str(), link.mtu, link.lower), (7, "v0", 1400, Some(8)));
        assert!(link.has_kind("macvlan"));
        assert_eq!(link.datum(1), Some(4));
        assert_eq!(Link::parse(&payload[..6]), None);
    }
}
