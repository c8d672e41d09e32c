//! Message queues with their messages (msgctl(2)).
//!
//! Messages are copied where they are (`MSG_COPY`, Linux 3.8 with `CONFIG_CHECKPOINT_RESTORE`), so that the queue stays as it
//! is.

use proto::catalogue::IPCNS_MSG;
use proto::messages::{IpcMsg, IpcMsgEntry};

use super::{describe, ids, make};
use crate::error::{Context as _, Problem};
use crate::image::{ImageReader, NewImages};
use crate::kinds::namespaces::{NamespaceDump, NamespaceRestore};
use crate::sys::ipc;

/// The bytes of messages in images are padded to this.
const ALIGNMENT: usize = 8;

/// A queue, and the types and bytes of its messages.
type Queue = (IpcMsgEntry, Vec<(i64, Vec<u8>)>);

/// Writes all queues of the namespace.
pub(super) fn dump(cx: NamespaceDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
    let look = |id: i32| -> Result<Queue, Problem> {
        let stat = ipc::msg_stat(id)?;
        let mut messages = Vec::new();
        // No message is larger than all of them together.
        while let Some(message) = ipc::msg_peek(id, messages.len() as i64, stat.__msg_cbytes as usize)? {
            messages.push(message);
        }
        let desc = describe(&stat.msg_perm, id, &cx.options.inside.ids);
        Ok((IpcMsgEntry { desc, qbytes: stat.msg_qbytes as u32, qnum: messages.len() as u32 }, messages))
    };
    let queues = ids("msg")?.into_iter().map(look).collect::<Result<Vec<Queue>, _>>();
    let queues = queues.while_trying_to("look at its message queues")?;
    images.write_with(&IPCNS_MSG, cx.id.into(), |writer| {
        queues.iter().try_for_each(|(entry, messages)| {
            writer.entry(entry)?;
            messages.iter().try_for_each(|(mtype, bytes)| {
                writer.entry(&IpcMsg { mtype: *mtype as u64, msize: bytes.len() as u32 })?;
                let mut bytes = bytes.clone();
                bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
                writer.extra(&bytes)
            })
        })
    })
}

fn read(mut reader: ImageReader) -> Result<Vec<Queue>, proto::Error> {
    let mut queues = Vec::new();
    while let Some(entry) = reader.entry::<IpcMsgEntry>()? {
        let mut messages = Vec::new();
        for _ in 0..entry.qnum {
            let message: IpcMsg = reader.required()?;
            let mut bytes = reader.extra(u64::from(message.msize).next_multiple_of(ALIGNMENT as u64))?;
            bytes.truncate(message.msize as usize);
            messages.push((message.mtype as i64, bytes));
        }
        queues.push((entry, messages));
    }
    Ok(queues)
}

/// Makes all queues again.
pub(super) fn restore(cx: NamespaceRestore<'_>) -> Result<(), Problem> {
    if !cx.images.has(&IPCNS_MSG, cx.id.into()) {
        return Ok(());
    }
    for (entry, messages) in cx.images.read_with(&IPCNS_MSG, cx.id.into(), read)? {
        let desc = &entry.desc;
        let id = make("message queue", "msg_next_id", desc, ipc::msg_create)?;
        // The limit may have been lowered below what was in the queue already.
        let bytes = messages.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        let limit = u64::from(entry.qbytes);
        ipc::msg_set(id, desc.uid, desc.gid, desc.mode & 0o777, limit.max(bytes))?;
        for (kind, bytes) in &messages {
            ipc::msg_send(id, *kind, bytes).while_trying_to("put its messages into the queue")?;
        }
        if bytes > limit {
            ipc::msg_set(id, desc.uid, desc.gid, desc.mode & 0o777, limit)?;
        }
    }
    Ok(())
}
