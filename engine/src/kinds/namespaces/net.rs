//! Network namespaces (network_namespaces(7)): whether the loopback device is up.
//!
//! Everything else in one is refused by name for now. Addresses and routes of the loopback device come with its flag.

use proto::catalogue::{NETDEV, NETNS};
use proto::messages::{NdType, NetDeviceEntry, NetnsEntry};

use super::{NamespaceDump, NamespaceKind, NamespaceRestore};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::image::NewImages;
use crate::procfs::link::NamespaceType;
use crate::sys::link;

/// Network namespaces.
#[derive(Debug)]
pub struct NetNamespace;

/// Why one cannot be dumped.
#[derive(Debug, thiserror::Error)]
pub enum NetRefusal {
    /// Another device than the loopback device.
    #[error("network devices other than lo are not supported yet")]
    Device,
}

impl Explain for NetRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }
}

/// The one device that every network namespace has.
const LOOPBACK: &str = "lo";
/// Its index (`LOOPBACK_IFINDEX` of `include/net/flow.h`), and the size of its packets (`loopback_setup`).
const LOOPBACK_INDEX: u32 = 1;
const LOOPBACK_MTU: u32 = 65536;

/// The names of all devices.
fn devices() -> Result<Vec<String>, Problem> {
    const FILE: &str = "/proc/self/net/dev";
    let text = std::fs::read_to_string(FILE).map_err(SysError::io("read"));
    let text = text.about(|| Object::Path(FILE.into()))?;
    let name = |line: &str| Some(line.split_once(':')?.0.trim().to_owned());
    // Two lines of headings.
    Ok(text.lines().skip(2).filter_map(name).collect())
}

impl NamespaceKind for NetNamespace {
    const NAME: &'static str = "net-namespace";
    const NOT_SAVED: &'static [&'static str] =
        &["sysctls", "addresses, routes and rules that were added", "tables of nftables and iptables"];
    const TYPE: NamespaceType = NamespaceType::Net;

    fn look(cx: NamespaceDump<'_>, problems: &mut Vec<Problem>) {
        if cx.options.namespaces.empty_net || cx.options.inside.shared.contains(&Self::TYPE) {
            return;
        }
        match devices() {
            Ok(names) => problems.extend(names.into_iter().filter(|name| name != LOOPBACK).map(|name| {
                Problem::new(NetRefusal::Device).object(Object::Named { kind: "network device", name })
            })),
            Err(problem) => problems.push(problem),
        }
    }

    fn dump(cx: NamespaceDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        let ext_key = cx.options.namespaces.external_name(cx.root, Self::TYPE).map(str::to_owned);
        let is_external = ext_key.is_some();
        images.write(&NETNS, cx.id.into(), &[NetnsEntry { ext_key, ..NetnsEntry::default() }])?;
        if is_external || cx.options.namespaces.empty_net {
            return Ok(());
        }
        let device = NetDeviceEntry {
            r#type: NdType::Loopback.into(),
            ifindex: LOOPBACK_INDEX,
            mtu: LOOPBACK_MTU,
            flags: link::flags(LOOPBACK)?.into(),
            name: LOOPBACK.into(),
            ..NetDeviceEntry::default()
        };
        images.write(&NETDEV, cx.id.into(), &[device])
    }

    fn restore(cx: NamespaceRestore<'_>) -> Result<(), Problem> {
        if cx.options.namespaces.empty_net || !cx.images.has(&NETDEV, cx.id.into()) {
            return Ok(());
        }
        let devices: Vec<NetDeviceEntry> = cx.images.read(&NETDEV, cx.id.into())?;
        for device in devices.iter().filter(|device| device.name == LOOPBACK) {
            let up = libc::IFF_UP as u16;
            let flags = link::flags(LOOPBACK)? & !up | device.flags as u16 & up;
            link::set_flags(LOOPBACK, flags).while_trying_to("set the loopback device up")?;
        }
        Ok(())
    }
}
