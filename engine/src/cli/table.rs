//! The table of options: their only list. The parser, the help texts, the refusals and configuration files come from it.
//!
//! To implement an option: name the commands in `works`, add its field in `options.rs`, and read it in the command's
//! file beside this one.

/// A command that takes options of this table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Dump,
    Restore,
    Check,
    Plan,
    Verify,
    Cleanup,
    Cpuinfo,
}

impl Verb {
    pub(super) const ALL: [Self; 7] =
        [Self::Dump, Self::Restore, Self::Check, Self::Plan, Self::Verify, Self::Cleanup, Self::Cpuinfo];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Dump => "dump",
            Self::Restore => "restore",
            Self::Check => "check",
            Self::Plan => "plan",
            Self::Verify => "verify",
            Self::Cleanup => "cleanup",
            Self::Cpuinfo => "cpuinfo",
        }
    }

    pub(super) const fn about(self) -> &'static str {
        match self {
            Self::Dump => "Write a running process tree to image files",
            Self::Restore => "Bring a process tree back from image files",
            Self::Check => "Say whether this kernel can do what is needed",
            Self::Plan => "Say what a dump would meet, and touch nothing",
            Self::Verify => "Say whether an image set is whole, and restorable here",
            Self::Cleanup => "Remove what killed commands left behind",
            Self::Cpuinfo => "Describe this processor, or say whether it can stand in for the one described",
        }
    }
}

/// Commands that are known, and refused by name for now.
pub(super) const REFUSED_COMMANDS: &[&str] =
    &["pre-dump", "page-server", "lazy-pages", "dedup", "service", "swrk", "exec"];

/// What stands behind an option's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing; `--no-NAME` takes it back.
    Flag,
    /// A value; the last one counts.
    Value(&'static str),
    /// A value, repeatedly.
    Values(&'static str),
    /// A value or none, repeatedly; the value only after `=` (or right behind the short name).
    Maybe(&'static str),
}

/// Headings of the help text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    What,
    Files,
    Mounts,
    Where,
    Cgroups,
    Afterwards,
    Log,
    Config,
    Check,
    Unfinished,
}

impl Group {
    pub(super) const fn heading(self) -> &'static str {
        match self {
            Self::What => "What",
            Self::Files => "Open files",
            Self::Mounts => "Mounts",
            Self::Where => "Where",
            Self::Cgroups => "Control groups",
            Self::Afterwards => "Afterwards",
            Self::Log => "Log and statistics",
            Self::Config => "Configuration files",
            Self::Check => "What to look at",
            Self::Unfinished => "Known, and refused by name for now",
        }
    }
}

/// One option.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) long: &'static str,
    pub(super) short: Option<char>,
    pub(super) takes: Takes,
    pub(super) group: Group,
    /// Commands that know it.
    pub(super) on: &'static [Verb],
    /// Commands that do what it says; the others refuse it by name.
    pub(super) works: &'static [Verb],
    pub(super) help: &'static str,
}

impl Spec {
    /// The option of this name.
    pub(super) fn find(long: &str) -> Option<&'static Self> {
        OPTIONS.iter().find(|spec| spec.long == long)
    }

    /// The option of this short name.
    pub(super) fn find_short(short: char) -> Option<&'static Self> {
        OPTIONS.iter().find(|spec| spec.short == Some(short))
    }
}

const ALL: &[Verb] = &Verb::ALL;
const D: &[Verb] = &[Verb::Dump, Verb::Plan];
const R: &[Verb] = &[Verb::Restore];
const DR: &[Verb] = &[Verb::Dump, Verb::Plan, Verb::Restore, Verb::Verify];
/// Dump and restore, and what describes processors for them.
const DRI: &[Verb] = &[Verb::Dump, Verb::Plan, Verb::Restore, Verb::Verify, Verb::Cpuinfo];
const RV: &[Verb] = &[Verb::Restore, Verb::Verify];
const C: &[Verb] = &[Verb::Check];

use Group::{Afterwards, Cgroups, Check, Config, Files, Log, Mounts, What, Where};
use Takes::{Flag, Maybe, Value, Values};

const fn works(
    long: &'static str,
    short: Option<char>,
    takes: Takes,
    group: Group,
    on: &'static [Verb],
    help: &'static str,
) -> Spec {
    Spec { long, short, takes, group, on, works: on, help }
}

const fn refused(
    long: &'static str,
    short: Option<char>,
    takes: Takes,
    on: &'static [Verb],
    help: &'static str,
) -> Spec {
    Spec { long, short, takes, group: Group::Unfinished, on, works: &[], help }
}

/// All options, in the order of the help text.
#[rustfmt::skip]
pub(super) static OPTIONS: &[Spec] = &[
    works("tree", Some('t'), Value("PID"), What, D, "Root of the process tree"),
    works("shell-job", Some('j'), Flag, What, DR, "Session and terminal belong to the caller"),
    works("cpu-cap", None, Maybe("LIST"), What, DRI, "Describe the processor; at restore, what ours must have in common with it: fpu, ins (both without LIST), cpu, all, none, ^NAME"),
    works("timeout", None, Value("SECONDS"), What, &[Verb::Dump], "How long the tree may take to freeze [default: 10]"),

    works("ext-unix-sk", Some('x'), Maybe("INODE"), What, DR, "Accept that unix sockets (or this one) lose a peer outside of the tree"),
    works("tcp-established", None, Flag, What, DR, "Keep TCP connections"),
    works("tcp-close", None, Flag, What, DR, "Close TCP connections"),
    works("skip-in-flight", None, Flag, What, DR, "Leave out TCP connections that nobody has accepted"),
    works("network-lock", None, Value("METHOD"), What, DR, "How packets are held back: nftables (default), iptables, skip"),

    works("join-ns", Some('J'), Values("NS:PID|FILE"), What, R, "Restore into an existing namespace: ipc, mnt, net, time, user, uts"),
    works("own-pidns", None, Flag, What, R, "If pids are taken, restore into a pid namespace of its own"),
    works("empty-ns", None, Values("NS"), What, DR, "Leave a namespace empty: net"),
    works("veth-pair", None, Values("IN=OUT@BRIDGE"), What, R, "Name of the outer end of a veth pair, and its bridge"),
    works("weak-sysctls", None, Flag, What, DR, "Go on when a sysctl cannot be set"),

    works("link-remap", None, Flag, Files, DR, "Give removed files that have other names one more, until they are restored"),
    works("ghost-limit", None, Value("SIZE"), Files, D, "Largest removed file that is kept, without its holes [default: 1M]"),
    works("file-locks", Some('l'), Flag, Files, DR, "Take file locks along"),
    works("file-validation", None, Value("METHOD"), Files, DR, "How files are recognized: buildid (and size) or filesize [default: buildid]"),
    works("skip-file-rwx-check", None, Flag, Files, DR, "Accept files whose permissions have changed"),
    works("evasive-devices", None, Flag, Files, DR, "Any path to the same device will do"),
    works("force-irmap", None, Flag, Files, DR, "Look for names of watched inodes (inotify, fanotify), where none is known"),
    works("irmap-scan-path", None, Values("PATH"), Files, D, "Where to look for them [default: everywhere]"),
    works("inherit-fd", None, Values("fd[N]:RESOURCE"), Files, RV, "Use our descriptor N for socket:[INODE], pipe:[INODE], file[MNT:INODE], tty[RDEV:DEV], the file of a path, or an external namespace"),
    works("external", None, Values("RESOURCE"), Files, DR, "Resource outside of the tree: unix[INODE], file[MNT:INODE], pipe[INODE], tty[RDEV:DEV], mnt[MOUNTPOINT]:NAME, at restore mnt[NAME]:PATH, mnt[] to find mounts, net[INODE]:NAME, pid[INODE]:NAME, veth[IN]:OUT@BRIDGE, macvlan[IN]:OUT"),
    works("on-unsupported", None, Values("KIND=CHOICE"), Files, D, "What becomes of descriptors that cannot be saved: close, reopen, refuse [default: refuse]"),
    works("ghost-fiemap", None, Flag, Files, D, "Accepted: holes are always found, with SEEK_DATA"),

    works("root", Some('r'), Value("DIR"), Mounts, DR, "Folder on which the root of the mount namespace is mounted"),
    works("ext-mount-map", None, Values("KEY:VALUE"), Mounts, DR, "As --external mnt[KEY]:VALUE; auto: as --external mnt[]"),
    works("enable-external-sharing", None, Flag, Mounts, DR, "External mounts may have peers outside"),
    works("enable-external-masters", None, Flag, Mounts, DR, "External mounts may have masters outside"),
    works("enable-fs", None, Values("LIST"), Mounts, DR, "Types of file systems that are mounted again from their source; all"),
    works("skip-mnt", None, Values("PATH"), Mounts, DR, "Leave out a mount, and what is mounted on it"),
    works("mntns-compat-mode", None, Flag, Mounts, DR, "Accepted: there is one way, which does for all kernels"),

    works("images-dir", Some('D'), Value("DIR"), Where, DRI, "Directory of the image files [default: the current one]"),
    works("work-dir", Some('W'), Value("DIR"), Where, ALL, "Directory of logs, pid files and statistics [default: the images directory]"),
    works("pidfile", None, Value("FILE"), Where, R, "Write the root's pid to FILE, relative to the work directory"),
    works("skip-checksums", None, Flag, Where, &[Verb::Dump, Verb::Restore], "Compute or compare no checksums of the images"),
    works("map-pages", None, Flag, Where, R, "Map large parts of memory from the images, which must stay as they are"),

    works("manage-cgroups", None, Maybe("MODE"), Cgroups, DR, "What becomes of cgroups: ignore, none, props, soft (without MODE), full, strict [default: back into those that exist]"),
    works("cgroup-root", None, Values("[CONTROLLER:]PATH"), Cgroups, DR, "What takes the place of the tree's own cgroup"),
    works("cgroup-yard", None, Value("DIR"), Cgroups, DR, "Directory below which the hierarchies are mounted"),
    works("cgroup-props", None, Value("SPEC"), Cgroups, DR, "Settings of controllers that are kept: YAML, \"cpu\": with - \"strategy\": \"merge\" or \"replace\", - \"properties\": [...]"),
    works("cgroup-props-file", None, Value("FILE"), Cgroups, DR, "The same, from a file"),
    works("cgroup-props-ignore-default", None, Flag, Cgroups, DR, "Of controllers named there, keep nothing else"),
    works("cgroup-dump-controller", None, Values("NAME"), Cgroups, DR, "Take care of this controller (or name, or \"unified\"), and those named alike only"),
    works("freeze-cgroup", None, Value("DIR"), Cgroups, D, "Freeze the tree with this cgroup, which may be frozen already"),

    works("leave-running", Some('R'), Flag, Afterwards, &[Verb::Dump], "Let the tree run on after the dump"),
    works("leave-stopped", Some('s'), Flag, Afterwards, &[Verb::Dump, Verb::Restore], "Leave the tree stopped"),
    works("restore-detached", Some('d'), Flag, Afterwards, R, "Return when the tree runs, instead of waiting for its root"),
    works("restore-sibling", Some('S'), Flag, Afterwards, R, "Make the root a child of the caller (with --restore-detached)"),

    works("feature", None, Values("NAME"), Check, C, "Look at this feature only (repeatable); \"list\" names them all"),
    works("extra", None, Flag, Check, C, "Look also at what some workloads need"),
    works("experimental", None, Flag, Check, C, "Look also at what is young"),
    works("all", None, Flag, Check, &[Verb::Check, Verb::Cleanup], "Look at everything; remove also what waits for a restore"),

    works("verbosity", Some('v'), Maybe("LEVEL"), Log, ALL, "0 silent, 1 errors, 2 warnings (default), 3 info, 4 debug; -v, -vv add to it, -v4 sets it"),
    works("log-file", Some('o'), Value("FILE"), Log, ALL, "Log to FILE, relative to the work directory"),
    works("log-pid", None, Flag, Log, ALL, "Append our pid to the log file's name"),
    works("display-stats", None, Flag, Log, &[Verb::Dump, Verb::Restore], "Print statistics at the end"),

    works("config", None, Value("FILE"), Config, ALL, "Read this configuration file too"),
    works("no-default-config", None, Flag, Config, ALL, "Do not read /etc/criu/default.conf and ~/.criu/default.conf"),

    refused("exec-cmd", None, Flag, R, "Become the command behind -- after the restore"),
    refused("lsm-profile", None, Value("TYPE:NAME"), R, "Security profile of the restored tree"),
    refused("lsm-mount-context", None, Value("CONTEXT"), R, "Security context of mounts"),
    works("allow-uprobes", None, Flag, What, DR, "Has no effect: breakpoints of the kernel (uprobes) are always accepted"),
    refused("track-mem", None, Flag, D, "Track memory for the next dump"),
    refused("prev-images-dir", None, Value("DIR"), D, "Images of the dump before"),
    refused("pre-dump-mode", None, Value("MODE"), D, "splice or read"),
    refused("auto-dedup", None, Flag, DR, "Punch out what is stored elsewhere"),
    refused("page-server", None, Flag, D, "Send pages to a page server"),
    refused("address", None, Value("ADDRESS"), DR, "Address of the page server"),
    refused("port", None, Value("PORT"), DR, "Port of the page server"),
    refused("ps-socket", None, Value("FD"), DR, "Socket of the page server"),
    refused("daemon", None, Flag, DR, "Go to the background"),
    refused("tls", None, Flag, DR, "Encrypt pages on their way"),
    refused("tls-cacert", None, Value("FILE"), DR, "Certificate of the authority"),
    refused("tls-cacrl", None, Value("FILE"), DR, "Revocation list of the authority"),
    refused("tls-cert", None, Value("FILE"), DR, "Our certificate"),
    refused("tls-key", None, Value("FILE"), DR, "Our key"),
    refused("tls-no-cn-verify", None, Flag, DR, "Do not compare the certificate's name"),
    refused("lazy-pages", None, Flag, DR, "Memory on demand"),
    refused("orphan-pts-master", None, Flag, DR, "Terminals whose master is outside"),
    refused("close", None, Values("FD"), DR, "Close a descriptor first"),
    refused("libdir", Some('L'), Value("DIR"), DR, "Directory of plugins"),
    refused("action-script", None, Values("FILE"), DR, "Run a script at each step"),
    refused("unprivileged", None, Flag, ALL, "Work without root"),
    refused("stream", None, Flag, DR, "Stream images to another program"),
    refused("status-fd", None, Value("FD"), DR, "Say there when we are ready"),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique() {
        let longs: HashSet<_> = OPTIONS.iter().map(|spec| spec.long).collect();
        let shorts: HashSet<_> = OPTIONS.iter().filter_map(|spec| spec.short).collect();
        assert_eq!(longs.len(), OPTIONS.len());
        assert_eq!(shorts.len(), OPTIONS.iter().filter(|spec| spec.short.is_some()).count());
    }
}
