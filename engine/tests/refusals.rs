//! Bad input: one precise error each, the target unharmed, nothing left behind.
#![cfg(test)]

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use proto::catalogue;
use proto::messages::{CoreEntry, InventoryEntry, core_entry::March};
use rstest::rstest;

use targets::{STASIS, alone, assert_refused, is_root};

mod targets;

fn stasis(args: &[&str]) -> Output {
    Command::new(STASIS).args(args).stdin(Stdio::null()).output().unwrap()
}

/// A process that can be dumped.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        let mut command = Command::new("sleep");
        command.arg("1000");
        let child = alone(&mut command).spawn().unwrap();
        while fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap() != "sleep\n" {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(5));
        Self(child)
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    #[track_caller]
    fn assert_unharmed(&mut self) {
        std::thread::sleep(Duration::from_millis(20));
        assert!(self.0.try_wait().unwrap().is_none(), "it has ended");
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        assert!(status.contains("State:\tS") && status.contains("TracerPid:\t0"), "{status}");
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _reaped_already = self.0.wait();
    }
}

/// Dumps a sleeper that is gone then; its pid.
fn dumped(images: &Path) -> String {
    let mut sleeper = Sleeper::start();
    let output = stasis(&["dump", "-t", &sleeper.pid(), "-D", images.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    sleeper.0.wait().unwrap();
    sleeper.pid()
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

#[test]
fn there_is_no_such_process() {
    let dir = tempfile::tempdir().unwrap();
    let output = stasis(&["dump", "-t", "4194303", "-D", dir.path().to_str().unwrap()]);
    assert_refused(&output, 3, &["process 4194303", "there is no process with this pid", "was not touched"]);
    assert!(is_empty(dir.path()));
}

#[test]
fn a_kernel_thread_is_no_target() {
    let stat = fs::read_to_string("/proc/2/comm").unwrap_or_default();
    if stat != "kthreadd\n" {
        println!("skipped: kernel threads are not visible here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = stasis(&["dump", "-t", "2", "-D", dir.path().to_str().unwrap()]);
    assert_refused(&output, 3, &["kthreadd", "it is a kernel thread", "was not touched"]);
}

#[test]
fn we_cannot_stop_those_we_live_under() {
    let dir = tempfile::tempdir().unwrap();
    let own = std::process::id().to_string();
    let output = stasis(&["dump", "-t", &own, "-D", dir.path().to_str().unwrap()]);
    assert_refused(&output, 3, &["an ancestor of stasis", "help: run stasis from outside"]);
}

#[test]
fn privileges_are_needed() {
    if !is_root() {
        return;
    }
    let mut sleeper = Sleeper::start();
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    // The executable may lie where nobody else can reach it.
    let copy = dir.path().join("stasis");
    // Copied by another process: a child that another test forks at this moment would have it open for writing.
    assert!(Command::new("cp").arg(STASIS).arg(&copy).status().unwrap().success());
    let mut command = Command::new(&copy);
    command.args(["dump", "-t", &sleeper.pid(), "-D"]).arg(dir.path()).uid(65534).gid(65534);
    let output = command.output().unwrap();
    assert_refused(&output, 4, &["(sleep)", "EACCES", "CAP_SYS_PTRACE", "was not touched"]);
    sleeper.assert_unharmed();
}

#[test]
fn the_images_directory_must_be_usable() {
    if !is_root() {
        return;
    }
    let mut sleeper = Sleeper::start();
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let output = stasis(&["dump", "-t", &sleeper.pid(), "-D", missing.to_str().unwrap()]);
    assert_refused(&output, 4, &["images directory", "missing", "ENOENT"]);
    let output = stasis(&["dump", "-t", &sleeper.pid(), "-D", "/proc"]);
    assert_ne!(output.status.code(), Some(0));
    sleeper.assert_unharmed();
}

#[test]
fn a_disk_may_be_full() {
    if !is_root() {
        return;
    }
    let mut sleeper = Sleeper::start();
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path();
    let none: Option<&str> = None;
    let mounted =
        nix::mount::mount(none, target, Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=64k"));
    if let Err(e) = mounted {
        println!("skipped: tmpfs cannot be mounted: {e}");
        return;
    }
    let output = stasis(&["dump", "-t", &sleeper.pid(), "-D", target.to_str().unwrap()]);
    let left = fs::read_dir(target).unwrap().count();
    nix::mount::umount(target).unwrap();
    assert_refused(&output, 4, &["ENOSPC", "help: free some space", "was left running, unchanged"]);
    assert_eq!(left, 0, "something was left behind");
    sleeper.assert_unharmed();
}

#[test]
fn a_pid_may_be_taken() {
    if !is_root() {
        return;
    }
    let mut sleeper = Sleeper::start();
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().to_str().unwrap();
    assert!(stasis(&["dump", "-t", &sleeper.pid(), "-D", images, "-R"]).status.success());
    let output = stasis(&["restore", "-D", images, "-d"]);
    let taken = format!("pid {0} is taken by process {0} (sleep)", sleeper.pid());
    assert_refused(&output, 3, &[&taken, "nothing was left behind"]);
    sleeper.assert_unharmed();
}

#[rstest]
#[case::missing("mm-PID.img", None, "missing")]
#[case::no_inventory("inventory.img", None, "missing")]
#[case::cut("core-PID.img", Some(100), "it has 100 bytes, and had")]
#[case::cut_pages("pages-1.img", Some(4096), "shorter than its pagemap says")]
#[case::empty("files.img", Some(0), "it has 0 bytes, and had")]
fn images_may_be_damaged(#[case] name: &str, #[case] keep: Option<u64>, #[case] says: &str) {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pid = dumped(dir.path());
    let name = name.replace("PID", &pid);
    let path = dir.path().join(&name);
    match keep {
        Some(length) => fs::File::options().write(true).open(&path).unwrap().set_len(length).unwrap(),
        None => fs::remove_file(&path).unwrap(),
    }
    let output = stasis(&["restore", "-D", dir.path().to_str().unwrap(), "-d"]);
    assert_refused(&output, 3, &[&name, says, "nothing was left behind"]);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[rstest]
#[case::cut("core-PID.img", 100, "the file ends")]
#[case::empty("files.img", 0, "too few for the header")]
#[case::cut_pages("pages-1.img", 4096, "shorter than its pagemap says")]
fn images_may_be_damaged_and_nobody_looks(#[case] name: &str, #[case] keep: u64, #[case] says: &str) {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pid = dumped(dir.path());
    let name = name.replace("PID", &pid);
    fs::File::options().write(true).open(dir.path().join(&name)).unwrap().set_len(keep).unwrap();
    let output = stasis(&["restore", "--skip-checksums", "-D", dir.path().to_str().unwrap(), "-d"]);
    assert_refused(&output, 3, &[&name, says, "nothing was left behind"]);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

/// Reads the one entry of an image, changes it, and writes it back.
fn edit<M: prost::Message + Default>(path: &Path, image: &proto::ImageType, change: impl FnOnce(&mut M)) {
    let mut entry: M = proto::Reader::open(&*fs::read(path).unwrap(), image).unwrap().single().unwrap();
    change(&mut entry);
    let mut writer = proto::Writer::create(Vec::new(), image).unwrap();
    writer.entry(&entry).unwrap();
    fs::write(path, writer.finish().unwrap()).unwrap();
}

#[test]
fn images_may_be_of_another_machine_or_time() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pid = dumped(dir.path());
    let images = dir.path().to_str().unwrap();
    let inventory = dir.path().join("inventory.img");
    edit(&inventory, &catalogue::INVENTORY, |e: &mut InventoryEntry| e.img_version = 7);
    let restore = || stasis(&["restore", "--skip-checksums", "-D", images, "-d"]);
    assert_refused(&restore(), 3, &["format version 7", "help: restore it with"]);
    edit(&inventory, &catalogue::INVENTORY, |e: &mut InventoryEntry| e.img_version = 2);
    let core = dir.path().join(format!("core-{pid}.img"));
    edit(&core, &catalogue::CORE, |e: &mut CoreEntry| e.mtype = March::Aarch64.into());
    assert_refused(&restore(), 3, &["another architecture (AARCH64)"]);
}

#[rstest]
#[case::changed(true, "the file has changed since: it has 6 bytes and had 5")]
#[case::missing(false, "the file does not exist any more")]
fn files_may_have_changed(#[case] exists: bool, #[case] says: &str) {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    fs::create_dir(&images).unwrap();
    let file = dir.path().join("input");
    fs::write(&file, "five!").unwrap();
    let mut command = Command::new("sleep");
    alone(&mut command).arg("1000").stdin(fs::File::open(&file).unwrap());
    let mut child = command.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let output = stasis(&["dump", "-t", &child.id().to_string(), "-D", images.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    child.wait().unwrap();
    if exists {
        fs::write(&file, "sixsix").unwrap();
    } else {
        fs::remove_file(&file).unwrap();
    }
    let output = stasis(&["restore", "-D", images.to_str().unwrap(), "-d"]);
    assert_refused(&output, 3, &[file.to_str().unwrap(), says, "nothing was left behind"]);
}

#[test]
fn everything_unsupported_is_told_at_once() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // A pipe whose other end is ours, and a lock that nobody asked to take along.
    let mut command = Command::new("sh");
    command.args(["-c", "exec 4>locked; flock 4; exec sleep 1000"]).process_group(0).current_dir(dir.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let images = dir.path().join("images");
    fs::create_dir(&images).unwrap();
    let output = stasis(&["dump", "-t", &child.id().to_string(), "-D", images.to_str().unwrap(), "-j"]);
    assert_refused(&output, 3, &["fd 1: pipe", "/locked: ", "--file-locks", "was left running, unchanged"]);
    child.kill().unwrap();
    child.wait().unwrap();
}
