//! Mount namespaces go into images and come back: a shell makes one, and what is built from its images is the same.
#![cfg(test)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use engine::error::Problem;
use engine::image::{Images, NewImages};
use engine::mounts::classify::{Whose, classify};
use engine::mounts::model::{Mount, Namespace};
use engine::mounts::outside::OutsideMounts;
use engine::mounts::surroundings::Surroundings;
use engine::mounts::write::Member;
use engine::mounts::{build, envoy, plan, read, write};
use engine::options::{AutoMounts, MountOptions};
use proto::messages::InventoryEntry;

use targets::is_root;

mod targets;

/// Gives a shell in a new mount namespace a root of its own, with programs from outside.
const ROOT: &str = r"
set -e
mount -t tmpfs -o size=8m,mode=755 root $T
cd $T
mkdir usr proc sys dev old tmp
for link in bin lib lib64 sbin; do if [ -L /$link ]; then cp -P /$link .; else mkdir $link; mount --bind /$link $link; fi; done
mount --bind /usr usr
# A user namespace that has no pid namespace may only show what is there.
mount -t proc proc proc 2> /dev/null || mount --rbind /proc proc
pivot_root . old
umount -l old
rmdir old
";

/// A shell in a mount namespace of its own.
struct Shell {
    child: Child,
    _dir: tempfile::TempDir,
}

impl Shell {
    /// Starts one that runs a script.
    fn start(unshare: &[&str], script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("unshare");
        command.args(unshare).args(["--mount", "--propagation", "private", "sh", "-c"]);
        command.arg(format!("{ROOT}\n{script}\necho ready\nread line")).env("T", dir.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the script failed");
        Self { child, _dir: dir }
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ended = self.child.stdin.take().unwrap().write_all(b"\n");
        self.child.wait().unwrap();
    }
}

/// Mounts as lines that do not depend on ids, device numbers and numbers of peer groups.
fn normalized(namespaces: &[&Namespace]) -> Vec<String> {
    let mut groups: BTreeMap<u32, usize> = BTreeMap::new();
    let mut lines = Vec::new();
    let mut number = |group: Option<u32>| {
        group.map(|group| {
            let next = groups.len();
            *groups.entry(group).or_insert(next)
        })
    };
    for namespace in namespaces {
        let mut next: Vec<(&Mount, String)> = vec![(namespace.root().unwrap(), String::new())];
        while let Some((mount, under)) = next.pop() {
            let under = format!("{under}>{}", mount.mountpoint);
            let (shared, master) = (number(mount.shared), number(mount.master));
            let options: Vec<&str> = mount.options.split(',').filter(|o| !o.starts_with("inode")).collect();
            lines.push(format!(
                "{under} {}{} {:x} {:x} {} {} {options:?} {shared:?} {master:?}",
                mount.root, mount.removed, mount.flags, mount.sb_flags, mount.fstype, mount.source,
            ));
            let mut children: Vec<&Mount> = namespace.children(mount).collect();
            children.sort_by_key(|mount| (&mount.mountpoint, &mount.root));
            next.extend(children.into_iter().map(|child| (child, under.clone())));
        }
    }
    lines
}

fn auto() -> MountOptions {
    MountOptions { auto: Some(AutoMounts::default()), ..MountOptions::default() }
}

fn text(problems: &[Problem]) -> String {
    let line = |p: &Problem| {
        let object = p.object.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("{object}: {:?} {} ({})", p.step, p.cause, p.cause.help().unwrap_or_default())
    };
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn ok<T>(result: Result<T, Problem>) -> T {
    result.unwrap_or_else(|problem| panic!("{}", text(&[problem])))
}

/// Writes the namespaces of processes.
fn dump(pids: &[i32], options: &MountOptions, dir: &Path) -> Vec<Namespace> {
    let mut namespaces: Vec<Namespace> =
        pids.iter().zip(1..).map(|(pid, id)| ok(read::namespace(*pid, *pid, id))).collect();
    let problems = classify(&mut namespaces, &ok(Surroundings::read()), options, Whose::Trees);
    assert!(problems.is_empty(), "{}", text(&problems));
    let mut images = NewImages::new(dir);
    let members: Vec<Member<'_>> = namespaces
        .iter()
        .zip(pids)
        .map(|(namespace, pid)| Member { namespace, pid: *pid, root: *pid })
        .collect();
    ok(write::write(&members, options, &mut images));
    ok(images.commit(&InventoryEntry::default()));
    namespaces
}

/// Builds them again; in each, runs a script, if any, and reads its mounts.
fn restore(
    count: u32,
    options: &MountOptions,
    dir: &Path,
    prepare: &dyn Fn(),
    script: &str,
) -> Vec<Namespace> {
    let images = Images::open(dir);
    let ids: Vec<u32> = (1..=count).collect();
    let namespaces = ok(plan::read(&images, &ids, options));
    let planned =
        plan::plan(&namespaces, &images, &ok(Surroundings::read()), options, plan::CgroupRoot::Namespace);
    let plan = planned.unwrap_or_else(|problems| panic!("{}", text(&problems)));
    let outside = OutsideMounts::open(&plan).unwrap_or_else(|problems| panic!("{}", text(&problems)));
    let mountinfo = ok(envoy::fork(|| {
        prepare();
        let own = std::fs::File::open("/proc/self").unwrap();
        let files = build::BuildFiles {
            wanted: Vec::new(),
            spaces: Vec::new(),
            masters: Vec::new(),
            owners: Vec::new(),
        };
        let (built, _masters) = build::build(&plan, outside, &images, &files)?;
        let mut all = Vec::new();
        for one in built {
            nix::sched::setns(&one.namespace, nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let flags = nix::fcntl::OFlag::O_RDONLY;
            let file = nix::fcntl::openat(&own, "mountinfo", flags, nix::sys::stat::Mode::empty()).unwrap();
            std::io::Read::read_to_end(&mut std::fs::File::from(file), &mut all).unwrap();
            all.push(0);
            if !script.is_empty() {
                let output = Command::new("/bin/sh")
                    .args(["-e", "-c", script])
                    .stdin(Stdio::piped())
                    .output()
                    .unwrap();
                let said = [output.stdout, output.stderr].concat();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
            }
        }
        Ok(all)
    }));
    let namespace = |(text, id): (&[u8], u32)| {
        let lines = engine::procfs::mountinfo::parse(text).unwrap();
        Namespace { id, mounts: lines.iter().map(|line| Mount::from_line(line).unwrap()).collect() }
    };
    mountinfo.split(|byte| *byte == 0).zip(1..=count).map(namespace).collect()
}

/// A namespace that a script makes comes back, and another script finds in it what it expects.
#[track_caller]
fn comes_back(script: &str, check: &str) {
    if !is_root() {
        return;
    }
    let shell = Shell::start(&[], script);
    let images = tempfile::tempdir().unwrap();
    let was = dump(&[shell.pid()], &auto(), images.path());
    let is = restore(1, &auto(), images.path(), &|| (), check);
    assert_eq!(normalized(&[&is[0]]), normalized(&[&was[0]]));
}

#[test]
fn a_root_with_programs_from_outside() {
    comes_back("echo hello > /tmp/file", "test $(cat /tmp/file) = hello; ls /usr/bin/env");
}

#[test]
fn flags_of_mounts_and_file_systems() {
    comes_back(
        "mkdir /a /b /c /d
        mount -t tmpfs -o ro,nosuid,size=4k a /a
        mount -t tmpfs -o nodev,noexec,noatime,mode=700 b /b; mount -o remount,bind,ro /b
        mount --bind /a /c; mount -t tmpfs -o strictatime,nr_inodes=10 d /d",
        "! touch /a/x; ! touch /b/x; touch /d/x",
    );
}

#[test]
fn what_covers_and_what_is_covered() {
    comes_back(
        "mkdir -p /a/b/c; touch /a/f
        mount -t tmpfs one /a/b; mkdir /a/b/x; touch /a/b/x/one; mount -t tmpfs two /a/b; mkdir /a/b/y
        mount -t tmpfs three /a/b/y; touch /a/b/y/three
        mount -t tmpfs four /a; touch /a/four",
        "test -e /a/four; umount /a; test -e /a/f; test -e /a/b/y/three; umount /a/b/y; umount /a/b
        test -e /a/b/x/one; umount /a/b; test -d /a/b/c",
    );
}

#[test]
fn binds_of_files_and_folders() {
    comes_back(
        "mkdir -p /a/x /b; echo text > /a/x/f; touch /g; mount -t tmpfs a /b; mkdir /b/in; echo in > /b/in/h
        mount --bind /a/x /tmp; mount --bind /a/x/f /g; mount --bind /b/in /a
        mkdir /dev/x; mount --bind /tmp/f /tmp/f; mount --bind /proc/sys /dev/x; mount -o remount,ro,bind /dev/x",
        "test $(cat /g) = text; test $(cat /a/h) = in; test -e /dev/x/kernel/pid_max; echo other > /g; test $(cat /tmp/f) = other",
    );
}

#[test]
fn ways_to_propagate() {
    comes_back(
        "mkdir /s /p /m /q /u /z /w
        mount -t tmpfs s /s; mount --make-shared /s; mkdir /s/1 /s/2
        mount --bind /s /p; mount --bind /s /m; mount --make-slave /m
        mount --bind /m /q; mount --make-shared /q
        mount -t tmpfs u /u; mount --make-unbindable /u
        mount --bind /s/1 /z; mount --bind /q /w; mount --make-slave /w; mount --make-shared /w
        mount -t tmpfs inner /s/2; touch /s/2/inner",
        "test -e /p/2/inner; test -e /m/2/inner; test -e /q/2/inner; test -e /w/2/inner
        mkdir /s/2/d; mount -t tmpfs t /q/1; ! mountpoint -q /s/1; mountpoint -q /w/1
        mount -t tmpfs t /s/1; mountpoint -q /p/1; umount /s/1; ! mountpoint -q /p/1",
    );
}

#[test]
fn groups_of_parts() {
    comes_back(
        "mkdir /t /a /b; mount -t tmpfs t /t; mkdir -p /t/a/x /t/b/x; mount --make-shared /t
        mount --bind /t/a /a; mount --bind /t/b /b; umount /t",
        "test -d /a/x; test -d /b/x",
    );
}

#[test]
fn everything_that_a_file_can_be() {
    comes_back(
        r#"mkdir -p /f/d; cd /f
        echo data > file; ln file hard; ln -s ../f/file soft; ln -s /nowhere dangling; mkfifo -m 640 fifo
        mknod null c 1 3; mknod loop b 7 1; chown 12:34 file; chmod 4751 file; chown -h 5:6 soft
        python3 -c 'import os,socket; s=socket.socket(socket.AF_UNIX); s.bind("socket")
os.setxattr("file","trusted.a",b"x\ny\0z"); os.setxattr("d","trusted.b",b""); os.setxattr("soft","trusted.l",b"v",follow_symlinks=False)
os.utime("file",ns=(5,1234567890123456789)); os.utime("d",ns=(5,7000000001))
f=open("sparse","wb"); f.seek(100<<20); f.write(b"end")
open("n"*200,"w").write("long"); os.symlink("t"*300,"longlink"); os.link("n"*200,"m"*150)'
        cd /"#,
        r#"cd /f; test "$(cat file)" = data; test file -ef hard; test $(readlink soft) = ../f/file; test -p fifo; test -S socket
        test "$(stat -c '%u:%g %a %h' file)" = "12:34 4751 2"; test "$(stat -c '%t:%T' null loop | tr '\n' ' ')" = "1:3 7:1 "
        test "$(stat -c %u:%g soft)" = 5:6; test $(stat -c %a fifo) = 640; test $(du -k sparse | cut -f1) -lt 100
        python3 -c 'import os
assert os.getxattr("file","trusted.a")==b"x\ny\0z" and os.getxattr("d","trusted.b")==b"" and os.getxattr("soft","trusted.l",follow_symlinks=False)==b"v"
assert os.stat("file").st_mtime_ns==1234567890123456789 and os.stat("d").st_mtime_ns==7000000001
assert open("n"*200).read()=="long" and os.readlink("longlink")=="t"*300 and os.path.samefile("n"*200,"m"*150)
f=open("sparse","rb"); f.seek(100<<20); assert f.read()==b"end"'"#,
    );
}

#[test]
fn removed_roots() {
    comes_back(
        "mkdir -p /d/e/f /x /y /z; echo gone > /d/file; touch /w
        mount --bind /d/e/f /x; mount --bind /d/e/f /y; mount --bind /d/file /w; rm -r /d",
        "test $(cat /w) = gone; ! test -e /d; test -d /x",
    );
}

#[test]
fn instances_of_the_kernels_file_systems() {
    comes_back(
        "mkdir /dev/pts /dev/mqueue /sys/x /cg /dev/full; mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
        mount -t mqueue mqueue /dev/mqueue; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev/full
        mount -t cgroup2 cgroup2 /cg; mount -t tracefs t /sys/kernel/tracing; mount -t ramfs r /tmp; echo r > /tmp/r",
        "test -c /dev/pts/ptmx; test -d /sys/kernel; test -e /dev/full/null; test -e /cg/cgroup.procs; test $(cat /tmp/r) = r",
    );
}

#[test]
fn layers() {
    comes_back(
        "mkdir /l /m; mount -t tmpfs l /l; mkdir /l/low /l/up /l/work; echo low > /l/low/a
        mount -t overlay -o lowerdir=/l/low,upperdir=/l/up,workdir=/l/work over /m; echo up > /m/b
        mkdir /m/d; mount -t tmpfs in /m/d; touch /m/d/in; mkdir /n; mount --bind /m/d /n; mount --make-shared /m",
        "test $(cat /m/a) = low; test $(cat /m/b) = up; test -e /m/d/in; test -e /n/in; echo new > /m/a; test $(cat /l/up/a) = new",
    );
}

#[test]
fn the_same_layers_twice() {
    comes_back(
        "mkdir /l /m /n; mount -t tmpfs l /l; mkdir /l/low /l/top; echo low > /l/low/a
        mount -t overlay -o lowerdir=/l/top:/l/low over /m; mount --make-shared /m
        mount -t overlay -o lowerdir=/l/top:/l/low over /n; mount --make-shared /n",
        "test $(cat /m/a) = low; test $(cat /n/a) = low",
    );
}

#[test]
fn a_user_namespace_owns_what_is_built_in_it() {
    if !is_root() {
        return;
    }
    let shell = Shell::start(
        &["--user", "--map-root-user"],
        "mkdir /a /b /p; mount -t tmpfs -o uid=0,gid=0,mode=750 a /a; echo mine > /a/f; chmod 600 /a/f
        mount --make-shared /a; mount --bind /a /b; mount --make-slave /b; mount -o remount,bind,ro /b
        umount -l /proc",
    );
    let images = tempfile::tempdir().unwrap();
    let was = dump(&[shell.pid()], &auto(), images.path());
    let user = std::fs::File::open(format!("/proc/{}/ns/user", shell.pid())).unwrap();
    let enter = || nix::sched::setns(&user, nix::sched::CloneFlags::CLONE_NEWUSER).unwrap();
    let check = "test $(cat /b/f) = mine; test $(stat -c %u:%a /a/f) = 0:600; ! touch /b/x";
    let is = restore(1, &auto(), images.path(), &enter, check);
    assert_eq!(normalized(&[&is[0]]), normalized(&[&was[0]]));
}

#[test]
fn what_cannot_be_brought_back_is_told_at_once() {
    if !is_root() {
        return;
    }
    let shell = Shell::start(
        &[],
        "mkdir /n /d; touch /n/net; mount --bind /proc/self/ns/net /n/net; mount -t tmpfs d /d",
    );
    let mut namespaces = [ok(read::namespace(shell.pid(), shell.pid(), 1))];
    let surroundings = ok(Surroundings::read());
    let missing = MountOptions { external: vec![("/nowhere".into(), "x".into())], ..MountOptions::default() };
    let said = text(&classify(&mut namespaces, &surroundings, &missing, Whose::Trees));
    for part in [
        "mount /usr (ext4",
        "its file system (ext4) is outside",
        "pass --external mnt[/usr]:NAME",
        "mount /n/net (nsfs): ",
        "it keeps a namespace",
        "--external mnt[/nowhere] names a mount, but nothing is mounted there",
    ] {
        assert!(said.contains(part) || part.contains("ext4"), "\"{part}\" is not in:\n{said}");
    }
    let mut namespaces = [ok(read::namespace(shell.pid(), shell.pid(), 1))];
    let skip = MountOptions { skip: vec!["/n/net".into()], ..auto() };
    assert_eq!(text(&classify(&mut namespaces, &surroundings, &skip, Whose::Trees)), "");
    assert!(namespaces[0].mounts.iter().all(|mount| mount.mountpoint != "/n/net"));
}

#[test]
fn a_root_that_is_no_mount_point_is_refused() {
    if !is_root() {
        return;
    }
    let shell = Shell::start(&[], "");
    let images = tempfile::tempdir().unwrap();
    dump(&[shell.pid()], &auto(), images.path());
    let root = MountOptions { root: Some(images.path().to_owned()), ..auto() };
    let images = Images::open(images.path());
    let namespaces = ok(plan::read(&images, &[1], &root));
    let plan =
        plan::plan(&namespaces, &images, &ok(Surroundings::read()), &root, plan::CgroupRoot::Namespace);
    let problems =
        OutsideMounts::open(&plan.unwrap_or_else(|problems| panic!("{}", text(&problems)))).unwrap_err();
    assert!(text(&problems).contains("which is not a mount point"), "{}", text(&problems));
}

#[test]
fn what_was_made_in_devtmpfs_is_made_again() {
    if !is_root() {
        return;
    }
    let name = format!("stasis-{}", std::process::id());
    let script = format!(
        "mount -t devtmpfs devtmpfs /tmp; mkdir -m 750 /tmp/{name}; mknod /tmp/{name}/node c 1 3
        ln -s node /tmp/{name}/link; echo text > /tmp/{name}/file"
    );
    let shell = Shell::start(&[], &script);
    let images = tempfile::tempdir().unwrap();
    dump(&[shell.pid()], &auto(), images.path());
    // Another machine has no such things.
    let remove = format!("mount -t devtmpfs devtmpfs /mnt && rm -r /mnt/{name}");
    let removed =
        || Command::new("unshare").args(["--mount", "sh", "-c", &remove]).status().unwrap().success();
    assert!(removed());
    let check = format!(
        "test -c /tmp/{name}/link; test $(cat /tmp/{name}/file) = text; test $(stat -c %a /tmp/{name}) = 750; test -c /tmp/null"
    );
    restore(1, &auto(), images.path(), &|| (), &check);
    assert!(removed(), "it was not made");
}

#[test]
fn archives_of_gnu_tar_with_sparse_files_are_read() {
    if !is_root()
        || !Command::new("tar").arg("--version").output().is_ok_and(|output| output.status.success())
    {
        return;
    }
    for format in ["gnu", "posix"] {
        let shell = Shell::start(&[], "mkdir /f; mount -t tmpfs f /f; echo data > /f/data");
        let images = tempfile::tempdir().unwrap();
        let was = dump(&[shell.pid()], &auto(), images.path());
        let device = was[0].mounts.iter().find(|mount| mount.mountpoint == "/f").unwrap().dev;
        let contents = tempfile::tempdir().unwrap();
        let script = "for i in $(seq 0 30); do printf part-$i | dd of=sparse bs=1M seek=$i conv=notrunc 2> /dev/null; done
            truncate -s 1G sparse; truncate -s 5M empty; echo behind > z";
        let done = Command::new("sh").args(["-c", script]).current_dir(&contents).status().unwrap();
        assert!(done.success());
        let archive = images.path().join(format!("tmpfs-dev-{device}.tar.gz.img"));
        let words = ["--create", "--gzip", "--sparse", "--numeric-owner", "--format", format, "--file"];
        let tar =
            Command::new("tar").args(words).arg(archive).arg("-C").arg(contents.path()).arg(".").status();
        assert!(tar.unwrap().success());
        let check = "cd /f; test ! -e data; test $(stat -c %s sparse) = 1073741824; test $(stat -c %s empty) = 5242880
            for i in $(seq 0 30); do test $(dd if=sparse bs=1M skip=$i count=1 2> /dev/null | tr -d '\\0') = part-$i; done
            test $(du -k sparse | cut -f1) -lt 1000; test $(cat z) = behind";
        std::fs::remove_file(images.path().join("stasis-checksums.img")).unwrap();
        restore(1, &auto(), images.path(), &|| (), check);
    }
}
