//! Network namespaces (network_namespaces(7)): devices, addresses, routes, rules, neighbours, tunables, rules of netfilter and
//! the connections that it tracks, each in a file of its own.
//!
//! A restore makes devices before what refers to them, and sets them up behind tunables, which say how they come up.

mod addresses;
mod conntrack;
mod link_kinds;
mod links;
mod neighbours;
mod nexthops;
mod nftables;
mod outside;
mod programs;
mod routes;
mod saved;
mod space;
mod sysctls;
mod xtables;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;

use nix::sched::{CloneFlags, setns, unshare};
use proto::catalogue::{NETDEV, NETNS, STASIS_LINKS};
use proto::messages::{NetDeviceEntry, NetnsEntry};

use super::{NamespaceDump, NamespaceKind, NamespaceRestore};
use crate::error::{Class, Context as _, Explain, Problem, SysError};
use crate::image::{Images, NewImages};
use crate::kinds::files::tcp;
use crate::net_spaces::{self, NetSpace};
use crate::netlink::{NETLINK_ROUTE, Netlink};
use crate::procfs::link::NamespaceType;
use crate::restore::user_spaces::{self, Owners};
use crate::visit;
pub use links::header as link_header;
use space::{Other, Space};
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
    /// A device in a namespace where it is not made.
    #[error("devices of kind {0} are supported in the network namespace of the root of the tree only")]
    Elsewhere(String),
    /// A pair whose other end was outside.
    #[error("its other end was outside of the tree, and nobody says which that becomes")]
    NoOuterEnd,
    /// A macvlan whose lower device was outside.
    #[error("it was on top of a device outside of the tree, and nobody says which that becomes")]
    NoLower,
    /// Devices on top of each other.
    #[error("it is on top of a device that is missing or on top of it")]
    Circle,
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
    /// A text that only a program can write.
    #[error("there is no program {0}")]
    NoProgram(String),
    /// A program that failed.
    #[error("{0} said: {1}")]
    Said(String, String),
    /// A text that only a program can read.
    #[error("the images hold the text of {0}, and {1} did not take it")]
    Program(&'static str, &'static str),
}

impl Explain for NetRefusal {
    fn class(&self) -> Class {
        match self {
            Self::Sysctl(error) => error.class(),
            Self::Program(..) | Self::NoProgram(_) | Self::Said(..) => Class::Environment,
            _ => Class::Refused,
        }
    }

    fn help(&self) -> Option<String> {
        Some(match self {
            Self::NoLower => "pass --external macvlan[IN]:OUT".into(),
            Self::NoOuterEnd => "pass --external veth[IN]:OUT or veth[IN]:OUT@BRIDGE".into(),
            Self::Sysctl(_) => "pass --weak-sysctls to go on without it".into(),
            Self::Program(_, program) => format!("install {program} here"),
            Self::NoProgram(program) => format!("install {program} here"),
            Self::SysctlPath | Self::Circle | Self::Said(..) => return None,
            _ => "remove it first".into(),
        })
    }
}

/// An address as people write it.
fn address(bytes: &[u8]) -> String {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Ipv4Addr::from(four).to_string();
    }
    <[u8; 16]>::try_from(bytes)
        .map_or_else(|_other| format!("{bytes:02x?}"), |six| Ipv6Addr::from(six).to_string())
}

impl NamespaceKind for NetNamespace {
    const NAME: &'static str = "net-namespace";
    const NOT_SAVED: &'static [&'static str] = &[
        "counters of devices, queueing disciplines (tc), XDP programs, policies of IPsec (xfrm)",
        "which IPv6 addresses are temporary, memberships in multicast groups that nobody's socket has",
        "addresses and ports that bridges and neighbours learned by themselves",
        "handles of nftables, numbers of tracked connections, rules of ebtables that are not of nftables",
        "whether the state of a link that nobody has used is known",
    ];
    const TYPE: NamespaceType = NamespaceType::Net;

    fn look(cx: NamespaceDump<'_>, problems: &mut Vec<Problem>) {
        let mut look = |space: &NetSpace| {
            if is_left_out(cx, space.id) {
                return Ok(());
            }
            let _there = net_spaces::visit(&space.file)?;
            look_around(cx, space.id, problems)
        };
        let found: Vec<Problem> = cx.spaces.iter().filter_map(|space| look(space).err()).collect();
        problems.extend(found);
    }

    fn dump(cx: NamespaceDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        for space in cx.spaces {
            let _there = net_spaces::visit(&space.file)?;
            dump_space(cx, space.id, images)?;
        }
        Ok(())
    }

    fn check(cx: NamespaceRestore<'_>, problems: &mut Vec<Problem>) {
        outside::check(cx, problems);
    }

    fn begin(cx: NamespaceRestore<'_>) -> Result<(), Problem> {
        make_one()?;
        let (home, owners) = (net_spaces::here()?, Owners::read(cx.images)?);
        for id in cx.images.ids_of(&NETNS) {
            let Some(id) = u32::try_from(id).ok().filter(|id| *id != cx.id) else { continue };
            let space = if let Some(owner) = owners.of(NamespaceType::Net, id) {
                let users = cx.users.borrow();
                user_spaces::make_owned(users.get(owner.id), NamespaceType::Net)?
            } else {
                make_one()?;
                net_spaces::here()?.into()
            };
            cx.spaces.borrow_mut().push((id, space));
        }
        setns(&home, CloneFlags::CLONE_NEWNET).map_err(SysError::of("setns"))?;
        Ok(())
    }

    fn connect_outside(cx: NamespaceRestore<'_>, root: i32) -> Result<(), Problem> {
        // From the first packet on that could come in.
        let home = visit::of(root, NamespaceType::Net)?;
        let made = cx.spaces.borrow();
        let spaces = made.iter().map(|(id, fd)| (*id, fd.as_fd()));
        for (id, space) in std::iter::once((cx.id, home.as_fd())).chain(spaces) {
            let _there = net_spaces::visit(space)?;
            tcp::hold_in_new_space(cx.images, id)?;
        }
        outside::connect(cx, root)
    }

    fn restore(cx: NamespaceRestore<'_>) -> Result<(), Problem> {
        let home = net_spaces::here()?;
        let made = cx.spaces.borrow();
        let mut all = vec![(cx.id, home.as_fd())];
        all.extend(made.iter().map(|(id, fd)| (*id, fd.as_fd())));
        if cx.options.namespaces.empty_net {
            all.remove(0);
        }
        all.retain(|(id, _)| cx.images.has(&NETDEV, (*id).into()));
        let devices = all.iter().map(|(id, _)| cx.images.read(&NETDEV, (*id).into()));
        let devices: Vec<Vec<NetDeviceEntry>> = devices.collect::<Result<_, _>>()?;
        let failing = if cx.options.weak_sysctls { Failing::Logged } else { Failing::Told };
        let others = all.iter().zip(&devices);
        let others: Vec<Other<'_>> =
            others.map(|((id, fd), devices)| Other { id: *id, number: None, fd: *fd, devices }).collect();
        // All devices first, for some are in two namespaces.
        let mut begun = Vec::new();
        for own in &others {
            let _there = net_spaces::visit(own.fd)?;
            let mut netlink = Netlink::open(NETLINK_ROUTE)?;
            let mut space = Space { id: own.id, others: others.clone() };
            space.know_others(&mut netlink, cx.images)?;
            let tunables = Sysctls::from_images(cx.images, own.id, own.devices)?;
            tunables.restore_general(failing)?;
            links::restore(&mut netlink, own.devices, &links::more(cx.images, own.id)?, &space)?;
            begun.push((netlink, tunables));
        }
        for (own, (mut netlink, tunables)) in others.iter().zip(begun) {
            let _there = net_spaces::visit(own.fd)?;
            tunables.restore_devices(failing)?;
            links::set_up(&mut netlink, own.devices)?;
            fill(&mut netlink, cx.images, own.id, &tunables, failing)?;
        }
        Ok(())
    }
}

/// Takes us into a new network namespace.
fn make_one() -> Result<(), SysError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(SysError::of("unshare(CLONE_NEWNET)"))
}

/// The namespace that we are in, as it knows the others of the tree.
fn space_of<'a>(netlink: &mut Netlink, cx: NamespaceDump<'a>, id: u32) -> Result<Space<'a>, Problem> {
    let mut others = Vec::new();
    for space in cx.spaces {
        let number = space::number_of(netlink, &space.file)?;
        others.push(Other { id: space.id, number, fd: space.file.as_fd(), devices: &[] });
    }
    Ok(Space { id, others })
}

/// Whether the user wants nothing of the root's namespace.
fn is_left_out(cx: NamespaceDump<'_>, id: u32) -> bool {
    let is_external = cx.options.inside.shared.contains(&NamespaceType::Net);
    id == cx.id && (cx.options.namespaces.empty_net || is_external)
}

/// Finds what cannot be dumped of the namespace that we are in.
fn look_around(cx: NamespaceDump<'_>, id: u32, problems: &mut Vec<Problem>) -> Result<(), Problem> {
    let mut netlink = Netlink::open(NETLINK_ROUTE)?;
    let space = space_of(&mut netlink, cx, id)?;
    let links = links::list(&mut netlink)?;
    links::look(&links, &space, problems);
    nftables::look(problems);
    xtables::look(problems);
    Ok(())
}

/// Writes the images of the namespace that we are in.
fn dump_space(cx: NamespaceDump<'_>, id: u32, images: &mut NewImages) -> Result<(), Problem> {
    if is_left_out(cx, id) {
        let ext_key = cx.options.namespaces.external_name(cx.root, NamespaceType::Net).map(str::to_owned);
        let entry = NetnsEntry { ext_key, ..NetnsEntry::default() };
        return images.write(&NETNS, id.into(), &[entry]);
    }
    let mut netlink = Netlink::open(NETLINK_ROUTE)?;
    let space = space_of(&mut netlink, cx, id)?;
    let links = links::list(&mut netlink)?;
    let tunables = Sysctls::read(&cx.options.inside.ids)?;
    let (mut devices, more) = links::dump(&links, &space, &cx.options.inside.ids);
    for device in &mut devices {
        tunables.fill(device);
    }
    images.write(&NETNS, id.into(), &[NetnsEntry { nsids: space.numbers(), ..tunables.entry() }])?;
    images.write(&NETDEV, id.into(), &devices)?;
    images.write(&STASIS_LINKS, id.into(), &more)?;
    tunables.dump(id, images)?;
    addresses::dump(&mut netlink, id, images)?;
    nexthops::dump(&mut netlink, id, images)?;
    routes::dump(&mut netlink, id, images)?;
    neighbours::dump(&mut netlink, id, images)?;
    let tables = nftables::dump(id, images)?;
    let families = xtables::dump(id, images)?;
    programs::dump(cx.options.inside.home.as_ref(), id, &tables, &families, images)?;
    conntrack::dump(id, images)
}

/// Restores what is in the namespace that we are in, whose devices are up.
fn fill(
    netlink: &mut Netlink,
    images: &Images,
    id: u32,
    tunables: &Sysctls,
    failing: Failing,
) -> Result<(), Problem> {
    let addresses = addresses::read(images, id)?;
    addresses::restore(netlink, &addresses)?;
    tunables.let_addresses_be_made(failing)?;
    addresses::prune(netlink, &addresses)?;
    nexthops::restore(netlink, images, id)?;
    neighbours::restore(netlink, images, id)?;
    routes::restore(netlink, images, id)?;
    nftables::restore(images, id)?;
    xtables::restore(images, id)?;
    programs::restore(images, id).while_trying_to("restore rules of netfilter")?;
    conntrack::restore(images, id)
}
