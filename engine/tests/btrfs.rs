//! Files in a subvolume of btrfs, whose inodes say another device than the file system that is mounted.
#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use targets::{STASIS, alone, is_root};

mod targets;

/// What btrfs takes at least.
const SIZE: u64 = 128 << 20;

fn ran(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn stasis(words: &[&str], dir: &Path) -> Output {
    Command::new(STASIS).args(words).arg("-D").arg(dir).output().unwrap()
}

/// A file system in a file, with a subvolume.
struct Btrfs(PathBuf);

impl Btrfs {
    /// None where there is no program that makes one, or no device to mount it by; it is said.
    fn new(dir: &Path) -> Option<Self> {
        let (image, point) = (dir.join("disk"), dir.join("mounted"));
        fs::File::create(&image).unwrap().set_len(SIZE).unwrap();
        fs::create_dir(&point).unwrap();
        let made = ran(Command::new("mkfs.btrfs").arg("-q").arg(&image))
            && ran(Command::new("mount").args(["-o", "loop"]).args([&image, &point]));
        if !made {
            println!("skipped: needs mkfs.btrfs, btrfs in the kernel, and a loop device");
            return None;
        }
        let disk = Self(point);
        assert!(ran(Command::new("btrfs").args(["subvolume", "create"]).arg(disk.volume())));
        Some(disk)
    }

    fn volume(&self) -> PathBuf {
        self.0.join("volume")
    }
}

impl Drop for Btrfs {
    fn drop(&mut self) {
        ran(Command::new("umount").arg("-l").arg(&self.0));
    }
}

#[test]
fn files_of_a_subvolume_are_found_again() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Btrfs::new(dir.path()) else { return };
    let (volume, ready) = (disk.volume(), dir.path().join("ready"));
    // The program itself is mapped from there.
    fs::copy("/bin/sleep", volume.join("program")).unwrap();
    fs::write(volume.join("kept"), "kept").unwrap();
    fs::write(volume.join("removed"), "removed").unwrap();
    let script = format!(
        "exec 5<>kept 6<>removed; rm removed; read -r -n 2 _ <&5; : > {}; exec ./program 1000",
        ready.display()
    );
    let mut target = alone(Command::new("bash").args(["-c", &script]).current_dir(&volume)).spawn().unwrap();
    let pid = target.id();
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !ready.exists() || link("exe") != volume.join("program") {
        assert!(Instant::now() < deadline, "the target is not ready");
        std::thread::sleep(Duration::from_millis(5));
    }
    let images = dir.path().join("images");
    fs::create_dir(&images).unwrap();
    let dumped = stasis(&["dump", "-t", &pid.to_string()], &images);
    assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
    target.wait().unwrap();
    let restored = stasis(&["restore", "-d"], &images);
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    assert_eq!(
        [link("exe"), link("cwd"), link("fd/5")],
        [volume.join("program"), volume.clone(), volume.join("kept")]
    );
    assert!(fs::read_to_string(format!("/proc/{pid}/fdinfo/5")).unwrap().starts_with("pos:\t2\n"));
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/fd/6")).unwrap(), "removed");
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    assert!(maps.contains(volume.join("program").to_str().unwrap()), "{maps}");
    let root = nix::unistd::Pid::from_raw(pid.cast_signed());
    nix::sys::signal::kill(root, nix::sys::signal::Signal::SIGKILL).unwrap();
}
