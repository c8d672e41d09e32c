//! How fast memory moves, beside memcpy of the same size in the same run. Images are on tmpfs.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use benches::memory::{Mapping, Pages};
use benches::suite::{Suite, median};

const SIZES: [(&str, usize, f32); 2] = [("64 MiB", 64 << 20, 1.0), ("1 GiB", 1 << 30, 8.0)];

fn main() {
    let mut suite = Suite::new();
    for (name, bytes, seconds) in SIZES {
        for pages in [Pages::Small, Pages::Huge] {
            let name = format!("{name} {}", pages.name());
            let copy = median(&memcpy(&mut suite, &name, bytes, pages));
            let mut arguments = vec!["--memory".to_owned(), bytes.to_string()];
            if pages == Pages::Huge {
                arguments.push("--huge".to_owned());
            }
            let samples = suite.dump_and_restore("throughput", &name, seconds, &arguments);
            let rows =
                [("memcpy", copy), ("dump", median(&samples.dump)), ("restore", median(&samples.restore))];
            for (verb, time) in rows {
                if let (Some(time), Some(copy)) = (time, copy) {
                    suite.line(format!(
                        "{:<28} {:>10.2} ms   {:>6.2} GB/s   {:.2} of memcpy",
                        format!("{verb} {name}"),
                        time.as_secs_f64() * 1e3,
                        bytes as f64 / time.as_secs_f64() / 1e9,
                        copy.as_secs_f64() / time.as_secs_f64(),
                    ));
                }
            }
        }
    }
    suite.finish();
}

/// Copies between two mappings that are there already.
fn memcpy(suite: &mut Suite, name: &str, bytes: usize, pages: Pages) -> Vec<Duration> {
    let mut samples = Vec::new();
    let mut mappings = None;
    suite.measure("throughput", &format!("memcpy {name}"), 1.0, || {
        let (from, to) = match &mut mappings {
            Some(mappings) => mappings,
            none => {
                let len = NonZeroUsize::new(bytes).expect("sizes are not zero");
                none.insert((Mapping::filled(len, pages)?, Mapping::filled(len, pages)?))
            }
        };
        let start = Instant::now();
        to.bytes_mut().copy_from_slice(std::hint::black_box(from.bytes()));
        std::hint::black_box(to.bytes());
        let took = start.elapsed();
        samples.push(took);
        Ok(took)
    });
    samples
}
