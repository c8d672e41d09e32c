//! Ways to move memory into a file and back, beside memcpy of the same size: what the engine's choices rest on.
//!
//! `cargo bench -p benches --bench copies -- [MIB]`. Each line is the median of a few rounds.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use benches::copies::{Faults, collapse, copy_from_process, copy_to_process, fork_and_end};
use benches::memory::{Mapping, Pages};
use benches::suite::{Suite, median};

const ROUNDS: usize = 3;
/// What a thread takes at a time.
const PIECE: usize = 1 << 20;

fn main() -> Result<()> {
    let mib = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(1024_usize);
    let len = NonZeroUsize::new(mib << 20).context("no memory")?;
    let mut table = Table { suite: Suite::new(), bytes: len.get(), copy: Duration::ZERO };
    for pages in [Pages::Small, Pages::Huge] {
        dumping(&mut table, len, pages)?;
    }
    for pages in [Pages::Small, Pages::Huge] {
        restoring(&mut table, len, pages)?;
    }
    table.suite.finish();
    Ok(())
}

struct Table {
    suite: Suite,
    bytes: usize,
    copy: Duration,
}

impl Table {
    fn row(&mut self, name: &str, mut once: impl FnMut() -> Result<Duration>) -> Result<Duration> {
        let samples = (0..ROUNDS).map(|_| once()).collect::<Result<Vec<_>>>().context(name.to_owned())?;
        let time = median(&samples).context("no samples")?;
        let rate = self.bytes as f64 / time.as_secs_f64() / 1e9;
        let ratio = self.copy.as_secs_f64() / time.as_secs_f64();
        self.suite.line(format!("{name:<52} {:>8.1} ms {rate:>6.2} GB/s  {ratio:.2}", millis(time)));
        Ok(time)
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

fn dumping(table: &mut Table, len: NonZeroUsize, pages: Pages) -> Result<()> {
    let source = Mapping::filled(len, pages)?;
    let mut target = Mapping::filled(len, pages)?;
    let name = pages.name();
    table.copy = Duration::ZERO;
    table.copy = table.row(&format!("{name}: memcpy"), || {
        timed(|| {
            target.bytes_mut().copy_from_slice(std::hint::black_box(source.bytes()));
            Ok(())
        })
    })?;
    drop(target);
    for folder in ["/dev/shm", "/tmp"] {
        table.row(&format!("{name}: write to a new file in {folder}"), || {
            let file = tempfile::tempfile_in(folder)?;
            timed(|| Ok(file.write_all_at(source.bytes(), 0)?))
        })?;
    }
    table.row(&format!("{name}: two threads write to one file"), || {
        let file = tempfile::tempfile_in("/dev/shm")?;
        timed(|| in_halves(&source, |part, at| Ok(file.write_all_at(part, at as u64)?)))
    })?;
    table.row(&format!("{name}: two threads write to two files"), || {
        let files = [tempfile::tempfile_in("/dev/shm")?, tempfile::tempfile_in("/dev/shm")?];
        timed(|| in_halves(&source, |part, at| Ok(files[usize::from(at != 0)].write_all_at(part, 0)?)))
    })?;
    table.row(&format!("{name}: write, another thread reads and hashes it"), || {
        let file = tempfile::tempfile_in("/dev/shm")?;
        timed(|| write_and_hash(&source, &file))
    })?;
    for (folder, huge) in [("/dev/shm", false), ("/dev/shm", true), ("/tmp", false)] {
        let what = if huge { "huge pages of a mapped file in" } else { "a buffer, summed up, written to" };
        table.row(&format!("{name}: two threads process_vm_readv to {what} {folder}"), || {
            let file = tempfile::tempfile_in(folder)?;
            timed(|| from_process(&source, &file, huge))
        })?;
    }
    table.row(&format!("{name}: fork"), fork_and_end)?;
    Ok(())
}

fn in_halves(source: &Mapping, work: impl Fn(&[u8], usize) -> Result<()> + Sync) -> Result<()> {
    let middle = source.bytes().len() / 2;
    let (first, second) = source.bytes().split_at(middle);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| work(second, middle));
        work(first, 0)?;
        other.join().expect("it does not panic")
    })
}

/// Copies as the engine does: by reading from another process, and computing checksums on the way.
fn from_process(source: &Mapping, file: &File, huge: bool) -> Result<()> {
    let len = NonZeroUsize::new(source.bytes().len()).context("no memory")?;
    file.set_len(if huge { len.get() as u64 } else { 0 })?;
    let mut mapped = if huge { Some(Mapping::shared(file, len)?) } else { None };
    let hash = |bytes: &[u8]| {
        std::hint::black_box(twox_hash::XxHash3_64::oneshot(bytes));
    };
    let bytes = source.bytes();
    match &mut mapped {
        Some(mapped) => in_pieces_of(mapped.bytes_mut(), 2 * PIECE, 2, |piece, at| {
            file.write_all_at(&[0], at as u64)?;
            collapse(piece)?;
            for (i, part) in piece.chunks_mut(PIECE / 4).enumerate() {
                copy_from_process(std::process::id(), &bytes[at + i * PIECE / 4..][..part.len()], part)?;
                hash(part);
            }
            Ok(())
        }),
        None => in_halves(source, |half, start| {
            let mut buffer = vec![0; PIECE];
            for (i, piece) in half.chunks(PIECE).enumerate() {
                let buffer = &mut buffer[..piece.len()];
                copy_from_process(std::process::id(), piece, buffer)?;
                hash(buffer);
                file.write_all_at(buffer, (start + i * PIECE) as u64)?;
            }
            Ok(())
        }),
    }
}

fn write_and_hash(source: &Mapping, file: &File) -> Result<()> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let hasher = scope.spawn(move || -> Result<()> {
            let mut buffer = vec![0; PIECE];
            for at in receiver {
                file.read_exact_at(&mut buffer, at)?;
                std::hint::black_box(twox_hash::XxHash3_64::oneshot(&buffer));
            }
            Ok(())
        });
        for (at, piece) in source.bytes().chunks_exact(PIECE).enumerate() {
            let at = (at * PIECE) as u64;
            file.write_all_at(piece, at)?;
            sender.send(at)?;
        }
        drop(sender);
        hasher.join().expect("it does not panic")
    })
}

fn restoring(table: &mut Table, len: NonZeroUsize, pages: Pages) -> Result<()> {
    let file = tempfile::tempfile_in("/dev/shm")?;
    {
        let source = Mapping::filled(len, pages)?;
        file.write_all_at(source.bytes(), 0)?;
        let mut target = Mapping::filled(len, pages)?;
        table.copy = median(
            &(0..ROUNDS)
                .map(|_| {
                    timed(|| {
                        target.bytes_mut().copy_from_slice(std::hint::black_box(source.bytes()));
                        Ok(())
                    })
                })
                .collect::<Result<Vec<_>>>()?,
        )
        .context("no samples")?;
    }
    let mapped = Mapping::of_file(&file, len)?;
    let image = mapped.bytes();
    let fill = |bytes: &mut [u8], at: usize| Ok(file.read_exact_at(bytes, at as u64)?);
    let hash = |at: usize| {
        std::hint::black_box(twox_hash::XxHash3_64::oneshot(&image[at..][..PIECE]));
    };
    let name = pages.name();
    for threads in [1, 2] {
        table.row(&format!("{name}: {threads} thread(s) pread into fresh memory"), || {
            let mut fresh = Mapping::fresh(len, pages)?;
            timed(|| in_pieces(fresh.bytes_mut(), threads, |piece, at| fill(piece, at)))
        })?;
        table.row(&format!("{name}: {threads} thread(s) process_vm_writev from the mapped file"), || {
            let mut fresh = Mapping::fresh(len, pages)?;
            timed(|| {
                in_pieces(fresh.bytes_mut(), threads, |piece, at| {
                    hash(at);
                    copy_to_process(std::process::id(), piece.as_ptr(), &image[at..][..piece.len()])
                })
            })
        })?;
        if pages == Pages::Huge {
            continue;
        }
        table.row(&format!("{name}: {threads} thread(s) UFFDIO_COPY from the mapped file"), || {
            let mut fresh = Mapping::fresh(len, pages)?;
            let faults = Faults::of(&fresh)?;
            timed(|| {
                in_pieces(fresh.bytes_mut(), threads, |piece, at| {
                    faults.copy(piece.as_ptr(), &image[at..][..piece.len()])
                })
            })
        })?;
        table.row(&format!("{name}: {threads} thread(s) the same, hashed before"), || {
            let mut fresh = Mapping::fresh(len, pages)?;
            let faults = Faults::of(&fresh)?;
            timed(|| {
                in_pieces(fresh.bytes_mut(), threads, |piece, at| {
                    hash(at);
                    faults.copy(piece.as_ptr(), &image[at..][..piece.len()])
                })
            })
        })?;
        table.row(
            &format!("{name}: {threads} thread(s) UFFDIO_COPY from a buffer, hashed before"),
            || {
                let mut fresh = Mapping::fresh(len, pages)?;
                let faults = Faults::of(&fresh)?;
                timed(|| {
                    in_pieces(fresh.bytes_mut(), threads, |piece, at| {
                        let mut buffer = vec![0; PIECE / 4];
                        for (i, part) in piece.chunks(PIECE / 4).enumerate() {
                            fill(&mut buffer, at + i * PIECE / 4)?;
                            std::hint::black_box(twox_hash::XxHash3_64::oneshot(&buffer));
                            faults.copy(part.as_ptr(), &buffer)?;
                        }
                        Ok(())
                    })
                })
            },
        )?;
    }
    Ok(())
}

/// Has threads work on pieces, each on the next that nobody has yet.
fn in_pieces(
    bytes: &mut [u8],
    threads: usize,
    work: impl Fn(&mut [u8], usize) -> Result<()> + Sync,
) -> Result<()> {
    in_pieces_of(bytes, PIECE, threads, work)
}

fn in_pieces_of(
    bytes: &mut [u8],
    size: usize,
    threads: usize,
    work: impl Fn(&mut [u8], usize) -> Result<()> + Sync,
) -> Result<()> {
    let pieces = std::sync::Mutex::new(bytes.chunks_mut(size).enumerate());
    let run = || -> Result<()> {
        loop {
            let next = pieces.lock().expect("nobody panics").next();
            let Some((at, piece)) = next else { return Ok(()) };
            work(piece, at * size)?;
        }
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        run()?;
        others.into_iter().try_for_each(|other| other.join().expect("it does not panic"))
    })
}
