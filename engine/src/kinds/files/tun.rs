//! Descriptors of TUN and TAP devices: `/dev/net/tun`, `Documentation/networking/tuntap.rst`.
//!
//! The device itself is one of its network namespace (`namespaces/net/links.rs`), where it waits under its name and index; a
//! restore attaches to it. One that was attached to nothing is opened, and no more.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};

use proto::catalogue::STASIS_TUN;
use proto::messages::{FdTypes, FileEntry, StasisTunEntry, TunfileEntry};

use super::{FdFacts, FileKind, FilesDump, FilesRestore, set_common};
use crate::error::{Class, Context as _, Explain, Object, Problem};
use crate::image::NewImages;
use crate::procfs::link::{Link, NamespaceType};
use crate::sys::tun;

/// Descriptors of TUN and TAP devices.
#[derive(Debug)]
pub struct Tun;

/// Why one cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum TunRefusal {
    /// Its device is one of the machine.
    #[error("its device {0} is in a network namespace that is not the tree's own")]
    Outside(String),
    /// Filters of packets.
    #[error("the images do not say how it was attached to {0}")]
    Unknown(String),
}

impl Explain for TunRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        Some("close it first, and let the program open it again".into())
    }
}

/// Major and minor number (`TUN_MINOR` of `include/linux/miscdevice.h`).
const NUMBERS: (u32, u32) = (10, 200);

/// Whether it is a descriptor of `/dev/net/tun`, whatever the name of the node.
pub(super) fn is_tun(fd: &FdFacts<'_>) -> bool {
    let numbers = (libc::major(fd.stat.st_rdev), libc::minor(fd.stat.st_rdev));
    !fd.is_path_only()
        && fd.file_type() == libc::S_IFCHR
        && numbers == NUMBERS
        && matches!(fd.link(), Link::Path(_))
}

/// What the format has no place for, by file.
#[derive(Debug, Default)]
struct Own(Option<HashMap<u32, StasisTunEntry>>);

impl FileKind for Tun {
    const NAME: &'static str = "tun";
    const NOT_SAVED: &'static [&'static str] =
        &["packets that nobody has read", "offloads and filters of packets"];
    const TYPE: FdTypes = FdTypes::Tunf;
    type Image = TunfileEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        is_tun(fd)
    }

    fn member(entry: &mut FileEntry) -> &mut Option<Box<TunfileEntry>> {
        &mut entry.tunf
    }

    fn dump(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<TunfileEntry, Problem> {
        let attached = tun::attached(fd.dup()?)?;
        let fown = fd.owner().while_trying_to("read the owner of its signals")?;
        let flags = fd.flags() as u32;
        let mut entry = TunfileEntry { id, ..TunfileEntry::default() };
        let mut own = StasisTunEntry { id, flags, fown, ..StasisTunEntry::default() };
        if let Some((name, device_flags)) = attached {
            if !cx.options.inside.has(NamespaceType::Net) {
                return Err(Problem::new(TunRefusal::Outside(name)));
            }
            let (room, header) = tun::sizes(fd.dup()?)?;
            own.sndbuf = Some(room).filter(|room| *room != i32::MAX);
            own.vnethdr = Some(header).filter(|header| *header != tun::DEFAULT_HEADER as i32);
            own.device_flags = Some(device_flags);
            entry.detached = (device_flags & tun::IFF_DETACH_QUEUE != 0).then_some(true);
            entry.netdev = Some(name);
        }
        cx.state::<Own>().0.get_or_insert_default().insert(id, own);
        Ok(entry)
    }

    fn finish(cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        let Some(own) = cx.state::<Own>().0.take() else { return Ok(()) };
        let mut entries: Vec<StasisTunEntry> = own.into_values().collect();
        entries.sort_by_key(|entry| entry.id);
        images.write(&STASIS_TUN, 0, &entries)
    }

    fn restore(cx: &mut FilesRestore<'_>, image: &TunfileEntry) -> Result<OwnedFd, Problem> {
        if cx.state::<Own>().0.is_none() {
            let entries: Vec<StasisTunEntry> =
                if cx.images.has(&STASIS_TUN, 0) { cx.images.read(&STASIS_TUN, 0)? } else { Vec::new() };
            let own = entries.into_iter().map(|entry| (entry.id, entry)).collect();
            cx.state::<Own>().0 = Some(own);
        }
        let own = cx.state::<Own>().0.as_ref().and_then(|own| own.get(&image.id)).copied();
        make(image, own.as_ref()).about(|| Object::Named { kind: "tun", name: image.netdev().to_owned() })
    }
}

fn make(image: &TunfileEntry, own: Option<&StasisTunEntry>) -> Result<OwnedFd, Problem> {
    let fd = tun::open()?;
    if let Some(name) = &image.netdev {
        let flags = own.and_then(|own| own.device_flags);
        let flags = flags.ok_or_else(|| Problem::new(TunRefusal::Unknown(name.clone())))?;
        let momentary = tun::IFF_PERSIST | tun::IFF_ATTACH_QUEUE | tun::IFF_DETACH_QUEUE;
        tun::attach(&fd, name, flags & !momentary).while_trying_to("attach it to its device")?;
        if image.detached() {
            tun::detach_queue(&fd).while_trying_to("take its queue out of use")?;
        }
        // While nobody was attached, it stayed by itself.
        tun::set_persistent(&fd, flags & tun::IFF_PERSIST != 0)?;
        if let Some(room) = own.and_then(|own| own.sndbuf) {
            tun::set_room(&fd, room)?;
        }
        if let Some(header) = own.and_then(|own| own.vnethdr) {
            tun::set_header(&fd, header)?;
        }
    }
    if let Some(own) = own {
        set_common(fd.as_fd(), own.flags, Some(&own.fown))?;
    }
    Ok(fd)
}
