//! IPC namespaces (ipc_namespaces(7)): tunables of System V IPC and of POSIX message queues.
//!
//! What is in the namespace has files of its own: message queues and semaphores (`ipc/`), and segments of shared memory,
//! whether a task has them attached or not (`mm/sysv.rs`).

use nix::unistd::{Gid, Uid};
use proto::catalogue::IPC_VAR;
use proto::messages::{IpcDescEntry, IpcVarEntry};

use super::{NamespaceDump, NamespaceKind, NamespaceRestore};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::image::{NewImages, invalid};
use crate::procfs::id_map::{self, IdMaps};
use crate::procfs::link::NamespaceType;

mod messages;
pub mod queues;
mod semaphores;

/// IPC namespaces.
#[derive(Debug)]
pub struct IpcNamespace;

/// Why an object cannot be restored.
#[derive(Debug, thiserror::Error)]
enum IpcRefusal {
    /// The kernel gave it another id.
    #[error("{what} {id} got another id, {got}")]
    OtherId { what: &'static str, id: u32, got: i32 },
}

impl Explain for IpcRefusal {
    fn class(&self) -> Class {
        Class::Failed
    }
}

/// The ids of all objects that a file of `/proc/sysvipc` lists (sysvipc(5)): the second column, below the headings.
pub fn ids(file: &str) -> Result<Vec<i32>, Problem> {
    let path = format!("/proc/sysvipc/{file}");
    let text =
        std::fs::read_to_string(&path).map_err(SysError::io("read")).about(|| Object::Path(path.into()))?;
    Ok(text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)?.parse().ok()).collect())
}

/// What all objects have in common, with ids as they are inside.
fn describe(perm: &libc::ipc_perm, id: i32, ids: &IdMaps) -> IpcDescEntry {
    IpcDescEntry {
        key: perm.__key as u32,
        uid: id_map::inside(&ids.uids, perm.uid),
        gid: id_map::inside(&ids.gids, perm.gid),
        cuid: id_map::inside(&ids.uids, perm.cuid),
        cgid: id_map::inside(&ids.gids, perm.cgid),
        mode: perm.mode.into(),
        id: id as u32,
    }
}

/// Makes an object with its id, as the user who made it the first time.
fn make(
    what: &'static str,
    next_id: &str,
    desc: &IpcDescEntry,
    create: impl FnOnce(i32, i32) -> Result<i32, SysError>,
) -> Result<i32, Problem> {
    let path = format!("/proc/sys/kernel/{next_id}");
    std::fs::write(&path, desc.id.to_string())
        .map_err(SysError::io("write"))
        .about(|| Object::Path(path.into()))?;
    let (uid, gid) = (Uid::from_raw(desc.cuid), Gid::from_raw(desc.cgid));
    let own = (nix::unistd::geteuid(), nix::unistd::getegid());
    let act_as = |(user, group): (Uid, Gid)| -> Result<(), Problem> {
        if (user, group) != (nix::unistd::geteuid(), nix::unistd::getegid()) {
            // Root first gives away its group, and takes that back last.
            let group_first = user != own.0;
            let set_group = || nix::unistd::setegid(group).map_err(SysError::of("setegid"));
            if group_first {
                set_group()?;
            }
            nix::unistd::seteuid(user).map_err(SysError::of("seteuid"))?;
            if !group_first {
                set_group()?;
            }
            // A change of ids takes our files in /proc away from us.
            nix::sys::prctl::set_dumpable(true).map_err(SysError::of("prctl(PR_SET_DUMPABLE)"))?;
        }
        Ok(())
    };
    act_as((uid, gid))?;
    let made = create(desc.key as i32, (desc.mode & 0o777) as i32);
    act_as(own)?;
    match made? {
        got if got as u32 == desc.id => Ok(got),
        got => Err(Problem::new(IpcRefusal::OtherId { what, id: desc.id, got })),
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
    const NOT_SAVED: &'static [&'static str] = &[
        "ids that are given next",
        "times, and who used an object last",
        "what semaphores would undo when a process ends (SEM_UNDO)",
        "POSIX message queues of a namespace that others are in; when a queue was used last",
    ];
    const TYPE: NamespaceType = NamespaceType::Ipc;

    fn look(_cx: NamespaceDump<'_>, problems: &mut Vec<Problem>) {
        queues::look(problems);
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
        images.write(&IPC_VAR, cx.id.into(), &[entry])?;
        semaphores::dump(cx, images)?;
        messages::dump(cx, images)?;
        queues::dump(cx, images)
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
        queues::restore(cx)?;
        write("fs/mqueue/queues_max", entry.mq_queues_max)?;
        write("fs/mqueue/msg_max", entry.mq_msg_max)?;
        write("fs/mqueue/msgsize_max", entry.mq_msgsize_max)?;
        if let Some(default) = entry.mq_msg_default {
            write("fs/mqueue/msg_default", default)?;
        }
        if let Some(default) = entry.mq_msgsize_default {
            write("fs/mqueue/msgsize_default", default)?;
        }
        semaphores::restore(cx)?;
        messages::restore(cx)
    }
}
