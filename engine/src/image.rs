//! A directory of image files.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufReader, Cursor, Read, Seek as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use proto::catalogue::{Container, ImageType};
use proto::{Reader, Writer};

use crate::checksum::{self, Damage, FileSums, SetSums, Summing};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::side_by_side;
use crate::sys::fcntl;

/// What is wrong with an image file.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file itself.
    #[error(transparent)]
    Proto(#[from] proto::Error),
    /// It is not there.
    #[error("it is missing from the image set")]
    Missing,
    /// What it says cannot be.
    #[error("it is damaged: {0}")]
    Invalid(&'static str),
    /// Its checksum says that it is not what was written.
    #[error("it is damaged: {0}")]
    Damaged(Damage),
}

impl Explain for ImageError {
    fn class(&self) -> Class {
        match self {
            Self::Proto(proto::Error::Write { source, .. } | proto::Error::Read { source, .. }) => {
                SysError { call: "", errno: nix::errno::Errno::from_raw(source.raw_os_error().unwrap_or(0)) }
                    .class()
            }
            _ => Class::Refused,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Proto(proto::Error::Write { .. }) => {
                Some("free some space, or choose another directory with -D".into())
            }
            Self::Proto(proto::Error::Read { .. }) => None,
            _ => Some("dump the process again, or copy the whole image directory again".into()),
        }
    }
}

/// A directory that image files are written to.
///
/// It becomes an image set when `inventory.img` appears in it, which is the last thing that happens to it (invariant
/// I4). Until then, what was written is removed again when this is dropped. An older set in the same directory is left
/// alone until the first file is written, so that a dump that is refused costs nobody their images.
#[derive(Debug)]
pub struct NewImages {
    dir: PathBuf,
    begun: bool,
    written: Vec<PathBuf>,
    /// What may have been written aside.
    planned: Vec<PathBuf>,
    pages_files: u32,
    committed: bool,
    /// Checksums of what was written; none if they are not wanted.
    sums: Option<SetSums>,
    /// Pages files of the older set, to be written over: they have their blocks, and their memory.
    reused: BTreeMap<String, File>,
    /// Those that others have open, which have no names any more, if they are to be let go of later.
    older_pages: Option<Vec<File>>,
}

impl NewImages {
    /// A new set, of which nothing is written yet.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            begun: false,
            written: Vec::new(),
            planned: Vec::new(),
            pages_files: 0,
            committed: false,
            sums: Some(SetSums::default()),
            reused: BTreeMap::new(),
            older_pages: None,
        }
    }

    /// Takes the names of an older set away when it begins, and no more than that: somebody waits.
    #[must_use]
    pub fn freeing_later(mut self) -> Self {
        self.older_pages = Some(Vec::new());
        self
    }

    /// Nobody waits any more: frees what is left of an older set.
    pub fn free_older(&mut self) {
        self.older_pages = None;
    }

    /// Removes the files of an older set, the inventory first, so that it ceases to be one. Left over, they would be taken
    /// for a part of the new set; and they are not written over where a process may have its memory in them.
    fn remove_older_set(&mut self) -> Result<(), Problem> {
        let step = "replace the old images";
        let about = |path: &Path| Object::Path(path.to_owned());
        let remove = |path: PathBuf| match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Problem::new(SysError::io("unlink")(e)).object(about(&path)).step(step))
            }
            _ => Ok(()),
        };
        remove(self.dir.join(proto::catalogue::INVENTORY.file_name(0)))?;
        let entries = fs::read_dir(&self.dir).map_err(SysError::io("opendir"));
        let entries = entries.about(|| about(&self.dir)).while_trying_to(step)?;
        let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
        // Service files, such as statistics, belong to the work directory, which may be the same.
        let is_image = |name: &OsString| {
            let image = name.to_str().and_then(ImageType::by_file_name);
            image.is_some_and(|(image, _)| image.container != Container::Service)
        };
        for name in names.filter(is_image) {
            let path = self.dir.join(&name);
            let is_pages = name.to_str().and_then(ImageType::by_file_name);
            let is_pages =
                is_pages.is_some_and(|(image, _)| image.magic_name == proto::catalogue::PAGES.magic_name);
            if is_pages && let Some(file) = nobody_elses(&path) {
                self.written.push(path.clone());
                self.reused.extend(name.into_string().ok().map(|name| (name, file)));
                continue;
            }
            if let Some(kept) = self.older_pages.as_mut().filter(|_| is_pages) {
                kept.extend(File::open(&path));
            }
            remove(path)?;
        }
        Ok(())
    }

    /// Removes pages files of an older set that the new one has no use for.
    fn remove_unused(&mut self) {
        for (name, file) in std::mem::take(&mut self.reused) {
            let path = self.dir.join(name);
            self.written.retain(|written| *written != path);
            if let Err(e) = fs::remove_file(&path) {
                log::warn!("cannot remove {} of the older images: {e}", path.display());
            }
            drop(file);
        }
    }

    /// Computes no checksums.
    #[must_use]
    pub fn without_checksums(mut self) -> Self {
        self.sums = None;
        self
    }

    /// Whether checksums are wanted.
    pub fn has_checksums(&self) -> bool {
        self.sums.is_some()
    }

    /// Takes the checksums of a file that was created; it must not be changed any more.
    pub fn set_checksums(&mut self, name: &str, sums: FileSums) {
        if let Some(all) = &mut self.sums {
            all.0.insert(name.to_owned(), sums);
        }
    }

    /// A number for another file of pages.
    pub fn next_pages_id(&mut self) -> u32 {
        self.pages_files += 1;
        self.pages_files
    }

    /// Takes note of a file outside of the directory that is about to be made for the set, to be removed with it.
    pub fn will_create(&mut self, path: &Path) {
        self.written.push(path.to_owned());
    }

    /// Writes one file that is no part of a set, and leaves whatever else is in the directory alone.
    pub fn write_alone<M: prost::Message>(
        dir: &Path,
        image: &ImageType,
        id: u64,
        entries: &[M],
    ) -> Result<(), Problem> {
        let name = image.file_name(id);
        let about = || Object::Image(name.clone());
        let file = File::create(dir.join(&name)).map_err(SysError::io("open"));
        let file = file.about(about).while_trying_to("create it")?;
        let fill = |writer: &mut ImageWriter| entries.iter().try_for_each(|entry| writer.entry(entry));
        write_entries(file, image, fill)
            .map_err(ImageError::from)
            .about(about)
            .while_trying_to("write it")?;
        Ok(())
    }

    /// Creates a file for so many bytes of pages, or takes that of an older set.
    pub fn create_pages_file(&mut self, name: &str, size: u64) -> Result<File, Problem> {
        self.begin()?;
        let Some(file) = self.reused.remove(name) else { return self.create_file(name) };
        let cut = file.metadata().and_then(|old| if old.len() > size { file.set_len(size) } else { Ok(()) });
        cut.map_err(SysError::io("ftruncate")).about(|| Object::Image(name.to_owned()))?;
        Ok(file)
    }

    /// Creates one file.
    pub fn create_file(&mut self, name: &str) -> Result<File, Problem> {
        self.begin()?;
        let path = self.dir.join(name);
        let file = create(&path)?;
        self.written.push(path);
        Ok(file)
    }

    /// Takes the place of an older set, if that has not happened yet.
    fn begin(&mut self) -> Result<(), Problem> {
        if !self.begun {
            self.remove_older_set()?;
            self.begun = true;
        }
        Ok(())
    }

    /// Lets several threads write files of one type, with some of these ids.
    pub fn aside(
        &mut self,
        image: &'static ImageType,
        ids: impl Iterator<Item = u64>,
    ) -> Result<Aside, Problem> {
        self.begin()?;
        let path = |id| self.dir.join(image.file_name(id));
        self.planned.extend(ids.map(path));
        Ok(Aside { dir: self.dir.clone(), image })
    }

    /// Takes a file that was written aside.
    pub fn add(&mut self, written: Written) {
        self.written.push(self.dir.join(&written.name));
        self.set_checksums(&written.name, written.sums);
    }

    /// Writes one file with these entries.
    pub fn write<M: prost::Message>(
        &mut self,
        image: &ImageType,
        id: u64,
        entries: &[M],
    ) -> Result<(), Problem> {
        self.write_with(image, id, |writer| entries.iter().try_for_each(|entry| writer.entry(entry)))
    }

    /// Writes one file with whatever `fill` puts in.
    pub fn write_with(
        &mut self,
        image: &ImageType,
        id: u64,
        fill: impl FnOnce(&mut ImageWriter) -> Result<(), proto::Error>,
    ) -> Result<(), Problem> {
        let name = image.file_name(id);
        let file = self.create_file(&name)?;
        let sums = write_entries(file, image, fill).map_err(|e| {
            Problem::new(ImageError::from(e)).object(Object::Image(name.clone())).step("write it")
        })?;
        self.set_checksums(&name, sums);
        Ok(())
    }

    /// Writes several files of one type, by their ids, side by side.
    pub fn write_each<M: prost::Message, E: AsRef<[M]> + Sync>(
        &mut self,
        image: &'static ImageType,
        files: &[(u64, E)],
    ) -> Result<(), Problem> {
        let aside = self.aside(image, files.iter().map(|(id, _)| *id))?;
        let written = side_by_side::map(files, |(id, entries)| {
            aside.write(*id, |writer| entries.as_ref().iter().try_for_each(|entry| writer.entry(entry)))
        });
        for file in written {
            self.add(file?);
        }
        Ok(())
    }

    /// Writes a file that has neither header nor entries.
    pub fn write_raw(&mut self, image: &ImageType, id: u64, bytes: &[u8]) -> Result<(), Problem> {
        use std::io::Write as _;
        let name = image.file_name(id);
        let mut file = self.create_file(&name)?;
        let written = file.write_all(bytes).map_err(SysError::io("write"));
        written.about(|| Object::Image(name)).while_trying_to("write it")
    }

    /// Makes the set complete: everything else is on its way to the disk, then the inventory appears.
    pub fn commit(mut self, inventory: &proto::messages::InventoryEntry) -> Result<(), Problem> {
        self.remove_unused();
        let image = &proto::catalogue::INVENTORY;
        let name = image.file_name(0);
        let temporary = format!("{name}.new");
        let file = self.create_file(&temporary)?;
        let sums = write_entries(file, image, |writer| writer.entry(inventory)).map_err(|e| {
            Problem::new(ImageError::from(e)).object(Object::Image(name.clone())).step("write it")
        })?;
        self.write_checksums(&temporary, sums)?;
        fs::rename(self.dir.join(temporary), self.dir.join(&name)).map_err(|e| {
            Problem::new(SysError::io("rename")(e)).object(Object::Image(name)).step("complete the images")
        })?;
        self.committed = true;
        Ok(())
    }

    /// Writes the checksums of all files; the inventory has its temporary name still.
    fn write_checksums(&mut self, inventory: &str, of_inventory: FileSums) -> Result<(), Problem> {
        let image = &proto::catalogue::STASIS_CHECKSUMS;
        let Some(mut sums) = self.sums.take() else { return Ok(()) };
        sums.0.insert(proto::catalogue::INVENTORY.file_name(0), of_inventory);
        for path in &self.written {
            let name = path.strip_prefix(&self.dir).unwrap_or(path).to_string_lossy().into_owned();
            if name != inventory && !sums.0.contains_key(&name) {
                let about = |e| Problem::new(e).object(Object::Image(name.clone())).step("read it again");
                let file = File::open(path).map_err(SysError::io("open")).map_err(about)?;
                sums.0.insert(name.clone(), FileSums::read(&file).map_err(about)?);
            }
        }
        self.write(image, 0, &sums.entries())
    }
}

impl Drop for NewImages {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        for path in self.written.iter().chain(&self.planned) {
            if let Err(e) = fs::remove_file(path)
                && e.kind() != std::io::ErrorKind::NotFound
            {
                log::warn!("cannot remove {} of the failed dump: {e}", path.display());
            }
        }
    }
}

/// A file that nobody else has open or mapped, to be written over: that is who gets a write lease (`F_SETLEASE` of fcntl(2)).
/// A file with several names is more than an image.
fn nobody_elses(path: &Path) -> Option<File> {
    use std::os::unix::fs::MetadataExt as _;
    let file = File::options().read(true).write(true).open(path).ok()?;
    let is_ours =
        fcntl::is_open_nowhere_else(file.as_fd()) && file.metadata().is_ok_and(|of| of.nlink() == 1);
    is_ours.then_some(file)
}

fn create(path: &Path) -> Result<File, Problem> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
    let about = |e| Problem::new(e).object(Object::Path(path.to_owned())).step("create an image file");
    file.map_err(SysError::io("open")).map_err(about)
}

/// Writes files of a set, by several threads.
#[derive(Debug)]
pub struct Aside {
    dir: PathBuf,
    image: &'static ImageType,
}

/// A file that was written, and that its set must be told of ([`NewImages::add`]).
#[derive(Debug)]
pub struct Written {
    name: String,
    sums: FileSums,
}

impl Aside {
    /// Writes one file with whatever `fill` puts in.
    pub fn write(
        &self,
        id: u64,
        fill: impl FnOnce(&mut ImageWriter) -> Result<(), proto::Error>,
    ) -> Result<Written, Problem> {
        let name = self.image.file_name(id);
        let sums = write_entries(create(&self.dir.join(&name))?, self.image, fill).map_err(|e| {
            Problem::new(ImageError::from(e)).object(Object::Image(name.clone())).step("write it")
        })?;
        Ok(Written { name, sums })
    }
}

fn write_entries(
    file: File,
    image: &ImageType,
    fill: impl FnOnce(&mut ImageWriter) -> Result<(), proto::Error>,
) -> Result<FileSums, proto::Error> {
    let mut writer = Writer::create(Summing::new(file), image)?;
    fill(&mut writer)?;
    let offset = writer.offset();
    let finished = writer.finish()?.finish();
    Ok(finished.map_err(|source| proto::Error::Write { offset, source })?.1)
}

/// A complete image set.
#[derive(Debug)]
pub struct Images {
    dir: PathBuf,
    sums: SetSums,
    /// The names in the directory, once somebody asked for them; none if they cannot be listed.
    files: OnceLock<Option<HashSet<OsString>>>,
}

/// A reader of one image file.
pub type ImageReader = Reader<Box<dyn Read>>;

/// A writer of one image file.
pub type ImageWriter = Writer<Summing<File>>;

impl Images {
    /// Opens a set.
    pub fn open(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), sums: SetSums::default(), files: OnceLock::new() }
    }

    /// The same set, reached by another path from now on.
    #[must_use]
    pub fn reached_by(self, dir: &Path) -> Self {
        Self { dir: dir.to_owned(), ..self }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// From now on, compares what is read with its checksums, as far as the set has any.
    pub fn with_checksums(mut self) -> Result<Self, Problem> {
        let image = &proto::catalogue::STASIS_CHECKSUMS;
        if !self.has(image, 0) {
            log::info!("the image set has no checksums: nothing tells whether it is damaged");
            return Ok(self);
        }
        let entries = self.read(image, 0)?;
        self.sums = SetSums::from_entries(entries)
            .ok_or_else(|| invalid(image, 0, "its checksums are not what was written"))?;
        Ok(self)
    }

    /// The checksums of one file, if it has any.
    pub fn sums(&self, name: &str) -> Option<&FileSums> {
        self.sums.0.get(name)
    }

    /// The names of all files that have checksums.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sums.0.keys().map(String::as_str)
    }

    /// Compares a file with its checksums.
    pub fn verify(&self, name: &str, file: &File) -> Result<(), Problem> {
        let Some(sums) = self.sums(name) else { return Ok(()) };
        let about = |p: Problem| p.object(Object::Image(name.to_owned())).step("check it");
        match sums.compare(file).map_err(|e| about(Problem::new(e)))? {
            None => Ok(()),
            Some(damage) => Err(about(Problem::new(ImageError::Damaged(damage)))),
        }
    }

    /// Opens one file for reading its bytes, which are not compared with their checksums.
    pub fn open_file(&self, name: &str) -> Result<File, Problem> {
        let object = || Object::Image(name.to_owned());
        File::open(self.dir.join(name)).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Problem::new(ImageError::Missing).object(object()),
            _ => Problem::new(SysError::io("open")(e)).object(object()).step("open it"),
        })
    }

    /// Reads all entries of a file that must be there.
    pub fn read<M: prost::Message + Default>(&self, image: &ImageType, id: u64) -> Result<Vec<M>, Problem> {
        self.read_with(image, id, Reader::all)
    }

    /// Reads the one entry of a file that must be there.
    pub fn read_single<M: prost::Message + Default>(&self, image: &ImageType, id: u64) -> Result<M, Problem> {
        self.read_with(image, id, Reader::single)
    }

    /// Reads a file that must be there in whatever way `read` does.
    pub fn read_with<T>(
        &self,
        image: &ImageType,
        id: u64,
        read: impl FnOnce(ImageReader) -> Result<T, proto::Error>,
    ) -> Result<T, Problem> {
        let name = image.file_name(id);
        let file = self.open_file(&name)?;
        let input: Box<dyn Read> = match self.small(&name, file)? {
            Ok(bytes) => Box::new(Cursor::new(bytes)),
            Err(file) => {
                self.verify(&name, &file)?;
                Box::new(BufReader::new(file))
            }
        };
        Reader::open(input, image)
            .and_then(read)
            .map_err(|e| Problem::new(ImageError::from(e)).object(Object::Image(name)).step("read it"))
    }

    /// Reads a file that has neither header nor entries.
    pub fn read_raw(&self, image: &ImageType, id: u64) -> Result<Vec<u8>, Problem> {
        let name = image.file_name(id);
        let file = self.open_file(&name)?;
        self.bytes_of(&name, file, 0)
    }

    /// All bytes of a file that has few, compared with their checksums; or the file.
    fn small(&self, name: &str, mut file: File) -> Result<Result<Vec<u8>, File>, Problem> {
        let about = || Object::Image(name.to_owned());
        let mut buffer = [0; 4096];
        // It is a file: what does not fill the buffer is all of it.
        let length = file.read(&mut buffer).map_err(SysError::io("read")).about(about)?;
        if let Some(bytes) = buffer.get(..length).filter(|bytes| bytes.len() < buffer.len()) {
            self.check_bytes(name, bytes)?;
            return Ok(Ok(bytes.to_vec()));
        }
        file.rewind().map_err(SysError::io("lseek")).about(about)?;
        let size = file.metadata().map_err(SysError::io("fstat")).about(about)?.len();
        if size <= checksum::BLOCK { self.bytes_of(name, file, size).map(Ok) } else { Ok(Err(file)) }
    }

    fn check_bytes(&self, name: &str, bytes: &[u8]) -> Result<(), Problem> {
        match self.sums(name).and_then(|sums| sums.compare_bytes(bytes)) {
            None => Ok(()),
            Some(damage) => {
                let object = Object::Image(name.to_owned());
                Err(Problem::new(ImageError::Damaged(damage)).object(object).step("check it"))
            }
        }
    }

    /// Reads a file of pages that is at most as long as a block into a buffer, and compares it with its checksums; false, and nothing
    /// compared, if it is longer. About `size` bytes are there.
    pub fn read_few_pages(&self, name: &str, size: u64, buffer: &mut Vec<u8>) -> Result<bool, Problem> {
        let about = || Object::Image(name.to_owned());
        let mut file = self.open_file(name)?;
        buffer.clear();
        buffer.reserve(size.min(checksum::BLOCK) as usize + 1);
        // What comes through `take` asks nobody for the file's size.
        let read = (&mut file).take(checksum::BLOCK + 1).read_to_end(buffer).map_err(SysError::io("read"));
        read.about(about).while_trying_to("read it")?;
        let is_all = buffer.len() as u64 <= checksum::BLOCK;
        if is_all {
            self.check_bytes(name, buffer)?;
        }
        Ok(is_all)
    }

    /// All bytes of a file, which has about `size` of them, compared with their checksums.
    fn bytes_of(&self, name: &str, mut file: File, size: u64) -> Result<Vec<u8>, Problem> {
        let about = |p: Problem| p.object(Object::Image(name.to_owned()));
        let mut bytes = Vec::with_capacity(size as usize + 1);
        // Its size is known: nobody needs to ask for it.
        let read = (&mut file).take(u64::MAX).read_to_end(&mut bytes).map_err(SysError::io("read"));
        read.map_err(|e| about(Problem::new(e)).step("read it"))?;
        self.check_bytes(name, &bytes).map(|()| bytes)
    }

    /// How long a file is.
    pub fn length_of(&self, name: &str) -> Result<u64, Problem> {
        let object = || Object::Image(name.to_owned());
        fs::metadata(self.dir.join(name)).map(|of| of.len()).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Problem::new(ImageError::Missing).object(object()),
            _ => Problem::new(SysError::io("stat")(e)).object(object()).step("look at it"),
        })
    }

    /// The ids of all files of a type.
    pub fn ids_of(&self, image: &ImageType) -> Vec<u64> {
        let names =
            fs::read_dir(&self.dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.file_name()));
        let mut ids: Vec<u64> = names
            .filter_map(|name| ImageType::by_file_name(name.to_str()?))
            .filter_map(|(found, id)| (found.magic_name == image.magic_name).then_some(id))
            .collect();
        ids.sort_unstable();
        ids
    }

    /// Whether the set has this file. It is complete, and nobody adds to it.
    pub fn has(&self, image: &ImageType, id: u64) -> bool {
        let list = || {
            let entries = fs::read_dir(&self.dir).ok()?;
            entries.map(|entry| Some(entry.ok()?.file_name())).collect()
        };
        let name = image.file_name(id);
        match self.files.get_or_init(list) {
            Some(files) => files.contains(OsStr::new(&name)),
            None => self.dir.join(name).exists(),
        }
    }
}

/// A problem with what one image says.
pub fn invalid(image: &ImageType, id: u64, what: &'static str) -> Problem {
    Problem::new(ImageError::Invalid(what)).object(Object::Image(image.file_name(id)))
}
