//! A container that runc started (pid, mount, network, ipc and uts namespaces, some thirty mounts, a cgroup in every
//! hierarchy, standard output on a pipe) is dumped, dies, and goes on counting.
#![cfg(test)]

use std::fs;
use std::io::{BufRead as _, BufReader, Lines, PipeReader};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use targets::{STASIS, is_root};

mod targets;

/// Whether the programs are there; it is said if they are not.
fn has_programs() -> bool {
    let is_there = |name: &str| {
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        path.split(':').any(|folder| Path::new(folder).join(name).exists())
    };
    let all = is_there("runc") && is_there("busybox");
    if !all {
        println!("skipped: needs runc and busybox");
    }
    is_root() && all
}

/// A bundle of runc, whose container ends when this is dropped.
struct Container {
    dir: tempfile::TempDir,
    name: String,
}

impl Container {
    /// A container that counts on its standard output, in tenths of seconds.
    fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("rootfs");
        for folder in ["bin", "proc", "sys", "dev", "tmp"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let busybox = Command::new("sh").args(["-c", "command -v busybox"]).output().unwrap();
        fs::copy(String::from_utf8_lossy(&busybox.stdout).trim(), root.join("bin/busybox")).unwrap();
        for name in ["sh", "sleep"] {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        succeeded(&runc().arg("spec").current_dir(dir.path()).output().unwrap());
        let config = dir.path().join("config.json");
        let mut spec: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
        spec["process"]["terminal"] = false.into();
        let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done";
        spec["process"]["args"] = serde_json::json!(["/bin/sh", "-c", script]);
        fs::write(&config, spec.to_string()).unwrap();
        let name = format!("stasis-test-{}", std::process::id());
        Self { dir, name }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Starts it; what it prints, and the pid of its init.
    fn start(&self) -> (PipeReader, String) {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut run = runc();
        run.args(["run", "-d", "--pid-file", &self.path("pid"), &self.name]).current_dir(self.dir.path());
        let started = run.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer).status();
        assert!(started.unwrap().success(), "runc run");
        (reader, fs::read_to_string(self.path("pid")).unwrap())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Whatever is left of it.
        let _ = runc().args(["delete", "-f", &self.name]).output();
        let _ = Command::new("umount").arg(self.path("root")).output();
    }
}

fn runc() -> Command {
    let mut command = Command::new("runc");
    command.env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/sbin");
    command
}

#[track_caller]
fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The next number.
fn next(lines: &mut Lines<BufReader<PipeReader>>) -> Option<u32> {
    lines.next().map(|line| line.unwrap().trim().parse().unwrap())
}

#[test]
fn a_container_of_runc() {
    if !has_programs() {
        return;
    }
    let container = Container::make();
    fs::create_dir(container.path("images")).unwrap();
    fs::create_dir(container.path("root")).unwrap();
    let (output, pid) = container.start();
    let mut lines = BufReader::new(output).lines();
    let mut last = 0;
    while last < 3 {
        last = next(&mut lines).unwrap();
    }
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let pipe = fs::read_link(format!("/proc/{pid}/fd/1")).unwrap().display().to_string();

    let images = container.path("images");
    let options = ["-D", &images, "--manage-cgroups=soft", "--external", "mnt[]"];
    let mut dump = Command::new(STASIS);
    succeeded(&dump.args(["dump", "-t", &pid, "--external", &pipe]).args(options).output().unwrap());
    assert!(!Path::new(&format!("/proc/{pid}/exe")).exists(), "it lives on");
    while let Some(number) = next(&mut lines) {
        last = number;
    }

    succeeded(
        &Command::new("mount")
            .args(["--bind", &container.path("rootfs"), &container.path("root")])
            .output()
            .unwrap(),
    );
    let (output, writer) = std::io::pipe().unwrap();
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let handed = format!("fd[{}]:{pipe}", writer.as_raw_fd());
    let mut restore = Command::new(STASIS);
    restore.args(["restore", "-d", "--root", &container.path("root"), "--inherit-fd", &handed]);
    succeeded(&restore.args(options).args(["--pidfile", "init"]).output().unwrap());
    drop(writer);
    let init = fs::read_to_string(container.path("images/init")).unwrap();
    let mut lines = BufReader::new(output).lines();
    assert_eq!(next(&mut lines), Some(last + 1), "it counts on");
    assert_eq!(fs::read_to_string(format!("/proc/{init}/cgroup")).unwrap(), groups, "cgroups");
    let kill = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(init.trim().parse().unwrap()),
        nix::sys::signal::SIGKILL,
    );
    kill.unwrap();
    while next(&mut lines).is_some() {}
}
