//! In a mount namespace of a child that its parent does not see, files that were removed: open, without a name ever, mapped, in a
//! folder that was removed, too, and a folder as working directory; and fifos.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use nix::sys::mman::{MapFlags, ProtFlags};
use nix::sys::stat::Mode;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

use crate::mapping::Mapping;
use crate::mounting;

/// A file with this text.
fn file(path: &Path, text: &str) -> Result<File, Failure> {
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(file)
}

fn ensure_removed(file: &mut File, text: &str, device: u64) -> Verdict {
    let mut is = String::new();
    file.rewind()?;
    file.read_to_string(&mut is)?;
    ensure_eq!(is, text, "text of a removed file");
    let data = file.metadata()?;
    ensure_eq!((data.nlink(), data.dev()), (0, device), "names and device of a removed file");
    Ok(())
}

fn fifo(path: &Path) -> Result<File, Failure> {
    nix::unistd::mkfifo(path, Mode::S_IRWXU)?;
    let mut fifo = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    fifo.write_all(b"in it")?;
    Ok(fifo)
}

fn ensure_in(mut fifo: &File) -> Verdict {
    let mut text = [0; 8];
    let count = fifo.read(&mut text)?;
    ensure_eq!(text.get(..count), Some(&b"in it"[..]), "what is in the fifo");
    Ok(())
}

fn child(cx: &mut Context, own: &Path) -> Verdict {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mounting::change(Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    mounting::tmpfs(own, "size=1m")?;
    let (folder, place) = (own.join("folder"), own.join("place"));
    fs::create_dir(&folder)?;
    fs::create_dir(&place)?;
    let mut open = file(&own.join("open"), "open")?;
    let mut inside = file(&folder.join("inside"), "in a removed folder")?;
    let mapped = file(&own.join("mapped"), "mapped")?;
    let memory = Mapping::file(&mapped, 6, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE)?;
    let mut unnamed = OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).open(own)?;
    unnamed.write_all(b"no name")?;
    let (named, removed) = (fifo(&own.join("named"))?, fifo(&own.join("removed"))?);
    drop(mapped);
    nix::unistd::chdir(&place)?;
    for path in [own.join("open"), folder.join("inside"), own.join("mapped"), own.join("removed")] {
        fs::remove_file(path)?;
    }
    fs::remove_dir(&folder)?;
    fs::remove_dir(&place)?;
    let cwd = || fs::read_link("/proc/self/cwd");
    let before = (mounting::tree()?, cwd()?);
    cx.post("child-ready")?;
    cx.park()?;
    ensure_eq!((mounting::tree()?, cwd()?), before, "mounts, and the working directory");
    let device = fs::metadata(own)?.dev();
    ensure_removed(&mut open, "open", device)?;
    ensure_removed(&mut inside, "in a removed folder", device)?;
    ensure_removed(&mut unnamed, "no name", device)?;
    ensure_eq!(memory.bytes().get(..6), Some(&b"mapped"[..]), "what is mapped");
    ensure_eq!(fs::metadata(".")?.dev(), device, "device of the working directory");
    ensure_in(&named)?;
    ensure_in(&removed)?;
    ensure_eq!((named.metadata()?.nlink(), removed.metadata()?.nlink()), (1, 0), "names of fifos");
    let names = fs::read_dir(own)?.map(|entry| Ok(entry?.file_name()));
    ensure_eq!(names.collect::<Result<Vec<_>, Failure>>()?, ["named"], "what has a name");
    Ok(())
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let own = mounting::folder(cx, "own")?;
    let child = cx.child(|cx| child(cx, &own))?;
    cx.wait_for("child-ready")?;
    mounting::barrier(cx)?;
    ensure_eq!(fs::read_dir(cx.path("own"))?.count(), 0, "files of the child that the parent sees");
    child.join()
}
