//! IPC namespaces (ipc_namespaces(7)): tunables of System V IPC and of POSIX message queues.
//!
//! Segments of shared memory that tasks have attached are mappings (`mm/sysv.rs`). What else is in the namespace is refused
//! by name for now.

use proto::catalogue::IPC_VAR;
use proto::messages::IpcVarEntry;

use super::{NamespaceDump, NamespaceKind, NamespaceRestore};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::image::{NewImages, invalid};
use crate::procfs::link::NamespaceType;

/// IPC namespaces.
#[derive(Debug)]
pub struct IpcNamespace;

/// Why one cannot be dumped.
#[derive(Debug, thiserror::Error)]
pub enum IpcRefusal {
    /// Something in it.
    #[error("{0} of System V IPC are not supported yet")]
    Object(&'static str),
}

impl Explain for IpcRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        Some("remove them first (ipcrm)".into())
    }
}

fn read(name: &str) -> Result<String, Problem> {
    let path = format!("/proc/sys/{name}");
    let text = std::fs::read_to_string(&path).map_err(SysError::io("read"));
    Ok(text.about(|| Object::Path(path.into()))?.trim().to_owned())
}

fn number<T: std::str::FromStr>(name: &str) -> Result<T, Problem> {
    let odd = || Problem::new(SysError { call: "read a number", errno: nix::errno::Errno::EINVAL });
    read(name)?
        .parse()
        .map_err(|_not_a_number| odd())
        .about(|| Object::Path(format!("/proc/sys/{name}").into()))
}

/// Writes a tunable, unless it is so already.
fn write(name: &str, value: impl ToString) -> Result<(), Problem> {
    let value = value.to_string();
    if read(name)?.split_whitespace().eq(value.split_whitespace()) {
        return Ok(());
    }
    let path = format!("/proc/sys/{name}");
    std::fs::write(&path, value).map_err(SysError::io("write")).about(|| Object::Path(path.into()))
}

impl NamespaceKind for IpcNamespace {
    const NAME: &'static str = "ipc-namespace";
    const NOT_SAVED: &'static [&'static str] = &["ids that are given next"];
    const TYPE: NamespaceType = NamespaceType::Ipc;

    fn look(_cx: NamespaceDump<'_>, problems: &mut Vec<Problem>) {
        for (file, what) in [("msg", "message queues"), ("sem", "semaphores")] {
            // A heading, and a line for each.
            let text = std::fs::read_to_string(format!("/proc/sysvipc/{file}")).unwrap_or_default();
            if text.lines().count() > 1 {
                problems.push(Problem::new(IpcRefusal::Object(what)));
            }
        }
    }

    fn dump(cx: NamespaceDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        let semaphores = read("kernel/sem")?;
        let entry = IpcVarEntry {
            sem_ctls: semaphores.split_whitespace().filter_map(|word| word.parse().ok()).collect(),
            msg_ctlmax: number("kernel/msgmax")?,
            msg_ctlmnb: number("kernel/msgmnb")?,
            msg_ctlmni: number("kernel/msgmni")?,
            auto_msgmni: number("kernel/auto_msgmni")?,
            shm_ctlmax: number("kernel/shmmax")?,
            shm_ctlall: number("kernel/shmall")?,
            shm_ctlmni: number("kernel/shmmni")?,
            shm_rmid_forced: number("kernel/shm_rmid_forced")?,
            mq_queues_max: number("fs/mqueue/queues_max")?,
            mq_msg_max: number("fs/mqueue/msg_max")?,
            mq_msgsize_max: number("fs/mqueue/msgsize_max")?,
            mq_msg_default: Some(number("fs/mqueue/msg_default")?),
            mq_msgsize_default: Some(number("fs/mqueue/msgsize_default")?),
            ..IpcVarEntry::default()
        };
        images.write(&IPC_VAR, cx.id.into(), &[entry])
    }

    fn restore(cx: NamespaceRestore<'_>) -> Result<(), Problem> {
        let entry: IpcVarEntry = cx.images.read_single(&IPC_VAR, cx.id.into())?;
        if entry.sem_ctls.len() != 4 {
            return Err(invalid(&IPC_VAR, cx.id.into(), "there are not four tunables of semaphores"));
        }
        let semaphores: Vec<String> = entry.sem_ctls.iter().map(ToString::to_string).collect();
        write("kernel/sem", semaphores.join(" "))?;
        write("kernel/msgmax", entry.msg_ctlmax)?;
        write("kernel/msgmnb", entry.msg_ctlmnb)?;
        write("kernel/msgmni", entry.msg_ctlmni)?;
        // Written anew it has no effect since Linux 3.19, and a warning in the log.
        write("kernel/auto_msgmni", entry.auto_msgmni)?;
        write("kernel/shmmax", entry.shm_ctlmax)?;
        write("kernel/shmall", entry.shm_ctlall)?;
        write("kernel/shmmni", entry.shm_ctlmni)?;
        write("kernel/shm_rmid_forced", entry.shm_rmid_forced)?;
        write("fs/mqueue/queues_max", entry.mq_queues_max)?;
        write("fs/mqueue/msg_max", entry.mq_msg_max)?;
        write("fs/mqueue/msgsize_max", entry.mq_msgsize_max)?;
        if let Some(default) = entry.mq_msg_default {
            write("fs/mqueue/msg_default", default)?;
        }
        if let Some(default) = entry.mq_msgsize_default {
            write("fs/mqueue/msgsize_default", default)?;
        }
        Ok(())
    }
}
