//! Packet sockets: packet(7).
//!
//! Options are read from a duplicate of the descriptor, groups and rings by sock_diag(7). A socket is made deaf, and bound when
//! its filter is in place, so that it gets no packet that it was not to get. `mm/packet.rs` maps its rings.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use proto::messages::{FdTypes, FileEntry, PacketMclist, PacketRing, PacketSockEntry, StasisSocketEntry};

use super::socket_options::{self, Fresh, MORE, Place};
use super::socket_queue::Sockets;
use super::{FdFacts, FileKind, FileRefusal, FilesDump, FilesRestore, inet_address, packet_diag, set_common};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::sys::socket::{self, get_number, set_number, set_option};

/// Packet sockets.
#[derive(Debug)]
pub struct Packet;

/// Why such a socket cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum PacketRefusal {
    /// The kernel does not tell about it.
    #[error("the kernel tells nothing about packet sockets (CONFIG_PACKET_DIAG)")]
    NoDiag,
    /// The interface is gone.
    #[error("the interface {0}, which the packet socket is bound to, is not there")]
    NoInterface(String),
}

impl Explain for PacketRefusal {
    fn class(&self) -> Class {
        match self {
            Self::NoDiag => Class::Environment,
            Self::NoInterface(_) => Class::Refused,
        }
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            Self::NoDiag => "load the module af_packet_diag".into(),
            Self::NoInterface(name) => format!("make the interface {name} first"),
        })
    }
}

/// From `include/linux/socket.h` and `include/uapi/linux/if_packet.h`.
const LEVEL: i32 = 263;
const ADD_MEMBERSHIP: i32 = 1;
const RX_RING: i32 = 5;
const COPY_THRESH: i32 = 7;
const AUXDATA: i32 = 8;
const ORIGDEV: i32 = 9;
const VERSION: i32 = 10;
const RESERVE: i32 = 12;
const TX_RING: i32 = 13;
const LOSS: i32 = 14;
const VNET_HDR: i32 = 15;
const TIMESTAMP: i32 = 17;
const FANOUT: i32 = 18;
/// `SOCK_PACKET` of `include/linux/net.h`.
const OBSOLETE: i32 = 10;
/// `TPACKET_V3`.
const VERSION_3: u32 = 2;
/// `PACKET_FANOUT_FLAG_UNIQUEID`, where an option's value has it: it asks for a new number.
const UNIQUE_ID: u32 = 0x2000 << 16;
const NO_FANOUT: u32 = u32::MAX;

const OPTIONS: &[Place] = &[
    (LEVEL, 19, 4), // PACKET_TX_HAS_OFF
    (LEVEL, 20, 4), // PACKET_QDISC_BYPASS
    (LEVEL, 23, 4), // PACKET_IGNORE_OUTGOING
    (LEVEL, 24, 4), // PACKET_VNET_HDR_SZ
];

fn options() -> Vec<Place> {
    [MORE, OPTIONS].concat()
}

impl FileKind for Packet {
    const NAME: &'static str = "packet";
    const NOT_SAVED: &'static [&'static str] = &[
        "packets that wait in it or in its rings, and how far the rings have turned",
        "how often the same group was joined",
        "statistics",
        "a flock(2) lock on the socket itself, which keeps nobody from taking one",
        "time stamps of what is sent (PACKET_TX_TIMESTAMP)",
        "programs of its fanout",
    ];
    const TYPE: FdTypes = FdTypes::Packetsk;
    type Image = PacketSockEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        fd.socket.is_some_and(|s| s.domain == libc::AF_PACKET)
    }

    fn member(entry: &mut FileEntry) -> &mut Option<Box<PacketSockEntry>> {
        &mut entry.psk
    }

    fn dump(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<PacketSockEntry, Problem> {
        let Some(facts) = fd.socket else { return Err(Problem::new(FileRefusal::NoKind)) };
        let socket = fd.dup()?;
        let known = packet_diag::find(fd.stat.st_ino as u32).while_trying_to("ask the kernel about it")?;
        let known = known.ok_or_else(|| Problem::new(PacketRefusal::NoDiag))?;
        let number = |name| match get_number(socket, LEVEL, name) {
            // The obsolete type has no options.
            Err(SysError { errno: Errno::EOPNOTSUPP, .. }) => Ok(0),
            number => number,
        };
        let options = cx.state::<Fresh>().differences(socket, facts, &options());
        let interface = inet_address::interface_name(known.interface);
        let own = StasisSocketEntry { options, interface, ..StasisSocketEntry::default() };
        if own != StasisSocketEntry::default() {
            cx.state::<Sockets>().own.insert(id, own);
        }
        Ok(PacketSockEntry {
            id,
            r#type: facts.kind as u32,
            protocol: known.protocol.to_be().into(),
            flags: fd.flags() as u32,
            ifindex: known.interface,
            fown: fd.owner().while_trying_to("read the owner of its signals")?,
            opts: socket_options::read(socket, facts.domain).map_err(|p| p.step("read its options"))?,
            version: number(VERSION)? as u32,
            reserve: number(RESERVE)? as u32,
            aux_data: number(AUXDATA)? != 0,
            orig_dev: number(ORIGDEV)? != 0,
            vnet_hdr: number(VNET_HDR)? != 0,
            loss: number(LOSS)? != 0,
            timestamp: number(TIMESTAMP)? as u32,
            copy_thresh: known.copy_thresh,
            mclist: known.groups.into_iter().map(|(group, _)| group).collect(),
            fanout: if known.has_fanout { Some(number(FANOUT)? as u32) } else { None },
            rx_ring: known.rx_ring,
            tx_ring: known.tx_ring,
            ns_id: Some(2),
        })
    }

    fn check(cx: &FilesRestore<'_>, image: &PacketSockEntry) -> Result<(), Problem> {
        let own = cx.peek::<Sockets>().and_then(|sockets| sockets.own.get(&image.id));
        interface(image, own.and_then(|own| own.interface.as_deref())).map(drop)
    }

    fn restore(cx: &mut FilesRestore<'_>, image: &PacketSockEntry) -> Result<OwnedFd, Problem> {
        let own = cx.state::<Sockets>().own.get(&image.id).cloned().unwrap_or_default();
        let name = format!("protocol {:#x}", (image.protocol as u16).to_be());
        make(image, &own).about(|| Object::Named { kind: "packet socket", name })
    }
}

/// The interface that it is bound to, by number and name, if it is bound to one.
///
/// Numbers may be others by now: where the name is known, it counts.
fn interface(image: &PacketSockEntry, name: Option<&str>) -> Result<Option<(u32, String)>, Problem> {
    if image.ifindex == 0 {
        return Ok(None);
    }
    let found = match name {
        Some(name) => inet_address::interface_index(name).map(|index| (index, name.to_owned())),
        None => inet_address::interface_name(image.ifindex).map(|name| (image.ifindex, name)),
    };
    let described = || name.map_or_else(|| image.ifindex.to_string(), str::to_owned);
    found.map(Some).ok_or_else(|| Problem::new(PacketRefusal::NoInterface(described())))
}

fn make(image: &PacketSockEntry, own: &StasisSocketEntry) -> Result<OwnedFd, Problem> {
    // The obsolete type takes its protocol only when it is made.
    let is_obsolete = image.r#type as i32 == OBSOLETE;
    let protocol = if is_obsolete { image.protocol as i32 } else { 0 };
    let fd = socket::create(libc::AF_PACKET, image.r#type as i32, protocol)?;
    let socket = fd.as_fd();
    set_options(socket, image, own).map_err(|p| p.step("set its options"))?;
    for (name, ring) in [(RX_RING, &image.rx_ring), (TX_RING, &image.tx_ring)] {
        if let Some(ring) = ring {
            set_option(socket, LEVEL, name, &ring_request(ring, image.version))
                .while_trying_to("make its rings")?;
        }
    }
    for group in &image.mclist {
        set_option(socket, LEVEL, ADD_MEMBERSHIP, &group_request(group))
            .while_trying_to("join its groups")?;
    }
    let interface = interface(image, own.interface.as_deref())?;
    if let Some(address) = address(image, interface.as_ref(), is_obsolete) {
        socket::bind(socket, &address).while_trying_to("bind it to its interface")?;
    }
    if let Some(fanout) = image.fanout.filter(|fanout| *fanout != NO_FANOUT) {
        set_number(socket, LEVEL, FANOUT, (fanout & !UNIQUE_ID) as i32)
            .while_trying_to("let it share its packets")?;
    }
    set_common(socket, image.flags, Some(&image.fown))?;
    Ok(fd)
}

/// Sets what must be set before there are rings, and all the rest.
fn set_options(
    socket: BorrowedFd<'_>,
    image: &PacketSockEntry,
    own: &StasisSocketEntry,
) -> Result<(), Problem> {
    socket_options::write(socket, libc::AF_PACKET, &image.opts)?;
    let values = [
        (VERSION, image.version),
        (RESERVE, image.reserve),
        (VNET_HDR, image.vnet_hdr.into()),
        (LOSS, image.loss.into()),
        (AUXDATA, image.aux_data.into()),
        (ORIGDEV, image.orig_dev.into()),
        (TIMESTAMP, image.timestamp),
        (COPY_THRESH, image.copy_thresh),
    ];
    for (name, value) in values.into_iter().filter(|(_, value)| *value != 0) {
        set_number(socket, LEVEL, name, value as i32)?;
    }
    socket_options::write_more(socket, &own.options, &options())?;
    Ok(())
}

/// `struct tpacket_req`, and behind it what `struct tpacket_req3` has more.
fn ring_request(ring: &PacketRing, version: u32) -> Vec<u8> {
    let mut words = vec![ring.block_size, ring.block_nr, ring.frame_size, ring.frame_nr];
    if version == VERSION_3 {
        words.extend([ring.retire_tmo, ring.sizeof_priv, ring.features]);
    }
    words.into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// `struct packet_mreq`: interface, type, length and bytes of an address.
fn group_request(group: &PacketMclist) -> Vec<u8> {
    let mut bytes = group.index.to_ne_bytes().to_vec();
    bytes.extend((group.r#type as u16).to_ne_bytes());
    bytes.extend((group.addr.len() as u16).to_ne_bytes());
    bytes.extend(&group.addr);
    bytes.resize(bytes.len().max(16), 0);
    bytes
}

/// `struct sockaddr_ll`, or what counts of `struct sockaddr_pkt` of the obsolete type (no protocol); none if it needs not be bound.
fn address(image: &PacketSockEntry, interface: Option<&(u32, String)>, is_obsolete: bool) -> Option<Vec<u8>> {
    let mut bytes = (libc::AF_PACKET as u16).to_ne_bytes().to_vec();
    if is_obsolete {
        let (_, name) = interface?;
        bytes.extend(name.as_bytes().get(..13).unwrap_or(name.as_bytes()));
        bytes.resize(16, 0);
        return Some(bytes);
    }
    let index = interface.map_or(0, |(index, _)| *index);
    if index == 0 && image.protocol == 0 {
        return None;
    }
    bytes.extend((image.protocol as u16).to_ne_bytes());
    bytes.extend(index.to_ne_bytes());
    bytes.resize(20, 0);
    Some(bytes)
}

/// The id of the socket whose memory a task maps; one of its descriptors must be the socket.
pub fn mapped(cx: &mut FilesDump<'_>, pid: i32, ino: u64) -> Result<Option<u32>, Problem> {
    let link = format!("socket:[{ino}]");
    let has = |fd: &i32| {
        let found = nix::fcntl::readlink(format!("/proc/{pid}/fd/{fd}").as_str());
        found.is_ok_and(|found| found == link.as_str())
    };
    let Some(fd) = super::list(pid).into_iter().find(has) else { return Ok(None) };
    let pidfd = crate::sys::pidfd::open(pid)?;
    let described = cx.dump_fd(pid, pidfd.as_fd(), fd)?;
    let packet = described.filter(|file| file.r#type == i32::from(FdTypes::Packetsk));
    Ok(packet.map(|file| file.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_as_long_as_the_kernel_wants_them() {
        let image = PacketSockEntry { protocol: 0x0300, ifindex: 1, ..PacketSockEntry::default() };
        let lo = (1, "lo".to_owned());
        assert_eq!(address(&image, Some(&lo), false).unwrap().len(), 20);
        assert_eq!(address(&image, Some(&lo), true).unwrap().len(), 16);
        assert_eq!(address(&PacketSockEntry::default(), None, false), None);
        assert_eq!(group_request(&PacketMclist { addr: vec![1; 6], ..PacketMclist::default() }).len(), 16);
    }
}
