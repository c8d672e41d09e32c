//! Credentials of a thread: ids, groups, capability sets, securebits, no-new-privileges.
//!
//! All but securebits are in `/proc/PID/task/TID/status`. They are set last, because they give up what restoring
//! everything else needs; and in an order in which each step still has the privilege that it takes.

use std::sync::LazyLock;

use proto::messages::CredsEntry;

use super::{Field, Questions, Scope, Step, TaskKind, ThreadImage, ThreadRestore, UserSpaceEntry};
use crate::args;
use crate::dump::inspect::{TaskFacts, ThreadFacts};
use crate::error::Problem;
use crate::procfs::id_map::{self, IdMaps};
use crate::tracee::batch::Batch;

/// Credentials.
#[derive(Debug)]
pub struct Creds;

/// `_LINUX_CAPABILITY_VERSION_3` of `include/uapi/linux/capability.h`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// `SECBIT_KEEP_CAPS` and `SECBIT_NO_SETUID_FIXUP` of `include/uapi/linux/securebits.h`.
const KEEP_CAPS: u32 = 1 << 4;
const NO_SETUID_FIXUP: u32 = 1 << 2;

fn halves(set: u64) -> Vec<u32> {
    vec![set as u32, (set >> 32) as u32]
}

fn whole(halves: &[u32]) -> u64 {
    halves.iter().take(2).rev().fold(0, |set, half| set << 32 | u64::from(*half))
}

impl TaskKind for Creds {
    const NAME: &'static str = "creds";
    const NOT_SAVED: &'static [&'static str] = &["keyrings", "LSM labels"];
    const SCOPE: Scope = Scope::Thread;
    const DECIDED_BY: Option<&'static [Field]> = Some(&[Field::new(
        &[Step::In("task_struct", "cred"), Step::Behind, Step::In("cred", "securebits")],
        4,
    )]);

    fn look(_task: &TaskFacts, thread: &ThreadFacts, core: &mut ThreadImage) -> Result<(), Problem> {
        let s = &thread.status;
        super::thread(core).creds = Some(CredsEntry {
            uid: s.uid.real,
            gid: s.gid.real,
            euid: s.uid.effective,
            egid: s.gid.effective,
            suid: s.uid.saved,
            sgid: s.gid.saved,
            fsuid: s.uid.filesystem,
            fsgid: s.gid.filesystem,
            cap_inh: halves(s.cap_inh),
            cap_prm: halves(s.cap_prm),
            cap_eff: halves(s.cap_eff),
            cap_bnd: halves(s.cap_bnd),
            cap_amb: halves(s.cap_amb),
            groups: s.groups.clone(),
            no_new_privs: s.no_new_privs.then_some(1),
            ..CredsEntry::default()
        });
        Ok(())
    }

    fn ask(questions: &mut Questions) {
        let secbits = questions.batch().call(
            "prctl(PR_GET_SECUREBITS)",
            libc::SYS_prctl,
            args![libc::PR_GET_SECUREBITS],
        );
        questions.then(move |replies, core| {
            if let Some(creds) = &mut super::thread(core).creds {
                creds.secbits = replies.result(secbits)? as u32;
            }
            Ok(())
        });
    }

    fn restore(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        let creds = cx.thread()?.creds.as_ref().ok_or_else(|| cx.invalid("it has no credentials"))?;
        let prctl = libc::SYS_prctl;
        // 1. Ids are those of the root's user namespace, so they come before one below it is entered, where all capabilities of that
        // are there again.
        if cx.user_space != UserSpaceEntry::Done {
            set_ids(creds, cx.born_below, batch);
        }
        if let UserSpaceEntry::By(fd) = cx.user_space {
            batch.call("setns", libc::SYS_setns, args![fd, libc::CLONE_NEWUSER]);
            batch.call("close", libc::SYS_close, args![fd]);
        }
        // 2. The bounding set shrinks, which needs CAP_SETPCAP.
        let bounding = whole(&creds.cap_bnd);
        for cap in (0..=last_capability()).filter(|cap| bounding & (1 << cap) == 0) {
            batch.call("prctl(PR_CAPBSET_DROP)", prctl, args![libc::PR_CAPBSET_DROP, cap]);
        }
        batch.call("prctl(PR_SET_SECUREBITS)", prctl, args![libc::PR_SET_SECUREBITS, creds.secbits]);
        // 3. The sets themselves; ambient capabilities must be permitted and inheritable, so they come after.
        let header = batch.input(&[CAPABILITY_VERSION, 0]);
        let (effective, permitted, inheritable) =
            (whole(&creds.cap_eff), whole(&creds.cap_prm), whole(&creds.cap_inh));
        let half = |set: u64, i: u32| (set >> (32 * i)) as u32;
        let sets: Vec<u32> =
            (0..2).flat_map(|i| [half(effective, i), half(permitted, i), half(inheritable, i)]).collect();
        let sets = batch.input(sets.as_slice());
        batch.call("capset", libc::SYS_capset, args![header, sets]);
        let ambient = whole(&creds.cap_amb);
        let clear = args![libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0];
        batch.call("prctl(PR_CAP_AMBIENT_CLEAR_ALL)", prctl, clear);
        for cap in (0..64_u64).filter(|cap| ambient & (1 << cap) != 0) {
            let raise = args![libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, cap, 0, 0];
            batch.call("prctl(PR_CAP_AMBIENT_RAISE)", prctl, raise);
        }
        if creds.no_new_privs.unwrap_or(0) != 0 {
            batch.call("prctl(PR_SET_NO_NEW_PRIVS)", prctl, args![libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0]);
        }
        Ok(())
    }
}

/// Adds the calls with which a thread takes its ids, and keeps its capabilities.
pub fn add_ids(core: &ThreadImage, born: Option<&BornBelow>, batch: &mut Batch<'_>) {
    if let Some(creds) = core.thread_core.as_ref().and_then(|thread| thread.creds.as_ref()) {
        set_ids(creds, born, batch);
    }
}

/// What a task has had since its birth in a user namespace below that of the root.
#[derive(Debug)]
pub struct BornBelow {
    /// Its ids, as the user namespace of the root numbers them.
    pub ids: CredsEntry,
    /// From there down to its own.
    pub maps: Vec<IdMaps>,
}

impl BornBelow {
    fn user(&self, id: u32) -> u32 {
        self.maps.iter().fold(id, |id, maps| mapped(&maps.uids, id))
    }

    fn group(&self, id: u32) -> u32 {
        self.maps.iter().fold(id, |id, maps| mapped(&maps.gids, id))
    }
}

/// An id inside; one that the kernel takes for none if it has no place in the map.
fn mapped(map: &[id_map::Extent], id: u32) -> u32 {
    if map.is_empty() { u32::MAX } else { id_map::inside(map, id) }
}

/// Ids change, capabilities stay: neither does a change of uid clear them, nor does it touch the fs ids' sets.
///
/// Below, only what is not there yet is set: of ids that have no place there, and of groups, it may be impossible.
fn set_ids(creds: &CredsEntry, born: Option<&BornBelow>, batch: &mut Batch<'_>) {
    let bits = KEEP_CAPS | NO_SETUID_FIXUP;
    batch.call("prctl(PR_SET_SECUREBITS)", libc::SYS_prctl, args![libc::PR_SET_SECUREBITS, bits]);
    let user = |id: u32| born.map_or(id, |born| born.user(id));
    let group = |id: u32| born.map_or(id, |born| born.group(id));
    let has = |same: fn(&CredsEntry, &CredsEntry) -> bool| born.is_some_and(|born| same(&born.ids, creds));
    if !has(|has, creds| has.groups == creds.groups) {
        let groups: Vec<u32> = creds.groups.iter().map(|id| group(*id)).collect();
        let list = batch.input(groups.as_slice());
        batch.call("setgroups", libc::SYS_setgroups, args![groups.len(), list]);
    }
    if !has(|has, c| (has.gid, has.egid, has.sgid, has.fsgid) == (c.gid, c.egid, c.sgid, c.fsgid)) {
        let ids = args![group(creds.gid), group(creds.egid), group(creds.sgid)];
        batch.call("setresgid", libc::SYS_setresgid, ids);
        batch.call("setfsgid", libc::SYS_setfsgid, args![group(creds.fsgid)]);
    }
    if !has(|has, c| (has.uid, has.euid, has.suid, has.fsuid) == (c.uid, c.euid, c.suid, c.fsuid)) {
        let ids = args![user(creds.uid), user(creds.euid), user(creds.suid)];
        batch.call("setresuid", libc::SYS_setresuid, ids);
        batch.call("setfsuid", libc::SYS_setfsuid, args![user(creds.fsuid)]);
    }
}

/// The highest capability that this kernel has (`/proc/sys/kernel/cap_last_cap`).
fn last_capability() -> u64 {
    static LAST: LazyLock<u64> = LazyLock::new(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
        text.trim().parse().unwrap_or(40)
    });
    *LAST
}
