//! What one more thread and one more process cost at least: the kernel's part, for the least that can be done.

use std::time::Duration;

use anyhow::Result;
use benches::floor;
use benches::stasis::Stasis;
use benches::suite::{Suite, median};

/// How many threads, and processes: two sizes, as in the bench `scaling`.
const THREADS: (usize, usize) = (1, 256);
const TASKS: (usize, usize) = (1, 64);

fn main() -> Result<()> {
    let stasis = Stasis::find()?;
    let mut suite = Suite::new();
    let mut slope = |name: &str, (few, many): (usize, usize), routine: &dyn Fn(usize) -> Result<Duration>| {
        let mut measure = |count: usize| {
            let mut samples = Vec::new();
            suite.measure("floor", &format!("{name} x{count}"), 1.0, || {
                let took = routine(count)?;
                samples.push(took);
                Ok(took)
            });
            median(&samples)
        };
        if let (Some(small), Some(large)) = (measure(few), measure(many)) {
            let micros = (large.as_secs_f64() - small.as_secs_f64()) * 1e6 / (many - few) as f64;
            suite.line(format!("{name:<28} {micros:>10.1} us each, at least"));
        }
    };
    let words = |option: &str, count: usize| [option.to_owned(), count.to_string()];
    slope("dump, per thread", THREADS, &|count| floor::dump(&stasis, &words("--threads", count)));
    slope("restore, per thread", THREADS, &|count| floor::start(&stasis, &words("--threads", count)));
    slope("dump, per task", TASKS, &|count| floor::dump(&stasis, &words("--children", count)));
    slope("restore, per task", TASKS, &|count| floor::start(&stasis, &words("--children", count)));
    suite.finish();
    Ok(())
}
