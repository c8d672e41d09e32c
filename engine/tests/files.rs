//! What the user decides about open files, and what a restore finds out about them before it makes anything.
#![cfg(test)]

use std::fs::{self, File};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use targets::{STASIS, alone, has_root_and_python, is_root};

mod targets;

/// Starts a program with these descriptors beside the first three.
fn start(command: &mut Command, fds: Vec<(i32, OwnedFd)>) -> Child {
    let placed = move || {
        for (number, fd) in &fds {
            // SAFETY: takes numbers only.
            nix::errno::Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), *number) })?;
        }
        Ok(())
    };
    // SAFETY: what is called after the fork is async-signal-safe.
    unsafe { alone(command).stderr(Stdio::piped()).pre_exec(placed) };
    command.spawn().unwrap()
}

/// Where its descriptors are put: above all that the test has open.
const FD: i32 = 400;

/// A process with open files, a directory for images beside them, and the restored process.
struct Case {
    dir: tempfile::TempDir,
    target: Option<Child>,
    pid: i32,
}

impl Case {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), target: None, pid: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&mut self, fds: Vec<(i32, OwnedFd)>) {
        let mut command = Command::new("sleep");
        command.arg("1000").current_dir("/");
        let mut child = start(&mut command, fds);
        // The pipe of its standard error would be one whose other end is outside.
        drop(child.stderr.take());
        self.pid = child.id() as i32;
        self.target = Some(child);
        let comm = format!("/proc/{}/comm", self.pid);
        while fs::read_to_string(&comm).unwrap() != "sleep\n" {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }

    /// Runs a command; its exit code, and what it said.
    fn run(&self, verb: &str, options: &[&str], fds: Vec<(i32, OwnedFd)>) -> (i32, String) {
        let images = self.path("images");
        let _there_already = fs::create_dir(&images);
        let mut command = Command::new(STASIS);
        command.arg(verb).arg("-D").arg(&images).args(options);
        let output = start(&mut command, fds).wait_with_output().unwrap();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    #[track_caller]
    fn dump(&mut self, options: &[&str]) -> String {
        let pid = self.pid.to_string();
        let (code, said) = self.run("dump", &[&["-t", &pid, "-x"], options].concat(), Vec::new());
        if code == 0 {
            self.target.take().unwrap().wait().unwrap();
        }
        format!("{code}: {said}")
    }

    #[track_caller]
    fn restore(&self, options: &[&str], fds: Vec<(i32, OwnedFd)>) -> String {
        let (code, said) = self.run("restore", &[&["-d", "-S"], options].concat(), fds);
        format!("{code}: {said}")
    }

    /// What a descriptor of the process is.
    fn link(&self, fd: i32) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/fd/{fd}", self.pid)).ok()
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        if self.pid != 0 {
            let _ended_already = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
            let _not_ours = waitpid(Pid::from_raw(self.pid), None);
        }
    }
}

#[track_caller]
fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "\"{part}\" is not in:\n{said}");
    }
}

fn open(path: &Path) -> OwnedFd {
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap().into()
}

#[test]
fn unsupported_descriptors_may_be_lost() {
    let kmsg = || File::open("/dev/kmsg").map(OwnedFd::from);
    if !is_root() || kmsg().is_err() {
        return;
    }
    for (choice, after) in [("close", None), ("reopen", Some(PathBuf::from("/dev/kmsg")))] {
        let mut case = Case::new();
        case.start(vec![(FD, kmsg().unwrap())]);
        assert_says(&case.dump(&[]), &["3: ", "fd 400: /dev/kmsg", "unchanged"]);
        let option = format!("device={choice}");
        let told = format!("as --on-unsupported device={choice} asks");
        assert_says(&case.dump(&["--on-unsupported", &option]), &["0: ", "fd 400: /dev/kmsg is", &told]);
        assert_says(&case.restore(&[], Vec::new()), &["0: ", "fd 400: /dev/kmsg is", &told]);
        assert_eq!(case.link(FD), after);
    }
}

#[test]
fn files_from_outside_are_handed_in() {
    if !is_root() {
        return;
    }
    let mut case = Case::new();
    let (path, other) = (case.path("outside"), case.path("other"));
    case.start(vec![(FD, open(&path)), (FD + 1, open(&path))]);
    let info = fs::read_to_string(format!("/proc/{}/fdinfo/{FD}", case.pid)).unwrap();
    let mount: u32 =
        info.split("mnt_id:").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    let key = format!("file[{mount:x}:{:x}]", fs::metadata(&path).unwrap().ino());
    assert_says(&case.dump(&["--external", &key]), &["0: "]);
    fs::remove_file(&path).unwrap();
    let hint = format!("pass --inherit-fd fd[N]:{key}");
    assert_says(&case.restore(&[], Vec::new()), &["3: ", "was not handed in", &hint]);
    let inherit = format!("fd[{FD}]:{key}");
    assert_says(&case.restore(&["--inherit-fd", &inherit], Vec::new()), &["3: ", "fd 400", "is not open"]);
    assert_says(&case.restore(&["--inherit-fd", &inherit], vec![(FD, open(&other))]), &["0: "]);
    assert_eq!((case.link(FD), case.link(FD + 1)), (Some(other.clone()), Some(other)));
}

#[test]
fn a_file_may_be_handed_in_by_its_path() {
    if !is_root() {
        return;
    }
    let mut case = Case::new();
    let (path, other) = (case.path("log"), case.path("other"));
    case.start(vec![(FD, open(&path))]);
    assert_says(&case.dump(&[]), &["0: "]);
    fs::remove_file(&path).unwrap();
    assert_says(&case.restore(&[], Vec::new()), &["3: ", "does not exist any more"]);
    let inherit = format!("fd[{FD}]:{}", path.display().to_string().trim_start_matches('/'));
    assert_says(&case.restore(&["--inherit-fd", &inherit], vec![(FD, open(&other))]), &["0: "]);
    assert_eq!(case.link(FD), Some(other));
}

#[test]
fn a_pipe_to_outside_is_handed_in_or_lost() {
    if !is_root() {
        return;
    }
    for lost in [true, false] {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let inode = nix::sys::stat::fstat(&reader).unwrap().st_ino;
        let mut case = Case::new();
        case.start(vec![(FD, writer)]);
        assert_says(
            &case.dump(&[]),
            &["3: ", "the other end of the pipe is held", "--on-unsupported pipe=close"],
        );
        if lost {
            assert_says(&case.dump(&["--on-unsupported", "pipe=close"]), &["0: ", "pipe=close asks"]);
            assert_says(&case.restore(&[], Vec::new()), &["0: "]);
            assert_eq!(case.link(FD), None);
            continue;
        }
        assert_says(&case.dump(&["--external", &format!("pipe[{inode}]")]), &["0: "]);
        assert_says(&case.restore(&[], Vec::new()), &["3: ", "was not handed in"]);
        let (other, handed) = nix::unistd::pipe().unwrap();
        let inherit = format!("fd[{FD}]:pipe:[{inode}]");
        assert_says(&case.restore(&["--inherit-fd", &inherit], vec![(FD, handed)]), &["0: "]);
        let its = fs::metadata(format!("/proc/{}/fd/{FD}", case.pid)).unwrap().ino();
        assert_eq!(its, nix::sys::stat::fstat(&other).unwrap().st_ino);
    }
}

#[test]
fn an_owner_of_signals_may_have_ended() {
    if !is_root() {
        return;
    }
    let mut case = Case::new();
    let mut owner = Command::new("sleep").arg("1000").spawn().unwrap();
    let file = open(&case.path("file"));
    // SAFETY: takes numbers only.
    let set = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETOWN, owner.id()) };
    assert_eq!(set, 0);
    case.start(vec![(FD, file)]);
    assert_says(&case.dump(&[]), &["0: "]);
    owner.kill().unwrap();
    owner.wait().unwrap();
    let told = format!("process {}, which was to get its signals, does not exist", owner.id());
    assert_says(&case.restore(&[], Vec::new()), &["0: ", &told]);
    assert_eq!(case.link(FD), Some(case.path("file")));
}

#[test]
fn another_node_does_for_a_device() {
    if !is_root() {
        return;
    }
    let mut case = Case::new();
    let node = case.path("node");
    mknod(&node, SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, makedev(1, 3)).unwrap();
    let Ok(null) = File::options().read(true).write(true).open(&node) else {
        println!("skipped: devices cannot be opened in {}", case.dir.path().display());
        return;
    };
    case.start(vec![(FD, null.into())]);
    fs::remove_file(&node).unwrap();
    assert_says(&case.dump(&["--evasive-devices"]), &["0: "]);
    assert_says(&case.restore(&["--evasive-devices"], Vec::new()), &["0: "]);
    assert_eq!(case.link(FD), Some("/dev/null".into()));
}

#[test]
fn another_device_does_not_do() {
    if !is_root() {
        return;
    }
    let mut case = Case::new();
    let node = case.path("node");
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    mknod(&node, SFlag::S_IFCHR, mode, makedev(1, 3)).unwrap();
    let Ok(null) = File::options().read(true).write(true).open(&node) else {
        println!("skipped: devices cannot be opened in {}", case.dir.path().display());
        return;
    };
    case.start(vec![(FD, null.into())]);
    assert_says(&case.dump(&[]), &["0: "]);
    fs::remove_file(&node).unwrap();
    assert_says(&case.restore(&[], Vec::new()), &["3: ", "the file does not exist any more"]);
    mknod(&node, SFlag::S_IFCHR, mode, makedev(1, 5)).unwrap();
    let told = ["3: ", "it is device 1:5 and was 1:3", "--evasive-devices", "nothing was restored"];
    assert_says(&case.restore(&[], Vec::new()), &told);
    assert_says(&case.restore(&["--evasive-devices"], Vec::new()), &["0: "]);
    assert_eq!(case.link(FD), Some("/dev/null".into()));
}

#[test]
fn changed_files_are_all_told_before_anything_is_made() {
    if !is_root() {
        return;
    }
    let mut case = Case::new();
    let [size, mode, gone, log] = ["size", "mode", "gone", "log"].map(|name| case.path(name));
    fs::write(&size, "four").unwrap();
    fs::write(&log, "a long line\n").unwrap();
    let append = File::options().append(true).open(&log).unwrap();
    let files = [open(&size), open(&mode), open(&gone), append.into(), open(&log)];
    case.start((FD..).zip(files).collect());
    assert_says(&case.dump(&[]), &["0: "]);
    fs::write(&size, "five!").unwrap();
    fs::set_permissions(&mode, fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(&gone).unwrap();
    // Somebody appends to it, so it may be of any size, for whoever else has it open, too.
    fs::write(&log, "short").unwrap();
    let said = case.restore(&[], Vec::new());
    let changed = ["it has 5 bytes and had 4", "it has mode 100600", "the file does not exist any more"];
    assert_says(&said, &["3: ", "nothing was restored"]);
    assert_says(&said, &changed);
    fs::write(&size, "6666").unwrap();
    File::create(&gone).unwrap();
    assert_says(&case.restore(&[], Vec::new()), &["3: ", "pass --skip-file-rwx-check"]);
    assert_says(&case.restore(&["--skip-file-rwx-check"], Vec::new()), &["0: "]);
    assert_eq!(case.link(FD), Some(size));
}

#[test]
fn programs_are_known_by_their_build_id() {
    if !is_root() {
        return;
    }
    let mut case = Case::new();
    let program = case.path("program");
    fs::copy("/bin/sleep", &program).unwrap();
    case.start(vec![(FD, File::open(&program).unwrap().into())]);
    assert_says(&case.dump(&[]), &["0: "]);
    // Another program of the same size.
    let mut bytes = fs::read(&program).unwrap();
    let note = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let Some(place) = bytes.windows(note.len()).position(|part| part == note) else {
        println!("skipped: sleep has no build id");
        return;
    };
    bytes[place + note.len()] ^= 0xff;
    fs::write(&program, bytes).unwrap();
    assert_says(&case.restore(&[], Vec::new()), &["3: ", "it has build id"]);
    assert_says(&case.restore(&["--file-validation", "filesize"], Vec::new()), &["0: "]);
    assert_eq!(case.link(FD), Some(program));
}

#[test]
fn a_watch_finds_another_file_of_the_same_name() {
    const WATCH: &str = "import ctypes, os, time\nwatch = ctypes.CDLL(None)\nfd = watch.inotify_init1(0)\n\
        watch.inotify_add_watch(fd, b'file', 0xfff)\nos.chdir('/')\nopen(READY, 'w').close()\ntime.sleep(1000)";
    if !has_root_and_python() {
        return;
    }
    let mut case = Case::new();
    let (folder, file) = (case.path("deep/down"), case.path("deep/down/file"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(&file, "").unwrap();
    let mut command = Command::new("python3");
    let ready = case.path("ready");
    let script = WATCH.replace("READY", &format!("{:?}", ready.display().to_string()));
    command.args(["-c", &script]).current_dir(&folder);
    let child = alone(&mut command).spawn().unwrap();
    (case.pid, case.target) = (child.id() as i32, Some(child));
    while !ready.exists() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    // The kernel forgets names that nobody uses.
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    let place = case.dir.path().display().to_string();
    assert_says(&case.dump(&["--force-irmap", "--irmap-scan-path", &place]), &["0: "]);
    fs::copy(&file, folder.join("other")).unwrap();
    fs::rename(folder.join("other"), &file).unwrap();
    assert_says(&case.restore(&[], Vec::new()), &["0: "]);
    let watched = || -> String {
        let fds = fs::read_dir(format!("/proc/{}/fdinfo", case.pid)).unwrap().flatten();
        fds.map(|fd| fs::read_to_string(fd.path()).unwrap()).collect()
    };
    assert!(watched().contains(&format!("ino:{:x} ", fs::metadata(&file).unwrap().ino())), "{}", watched());
}

#[test]
fn a_known_descriptor_that_is_refused_may_be_lost() {
    let fuse = || File::options().read(true).write(true).open("/dev/fuse").map(OwnedFd::from);
    if !is_root() || fuse().is_err() {
        return;
    }
    let mut case = Case::new();
    case.start(vec![(FD, fuse().unwrap())]);
    assert_says(&case.dump(&[]), &["3: ", "a FUSE connection", "--on-unsupported device=close"]);
    assert_says(&case.dump(&["--on-unsupported", "device=close"]), &["0: ", "device=close asks"]);
    assert_says(&case.restore(&[], Vec::new()), &["0: ", "device=close asks"]);
    assert_eq!(case.link(FD), None);
}

#[test]
fn a_terminal_from_outside_is_handed_in() {
    if !is_root() {
        return;
    }
    let pty = || nix::pty::openpty(None, None).unwrap();
    let (first, second) = (pty(), pty());
    let stat = nix::sys::stat::fstat(&first.slave).unwrap();
    let key = format!("tty[{:x}:{:x}]", stat.st_rdev, stat.st_dev);
    let mut case = Case::new();
    case.start(vec![(FD, first.slave)]);
    assert_says(&case.dump(&[]), &["3: ", "fd 400: /dev/pts/", "--external tty[RDEV:DEV]"]);
    assert_says(&case.dump(&["--external", &key]), &["0: "]);
    assert_says(&case.restore(&[], Vec::new()), &["3: ", "was not handed in", &key]);
    let other = fs::read_link(format!("/proc/self/fd/{}", second.slave.as_raw_fd())).unwrap();
    let inherit = format!("fd[{FD}]:{key}");
    assert_says(&case.restore(&["--inherit-fd", &inherit], vec![(FD, second.slave)]), &["0: "]);
    assert_eq!(case.link(FD), Some(other));
}
