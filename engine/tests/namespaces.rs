//! Trees in namespaces that others look after, and deaths of the processes that work inside of namespaces.
#![cfg(test)]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use targets::{STASIS, alone, assert_refused, is_root};

mod targets;

/// A process in new namespaces, which ends with this.
struct Target(Child);

impl Target {
    /// `unshare` with these options, and a program that sleeps.
    fn unshared(options: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        command.args(options).args(["sleep", "1000"]).current_dir("/");
        let child = alone(&mut command).spawn().unwrap();
        let target = Self(child);
        // It is the program when it has its name.
        target
            .wait_until(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c == "sleep\n"));
        target
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    #[track_caller]
    fn wait_until(&self, is: impl Fn(i32) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is(self.pid()) {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for its end by a dump.
    fn gone(mut self) -> i32 {
        self.0.wait().unwrap();
        self.pid()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ends_or_has_ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn namespace(pid: i32, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
}

fn inode(pid: i32, kind: &str) -> String {
    let link = namespace(pid, kind).display().to_string();
    link.trim_start_matches(|c: char| !c.is_ascii_digit()).trim_end_matches(']').to_owned()
}

fn stasis(verb: &str, dir: &Path, args: &[&str]) -> Output {
    Command::new(STASIS).arg(verb).arg("-D").arg(dir).args(args).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Restores with these options, and a file as descriptor 400; the pid of the root.
#[track_caller]
fn restore(dir: &Path, args: &[&str], file: Option<&File>) -> i32 {
    let mut command = Command::new(STASIS);
    command.args(["restore", "-d", "--pidfile", "pid", "-D"]).arg(dir).args(args).stdin(Stdio::null());
    if let Some(number) = file.map(AsRawFd::as_raw_fd) {
        let pass = move || {
            // SAFETY: takes numbers only.
            nix::errno::Errno::result(unsafe { libc::dup2(number, 400) })?;
            Ok(())
        };
        // SAFETY: what is called after the fork is async-signal-safe.
        unsafe { command.pre_exec(pass) };
    }
    // It must not hold a pipe of ours open, as a restored tree may.
    let output =
        command.stdout(Stdio::null()).stderr(File::create(dir.join("said")).unwrap()).status().unwrap();
    assert!(output.success(), "{}", fs::read_to_string(dir.join("said")).unwrap());
    fs::read_to_string(dir.join("pid")).unwrap().trim().parse().unwrap()
}

fn end(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

#[test]
fn an_external_network_namespace_is_handed_in() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = Target::unshared(&["--net", "--uts"]);
    let file = File::open(format!("/proc/{}/ns/net", target.pid())).unwrap();
    let net = namespace(target.pid(), "net");
    let external = format!("net[{}]:outer", inode(target.pid(), "net"));
    let tree = target.pid().to_string();
    succeeded(&stasis("dump", dir.path(), &["-t", &tree, "--external", &external]));
    target.gone();
    let refused = stasis("restore", dir.path(), &["-d"]);
    assert_refused(&refused, 3, &["the net namespace \"outer\" is external", "--inherit-fd fd[N]:outer"]);
    let pid = restore(dir.path(), &["--external", &external, "--inherit-fd", "fd[400]:outer"], Some(&file));
    assert_eq!(namespace(pid, "net"), net);
    assert_ne!(namespace(pid, "uts"), namespace(std::process::id() as i32, "uts"));
    end(pid);
}

#[test]
fn namespaces_are_joined_or_left_empty() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (target, host) = (Target::unshared(&["--net"]), Target::unshared(&["--net", "--uts"]));
    let (tree, there) = (target.pid().to_string(), host.pid());
    succeeded(&stasis("dump", dir.path(), &["-t", &tree, "--empty-ns", "net"]));
    target.gone();
    let by_file = format!("uts:/proc/{there}/ns/uts");
    let pid = restore(dir.path(), &["--join-ns", &format!("net:{there}"), "-J", &by_file], None);
    assert_eq!(namespace(pid, "net"), namespace(there, "net"));
    assert_eq!(namespace(pid, "uts"), namespace(there, "uts"));
    end(pid);
    while Path::new(&format!("/proc/{pid}")).exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let pid = restore(dir.path(), &["--empty-ns", "net"], None);
    let own = std::process::id() as i32;
    assert!(![namespace(own, "net"), namespace(there, "net")].contains(&namespace(pid, "net")));
    end(pid);
}

#[test]
fn a_namespace_that_is_not_there_is_named() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = Target::unshared(&["--net"]);
    let tree = target.pid().to_string();
    succeeded(&stasis("dump", dir.path(), &["-t", &tree, "--empty-ns", "net"]));
    target.gone();
    let (gone, other) = (dir.path().join("netns"), dir.path().join("inventory.img"));
    for (joined, why) in [
        (gone.to_str().unwrap(), "the net namespace that is to be joined is not there"),
        (tree.as_str(), "the net namespace that is to be joined is not there"),
        (other.to_str().unwrap(), "it is to be joined as a net namespace, and is none"),
        ("/proc/self/ns/uts", "it is to be joined as a net namespace, and is none"),
    ] {
        let refused = stasis("restore", dir.path(), &["-d", "--join-ns", &format!("net:{joined}")]);
        assert_refused(&refused, 3, &[joined, why, "name a process that lives", "nothing was restored"]);
    }
    end(restore(dir.path(), &["--empty-ns", "net"], None));
}

#[test]
fn a_task_that_is_no_init_is_refused_with_its_pid() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    let script = "sleep 1000 & sleep 1000; true";
    let child = alone(command.args(["--pid", "--fork", "sh", "-c", script])).spawn().unwrap();
    let target = Target(child);
    let children = |pid: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()).collect::<Vec<_>>()
    };
    target.wait_until(|pid| children(pid).first().is_some_and(|init| children(*init).len() == 2));
    let init = children(target.pid())[0];
    let tree = children(init)[0].to_string();
    let refused = stasis("dump", dir.path(), &["-t", &tree]);
    assert_refused(
        &refused,
        3,
        &["in its pid namespace; only a tree from the init on", "--external pid[INODE]"],
    );
    end(init);
}

/// Whoever is killed, and whenever: the tree runs on as it was, with nobody left who traces it, or is dumped whole.
#[test]
fn killed_dumps_leave_trees_in_namespaces_running() {
    const ROUNDS: u32 = 24;
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut target = Target::unshared(&["--net", "--uts", "--ipc"]);
    let tree = target.pid().to_string();
    let start = Instant::now();
    succeeded(&stasis("dump", dir.path(), &["-t", &tree, "-R"]));
    let whole = start.elapsed();
    for round in 0..ROUNDS {
        let args = ["dump", "-t", &target.pid().to_string(), "-D"].map(str::to_owned);
        let mut command = Command::new(STASIS);
        command.args(args).arg(dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut dump = command.spawn().unwrap();
        std::thread::sleep(whole * round / ROUNDS);
        dump.kill().unwrap();
        dump.wait().unwrap();
        // The worker finds out, and either rolls back or finishes.
        let pid = target.pid();
        let status = |pid: i32| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        target.wait_until(|pid| {
            status(pid).contains("TracerPid:\t0\n") && !dir.path().join("inventory.img.new").exists()
        });
        let runs = !status(pid).contains("State:\tZ");
        assert!(runs || dir.path().join("inventory.img").exists(), "round {round}: {}", status(pid));
        if !runs {
            target = Target::unshared(&["--net", "--uts", "--ipc"]);
        }
    }
}

/// A session that counts into a file of its directory: a parent with a child.
fn counting(dir: &Path) -> Target {
    let script = "i=0; sleep 1000 & while :; do i=$((i+1)); echo $i > count; read x < /proc/self/stat; echo $x > self; \
                  sleep 0.02; done";
    let mut command = Command::new("sh");
    let child = alone(command.args(["-c", script]).current_dir(dir)).spawn().unwrap();
    let target = Target(child);
    target.wait_until(|_pid| dir.join("self").exists());
    target
}

fn count(dir: &Path) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        // Between opening and writing it is empty.
        if let Ok(count) = fs::read_to_string(dir.join("count")).unwrap_or_default().trim().parse() {
            return count;
        }
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_tree_whose_pids_are_taken_gets_a_pid_namespace_if_asked_for() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    fs::create_dir(&images).unwrap();
    let target = counting(dir.path());
    let (tree, own) = (target.pid().to_string(), namespace(std::process::id() as i32, "pid"));
    succeeded(&stasis("dump", &images, &["-t", &tree, "-R", "--shell-job"]));
    let refused = stasis("restore", &images, &["-d"]);
    assert_refused(&refused, 3, &["is taken by", "--own-pidns"]);
    let before = count(dir.path()) + 1;
    kill(Pid::from_raw(target.pid()), Signal::SIGSTOP).unwrap();
    let pid = restore(&images, &["--own-pidns"], None);
    assert_ne!(pid, target.pid());
    assert_ne!(namespace(pid, "pid"), own);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains(&format!("NSpid:\t{pid}\t{tree}\n")), "{status}");
    let deadline = Instant::now() + Duration::from_secs(10);
    while count(dir.path()) <= before {
        assert!(Instant::now() < deadline, "it does not count on");
    }
    // Its procfs knows it by its old pid.
    std::thread::sleep(Duration::from_millis(100));
    let shown = fs::read_to_string(dir.path().join("self")).unwrap();
    assert!(shown.starts_with(&format!("{tree} (sh)")), "{shown}");
    // Nobody else is there but the init, which goes with the last.
    let there = || {
        let all = fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let theirs = namespace(pid, "pid");
        pids.filter(|other| fs::read_link(format!("/proc/{other}/ns/pid")).is_ok_and(|link| link == theirs))
            .collect::<Vec<_>>()
    };
    let all = there();
    let name = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    assert!(all.iter().any(|pid| name(pid) == "stasis-init\n"), "{all:?}");
    for pid in &all {
        if name(pid) != "stasis-init\n" {
            let _gone_already = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
    }
    while all.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
        assert!(Instant::now() < deadline, "the init stays: {all:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Where pids are free, nothing is different.
    kill(Pid::from_raw(target.pid()), Signal::SIGKILL).unwrap();
    drop(target);
    for child in fs::read_dir("/proc").unwrap().flatten() {
        // The sleeping child of the original is nobody's now.
        let stat = fs::read_to_string(child.path().join("stat")).unwrap_or_default();
        let words: Vec<&str> = stat.split_whitespace().collect();
        if words.get(5) == Some(&tree.as_str()) {
            end(words[0].parse().unwrap());
        }
    }
    let pid = restore(&images, &["--own-pidns"], None);
    assert_eq!((pid.to_string(), namespace(pid, "pid")), (tree, own));
    end(pid);
}

#[test]
fn a_mount_namespace_is_joined() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    fs::create_dir(&images).unwrap();
    let (target, host) = (counting(dir.path()), Target::unshared(&["--mount"]));
    let tree = target.pid().to_string();
    succeeded(&stasis("dump", &images, &["-t", &tree]));
    target.gone();
    let join = format!("mnt:{}", host.pid());
    let before = count(dir.path());
    let pid = restore(&images, &["--join-ns", &join], None);
    assert_eq!(namespace(pid, "mnt"), namespace(host.pid(), "mnt"));
    let deadline = Instant::now() + Duration::from_secs(10);
    while count(dir.path()) <= before {
        assert!(Instant::now() < deadline, "it does not count on");
    }
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), dir.path());
    end(pid);
}

/// A tree in user, pid and mount namespaces of its own; its init, and who started it.
fn contained(dir: &Path) -> (Target, i32) {
    let mut command = Command::new("unshare");
    let options = [
        "--user",
        "--map-root-user",
        "--pid",
        "--net",
        "--fork",
        "--mount",
        "--mount-proc",
        "setsid",
        "sleep",
        "1000",
    ];
    // Nobody can give it groups that it has not inherited, and these have no place in its map.
    let groups = || nix::unistd::setgroups(&[4242.into(), 4243.into()]).map_err(std::io::Error::from);
    // SAFETY: what is called after the fork is async-signal-safe.
    unsafe { command.pre_exec(groups) };
    let target = Target(alone(command.args(options).current_dir(dir)).spawn().unwrap());
    let init = |pid: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let init: i32 = text.trim().parse().ok()?;
        fs::read_to_string(format!("/proc/{init}/comm")).is_ok_and(|comm| comm == "sleep\n").then_some(init)
    };
    target.wait_until(|pid| init(pid).is_some());
    let init = init(target.pid()).unwrap();
    (target, init)
}

#[test]
fn a_user_namespace_is_joined() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (target, init) = contained(Path::new("/"));
    let seen = |pid: i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let groups = status.lines().find(|line| line.starts_with("Groups:")).unwrap().to_owned();
        ["setgroups", "uid_map", "gid_map"]
            .map(|name| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap())
            .into_iter()
            .chain([groups])
            .collect::<Vec<_>>()
    };
    let before = seen(init);
    assert_eq!(before[0], "deny\n");
    let (tree, ours) = (init.to_string(), namespace(std::process::id() as i32, "user"));
    // What cannot be made by anybody there is left out.
    let mounts = fs::read_to_string(format!("/proc/{init}/mountinfo")).unwrap();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let left_out = places.filter(|place| place.starts_with("/sys") || place.starts_with("/dev/"));
    let skips: Vec<&str> = left_out.flat_map(|place| ["--skip-mnt", place]).collect();
    let external = ["--external", "mnt[]"];
    succeeded(&stasis("dump", dir.path(), &[&["-t", &tree][..], &external, &skips].concat()));
    let external = ["--external", "mnt[]", "--root", "/"];
    drop(target);
    let there = Target::unshared(&["--user", "--map-root-user"]);
    let join = format!("user:{}", there.pid());
    let pid = restore(dir.path(), &[&["--join-ns", &join][..], &external].concat(), None);
    assert_eq!(namespace(pid, "user"), namespace(there.pid(), "user"));
    assert_ne!(namespace(pid, "user"), ours);
    // What is its own belongs there: whoever is root there may mount.
    let target = pid.to_string();
    let args = ["-t", &target, "-U", "-m", "--preserve-credentials", "mount", "-t", "tmpfs", "none", "/mnt"];
    assert!(Command::new("nsenter").args(args).status().unwrap().success());
    end(pid);
    let own = restore(dir.path(), &external, None);
    assert_ne!(namespace(own, "user"), namespace(there.pid(), "user"));
    assert_eq!(seen(own), before);
    end(own);
    let own = format!("user:{}", std::process::id());
    let refused = stasis("restore", dir.path(), &[&["-d", "--join-ns", &own][..], &external].concat());
    assert_refused(&refused, 3, &["is the one that stasis is in"]);
}

#[test]
fn a_user_namespace_takes_the_place_of_another_one_only() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = Target::unshared(&["--uts"]);
    succeeded(&stasis("dump", dir.path(), &["-t", &target.pid().to_string()]));
    target.gone();
    let there = Target::unshared(&["--user", "--map-root-user"]);
    let refused = stasis("restore", dir.path(), &["-d", "--join-ns", &format!("user:{}", there.pid())]);
    assert_refused(&refused, 3, &["the tree has no user namespace of its own"]);
}
