//! Memory and what goes wrong with it: no room for the images, a target that ends in the middle, images that are not what
//! they were, and files under mappings that have changed.
#![cfg(test)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use targets::{STASIS, alone, assert_refused, is_root, reap, state};

mod targets;

/// A shell that holds so many MiB that do not compress into nothing.
fn holding(mib: u32, ready: &Path) -> Child {
    let script = format!(
        "x=$(head -c {mib}M /dev/urandom | base64 -w 0); : > {}; read -r line < {}",
        ready.display(),
        ready.with_extension("never").display()
    );
    // Nobody ever writes to it.
    let fifo = ready.with_extension("never");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let child = alone(Command::new("sh").args(["-c", &script]).current_dir("/")).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_mins(1);
    while !ready.exists() {
        assert!(Instant::now() < deadline, "the target is not ready");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn stasis(verb: &str, dir: &Path, words: &[&str]) -> Output {
    Command::new(STASIS).arg(verb).arg("-D").arg(dir).args(words).output().unwrap()
}

/// A small file system of memory, for as long as it is looked at.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        let none = None::<&str>;
        nix::mount::mount(Some("tmpfs"), &path, Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=8m"))
            .unwrap();
        let private = nix::mount::MsFlags::MS_PRIVATE;
        nix::mount::mount(none, &path, none, private, none).unwrap();
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains(".img")).collect()
}

#[test]
fn a_disk_that_is_full_in_the_middle_costs_nobody_anything() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new(dir.path().join("small"));
    let mut target = holding(32, &dir.path().join("ready"));
    let pid = target.id().to_string();
    for words in [&["-t", &pid][..], &["-t", &pid, "-R"]] {
        let said = stasis("dump", &disk.0, words);
        assert_refused(&said, 4, &["ENOSPC", "left running"]);
        assert_eq!(names(&disk.0), Vec::<String>::new(), "what was written is gone again");
        assert_eq!(state(target.id() as i32), Some(('S', 0)));
    }
    // There is room elsewhere.
    let images = dir.path().join("images");
    fs::create_dir(&images).unwrap();
    let said = stasis("dump", &images, &["-t", &pid]);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    target.wait().unwrap();
}

#[test]
fn a_target_that_is_killed_in_the_middle_is_said_to_have_ended() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut said = Vec::new();
    for round in 0..5 {
        let mut target = holding(96, &dir.path().join(format!("ready{round}")));
        let images = dir.path().join(format!("images{round}"));
        fs::create_dir(&images).unwrap();
        let pid = target.id().to_string();
        let dump = Command::new(STASIS).args(["dump", "-t", &pid, "-D"]).arg(&images).output_later();
        // When its pages are being copied.
        let deadline = Instant::now() + Duration::from_secs(20);
        while !images.join("pages-1.img").exists() && Instant::now() < deadline {
            std::hint::spin_loop();
        }
        let _ = target.kill();
        let output = dump.wait_with_output().unwrap();
        target.wait().unwrap();
        if !output.status.success() {
            assert_eq!(names(&images), Vec::<String>::new(), "what was written is gone again");
            said.push(String::from_utf8_lossy(&output.stderr).into_owned());
        }
    }
    assert!(!said.is_empty(), "the kill came too late each time");
    assert!(said.iter().all(|text| text.contains("ended")), "{said:?}");
}

/// A command that runs beside us, and whose output is taken later.
trait OutputLater {
    fn output_later(&mut self) -> Child;
}

impl OutputLater for Command {
    fn output_later(&mut self) -> Child {
        self.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
    }
}

/// The set of a shell that has ended.
fn dumped(dir: &Path, words: &[&str]) -> (PathBuf, i32) {
    let mut target = holding(8, &dir.join("ready"));
    let images = dir.join("images");
    fs::create_dir(&images).unwrap();
    let pid = target.id();
    let said = stasis("dump", &images, &[&["-t", &pid.to_string()], words].concat());
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    target.wait().unwrap();
    reap(pid as i32);
    (images, pid as i32)
}

#[test]
fn pages_that_are_missing_or_too_few_are_named_before_anything_is_made() {
    if !is_root() {
        return;
    }
    for words in [&[][..], &["--skip-checksums"]] {
        let dir = tempfile::tempdir().unwrap();
        let (images, pid) = dumped(dir.path(), words);
        let pages = images.join("pages-1.img");
        let whole = fs::metadata(&pages).unwrap().len();
        File::options().write(true).open(&pages).unwrap().set_len(whole - 4096).unwrap();
        let said = stasis("restore", &images, &["-d"]);
        assert_refused(&said, 3, &["pages-1.img", "nothing was restored"]);
        fs::remove_file(&pages).unwrap();
        let said = stasis("restore", &images, &["-d"]);
        assert_refused(&said, 3, &["pages-1.img", "missing", "nothing was restored"]);
        assert_eq!(state(pid), None);
    }
}

#[test]
fn a_mapped_file_that_has_changed_is_named() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("program");
    fs::copy("/bin/sleep", &program).unwrap();
    let mut target = alone(Command::new(&program).arg("1000").current_dir("/")).spawn().unwrap();
    let images = dir.path().join("images");
    fs::create_dir(&images).unwrap();
    let pid = target.id().to_string();
    let said = stasis("dump", &images, &["-t", &pid]);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    target.wait().unwrap();
    // Its mappings are there, and lead to other bytes.
    let size = fs::metadata(&program).unwrap().len();
    File::options().write(true).open(&program).unwrap().set_len(size + 1).unwrap();
    let parts = ["program", &format!("it has {} bytes and had {size}", size + 1), "nothing was restored"];
    assert_refused(&stasis("restore", &images, &["-d"]), 3, &parts);
    fs::remove_file(&program).unwrap();
    let parts = ["program", "does not exist", "nothing was restored"];
    assert_refused(&stasis("restore", &images, &["-d"]), 3, &parts);
}
