//! What is in a pipe or fifo: bytes, and in packet mode (`O_DIRECT`, pipe(2)) where each packet ends.
//!
//! An image has one entry for a pipe with its bytes. A pipe in packet mode has one entry for each packet, which the format
//! allows, and which keeps their bounds.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags};
use proto::ImageType;
use proto::messages::PipeDataEntry;

use crate::error::{Problem, SysError};
use crate::image::{Images, NewImages, invalid};

/// What one pipe holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The packets; all bytes are one where the pipe is not in packet mode.
    packets: Vec<Vec<u8>>,
    /// Size of the pipe in bytes (`F_GETPIPE_SZ`).
    size: u32,
}

/// Whether flags of an open read, and whether they write.
pub fn ends(flags: i32) -> (bool, bool) {
    match flags & libc::O_ACCMODE {
        libc::O_RDONLY => (true, false),
        libc::O_WRONLY => (false, true),
        _ => (true, true),
    }
}

/// A new description of a pipe's end; several may refer to the same end, each with flags of its own.
pub fn reopen(end: BorrowedFd<'_>, flags: i32) -> Result<OwnedFd, SysError> {
    let path = format!("/proc/self/fd/{}", end.as_raw_fd());
    let mode = OFlag::from_bits_retain(flags & libc::O_ACCMODE) | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    nix::fcntl::open(path.as_str(), mode, nix::sys::stat::Mode::empty()).map_err(SysError::of("open"))
}

impl Contents {
    /// An empty pipe of the same size.
    pub fn empty(end: BorrowedFd<'_>) -> Result<Self, SysError> {
        Ok(Self { packets: Vec::new(), size: pipe_size(end)? as u32 })
    }

    /// Copies what is in a pipe without taking it out.
    pub fn read(end: BorrowedFd<'_>) -> Result<Self, SysError> {
        let size = pipe_size(end)?;
        let flags = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let (reader, writer) = nix::unistd::pipe2(flags).map_err(SysError::of("pipe2"))?;
        nix::fcntl::fcntl(&writer, FcntlArg::F_SETPIPE_SZ(size as i32))
            .map_err(SysError::of("fcntl(F_SETPIPE_SZ)"))?;
        match nix::fcntl::tee(end, &writer, size, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(SysError { call: "tee", errno }),
        }
        drop(writer);
        // A read ends with a packet, so a read of everything that comes back short and is followed by more was one.
        let mut reads = Vec::new();
        let mut buffer = vec![0_u8; size.max(4096)];
        loop {
            match nix::unistd::read(&reader, &mut buffer).map_err(SysError::of("read"))? {
                0 => break,
                len => reads.push(buffer.get(..len).unwrap_or_default().to_vec()),
            }
        }
        Ok(Self { packets: reads, size: size as u32 })
    }

    /// Gives a new pipe its size, and fills it.
    pub fn fill(&self, writer: BorrowedFd<'_>) -> Result<(), Problem> {
        if self.size != 0 {
            nix::fcntl::fcntl(writer, FcntlArg::F_SETPIPE_SZ(self.size as i32))
                .map_err(SysError::of("fcntl(F_SETPIPE_SZ)"))?;
        }
        let packets = if self.packets.len() > 1 { OFlag::O_DIRECT } else { OFlag::empty() };
        let flags = FcntlArg::F_SETFL(packets | OFlag::O_NONBLOCK);
        nix::fcntl::fcntl(writer, flags).map_err(SysError::of("fcntl(F_SETFL)"))?;
        for packet in &self.packets {
            let mut rest = packet.as_slice();
            while !rest.is_empty() {
                let written = nix::unistd::write(writer, rest).map_err(SysError::of("write"))?;
                rest = rest.get(written..).unwrap_or_default();
            }
        }
        Ok(())
    }
}

fn pipe_size(end: BorrowedFd<'_>) -> Result<usize, SysError> {
    let size = nix::fcntl::fcntl(end, FcntlArg::F_GETPIPE_SZ).map_err(SysError::of("fcntl(F_GETPIPE_SZ)"))?;
    Ok(size as usize)
}

/// Writes the contents of all pipes; no file if there are none.
pub fn write(
    images: &mut NewImages,
    image: &ImageType,
    pipes: &BTreeMap<u32, Contents>,
) -> Result<(), Problem> {
    if pipes.is_empty() {
        return Ok(());
    }
    images.write_with(image, 0, |writer| {
        for (&pipe_id, contents) in pipes {
            let none = [Vec::new()];
            let packets = if contents.packets.is_empty() { &none } else { contents.packets.as_slice() };
            for packet in packets {
                let (bytes, size) = (packet.len() as u32, Some(contents.size));
                writer.entry(&PipeDataEntry { pipe_id, bytes, size })?;
                writer.extra(packet)?;
            }
        }
        Ok(())
    })
}

/// Reads what [`write`] wrote.
pub fn load(images: &Images, image: &ImageType) -> Result<BTreeMap<u32, Contents>, Problem> {
    if !images.has(image, 0) {
        return Ok(BTreeMap::new());
    }
    let pipes = images.read_with(image, 0, |mut reader| {
        let mut pipes: BTreeMap<u32, Contents> = BTreeMap::new();
        while let Some(entry) = reader.entry::<PipeDataEntry>()? {
            let packet = reader.extra(u64::from(entry.bytes))?;
            let size = entry.size.unwrap_or(0);
            let pipe = pipes.entry(entry.pipe_id).or_insert(Contents { packets: Vec::new(), size });
            if !packet.is_empty() {
                pipe.packets.push(packet);
            }
        }
        Ok(pipes)
    })?;
    let fits = |pipe: &Contents| {
        pipe.size == 0 || pipe.packets.iter().map(Vec::len).sum::<usize>() <= pipe.size as usize
    };
    if pipes.values().all(fits) {
        Ok(pipes)
    } else {
        Err(invalid(image, 0, "a pipe holds more than its size"))
    }
}
