//! What options say of namespaces, and what is told of namespaces that cannot be kept or made.
#![cfg(test)]

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use targets::{STASIS, alone, assert_refused, is_root};

mod targets;

/// A shell in new namespaces that sleeps in the end, and ends with this.
struct Target(Child);

impl Target {
    /// `unshare` with these options, and a script before the sleep.
    fn unshared(options: &[&str], script: &str) -> Self {
        let mut command = Command::new("unshare");
        command.args(options).args(["sh", "-c", &format!("{script} exec sleep 1000")]).current_dir("/");
        let target = Self(alone(&mut command).spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::read_to_string(format!("/proc/{}/comm", target.0.id())).ok().as_deref() != Some("sleep\n") {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(2));
        }
        target
    }

    fn dump(&self, dir: &Path, args: &[&str]) -> Output {
        let tree = self.0.id().to_string();
        Command::new(STASIS).args(["dump", "-t", &tree, "-D"]).arg(dir).args(args).output().unwrap()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ends_or_has_ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[track_caller]
fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Restores with these options; what it said, and the root, which ends with this.
fn restore(dir: &Path, args: &[&str]) -> Output {
    let said = dir.join("said");
    let mut command = Command::new(STASIS);
    // It must not hold a pipe of ours open, as a restored tree may.
    let command = command.args(["restore", "-d", "--pidfile", "pid", "-D"]).arg(dir).args(args);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&said).unwrap());
    let status = status.status().unwrap();
    Output { status, stdout: Vec::new(), stderr: fs::read(said).unwrap() }
}

/// The root of a restored tree.
struct Root(i32);

impl Root {
    fn of(dir: &Path) -> Self {
        Self(fs::read_to_string(dir.join("pid")).unwrap().trim().parse().unwrap())
    }

    fn mounts(&self) -> String {
        fs::read_to_string(format!("/proc/{}/mountinfo", self.0)).unwrap()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let root = nix::unistd::Pid::from_raw(self.0);
        nix::sys::signal::kill(root, nix::sys::signal::Signal::SIGKILL).unwrap();
        while Path::new(&format!("/proc/{root}")).exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn a_user_namespace_without_a_mapping_is_refused() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = Target::unshared(&["--user"], "");
    let refused = target.dump(dir.path(), &[]);
    assert_refused(&refused, 3, &["uid_map", "gid_map"]);
}

#[test]
fn tunables_that_are_not_there_may_be_passed_over() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = Target::unshared(&["--net"], "");
    succeeded(&target.dump(dir.path(), &["--skip-checksums"]));
    drop(target);
    let entries = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.path());
    let image = entries.into_iter().find(|path| path.to_string_lossy().contains("stasis-sysctls-")).unwrap();
    let crit = |verb: &str, from: &Path, to: &Path| {
        let mut command = Command::new(STASIS);
        succeeded(&command.args(["crit", verb, "-i"]).arg(from).arg("-o").arg(to).output().unwrap());
    };
    let text = dir.path().join("text");
    crit("decode", &image, &text);
    let changed = fs::read_to_string(&text).unwrap().replacen("somaxconn", "nothing-like-that", 1);
    assert!(changed.contains("nothing-like-that"));
    fs::write(&text, changed).unwrap();
    crit("encode", &text, &image);
    let failed = restore(dir.path(), &["--skip-checksums"]);
    assert!(!failed.status.success());
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(said.contains("nothing-like-that") && said.contains("--weak-sysctls"), "{said}");
    succeeded(&restore(dir.path(), &["--skip-checksums", "--weak-sysctls"]));
    drop(Root::of(dir.path()));
}

#[test]
fn a_bridge_that_is_missing_is_named() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target =
        Target::unshared(&["--net"], "ip link add eth0 type veth peer name zdtmx netns $PPID || exit 1;");
    let pair = "veth[eth0]:zdtmx@zdtm-none";
    succeeded(&target.dump(dir.path(), &["--external", "veth[eth0]:zdtmx"]));
    drop(target);
    let failed = restore(dir.path(), &["--external", pair]);
    assert!(!failed.status.success());
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(said.contains("bridge") && said.contains("zdtm-none"), "{said}");
}

#[test]
fn mounts_are_left_out_or_made_again_as_options_say() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = "mount --make-rprivate / && mount -t tmpfs zoo-left-out /mnt && \
                  mount -t hugetlbfs zoo-made-again /media || exit 1;";
    let target = Target::unshared(&["--mount"], script);
    let refused = target.dump(dir.path(), &["--external", "mnt[]"]);
    assert_refused(&refused, 3, &["hugetlbfs"]);
    let options = ["--external", "mnt[]", "--enable-fs", "hugetlbfs"];
    succeeded(
        &target.dump(dir.path(), &[&options[..], &["--skip-mnt", "/mnt", "--skip-mnt", "/dev/shm"]].concat()),
    );
    drop(target);
    succeeded(&restore(dir.path(), &[&options[..], &["--mntns-compat-mode"]].concat()));
    let root = Root::of(dir.path());
    let mounts = root.mounts();
    assert!(mounts.contains("zoo-made-again") && !mounts.contains("zoo-left-out"), "{mounts}");
}
