//! The bars of memory, each beside memcpy of the same run: `cargo bench -p benches --bench memory -- [MIB]`.
//!
//! Medians of a few rounds, on tmpfs and on the disk; a round is a dump and a restore of the same process.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use benches::memory::{Mapping, Pages};
use benches::session::{Session, Subject as _};
use benches::stasis::Stasis;
use benches::suite::{Suite, median};

const ROUNDS: usize = 5;
const FOLDERS: [(&str, &str); 2] = [("tmpfs", "/dev/shm"), ("disk", "/var/tmp")];

fn main() -> Result<()> {
    let mib = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(1024_usize);
    let mut table = Table { suite: Suite::new(), stasis: Stasis::find()?, bytes: mib << 20 };
    for pages in [Pages::Small, Pages::Huge] {
        table.pages(pages)?;
    }
    table.mappings()?;
    table.suite.finish();
    Ok(())
}

struct Table {
    suite: Suite,
    stasis: Stasis,
    bytes: usize,
}

/// What is at least, or at most, to be reached with small and with huge pages.
struct Bar(f64, f64);

impl Bar {
    fn of(&self, pages: Pages) -> f64 {
        if pages == Pages::Small { self.0 } else { self.1 }
    }
}

impl Table {
    fn pages(&mut self, pages: Pages) -> Result<()> {
        let copy = middle(|| memcpy(self.bytes, pages))?;
        let name = pages.name();
        let mut arguments = vec!["--memory".to_owned(), self.bytes.to_string()];
        if pages == Pages::Huge {
            arguments.push("--huge".to_owned());
        }
        for (where_to, folder) in FOLDERS {
            let mut session = Session::start_in(folder, &self.stasis, &arguments)?;
            let mut rate = |verb: &str, time: Duration, bar: &Bar| {
                let ratio = copy.as_secs_f64() / time.as_secs_f64();
                let [time, copy] = [millis(time), millis(copy)];
                let bar = bar.of(pages);
                self.suite.line(format!(
                    "{verb:<8} {name:<5} {where_to:<6} {time:>8.1} ms, memcpy {copy:>6.1} ms: {ratio:.2} of it (bar: {bar})"
                ));
            };
            // The first dump finds caches cold that stay warm from then on.
            session.dump()?;
            for _ in 0..ROUNDS {
                session.restore()?;
                session.dump()?;
            }
            let samples = session.samples.clone();
            let dumps = samples.dump.get(1..).unwrap_or_default();
            rate("dump", median(dumps).context("no samples")?, &Bar(0.25, 0.35));
            rate("restore", median(&samples.restore).context("no samples")?, &Bar(0.30, 0.45));
            let mut time = |what: &str, time: Duration, bar: f64| {
                let time = millis(time);
                self.suite.line(format!("{what:<8} {name:<5} {where_to:<6} {time:>8.1} ms (bar: {bar} ms)"));
            };
            time("mapped", middle(|| session.restore_mapped())?, 15.0);
            time("frozen", middle(|| session.snapshot())?, Bar(30.0, 8.0).of(pages));
        }
        Ok(())
    }

    fn mappings(&mut self) -> Result<()> {
        let arguments = ["--vmas".to_owned(), "10000".to_owned()];
        let mut session = Session::start(&self.stasis, &arguments)?;
        session.dump()?;
        for _ in 0..ROUNDS {
            session.restore()?;
            session.dump()?;
        }
        for (verb, times) in [("dump", &session.samples.dump), ("restore", &session.samples.restore)] {
            let time = millis(median(times).context("no samples")?);
            self.suite.line(format!("{verb:<8} 10,000 mappings {time:>10.1} ms (bar: 40 ms)"));
        }
        Ok(())
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn middle(mut once: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let times = (0..ROUNDS).map(|_| once()).collect::<Result<Vec<_>>>()?;
    median(&times).context("no samples")
}

/// Copies between two mappings that are there already.
fn memcpy(bytes: usize, pages: Pages) -> Result<Duration> {
    let len = NonZeroUsize::new(bytes).context("no memory")?;
    let (from, mut to) = (Mapping::filled(len, pages)?, Mapping::filled(len, pages)?);
    let start = Instant::now();
    to.bytes_mut().copy_from_slice(std::hint::black_box(from.bytes()));
    std::hint::black_box(to.bytes());
    Ok(start.elapsed())
}
