//! What ties a network namespace to the outside: the other ends of pairs, and the devices that macvlans are on top of. Devices of
//! TUN and TAP are made from there, too.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use proto::catalogue::NETDEV;
use proto::messages::{NdType, NetDeviceEntry};

use super::super::NamespaceRestore;
use super::links::{
    GETLINK, HEADER, IFNAME, INFO_DATA, INFO_KIND, LINK, LINKINFO, MASTER, MTU, NEWLINK, UP, VETH_INFO_PEER,
    header, object,
};
use super::{NetRefusal, links};
use crate::error::{Context as _, Object, Problem, SysError};
use crate::inside;
use crate::net_spaces;
use crate::netlink::{CHANGE, CREATE, NETLINK_ROUTE, Netlink, number, push, push_nested, push_text};
use crate::options::{OuterEnd, RestoreOptions};
use crate::procfs::id_map::{self, IdMaps};
use crate::procfs::link::NamespaceType;
use crate::sys::tun;
use crate::visit;

/// From `include/uapi/linux/if_link.h`.
const NET_NS_PID: u16 = 19;

/// The other end of a device, as the user named it.
fn outer_end<'a>(options: &'a RestoreOptions, device: &NetDeviceEntry) -> Option<&'a OuterEnd> {
    let all = match device.r#type() {
        NdType::Veth => &options.net.pairs,
        NdType::Macvlan => &options.net.macvlans,
        _ => return None,
    };
    all.iter().find(|end| end.inner == device.name)
}

/// Devices of the namespace of the root of the tree; none if nothing is to be in it.
fn devices(cx: NamespaceRestore<'_>) -> Result<Vec<NetDeviceEntry>, Problem> {
    if cx.options.namespaces.empty_net || !cx.images.has(&NETDEV, cx.id.into()) {
        return Ok(Vec::new());
    }
    cx.images.read(&NETDEV, cx.id.into())
}

/// Those whose other end was outside.
fn tied(cx: NamespaceRestore<'_>, devices: Vec<NetDeviceEntry>) -> Result<Vec<NetDeviceEntry>, Problem> {
    let more = links::more(cx.images, cx.id)?;
    let has_lower = |device: &NetDeviceEntry| {
        more.iter().any(|own| own.ifindex == device.ifindex && own.lower.is_some_and(|lower| lower != 0))
    };
    let is_tied = |device: &NetDeviceEntry| match device.r#type() {
        NdType::Veth => device.peer_nsid.is_none(),
        NdType::Macvlan => !has_lower(device),
        _ => false,
    };
    Ok(devices.into_iter().filter(is_tied).collect())
}

/// Finds what would make a restore fail.
pub(super) fn check(cx: NamespaceRestore<'_>, problems: &mut Vec<Problem>) {
    match devices(cx).and_then(|devices| tied(cx, devices)) {
        Ok(devices) => {
            let unknown = devices.iter().filter(|d| outer_end(cx.options, d).is_none());
            problems.extend(unknown.map(|device| {
                let refusal = match device.r#type() {
                    NdType::Macvlan => NetRefusal::NoLower,
                    _ => NetRefusal::NoOuterEnd,
                };
                Problem::new(refusal).object(object(device))
            }));
        }
        Err(problem) => problems.push(problem),
    }
}

/// Makes devices that reach outside, from there: `root` is in the namespace.
pub(super) fn connect(cx: NamespaceRestore<'_>, root: i32) -> Result<(), Problem> {
    let is_tunnel = |device: &NetDeviceEntry| device.r#type() == NdType::Tun;
    let (tunnels, others): (Vec<_>, Vec<_>) = devices(cx)?.into_iter().partition(is_tunnel);
    if !tunnels.is_empty() {
        make_tunnels(&tunnels, root, &inside::ids_of(root, cx.types)?)?;
    }
    let devices = tied(cx, others)?;
    if devices.is_empty() {
        return Ok(());
    }
    let mut netlink = Netlink::open(NETLINK_ROUTE)?;
    for device in &devices {
        let Some(end) = outer_end(cx.options, device) else { continue };
        let made = match device.r#type() {
            NdType::Macvlan => make_macvlan(&mut netlink, device, end, root),
            _ => make_pair(&mut netlink, device, end, root),
        };
        made.about(|| object(device)).while_trying_to("connect it with the outside")?;
    }
    Ok(())
}

/// Makes devices of TUN and TAP in the namespace that `root` is in, with the `/dev/net/tun` that is outside: one that is inside may be none, and
/// the root of a user namespace may not open ours.
fn make_tunnels(devices: &[NetDeviceEntry], root: i32, ids: &IdMaps) -> Result<(), Problem> {
    let _there = net_spaces::visit(visit::of(root, NamespaceType::Net)?)?;
    devices.iter().try_for_each(|device| {
        make_tun(device, ids).about(|| object(device)).while_trying_to("make a network device")
    })
}

/// What a device of the tree is told when it is born from outside.
fn push_inner(bytes: &mut Vec<u8>, device: &NetDeviceEntry, root: i32) {
    links::push_names(bytes, device);
    push(bytes, NET_NS_PID, &root.to_ne_bytes());
}

/// Makes a device outside. The name may still be that of the one before: of a namespace whose last task has ended, the kernel
/// removes the devices a moment later (`cleanup_net` of net/core/net_namespace.c).
fn create(netlink: &mut Netlink, payload: &[u8]) -> Result<(), SysError> {
    const LIMIT: Duration = Duration::from_secs(3);
    const STEP: Duration = Duration::from_millis(5);
    let deadline = Instant::now() + LIMIT;
    loop {
        match netlink.request("RTM_NEWLINK", NEWLINK, CREATE, payload) {
            Err(SysError { errno: Errno::EEXIST, .. }) if Instant::now() < deadline => {
                std::thread::sleep(STEP);
            }
            made => return made,
        }
    }
}

/// The pair belongs to the namespace: with that, both ends go.
fn make_pair(
    netlink: &mut Netlink,
    device: &NetDeviceEntry,
    end: &OuterEnd,
    root: i32,
) -> Result<(), Problem> {
    let mut payload = header(0, 0, 0);
    push_text(&mut payload, IFNAME, &end.outer);
    push(&mut payload, MTU, &device.mtu.to_ne_bytes());
    push_nested(&mut payload, LINKINFO, |info| {
        push(info, INFO_KIND, b"veth");
        push_nested(info, INFO_DATA, |data| {
            push_nested(data, VETH_INFO_PEER, |peer| {
                peer.extend(header(device.ifindex, 0, 0));
                push_inner(peer, device, root);
            });
        });
    });
    create(netlink, &payload)?;
    let outer = index_of(netlink, &end.outer)?;
    if let Some(bridge) = &end.bridge {
        let bridge =
            index_of(netlink, bridge).about(|| Object::Named { kind: "bridge", name: bridge.clone() })?;
        let mut payload = header(outer, 0, 0);
        push(&mut payload, MASTER, &bridge.to_ne_bytes());
        netlink.request("RTM_NEWLINK(IFLA_MASTER)", NEWLINK, CHANGE, &payload)?;
    }
    netlink.request("RTM_NEWLINK", NEWLINK, CHANGE, &header(outer, UP, UP))?;
    Ok(())
}

fn make_macvlan(
    netlink: &mut Netlink,
    device: &NetDeviceEntry,
    end: &OuterEnd,
    root: i32,
) -> Result<(), Problem> {
    let lower = index_of(netlink, &end.outer)?;
    let mut payload = header(device.ifindex, 0, 0);
    push_inner(&mut payload, device, root);
    push(&mut payload, LINK, &lower.to_ne_bytes());
    push_nested(&mut payload, LINKINFO, |info| {
        push(info, INFO_KIND, b"macvlan");
        push_nested(info, INFO_DATA, |data| links::push_data(data, device));
    });
    netlink.request("RTM_NEWLINK", NEWLINK, CREATE, &payload)?;
    Ok(())
}

/// A device of TUN or TAP, which is kept by nobody but itself until its descriptors are there (`files/tun.rs`).
fn make_tun(device: &NetDeviceEntry, ids: &IdMaps) -> Result<(), Problem> {
    let entry = device.tun.as_ref().ok_or_else(|| Problem::new(NetRefusal::Device("tun".into())))?;
    let file = tun::open()?;
    tun::set_index(&file, device.ifindex)?;
    tun::attach(&file, &device.name, entry.flags & !tun::IFF_PERSIST)?;
    // We are outside of the user namespace.
    if entry.owner != -1 {
        tun::set_owner(&file, tun::Owner::User, id_map::outside(&ids.uids, entry.owner as u32))?;
    }
    if entry.group != -1 {
        tun::set_owner(&file, tun::Owner::Group, id_map::outside(&ids.gids, entry.group as u32))?;
    }
    tun::set_persistent(&file, true)?;
    Ok(())
}

fn index_of(netlink: &mut Netlink, name: &str) -> Result<u32, SysError> {
    let mut payload = vec![0; HEADER];
    push_text(&mut payload, IFNAME, name);
    let found = netlink.get("RTM_GETLINK", GETLINK, &payload)?;
    Ok(number(&found.payload, 4).unwrap_or_default())
}
