//! Maps of BPF: `anon_inode:bpf-map`. Hashes and arrays, whose elements system calls can read and write.
//!
//! Elements are read through a descriptor of our own, by the map's id, since one of the task's may be write-only. Several
//! descriptions may be of one map. A map is made again for the tree alone: programs in the kernel, and processes outside,
//! keep the old one.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use proto::catalogue::BPFMAP_DATA;
use proto::messages::{BpfmapDataEntry, BpfmapFileEntry, FdTypes, FileEntry};

use super::{FdFacts, FileKind, FilesDump, FilesRestore, set_common};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::image::{Images, NewImages};
use crate::procfs::link::Link;
use crate::sys::bpf::{self, MapSpec};

/// Maps of BPF.
#[derive(Debug)]
pub struct BpfMap;

/// Why a map cannot be dumped or restored.
#[derive(Debug, thiserror::Error)]
pub enum BpfMapRefusal {
    /// Another type of map.
    #[error("it is a BPF map of type {0}; only hashes (1) and arrays (2) can be saved")]
    Type(u32),
    /// It belongs to a network device.
    #[error("it is a BPF map on a network device")]
    Offloaded,
    /// Keys and values of an image do not fit together.
    #[error("the elements of BPF map {0} in the images are damaged")]
    Damaged(u32),
}

impl Explain for BpfMapRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Type(_) | Self::Offloaded => Some("let a process outside of the tree hold the map".into()),
            Self::Damaged(_) => None,
        }
    }
}

// From include/uapi/linux/bpf.h.
const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
/// `BPF_F_RDONLY` and `BPF_F_WRONLY`: limits of a descriptor, not of the map.
const BPF_F_RDONLY: u32 = 1 << 3;
const BPF_F_WRONLY: u32 = 1 << 4;

/// A key and its value.
type Element = (Vec<u8>, Vec<u8>);

/// Elements by map.
#[derive(Debug, Default)]
struct Elements(BTreeMap<u32, Vec<Element>>);

/// Maps that were made, by the id that they had.
#[derive(Debug, Default)]
struct Made(BTreeMap<u32, (OwnedFd, u32)>);

impl FileKind for BpfMap {
    const NAME: &'static str = "bpf-map";
    const NOT_SAVED: &'static [&'static str] = &[
        "that programs in the kernel and processes outside use the same map",
        "types of keys and values (BTF), and timers and locks in values",
        "order of a hash's elements",
    ];
    const TYPE: FdTypes = FdTypes::Bpfmap;
    type Image = BpfmapFileEntry;

    fn claims(fd: &FdFacts<'_>) -> bool {
        fd.link() == Link::AnonInode(b"bpf-map")
    }

    fn member(entry: &mut FileEntry) -> &mut Option<Box<BpfmapFileEntry>> {
        &mut entry.bpf
    }

    fn dump(cx: &mut FilesDump<'_>, fd: &FdFacts<'_>, id: u32) -> Result<BpfmapFileEntry, Problem> {
        let step = "read what the map is";
        let info = bpf::info(fd.dup()?).while_trying_to(step)?;
        if ![BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY].contains(&info.kind) {
            return Err(Problem::new(BpfMapRefusal::Type(info.kind)));
        }
        if info.ifindex != 0 {
            return Err(Problem::new(BpfMapRefusal::Offloaded));
        }
        if !cx.looks_only && !cx.state::<Elements>().0.contains_key(&info.id) {
            let map = bpf::by_id(info.id, BPF_F_RDONLY)?;
            let elements = read(map.as_fd(), info.key_size as usize, info.value_size as usize);
            cx.state::<Elements>().0.insert(info.id, elements.while_trying_to("read its elements")?);
        }
        let name = info.name.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(BpfmapFileEntry {
            id,
            flags: fd.flags() as u32,
            pos: fd.info.pos as u64,
            fown: fd.owner().while_trying_to("read the owner of its signals")?,
            map_type: info.kind,
            key_size: info.key_size,
            value_size: info.value_size,
            map_id: info.id,
            max_entries: info.max_entries,
            map_flags: info.map_flags,
            memlock: fd.info.decimal("memlock").while_trying_to(step)?,
            frozen: fd.info.decimal::<u32>("frozen").while_trying_to(step)? != 0,
            map_name: String::from_utf8_lossy(name).into_owned(),
            ifindex: 0,
            mnt_id: None,
            map_extra: Some(info.map_extra),
        })
    }

    fn finish(cx: &mut FilesDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        let maps = std::mem::take(cx.state::<Elements>()).0;
        if maps.is_empty() {
            return Ok(());
        }
        images.write_with(&BPFMAP_DATA, 0, |writer| {
            for (map_id, elements) in maps {
                let keys: Vec<u8> = elements.iter().flat_map(|(key, _)| key.iter().copied()).collect();
                let values: Vec<u8> = elements.iter().flat_map(|(_, value)| value.iter().copied()).collect();
                let (keys_bytes, values_bytes) = (keys.len() as u32, values.len() as u32);
                let count = elements.len() as u32;
                writer.entry(&BpfmapDataEntry { map_id, keys_bytes, values_bytes, count })?;
                writer.extra(&keys)?;
                writer.extra(&values)?;
            }
            Ok(())
        })
    }

    fn check(cx: &FilesRestore<'_>, image: &BpfmapFileEntry) -> Result<(), Problem> {
        load(cx.images, image).map(|_| ()).about(object)
    }

    fn restore(cx: &mut FilesRestore<'_>, image: &BpfmapFileEntry) -> Result<OwnedFd, Problem> {
        let id = if let Some((_, id)) = cx.state::<Made>().0.get(&image.map_id) {
            *id
        } else {
            let map = make(cx.images, image).about(object).while_trying_to("make the map")?;
            let id = bpf::info(map.as_fd())?.id;
            cx.state::<Made>().0.insert(image.map_id, (map, id));
            id
        };
        let limits = match image.flags as i32 & libc::O_ACCMODE {
            libc::O_RDONLY => BPF_F_RDONLY,
            libc::O_WRONLY => BPF_F_WRONLY,
            _ => 0,
        };
        let fd = bpf::by_id(id, limits).about(object)?;
        set_common(fd.as_fd(), image.flags, Some(&image.fown))?;
        Ok(fd)
    }
}

fn object() -> Object {
    Object::Named { kind: "file", name: "anon_inode:bpf-map".into() }
}

/// All elements of a map.
fn read(map: BorrowedFd<'_>, key: usize, value: usize) -> Result<Vec<Element>, SysError> {
    let mut elements = Vec::new();
    let mut at = bpf::next_key(map, None, key)?;
    while let Some(this) = at {
        at = bpf::next_key(map, Some(&this), key)?;
        // Programs in the kernel go on, and may have removed it.
        if let Some(value) = bpf::lookup(map, &this, value)? {
            elements.push((this, value));
        }
    }
    Ok(elements)
}

/// The elements of a map in the images.
fn load(images: &Images, image: &BpfmapFileEntry) -> Result<Vec<Element>, Problem> {
    if !images.has(&BPFMAP_DATA, 0) {
        return Ok(Vec::new());
    }
    let damaged = || Problem::new(BpfMapRefusal::Damaged(image.map_id));
    let found = images.read_with(&BPFMAP_DATA, 0, |mut reader| {
        let mut found = Vec::new();
        while let Some(entry) = reader.entry::<BpfmapDataEntry>()? {
            let (keys, values) =
                (reader.extra(entry.keys_bytes.into())?, reader.extra(entry.values_bytes.into())?);
            if entry.map_id == image.map_id {
                found.push((entry.count as usize, keys, values));
            }
        }
        Ok(found)
    })?;
    let (key, value) = (image.key_size as usize, image.value_size as usize);
    let mut elements = Vec::new();
    for (count, keys, values) in found {
        if key == 0
            || value == 0
            || Some(keys.len()) != count.checked_mul(key)
            || Some(values.len()) != count.checked_mul(value)
        {
            return Err(damaged());
        }
        elements.extend(keys.chunks(key).map(<[u8]>::to_vec).zip(values.chunks(value).map(<[u8]>::to_vec)));
    }
    Ok(elements)
}

fn make(images: &Images, image: &BpfmapFileEntry) -> Result<OwnedFd, Problem> {
    let mut name = [0; 16];
    // The last byte stays zero.
    name.iter_mut().take(15).zip(image.map_name.bytes()).for_each(|(to, from)| *to = from);
    let map = bpf::create(MapSpec {
        kind: image.map_type,
        key_size: image.key_size,
        value_size: image.value_size,
        max_entries: image.max_entries,
        map_flags: image.map_flags & !(BPF_F_RDONLY | BPF_F_WRONLY),
        name,
        map_extra: image.map_extra(),
        ..MapSpec::default()
    })?;
    for (key, value) in load(images, image)? {
        bpf::update(map.as_fd(), &key, &value)?;
    }
    if image.frozen {
        bpf::freeze(map.as_fd())?;
    }
    Ok(map)
}
