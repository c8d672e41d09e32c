//! How far a long copy is: a line on the terminal, and one in the log each second. Short ones show nothing.

use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

const INTERVAL: Duration = Duration::from_secs(1);

/// Progress of one copy.
#[derive(Debug)]
pub(crate) struct Progress {
    what: &'static str,
    total: u64,
    done: u64,
    start: Instant,
    last: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// `what` fits before a colon: `memory written`.
    pub(crate) fn new(what: &'static str, total: u64) -> Self {
        let now = Instant::now();
        Self { what, total, done: 0, start: now, last: now, bar: None }
    }

    /// Some more bytes are done.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.done += bytes;
        if self.last.elapsed() < INTERVAL {
            return;
        }
        self.last = Instant::now();
        let rate = (self.done as f64 / self.start.elapsed().as_secs_f64()) as u64;
        let left = Duration::from_secs(self.total.saturating_sub(self.done) / rate.max(1));
        let [done, total] = [HumanBytes(self.done), HumanBytes(self.total)];
        log::info!("{}: {done} of {total}, {}/s, {left:?} left", self.what, HumanBytes(rate));
        // Hidden by itself where standard error is no terminal.
        let bar = self.bar.get_or_insert_with(|| {
            let template = "{msg}: {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(self.total)
                .with_style(style)
                .with_message(self.what)
                .with_elapsed(self.start.elapsed())
        });
        bar.set_position(self.done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
