//! Tasks and threads are in the control groups that they were in, and these have the settings they had. Arguments say which
//! groups: `mount H` (of version 1, as a folder of the test's directory), `make G`, `set G FILE VALUE`, `own G FILE UID MODE`, `join G`, `child-joins G`, `thread-joins G`; and what is different afterwards:
//! `moves G TO`, `gone G`, `lost G FILE VALUE`
//! (a setting that is another one then). A group is a hierarchy (a controller, or `unified` for version 2) and a path in it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use zdtm::workload::{Child, Context, Failure, Thread, Verdict};
use zdtm::{ensure, ensure_eq};

/// The hierarchy and the path.
fn split(group: &str) -> Result<(&str, &str), Failure> {
    group.split_once(':').ok_or_else(|| Failure::new(format!("{group} is no group")))
}

/// Where a hierarchy is mounted.
fn mounted(hierarchy: &str) -> Result<PathBuf, Failure> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let is_it = |line: &&str| {
        let Some((_, behind)) = line.split_once(" - ") else { return false };
        let mut words = behind.split(' ');
        let (kind, options) = (words.next(), words.nth(1).unwrap_or_default());
        match hierarchy {
            "unified" => kind == Some("cgroup2"),
            name => kind == Some("cgroup") && options.split(',').any(|option| option == name),
        }
    };
    let line =
        mounts.lines().find(is_it).ok_or_else(|| Failure::new(format!("{hierarchy} is not mounted")))?;
    Ok(line.split(' ').nth(4).unwrap_or_default().into())
}

fn dir(group: &str) -> Result<PathBuf, Failure> {
    let (hierarchy, path) = split(group)?;
    Ok(mounted(hierarchy)?.join(path.trim_start_matches('/')))
}

fn make(group: &str) -> Verdict {
    let dir = dir(group)?;
    fs::create_dir_all(&dir)?;
    // A group of the controller cpuset takes nobody in until it has both.
    for above in [dir.parent(), Some(dir.as_path())].into_iter().flatten() {
        for name in ["cpuset.cpus", "cpuset.mems"] {
            if fs::read_to_string(above.join(name)).is_ok_and(|is| is.trim().is_empty()) {
                fs::write(above.join(name), "0")?;
            }
        }
    }
    Ok(())
}

/// Moves a process, or a thread of it.
fn join(group: &str, tid: Option<i32>) -> Verdict {
    make(group)?;
    let file = if tid.is_some() { "tasks" } else { "cgroup.procs" };
    let id = tid.unwrap_or(std::process::id() as i32);
    Ok(fs::write(dir(group)?.join(file), id.to_string())?)
}

/// The path of whoever asks in a hierarchy.
fn place(hierarchy: &str) -> Result<String, Failure> {
    let text = fs::read_to_string("/proc/thread-self/cgroup")?;
    let place = text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, path) = (fields.next()?, fields.next()?);
        let is_it =
            if hierarchy == "unified" { names.is_empty() } else { names.split(',').any(|n| n == hierarchy) };
        is_it.then(|| path.to_owned())
    });
    place.ok_or_else(|| Failure::new(format!("{hierarchy} is not in /proc/thread-self/cgroup")))
}

fn check_place(group: &str, who: &str) -> Verdict {
    let (hierarchy, path) = split(group)?;
    ensure_eq!(place(hierarchy)?, path, format!("{who} in {hierarchy}"));
    Ok(())
}

/// Gives a file of a group to somebody.
fn give(group: &str, file: &str, uid: &str, mode: &str) -> Result<PathBuf, Failure> {
    make(group)?;
    let path = dir(group)?.join(file);
    let mode = u32::from_str_radix(mode, 8)?;
    nix::unistd::chown(&path, Some(uid.parse::<u32>()?.into()), Some(77.into()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    Ok(path)
}

/// A child that is in a group.
fn child_in(cx: &Context, group: &str) -> Result<Child, Failure> {
    let child = cx.child(|cx| {
        join(group, None)?;
        cx.post("joined")?;
        cx.park()?;
        check_place(group, "the child")
    })?;
    cx.wait_for("joined")?;
    Ok(child)
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let args: Vec<Vec<String>> =
        cx.args().iter().map(|arg| arg.split(' ').map(str::to_owned).collect()).collect();
    let (mut here, mut settings, mut made, mut gone) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut children, mut threads, mut moves) = (Vec::new(), Vec::new(), Vec::new());
    let (mut mounts, mut lost, mut owned) = (Vec::new(), Vec::new(), Vec::new());
    mount_missing(cx, &args)?;
    for words in &args {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["mount", hierarchy] => mounts.push(mount(cx, hierarchy)?),
            ["make", group] => {
                make(group)?;
                made.push(dir(group)?);
            }
            ["set", group, file, value @ ..] => {
                make(group)?;
                fs::write(dir(group)?.join(file), value.join(" "))?;
                // What is denied and allowed is shown by a third file.
                let shown = if file.starts_with("devices.") { "devices.list" } else { file };
                settings.push(((*group).to_owned(), shown.to_owned()));
            }
            ["own", group, file, uid, mode] => {
                owned.push(give(group, file, uid, mode)?);
            }
            ["join", group] => {
                join(group, None)?;
                check_place(group, "the process, before the dump,")?;
                here.push((*group).to_owned());
            }
            ["moves", from, to] => moves.push(((*from).to_owned(), (*to).to_owned())),
            ["lost", group, file, value] => {
                lost.push(((*group).to_owned(), (*file).to_owned(), (*value).to_owned()));
            }
            ["gone", group] => gone.push(dir(group)?),
            ["child-joins", group] => {
                children.push(child_in(cx, group)?);
            }
            ["thread-joins", group] => {
                let (group, (ready, is_ready)) = ((*group).to_owned(), mpsc::channel());
                threads.push(cx.thread(move |cx| {
                    // SAFETY: takes nothing.
                    join(&group, Some(unsafe { libc::gettid() }))?;
                    ready.send(()).map_err(|e| Failure::new(e.to_string()))?;
                    cx.park()?;
                    check_place(&group, "the thread")
                }));
                is_ready.recv().map_err(|e| Failure::new(e.to_string()))?;
            }
            other => return Err(Failure::new(format!("{other:?} is no argument"))),
        }
    }
    settings.retain(|(group, file)| !lost.iter().any(|(of, name, _)| (of, name) == (group, file)));
    let read =
        |(group, file): &(String, String)| Ok::<_, Failure>(fs::read_to_string(dir(group)?.join(file))?);
    let owner = |path: &PathBuf| fs::metadata(path).map(|is| (is.uid(), is.gid(), is.mode()));
    let owners: Vec<_> = owned.iter().map(owner).collect::<Result<_, _>>()?;
    let before: Vec<String> = settings.iter().map(read).collect::<Result<_, _>>()?;
    cx.barrier()?;
    for group in &here {
        let moved = moves.iter().find(|(from, _)| from == group).map_or(group, |(_, to)| to);
        check_place(moved, "the process")?;
    }
    let owners_after: Vec<_> = owned.iter().map(owner).collect::<Result<_, _>>()?;
    ensure_eq!(owners_after, owners, format!("owners and modes of {owned:?}"));
    let after: Vec<String> = settings.iter().map(read).collect::<Result<_, _>>()?;
    ensure_eq!(after, before, format!("settings {settings:?}"));
    for (group, file, value) in lost {
        let is = fs::read_to_string(dir(&group)?.join(&file))?;
        ensure_eq!(is.trim(), value, format!("{file} of {group}, which was lost"));
    }
    for dir in made {
        ensure!(dir.is_dir(), "{} is not there", dir.display());
    }
    for dir in gone {
        ensure!(!dir.exists(), "{} is there", dir.display());
    }
    threads.into_iter().try_for_each(Thread::join)?;
    children.into_iter().try_for_each(Child::join)?;
    mounts.iter().try_for_each(|place| unmount(place))
}

/// Mounts the hierarchies that these words name groups of, unless they say so themselves: a target with a root of its own has
/// none.
fn mount_missing(cx: &Context, args: &[Vec<String>]) -> Verdict {
    let will_be =
        |hierarchy: &str| args.iter().any(|words| words.iter().map(String::as_str).eq(["mount", hierarchy]));
    for (hierarchy, _) in args.iter().filter_map(|words| words.get(1)?.split_once(':')) {
        if !will_be(hierarchy) && mounted(hierarchy).is_err() {
            mount(cx, hierarchy)?;
        }
    }
    Ok(())
}

/// Mounts a hierarchy of version 1 in the test's directory.
fn mount(cx: &Context, hierarchy: &str) -> Result<PathBuf, Failure> {
    let place = cx.path(hierarchy);
    fs::create_dir(&place)?;
    let (kind, flags) = (Some("cgroup"), nix::mount::MsFlags::empty());
    nix::mount::mount(kind, &place, kind, flags, Some(hierarchy))?;
    Ok(place)
}

/// Leaves a hierarchy, removes all groups in it, and takes it off, so that nobody has it any more.
fn unmount(place: &Path) -> Verdict {
    fs::write(place.join("cgroup.procs"), std::process::id().to_string())?;
    let mut groups = vec![place.to_owned()];
    let mut at = 0;
    while let Some(group) = groups.get(at).cloned() {
        for entry in fs::read_dir(group)? {
            let entry = entry?;
            groups.extend(entry.file_type()?.is_dir().then(|| entry.path()));
        }
        at += 1;
    }
    let limit = Instant::now() + Duration::from_secs(5);
    for group in groups.iter().skip(1).rev() {
        // Tasks that were killed leave in their own time.
        while let Err(e) = fs::remove_dir(group) {
            ensure!(e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < limit, "rmdir: {e}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(nix::mount::umount2(place, nix::mount::MntFlags::MNT_DETACH)?)
}
