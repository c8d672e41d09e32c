//! A directory of image files.

mod older;

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufReader, Cursor, Read, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use proto::catalogue::ImageType;
use proto::{Reader, Writer};

use crate::checksum::{self, Damage, FileSums, SetSums, Summing};
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::side_by_side;

use older::{Fresh, OlderSet};

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
    older: OlderSet,
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
            older: OlderSet::default(),
        }
    }

    /// Takes the names of an older set away when it begins, and no more than that: somebody waits.
    #[must_use]
    pub fn freeing_later(mut self) -> Self {
        self.older.freeing_later();
        self
    }

    /// Nobody waits any more: frees what is left of an older set.
    pub fn free_older(&mut self) {
        self.older.free();
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
        write_entries(Fresh { file, old: 0 }, image, fill)
            .map_err(ImageError::from)
            .about(about)
            .while_trying_to("write it")?;
        Ok(())
    }

    /// Creates a file for so many bytes of pages, or takes that of an older set.
    pub fn create_pages_file(&mut self, name: &str, size: u64) -> Result<File, Problem> {
        self.begin()?;
        let Some(file) = self.older.take_pages(name) else { return self.create_file(name) };
        self.written.push(self.dir.join(name));
        let cut = file.metadata().and_then(|old| if old.len() > size { file.set_len(size) } else { Ok(()) });
        cut.map_err(SysError::io("ftruncate")).about(|| Object::Image(name.to_owned()))?;
        Ok(file)
    }

    /// Creates one file.
    pub fn create_file(&mut self, name: &str) -> Result<File, Problem> {
        self.fresh(name)?.emptied().about(|| Object::Image(name.to_owned()))
    }

    /// One file, new or of the older set.
    fn fresh(&mut self, name: &str) -> Result<Fresh, Problem> {
        self.begin()?;
        let path = self.dir.join(name);
        let fresh = if self.older.take(name) { Fresh::over(&path)? } else { Fresh::create(&path)? };
        self.written.push(path);
        Ok(fresh)
    }

    /// Takes the place of an older set, if that has not happened yet.
    fn begin(&mut self) -> Result<(), Problem> {
        if !self.begun {
            self.older.find(&self.dir)?;
            self.begun = true;
        }
        Ok(())
    }

    /// Lets several threads write some of these files.
    pub fn aside(
        &mut self,
        files: impl Iterator<Item = (&'static ImageType, u64)>,
    ) -> Result<Aside, Problem> {
        self.begin()?;
        let mut over_older = false;
        for (image, id) in files {
            let name = image.file_name(id);
            over_older |= self.older.take(&name);
            self.planned.push(self.dir.join(name));
        }
        Ok(Aside { dir: self.dir.clone(), over_older })
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
        let sums = write_entries(self.fresh(&name)?, image, fill).map_err(|e| {
            Problem::new(ImageError::from(e)).object(Object::Image(name.clone())).step("write it")
        })?;
        self.set_checksums(&name, sums);
        Ok(())
    }

    /// Writes a file for each of some things, side by side: `which` says what file, and `fill` puts in what is in it.
    pub fn write_each<T: Sync>(
        &mut self,
        files: &[T],
        which: impl Fn(&T) -> (&'static ImageType, u64) + Sync,
        fill: impl Fn(&T, &mut ImageWriter) -> Result<(), proto::Error> + Sync,
    ) -> Result<(), Problem> {
        let aside = self.aside(files.iter().map(&which))?;
        let written = side_by_side::map(files, |file| {
            let (image, id) = which(file);
            aside.write(image, id, |writer| fill(file, writer))
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
        self.older.remove_rest(&self.dir)?;
        let image = &proto::catalogue::INVENTORY;
        let name = image.file_name(0);
        let temporary = format!("{name}.new");
        let sums =
            write_entries(self.fresh(&temporary)?, image, |writer| writer.entry(inventory)).map_err(|e| {
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
        if let Err(problem) = self.older.remove_rest(&self.dir) {
            log::warn!("{problem:?}");
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

fn create(path: &Path) -> Result<File, Problem> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
    let about = |e| Problem::new(e).object(Object::Path(path.to_owned())).step("create an image file");
    file.map_err(SysError::io("open")).map_err(about)
}

/// Writes files of a set, by several threads.
#[derive(Debug)]
pub struct Aside {
    dir: PathBuf,
    /// Some of them are files of an older set.
    over_older: bool,
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
        image: &ImageType,
        id: u64,
        fill: impl FnOnce(&mut ImageWriter) -> Result<(), proto::Error>,
    ) -> Result<Written, Problem> {
        let name = image.file_name(id);
        let path = self.dir.join(&name);
        let fresh = if self.over_older { Fresh::over(&path)? } else { Fresh::create(&path)? };
        let sums = write_entries(fresh, image, fill).map_err(|e| {
            Problem::new(ImageError::from(e)).object(Object::Image(name.clone())).step("write it")
        })?;
        Ok(Written { name, sums })
    }
}

fn write_entries(
    Fresh { file, old }: Fresh,
    image: &ImageType,
    fill: impl FnOnce(&mut ImageWriter) -> Result<(), proto::Error>,
) -> Result<FileSums, proto::Error> {
    let mut writer = Writer::create(Summing::new(file), image)?;
    fill(&mut writer)?;
    let offset = writer.offset();
    let finished = writer.finish()?.finish();
    let (file, sums) = finished.map_err(|source| proto::Error::Write { offset, source })?;
    if sums.size < old {
        file.set_len(sums.size).map_err(|source| proto::Error::Write { offset, source })?;
    }
    Ok(sums)
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
