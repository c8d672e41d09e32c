//! The process that the benches dump: as large as asked for, and asleep.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use benches::memory::{Mapping, PAGE, Pages};
use clap::Parser;
use nix::sys::mman::{ProtFlags, mprotect};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{ForkResult, chdir, fork, pause, setsid};

/// What the process consists of, beyond one thread and three descriptors.
#[derive(Debug, Parser)]
struct Shape {
    /// Additional threads.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Additional descriptors.
    #[arg(long, default_value_t = 0)]
    fds: usize,
    /// Pairs of connected unix sockets.
    #[arg(long, default_value_t = 0)]
    pairs: usize,
    /// TCP connections, both ends of each.
    #[arg(long, default_value_t = 0)]
    connections: usize,
    /// Additional mappings, of one page each.
    #[arg(long, default_value_t = 0)]
    vmas: usize,
    /// Bytes of private anonymous memory.
    #[arg(long, default_value_t = 0)]
    memory: usize,
    /// The memory has huge pages.
    #[arg(long)]
    huge: bool,
    /// Child processes.
    #[arg(long, default_value_t = 0)]
    children: usize,
    /// Created when everything is there.
    #[arg(long)]
    ready: PathBuf,
}

fn main() -> Result<()> {
    let shape = Shape::parse();
    setsid().context("setsid")?;
    chdir("/").context("chdir")?;
    // SAFETY: nothing in this process uses a descriptor above standard error yet.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    // SAFETY: the call only sets a parameter of the allocator; a heap for each thread would add mappings.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };

    for _ in 0..shape.children {
        // SAFETY: there is one thread so far, and the child only sleeps.
        if let ForkResult::Child = unsafe { fork() }.context("fork")? {
            sleep();
        }
    }
    let folder = shape.ready.with_extension("files");
    std::fs::create_dir_all(&folder).context("folder of files")?;
    let files: Vec<File> = (0..shape.fds)
        .map(|number| File::create(folder.join(number.to_string())))
        .collect::<Result<_, _>>()
        .context("open")?;
    let pairs: Vec<_> =
        (0..shape.pairs).map(|_| UnixStream::pair()).collect::<Result<_, _>>().context("socketpair")?;
    let connections = connect(shape.connections)?;
    let pages = if shape.huge { Pages::Huge } else { Pages::Small };
    let memory = NonZeroUsize::new(shape.memory).map(|len| Mapping::filled(len, pages)).transpose()?;
    let vmas = NonZeroUsize::new(shape.vmas * PAGE).map(alternating).transpose()?;
    for _ in 0..shape.threads {
        std::thread::Builder::new().stack_size(64 << 10).spawn(|| sleep()).context("thread")?;
    }
    // Threads are in their sleep before anybody looks.
    std::thread::sleep(Duration::from_millis(5));
    drop(File::create(&shape.ready).context("ready file")?);
    let _everything = (files, pairs, connections, memory, vmas);
    sleep();
}

fn sleep() -> ! {
    loop {
        pause();
    }
}

/// Connections over the loopback device, and nobody who listens.
fn connect(count: usize) -> Result<Vec<(TcpStream, TcpStream)>> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("getrlimit")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("setrlimit")?;
    let listener = TcpListener::bind("127.0.0.1:0").context("bind")?;
    let to = listener.local_addr().context("getsockname")?;
    let pair = |_| Ok((TcpStream::connect(to).context("connect")?, listener.accept().context("accept")?.0));
    (0..count).map(pair).collect()
}

/// Maps `len` bytes, as one mapping for each page: neighbors differ in their protection.
fn alternating(len: NonZeroUsize) -> Result<Mapping> {
    let mapping = Mapping::filled(len, Pages::Small)?;
    for offset in (0..len.get()).step_by(2 * PAGE) {
        // SAFETY: the offset is inside of the mapping.
        let page = unsafe { mapping.start().add(offset) };
        // SAFETY: the page is our own, and nobody writes to it from now on.
        unsafe { mprotect(page.cast(), PAGE, ProtFlags::PROT_READ) }.context("mprotect")?;
    }
    Ok(mapping)
}
