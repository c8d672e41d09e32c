//! Network namespaces (network_namespaces(7)): devices, addresses, routes, rules, neighbours, tunables, rules of netfilter and
//! the connections that it tracks, each in a file of its own.
//!
//! A restore makes devices before what refers to them, and sets them up behind tunables, which say how they come up.

mod addresses;
mod conntrack;
mod link_kinds;
mod links;
mod neighbours;
mod nftables;
mod outside;
mod programs;
mod routes;
mod saved;
mod space;
mod sysctls;
mod xtables;

use std::net::{Ipv4Addr, Ipv6Addr};

use nix::sched::{CloneFlags, unshare};
use proto::catalogue::{NETDEV, NETNS, STASIS_LINKS};
use proto::messages::{NetDeviceEntry, NetnsEntry, StasisLinkEntry};

use super::{NamespaceDump, NamespaceKind, NamespaceRestore};
use crate::error::{Class, Context as _, Explain, Problem, SysError};
use crate::image::{Images, NewImages};
use crate::netlink::{NETLINK_ROUTE, Netlink};
use crate::procfs::link::NamespaceType;
use outside::Origin;
use space::Space;
use sysctls::{Failing, Sysctls};

/// Network namespaces.
#[derive(Debug)]
pub struct NetNamespace;

/// Why one cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum NetRefusal {
    /// A device of a kind that is not made again.
    #[error("devices of kind {0} are not supported yet, or not with what this one has")]
    Device(String),
    /// A device that nobody made.
    #[error("it is a device of the machine, which cannot be made again")]
    Hardware,
    /// A part of another device.
    #[error("it is a part of a device of kind {0}, which is not supported yet")]
    Port(String),
    /// A device on top of another that is outside.
    #[error("it is a {0} on top of a device outside of the tree")]
    LowerOutside(String),
    /// A pair whose other end was outside.
    #[error("its other end was outside of the tree, and nobody says which that becomes")]
    NoOuterEnd,
    /// A macvlan whose lower device was outside.
    #[error("it was on top of a device outside of the tree, and nobody says which that becomes")]
    NoLower,
    /// A namespace of others.
    #[error("the network namespace was not the tree's own, and nobody hands it in as {0}")]
    NotHandedIn(String),
    /// Devices on top of each other.
    #[error("it is on top of a device that is missing or on top of it")]
    Circle,
    /// Routes by numbers of next hops.
    #[error("next hops with numbers of their own (ip nexthop) are not supported yet")]
    NextHops,
    /// A table that ends with a socket.
    #[error("it belongs to the program that made it, and ends with that, which is not supported yet")]
    OwnedTable,
    /// A chain without a name.
    #[error("it is a chain that is a part of a rule, which is not supported yet")]
    BoundChain,
    /// A table of others than iptables.
    #[error("tables of this sort are not supported yet")]
    Table,
    /// The path of a tunable leads elsewhere.
    #[error("the image names a tunable that is none of a network namespace")]
    SysctlPath,
    /// A tunable that has another value, or is not there.
    #[error("{0}")]
    Sysctl(SysError),
    /// A text that only a program can read.
    #[error("the images hold the text of {0}, and {1} did not take it")]
    Program(&'static str, &'static str),
}

impl Explain for NetRefusal {
    fn class(&self) -> Class {
        match self {
            Self::Sysctl(error) => error.class(),
            Self::Program(..) => Class::Environment,
            _ => Class::Refused,
        }
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            Self::NoLower => "pass --external macvlan[IN]:OUT".into(),
            Self::NotHandedIn(name) => format!("pass --inherit-fd fd[N]:{name}"),
            Self::NoOuterEnd => "pass --external veth[IN]:OUT or veth[IN]:OUT@BRIDGE".into(),
            Self::Sysctl(_) => "pass --weak-sysctls to go on without it".into(),
            Self::Program(_, program) => format!("install {program} here"),
            Self::SysctlPath | Self::Circle => return None,
            _ => "remove it first".into(),
        })
    }
}

/// An address as people write it.
fn address(bytes: &[u8]) -> String {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Ipv4Addr::from(four).to_string();
    }
    <[u8; 16]>::try_from(bytes).map_or_else(|_other| format!("{bytes:02x?}"), |six| Ipv6Addr::from(six).to_string())
}

impl NamespaceKind for NetNamespace {
    const NAME: &'static str = "net-namespace";
    const NOT_SAVED: &'static [&'static str] = &[
        "counters of devices, queueing disciplines (tc), XDP programs, policies of IPsec (xfrm)",
        "which IPv6 addresses are temporary, memberships in multicast groups that nobody's socket has",
        "addresses and ports that bridges and neighbours learned by themselves",
        "handles of nftables, numbers of tracked connections",
    ];
    const TYPE: NamespaceType = NamespaceType::Net;

    fn look(cx: NamespaceDump<'_>, problems: &mut Vec<Problem>) {
        if cx.options.net.empty || external_key(cx).is_some() {
            return;
        }
        if let Err(problem) = look_around(cx, problems) {
            problems.push(problem);
        }
    }

    fn dump(cx: NamespaceDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        let ext_key = external_key(cx);
        if ext_key.is_some() || cx.options.net.empty {
            return images.write(&NETNS, cx.id.into(), &[NetnsEntry { ext_key, ..NetnsEntry::default() }]);
        }
        let mut netlink = Netlink::open(NETLINK_ROUTE)?;
        let space = Space::new(cx.id);
        let links = links::list(&mut netlink)?;
        let tunables = Sysctls::read(&cx.options.inside.ids)?;
        let (mut devices, more) = links::dump(&links, &space, &cx.options.inside.ids);
        devices.iter_mut().for_each(|device| tunables.fill(device));
        images.write(&NETNS, cx.id.into(), &[tunables.entry()])?;
        images.write(&NETDEV, cx.id.into(), &devices)?;
        images.write(&STASIS_LINKS, cx.id.into(), &more)?;
        tunables.dump(cx.id, images)?;
        addresses::dump(&mut netlink, cx.id, images)?;
        routes::dump(&mut netlink, cx.id, images)?;
        neighbours::dump(&mut netlink, cx.id, images)?;
        nftables::dump(cx.id, images)?;
        xtables::dump(cx.id, images)?;
        conntrack::dump(cx.id, images)
    }

    fn check(cx: NamespaceRestore<'_>, problems: &mut Vec<Problem>) {
        outside::check(cx, problems);
    }

    /// In a user namespace of its own, the root would not be let into a namespace that is not its own.
    fn before_birth(cx: NamespaceRestore<'_>) -> Result<(), Problem> {
        if outside::origin(cx)? == Origin::Joined { outside::join(cx) } else { Ok(()) }
    }

    fn begin(cx: NamespaceRestore<'_>) -> Result<(), Problem> {
        if outside::origin(cx)? == Origin::Joined {
            return Ok(());
        }
        unshare(CloneFlags::CLONE_NEWNET).map_err(SysError::of("unshare(CLONE_NEWNET)"))?;
        Ok(())
    }

    fn connect_outside(cx: NamespaceRestore<'_>, root: i32) -> Result<(), Problem> {
        outside::connect(cx, root)
    }

    fn restore(cx: NamespaceRestore<'_>) -> Result<(), Problem> {
        if outside::origin(cx)? != Origin::Made || !cx.images.has(&NETDEV, cx.id.into()) {
            return Ok(());
        }
        let mut netlink = Netlink::open(NETLINK_ROUTE)?;
        let devices: Vec<NetDeviceEntry> = cx.images.read(&NETDEV, cx.id.into())?;
        let space = Space::alone(cx.id, &devices);
        let failing = if cx.options.weak_sysctls { Failing::Logged } else { Failing::Told };
        fill(&mut netlink, cx.images, &space, &devices, failing)
    }
}

/// The name under which the namespace that we are in is handed in again, if the user says that it is not the tree's.
fn external_key(cx: NamespaceDump<'_>) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let inode = std::fs::metadata("/proc/self/ns/net").ok()?.ino();
    let known = cx.options.net.external.iter().find(|(external, _)| *external == inode);
    known.map(|(_, name)| name.clone())
}

fn look_around(cx: NamespaceDump<'_>, problems: &mut Vec<Problem>) -> Result<(), Problem> {
    let mut netlink = Netlink::open(NETLINK_ROUTE)?;
    let links = links::list(&mut netlink)?;
    links::look(&links, &Space::new(cx.id), problems);
    routes::look(&mut netlink, problems);
    nftables::look(problems);
    xtables::look(problems);
    Ok(())
}

/// Fills the network namespace that we are in.
fn fill(
    netlink: &mut Netlink,
    images: &Images,
    space: &Space<'_>,
    devices: &[NetDeviceEntry],
    failing: Failing,
) -> Result<(), Problem> {
    let id = space.id;
    let more: Vec<StasisLinkEntry> =
        if images.has(&STASIS_LINKS, id.into()) { images.read(&STASIS_LINKS, id.into())? } else { Vec::new() };
    let tunables = Sysctls::from_images(images, id, devices)?;
    tunables.restore_general(failing)?;
    links::restore(netlink, devices, &more, space)?;
    tunables.restore_devices(failing)?;
    links::set_up(netlink, devices)?;
    let addresses = addresses::read(images, id)?;
    addresses::restore(netlink, &addresses)?;
    tunables.let_addresses_be_made(failing)?;
    addresses::prune(netlink, &addresses)?;
    neighbours::restore(netlink, images, id)?;
    routes::restore(netlink, images, id)?;
    nftables::restore(images, id)?;
    xtables::restore(images, id)?;
    programs::restore(images, id).while_trying_to("restore rules of netfilter")?;
    conntrack::restore(images, id)
}
