//! Sets of semaphores (semctl(2)).

use proto::catalogue::IPCNS_SEM;
use proto::messages::IpcSemEntry;

use super::{describe, ids, make};
use crate::error::{Context as _, Problem};
use crate::image::{ImageReader, NewImages, invalid};
use crate::kinds::namespaces::{NamespaceDump, NamespaceRestore};
use crate::sys::ipc;

/// The bytes of values in images are padded to this.
const ALIGNMENT: usize = 8;

/// A set and its values.
type Set = (IpcSemEntry, Vec<u16>);

/// Writes all sets of the namespace.
pub(super) fn dump(cx: NamespaceDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
    let look = |id: i32| -> Result<Set, Problem> {
        let stat = ipc::sem_stat(id)?;
        let values = ipc::sem_values(id, stat.sem_nsems as usize)?;
        let desc = describe(&stat.sem_perm, id, &cx.options.inside.ids);
        Ok((IpcSemEntry { desc, nsems: stat.sem_nsems as u32 }, values))
    };
    let sets = ids("sem")?.into_iter().map(look).collect::<Result<Vec<Set>, _>>();
    let sets = sets.while_trying_to("look at its semaphores")?;
    images.write_with(&IPCNS_SEM, cx.id.into(), |writer| {
        sets.iter().try_for_each(|(entry, values)| {
            writer.entry(entry)?;
            let mut bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
            bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
            writer.extra(&bytes)
        })
    })
}

fn read(mut reader: ImageReader) -> Result<Vec<Set>, proto::Error> {
    let mut sets = Vec::new();
    while let Some(entry) = reader.entry::<IpcSemEntry>()? {
        let length = entry.nsems as usize * size_of::<u16>();
        let bytes = reader.extra(length.next_multiple_of(ALIGNMENT) as u64)?;
        let values = bytes.chunks_exact(size_of::<u16>()).take(entry.nsems as usize);
        let values = values.filter_map(|value| Some(u16::from_ne_bytes(value.try_into().ok()?))).collect();
        sets.push((entry, values));
    }
    Ok(sets)
}

/// Makes all sets again.
pub(super) fn restore(cx: NamespaceRestore<'_>) -> Result<(), Problem> {
    if !cx.images.has(&IPCNS_SEM, cx.id.into()) {
        return Ok(());
    }
    for (entry, values) in cx.images.read_with(&IPCNS_SEM, cx.id.into(), read)? {
        let count = i32::try_from(entry.nsems);
        let count = count.map_err(|_too_many| invalid(&IPCNS_SEM, cx.id.into(), "a set is too large"))?;
        let desc = &entry.desc;
        let id =
            make("set of semaphores", "sem_next_id", desc, |key, mode| ipc::sem_create(key, count, mode))?;
        ipc::sem_set_values(id, &values)?;
        ipc::sem_set(id, desc.uid, desc.gid, desc.mode & 0o777)?;
    }
    Ok(())
}
