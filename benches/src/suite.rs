//! Criterion, and the table at the end.

use std::fmt::Write as _;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use anyhow::Result;
use criterion::{Criterion, SamplingMode};

use crate::session::{Samples, Session, Subject as _};
use crate::stasis::Stasis;

/// How many samples criterion takes of a quantity: its least.
const SAMPLES: usize = 10;

/// The benches of one executable.
#[expect(missing_debug_implementations, reason = "criterion has none")]
pub struct Suite {
    criterion: Criterion,
    stasis: Option<Stasis>,
    table: Vec<String>,
}

impl Suite {
    /// Takes criterion's arguments from the command line.
    #[expect(clippy::new_without_default, reason = "it reads the command line")]
    pub fn new() -> Self {
        let criterion = Criterion::default().sample_size(SAMPLES).without_plots().configure_from_args();
        Self { criterion, stasis: None, table: Vec::new() }
    }

    /// Measures what `routine` says it took. A failure is a line of the table, and ends this quantity only.
    pub fn measure(
        &mut self,
        group: &str,
        name: &str,
        seconds: f32,
        mut routine: impl FnMut() -> Result<Duration>,
    ) {
        let measured = catch_unwind(AssertUnwindSafe(|| {
            let mut group = self.criterion.benchmark_group(group);
            group.sampling_mode(SamplingMode::Flat);
            group.warm_up_time(Duration::from_millis(300));
            group.measurement_time(Duration::from_secs_f32(seconds));
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|iterations| {
                    let once = |_| match routine() {
                        Ok(took) => took,
                        Err(error) => panic!("{error:#}"),
                    };
                    (0..iterations).map(once).sum()
                });
            });
            group.finish();
        }));
        if let Err(panic) = measured {
            let message = panic.downcast_ref::<String>().map_or("no message", String::as_str);
            self.line(format!("{group}/{name}: FAILED: {}", message.trim_end()));
        }
    }

    /// Measures dump and restore of a target with these arguments; none where the filter leaves them out.
    pub fn dump_and_restore(
        &mut self,
        group: &str,
        name: &str,
        seconds: f32,
        arguments: &[String],
    ) -> Samples {
        let mut session: Option<Session> = None;
        let mut stasis = self.stasis.take();
        for verb in ["dump", "restore"] {
            self.measure(group, &format!("{verb} {name}"), seconds, || {
                let stasis = match &mut stasis {
                    Some(stasis) => stasis,
                    none => none.insert(Stasis::find()?),
                };
                let session = match &mut session {
                    Some(session) => session,
                    none => none.insert(Session::start(stasis, arguments)?),
                };
                if verb == "dump" { session.dump() } else { session.restore() }
            });
        }
        self.stasis = stasis;
        session.map(|session| session.samples.clone()).unwrap_or_default()
    }

    /// Adds a line to the table.
    pub fn line(&mut self, line: String) {
        self.table.push(line);
    }

    /// Adds a line: a time, and the bar.
    pub fn time(&mut self, name: &str, samples: &[Duration], bar: &str) {
        if let Some(median) = median(samples) {
            let mut line = format!("{name:<28} {:>10.2} ms", median.as_secs_f64() * 1e3);
            // Writing to a string does not fail.
            let _ = write!(line, "   (bar: {bar}; {} runs)", samples.len());
            self.line(line);
        }
    }

    /// Prints the table.
    pub fn finish(self) {
        self.criterion.final_summary();
        let mut output = std::io::stdout().lock();
        // Nobody is left to tell where standard output is closed.
        let _ = writeln!(output, "\n{}", self.table.join("\n"));
    }
}

/// The median; none of nothing.
pub fn median(samples: &[Duration]) -> Option<Duration> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}
