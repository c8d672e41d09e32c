//! A directory of images, read for exploring: what is missing is not there, what is damaged is an error.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind};
use std::path::PathBuf;

use proto::messages::{CoreEntry, FdTypes, FileEntry, MemfdInodeEntry, MmEntry, PstreeEntry};
use proto::{Error, ImageType, Reader, catalogue};

use super::CritError;

/// A directory of images.
#[derive(Debug)]
pub struct ImageSet {
    dir: PathBuf,
}

impl ImageSet {
    /// The images in a directory; they are read when they are asked for.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The tasks of the tree.
    pub(super) fn tasks(&self) -> Result<Vec<PstreeEntry>, CritError> {
        let path = self.dir.join(catalogue::PSTREE.file_name(0));
        match self.all(&catalogue::PSTREE, 0)? {
            Some(tasks) => Ok(tasks),
            None => Err(CritError::File { path, source: io::Error::from_raw_os_error(libc::ENOENT) }),
        }
    }

    /// A task's leader thread.
    pub(super) fn core(&self, pid: u32) -> Result<Option<CoreEntry>, CritError> {
        self.single(&catalogue::CORE, pid)
    }

    /// A task's address space; dead tasks have none.
    pub(super) fn mm(&self, pid: u32) -> Result<Option<MmEntry>, CritError> {
        self.single(&catalogue::MM, pid)
    }

    /// The name of a task, and whether it is dead.
    pub(super) fn comm(&self, pid: u32) -> Result<String, CritError> {
        /// States of tasks that are dead, in the format's own numbers.
        const DEAD: [u32; 2] = [2, 3];
        let Some(task) = self.core(pid)?.and_then(|core| core.tc) else {
            return Ok("?".to_owned());
        };
        let defunct = if DEAD.contains(&task.task_state) { " <defunct>" } else { "" };
        Ok(format!("{}{defunct}", task.comm.escape_debug()))
    }

    /// The table of open files.
    pub(super) fn files(&self) -> Result<Files, CritError> {
        let files: Vec<FileEntry> = self.all(&catalogue::FILES, 0)?.unwrap_or_default();
        let memfds: Vec<MemfdInodeEntry> = self.all(&catalogue::MEMFD_INODE, 0)?.unwrap_or_default();
        Ok(Files {
            files: files.into_iter().map(|file| ((file.r#type, file.id), file)).collect(),
            memfds: memfds.into_iter().map(|inode| (inode.inode_id, inode)).collect(),
        })
    }

    /// The only entry of an image; none if there is no such file.
    pub(super) fn single<M: prost::Message + Default>(
        &self,
        image: &ImageType,
        id: u32,
    ) -> Result<Option<M>, CritError> {
        self.read(image, id, Reader::single)
    }

    /// All entries of an image; none if there is no such file.
    pub(super) fn all<M: prost::Message + Default>(
        &self,
        image: &ImageType,
        id: u32,
    ) -> Result<Option<Vec<M>>, CritError> {
        self.read(image, id, Reader::all)
    }

    /// Reads an image; none if there is no such file.
    pub(super) fn read<T>(
        &self,
        image: &ImageType,
        id: u32,
        read: impl FnOnce(Reader<BufReader<File>>) -> Result<T, Error>,
    ) -> Result<Option<T>, CritError> {
        let path = self.dir.join(image.file_name(u64::from(id)));
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CritError::File { path, source }),
        };
        Reader::open(BufReader::new(file), image)
            .and_then(read)
            .map(Some)
            .map_err(|source| CritError::Content { path, source: source.into() })
    }
}

/// The open files of all tasks.
#[derive(Debug)]
pub(super) struct Files {
    files: HashMap<(i32, u32), FileEntry>,
    memfds: HashMap<u64, MemfdInodeEntry>,
}

impl Files {
    /// A file of this type.
    pub(super) fn get(&self, kind: i32, id: u32) -> Option<&FileEntry> {
        self.files.get(&(kind, id))
    }

    /// The path of a file that was opened by one.
    pub(super) fn path(&self, id: u32) -> String {
        let file = self.get(FdTypes::Reg as i32, id).and_then(|file| file.reg.as_ref());
        file.map_or_else(|| format!("file {id}"), |reg| reg.name.escape_debug().to_string())
    }

    /// The name of the file behind a mapping: one opened by path, or a memory file.
    pub(super) fn mapped(&self, id: u32) -> String {
        let memfd = self.get(FdTypes::Memfd as i32, id).and_then(|file| file.memfd.as_ref());
        memfd.map_or_else(|| self.path(id), |memfd| self.memfd(u64::from(memfd.inode_id)))
    }

    /// The name of a memory file.
    pub(super) fn memfd(&self, inode: u64) -> String {
        let name = self.memfds.get(&inode).map(|inode| inode.name.escape_debug().to_string());
        format!("memfd:{}", name.unwrap_or_else(|| inode.to_string()))
    }
}
