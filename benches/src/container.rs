//! A container: an init in namespaces of its own, with 40 mounts and a pair of network devices.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::session::{Samples, Subject};
use crate::stasis::Stasis;

/// How many mounts it has.
pub const MOUNTS: usize = 40;
/// The outer end of the pair.
const OUTER: &str = "stasis-bench0";
/// How long it may take until it is ready.
const READY: Duration = Duration::from_secs(20);

/// It runs, or is in images.
#[derive(Debug)]
pub struct Container {
    stasis: Stasis,
    dir: TempDir,
    running: Option<Pid>,
    /// What was measured so far.
    pub samples: Samples,
}

impl Container {
    /// Starts one, which needs busybox and ip(8).
    pub fn start(stasis: &Stasis) -> Result<Self> {
        set_child_subreaper(true).context("PR_SET_CHILD_SUBREAPER")?;
        let dir = tempfile::Builder::new().prefix("stasis-bench.").tempdir_in("/dev/shm")?;
        let mut container = Self { stasis: stasis.clone(), dir, running: None, samples: Samples::default() };
        let root = container.path("root");
        container.make_root(&root)?;
        // A restore finds its root mounted there.
        let none = None::<&str>;
        mount(Some(&root), &root, none, MsFlags::MS_BIND, none).context("mount its root")?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "setsid", "sh"]);
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/container.sh")).arg(&root);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // SAFETY: what is called after the fork is async-signal-safe.
        unsafe { command.pre_exec(keep_to_ourselves) };
        let starter = command.spawn().context("unshare")?.id();
        let start = Instant::now();
        let init = loop {
            let children = fs::read_to_string(format!("/proc/{starter}/task/{starter}/children"))?;
            if let Some(init) = children.split_whitespace().next() {
                break init.parse::<i32>()?;
            }
            ensure!(start.elapsed() < READY, "no init is there");
        };
        container.running = Some(Pid::from_raw(init));
        let pair = format!("link add {OUTER} type veth peer name eth0 netns {init}");
        for words in [&*pair, &format!("link set {OUTER} up")] {
            let status = Command::new("ip").args(words.split(' ')).status().context("ip")?;
            ensure!(status.success(), "ip {words}");
        }
        let ready = PathBuf::from(format!("/proc/{init}/root/m/t1/ready"));
        let is_asleep =
            || fs::read_to_string(format!("/proc/{init}/cmdline")).is_ok_and(|c| c.contains("100000"));
        while !ready.exists() || !is_asleep() {
            ensure!(start.elapsed() < READY, "the container is not ready");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mounts = fs::read_to_string(format!("/proc/{init}/mountinfo"))?.lines().count();
        ensure!(mounts == MOUNTS, "it has {mounts} mounts");
        Ok(container)
    }

    fn make_root(&self, root: &Path) -> Result<()> {
        for folder in ["bin", "proc", "sys", "dev", "mnt"] {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::create_dir(self.path("files"))?;
        fs::create_dir(self.path("images"))?;
        for i in 1..=12 {
            fs::create_dir_all(root.join(format!("m/t{i}")))?;
            fs::create_dir_all(root.join(format!("m/p{i}")))?;
            fs::write(root.join(format!("m/b{i}")), "")?;
            fs::write(self.path("files").join(i.to_string()), "from outside")?;
        }
        let busybox = Command::new("sh").args(["-c", "command -v busybox"]).output()?;
        let busybox = String::from_utf8_lossy(&busybox.stdout).trim().to_owned();
        fs::copy(&busybox, root.join("bin/busybox")).context("busybox")?;
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Subject for Container {
    fn state(&mut self) -> (&mut Option<Pid>, &mut Samples) {
        (&mut self.running, &mut self.samples)
    }

    fn images(&self) -> PathBuf {
        self.path("images")
    }

    fn dump_running(&self, root: Pid) -> Result<Duration> {
        self.stasis.dump_with(root.as_raw(), &self.images(), &["--external", "mnt[]"])
    }

    fn restore_images(&self) -> Result<(Duration, i32)> {
        // The kernel takes a pair away a while after its namespace; that is not what is measured.
        let start = Instant::now();
        while Path::new("/sys/class/net").join(OUTER).exists() {
            ensure!(start.elapsed() < READY, "the old pair of devices does not go away");
            std::thread::sleep(Duration::from_millis(1));
        }
        let root = self.path("root").display().to_string();
        let pair = format!("veth[eth0]:{OUTER}");
        let options = ["--root", &root, "--external", "mnt[]", "--external", &pair];
        self.stasis.restore_with(&self.images(), &options)
    }

    fn kill(root: Pid) -> nix::Result<()> {
        kill(root, Signal::SIGKILL)
    }
}

/// Whatever else we have open is not the container's.
fn keep_to_ourselves() -> std::io::Result<()> {
    // SAFETY: takes numbers only, and marks descriptors without closing any.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if marked == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

impl Drop for Container {
    fn drop(&mut self) {
        // What is gone already is what we want.
        let _ = self.end();
        let _ = umount2(&self.path("root"), MntFlags::MNT_DETACH);
    }
}
