//! Sets that CRIU 4.2 dumped come back: a program, and a program in namespaces of its own.
//!
//! The sets are of a program of Debian 12, and map its files: elsewhere they are refused, since the files differ, and nothing can be
//! shown. The table of mounts of the second is made here, in CRIU's format.
#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use targets::{STASIS, is_root};

mod targets;

/// A copy of a set; none where there are no samples.
fn copy_of(set: &str, to: &Path) -> Option<PathBuf> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/tests/samples").join(set);
    let images = to.join("images");
    fs::create_dir(&images).unwrap();
    for file in fs::read_dir(from.join("images")).ok()? {
        let file = file.unwrap();
        fs::copy(file.path(), images.join(file.file_name())).unwrap();
    }
    Some(images)
}

/// Restores a set; the pid of the root, or none if the files here are other ones.
fn restore(images: &Path, options: &[&str]) -> Option<i32> {
    let mut command = Command::new(STASIS);
    command.args(["restore", "-d", "--pidfile", "pid", "-D"]).arg(images).args(options);
    let said = fs::File::create(images.join("said")).unwrap();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).status().unwrap();
    let said = fs::read_to_string(images.join("said")).unwrap();
    if status.code() == Some(3) {
        println!("skipped: {said}");
        return None;
    }
    assert!(status.success(), "{said}");
    Some(fs::read_to_string(images.join("pid")).unwrap().trim().parse().unwrap())
}

fn end(pid: i32) {
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "sleep\n");
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

#[test]
fn a_program() {
    let dir = tempfile::tempdir().unwrap();
    if !is_root() {
        return;
    }
    let Some(images) = copy_of("sleep", dir.path()) else { return };
    if let Some(pid) = restore(&images, &["--shell-job"]) {
        end(pid);
    }
}

const MOUNTS: &str = r#"{"magic": "MNTS", "entries": [
    {"fstype": 0, "mnt_id": 43, "root_dev": "254:0", "parent_mnt_id": 1, "flags": "0x200000", "root": "/", "mountpoint": "/",
     "source": "/dev/vda", "options": "", "ext_mount": true, "fsname": "ext4", "sb_flags": "0x0"},
    {"fstype": 1, "mnt_id": 44, "root_dev": "0:99", "parent_mnt_id": 43, "flags": "0x20000e", "root": "/", "mountpoint": "/proc",
     "source": "proc", "options": "", "sb_flags": "0x0"},
    {"fstype": 5, "mnt_id": 45, "root_dev": "0:100", "parent_mnt_id": 43, "flags": "0x300000", "root": "/", "mountpoint": "/mnt",
     "source": "kept", "options": "size=1024k,mode=750", "shared_id": 7, "internal_sharing": true, "sb_flags": "0x0"},
    {"fstype": 5, "mnt_id": 46, "root_dev": "0:100", "parent_mnt_id": 43, "flags": "0x280001", "root": "/sub", "mountpoint": "/media",
     "source": "kept", "options": "size=1024k,mode=750", "shared_id": 0, "master_id": 7, "internal_sharing": true, "sb_flags": "0x0"},
    {"fstype": 0, "mnt_id": 47, "root_dev": "0:101", "parent_mnt_id": 43, "flags": "0x200000", "root": "/", "mountpoint": "/srv",
     "source": "disk", "options": "", "ext_mount": true, "fsname": "xfs", "sb_flags": "0x0", "ext_key": "DATA"},
    {"fstype": 2, "mnt_id": 48, "root_dev": "0:102", "parent_mnt_id": 43, "flags": "0x20000e", "root": "/", "mountpoint": "/sys",
     "source": "sysfs", "options": "", "with_plugin": false, "deleted": false, "sb_flags": "0x0"}]}"#;

/// The contents of the tmpfs, as GNU tar makes it for CRIU.
const CONTENTS: &str = "mkdir sub && echo kept > sub/file && truncate -s 100M sub/sparse && printf end >> sub/sparse && \
    tar --create --gzip --sparse --numeric-owner --file";

#[test]
fn a_program_in_namespaces() {
    let dir = tempfile::tempdir().unwrap();
    let has_nft = Command::new("nft").arg("--version").output().is_ok_and(|output| output.status.success());
    if !is_root() || !has_nft {
        return;
    }
    let Some(images) = copy_of("namespaces", dir.path()) else { return };
    let table = dir.path().join("mounts.json");
    fs::write(&table, MOUNTS).unwrap();
    let encode = Command::new(STASIS)
        .args(["crit", "encode", "-i"])
        .arg(&table)
        .arg("-o")
        .arg(images.join("mountpoints-13.img"))
        .status();
    assert!(encode.unwrap().success());
    let contents = dir.path().join("contents");
    fs::create_dir(&contents).unwrap();
    let archive = images.join("tmpfs-dev-100.tar.gz.img");
    let script = format!("{CONTENTS} {} .", archive.display());
    assert!(Command::new("sh").args(["-c", &script]).current_dir(&contents).status().unwrap().success());
    fs::write(dir.path().join("given"), "given").unwrap();
    // What is mounted for the test is this thread's, and that of what it starts.
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    mount(Some("/"), &root, none, MsFlags::MS_BIND, none).unwrap();
    let data = format!("mnt[DATA]:{}", dir.path().display());
    let pid = restore(&images, &["--root", &root.display().to_string(), "--external", &data]);
    umount2(&root, MntFlags::MNT_DETACH).unwrap();
    let Some(pid) = pid else { return };
    let inside = |program: &str, args: &[&str], namespace: &str| {
        let target = pid.to_string();
        let mut command = Command::new("nsenter");
        let output = command.args(["-t", &target, namespace, program]).args(args).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(inside("hostname", &[], "--uts"), "inside\n");
    let rules = inside("nft", &["list", "ruleset"], "--net");
    assert!(rules.contains("chain INPUT") && !rules.contains("CRIU"), "{rules}");
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    assert_eq!(mounts.lines().count(), 6, "{mounts}");
    let file = |path: &str| fs::read(format!("/proc/{pid}/root/{path}")).unwrap();
    assert_eq!(
        (&*file("mnt/sub/file"), &*file("media/file"), &*file("srv/given")),
        (&b"kept\n"[..], &b"kept\n"[..], &b"given"[..])
    );
    let sparse = file("media/sparse");
    assert_eq!((sparse.len(), sparse.ends_with(b"end")), ((100 << 20) + 3, true));
    let line =
        |place: &str| mounts.lines().find(|line| line.contains(&format!(" {place} "))).unwrap().to_owned();
    let group =
        |line: &str, kind: &str| line.split(' ').find_map(|word| word.strip_prefix(kind)).map(str::to_owned);
    assert!(group(&line("/mnt"), "shared:").is_some(), "{mounts}");
    assert_eq!(group(&line("/mnt"), "shared:"), group(&line("/media"), "master:"), "{mounts}");
    assert!(line("/media").contains(" /sub /media ro,") && line("/sys").contains(" - sysfs "), "{mounts}");
    end(pid);
}
