//! What is there of an older set, in a directory that a new one is written to.
//!
//! It ceases to be a set first of all, by the end of its inventory. Files of the new set are written over those of the same names, which
//! takes a third of the time that removing and making one takes; what has no successor is removed before the new set is one.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use proto::catalogue::{Container, INVENTORY, ImageType, PAGES};

use super::create;
use crate::error::{Context as _, Object, Problem, SysError};
use crate::sys::fcntl;

/// What happens to it, for messages.
const STEP: &str = "replace the old images";

/// What is left of an older set.
#[derive(Debug, Default)]
pub(super) struct OlderSet {
    /// Files that have no successor yet.
    files: HashSet<String>,
    /// Pages files among them, to be written over: they have their blocks, and their memory.
    pages: BTreeMap<String, File>,
    /// Pages files that others have open, which have no names any more, if they are to be let go of later.
    kept: Option<Vec<File>>,
}

impl OlderSet {
    /// Has pages that nobody can find any more freed later: somebody waits.
    pub(super) fn freeing_later(&mut self) {
        self.kept = Some(Vec::new());
    }

    /// Nobody waits any more.
    pub(super) fn free(&mut self) {
        self.kept = None;
    }

    /// Finds the files of an older set, which is none any more. Those of its pages files that a process may have its memory in
    /// lose their names at once.
    pub(super) fn find(&mut self, dir: &Path) -> Result<(), Problem> {
        let about = |path: &Path| Object::Path(path.to_owned());
        remove(&dir.join(INVENTORY.file_name(0)))?;
        let entries = fs::read_dir(dir).map_err(SysError::io("opendir"));
        let entries = entries.about(|| about(dir)).while_trying_to(STEP)?;
        for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
            let Some((image, _)) = ImageType::by_file_name(&name) else { continue };
            // Service files, such as statistics, belong to the work directory, which may be the same.
            if image.container == Container::Service {
                continue;
            }
            if image.magic_name == PAGES.magic_name {
                let path = dir.join(&name);
                let Some(file) = nobody_elses(&path) else {
                    if let Some(kept) = &mut self.kept {
                        kept.extend(File::open(&path));
                    }
                    remove(&path)?;
                    continue;
                };
                self.pages.insert(name.clone(), file);
            }
            self.files.insert(name);
        }
        Ok(())
    }

    /// Whether it has such a file, which gets a successor now.
    pub(super) fn take(&mut self, name: &str) -> bool {
        self.files.remove(name)
    }

    /// Its pages file with this name, to be written over.
    pub(super) fn take_pages(&mut self, name: &str) -> Option<File> {
        self.files.remove(name);
        self.pages.remove(name)
    }

    /// Removes what the new set has no use for.
    pub(super) fn remove_rest(&mut self, dir: &Path) -> Result<(), Problem> {
        self.pages.clear();
        self.files.drain().try_for_each(|name| remove(&dir.join(name)))
    }
}

fn remove(path: &Path) -> Result<(), Problem> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Problem::new(SysError::io("unlink")(e)).object(Object::Path(path.to_owned())).step(STEP))
        }
        _ => Ok(()),
    }
}

/// A file to be written from its beginning on.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) file: File,
    /// Bytes that it has still, from an older set: what is not written over is to be cut off.
    pub(super) old: u64,
}

impl Fresh {
    /// A new file.
    pub(super) fn create(path: &Path) -> Result<Self, Problem> {
        Ok(Self { file: create(path)?, old: 0 })
    }

    /// The file of an older set, if it is no more than that: a link, a file with several names, or one of somebody else is left to
    /// who made it so.
    pub(super) fn over(path: &Path) -> Result<Self, Problem> {
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        if let Ok(file) = options.custom_flags(libc::O_NOFOLLOW).open(path)
            && let Ok(of) = file.metadata()
            && is_but_an_image(&of)
        {
            return Ok(Self { file, old: of.len() });
        }
        remove(path)?;
        Self::create(path)
    }

    /// The file, empty.
    pub(super) fn emptied(self) -> Result<File, SysError> {
        if self.old > 0 {
            self.file.set_len(0).map_err(SysError::io("ftruncate"))?;
        }
        Ok(self.file)
    }
}

/// A file that nobody else has open or mapped, to be written over: that is who gets a write lease (`F_SETLEASE` of fcntl(2)).
/// A file with several names is more than an image.
fn nobody_elses(path: &Path) -> Option<File> {
    let file = File::options().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path).ok()?;
    let is_ours =
        fcntl::is_open_nowhere_else(file.as_fd()) && file.metadata().is_ok_and(|of| is_but_an_image(&of));
    is_ours.then_some(file)
}

/// Whether a file is what we would have made: whoever owns it may read what comes into it, by whatever name.
fn is_but_an_image(of: &fs::Metadata) -> bool {
    of.is_file() && of.nlink() == 1 && of.uid() == nix::unistd::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proto::catalogue::{CORE, FDINFO, FILES, IDS, STATS_DUMP};
    use proto::messages::{InventoryEntry, TaskKobjIdsEntry};

    use super::*;
    use crate::image::{Images, NewImages};

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn ids(number: u32) -> TaskKobjIdsEntry {
        TaskKobjIdsEntry { vm_id: number, ..TaskKobjIdsEntry::default() }
    }

    #[test]
    fn files_are_written_over_and_others_removed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let outside = tempfile::tempdir().unwrap();
        let kept = outside.path().join("kept");
        for name in [&INVENTORY, &FILES, &STATS_DUMP].map(|image| image.file_name(0)) {
            fs::write(at(&name), [1; 5000]).unwrap();
        }
        for name in [IDS.file_name(1), CORE.file_name(7), "notes".to_owned()] {
            fs::write(at(&name), [1; 5000]).unwrap();
        }
        fs::write(&kept, "kept").unwrap();
        fs::hard_link(&kept, at(&IDS.file_name(2))).unwrap();
        symlink(&kept, at(&IDS.file_name(3))).unwrap();
        symlink(&kept, at(&FDINFO.file_name(3))).unwrap();
        let mut images = NewImages::new(dir.path());
        let which = |id: &u32| (&IDS, u64::from(*id));
        images.write_each(&[1, 2, 3, 4], which, |id, writer| writer.entry(&ids(*id))).unwrap();
        assert!(!at("inventory.img").exists(), "it is a set of old and new files");
        images.write(&FDINFO, 3, &[ids(5)]).unwrap();
        images.create_file(&FILES.file_name(0)).unwrap();
        images.commit(&InventoryEntry::default()).unwrap();
        assert_eq!(fs::read_to_string(&kept).unwrap(), "kept");
        let sums = proto::catalogue::STASIS_CHECKSUMS.file_name(0);
        let mut expected =
            ["fdinfo-3.img", "files.img", "inventory.img", "notes", "stats-dump", &sums].to_vec();
        expected.extend(["ids-1.img", "ids-2.img", "ids-3.img", "ids-4.img"]);
        expected.sort_unstable();
        assert_eq!(names(dir.path()), expected);
        assert_eq!(fs::metadata(at("files.img")).unwrap().len(), 0);
        let images = Images::open(dir.path()).with_checksums().unwrap();
        for id in [1, 2, 3, 4] {
            assert_eq!(images.read_single::<TaskKobjIdsEntry>(&IDS, id.into()).unwrap(), ids(id));
        }
    }

    #[test]
    fn what_failed_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["inventory.img", "ids-1.img", "core-1.img", "pages-1.img"] {
            fs::write(dir.path().join(name), [1; 5000]).unwrap();
        }
        drop(NewImages::new(dir.path()));
        assert_eq!(names(dir.path()).len(), 4, "nothing was written, and nothing is lost");
        let mut images = NewImages::new(dir.path());
        images.write(&IDS, 1, &[ids(1)]).unwrap();
        drop(images);
        assert_eq!(names(dir.path()), [""; 0]);
    }
}
