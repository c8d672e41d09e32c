//! The capabilities that dump and restore use, and what for.

use crate::procfs::status;

use super::Answer;

/// Number (`linux/capability.h`), name, and what is not possible without it.
const NEEDED: &[(u32, &str, &str)] = &[
    (0, "CAP_CHOWN", "giving files back to their owners"),
    (1, "CAP_DAC_OVERRIDE", "opening other users' files"),
    (5, "CAP_KILL", "stopping other users' processes"),
    (6, "CAP_SETGID", "restoring group ids"),
    (7, "CAP_SETUID", "restoring user ids"),
    (8, "CAP_SETPCAP", "restoring capability sets"),
    (12, "CAP_NET_ADMIN", "TCP connections and network namespaces"),
    (19, "CAP_SYS_PTRACE", "looking into processes"),
    (21, "CAP_SYS_ADMIN", "namespaces, mounts and seccomp"),
];

/// Not to be had in many containers and virtual machines, and not needed to work.
const SYS_RESOURCE: u32 = 24;

pub(super) fn probe() -> Answer {
    let status = std::fs::read("/proc/self/status").map_err(|e| e.to_string());
    match status.and_then(|text| status::parse(&text).map_err(|e| e.to_string())) {
        Ok(status) => judge(status.cap_eff),
        Err(reason) => Answer::No(reason),
    }
}

fn judge(effective: u64) -> Answer {
    let has = |number: u32| effective & (1 << number) != 0;
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|(number, ..)| !has(*number))
        .map(|(_, name, what)| format!("{name} is missing: {what}"))
        .collect();
    if !missing.is_empty() {
        return Answer::No(missing.join("\n       "));
    }
    if has(SYS_RESOURCE) {
        Answer::Yes
    } else {
        Answer::Note("CAP_SYS_RESOURCE is missing: limits above our own cannot be given back".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_use() {
        assert_eq!(judge(u64::MAX), Answer::Yes);
        assert!(matches!(judge(!(1 << 24)), Answer::Note(note) if note.contains("CAP_SYS_RESOURCE")));
        let Answer::No(reason) = judge(!(1 << 19 | 1 << 7)) else { panic!("not missed") };
        assert_eq!(reason.lines().count(), 2);
        assert!(reason.contains("CAP_SYS_PTRACE is missing: looking into processes"));
    }
}
