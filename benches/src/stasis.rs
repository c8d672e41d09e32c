//! The command under measurement, known by its command line only.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use proto::messages::StatsEntry;

/// A release build of the command.
#[derive(Debug, Clone)]
pub struct Stasis {
    program: PathBuf,
}

impl Stasis {
    /// The program in `$STASIS`, or the one beside the benches, which cargo brings up to date first.
    pub fn find() -> Result<Self> {
        if let Some(program) = std::env::var_os("STASIS") {
            return Ok(Self { program: program.into() });
        }
        let program = beside("stasis")?;
        let cargo = std::env::var_os("CARGO");
        if cargo.is_some() || !program.exists() {
            let folder =
                program.parent().and_then(Path::parent).context("benches are in no target folder")?;
            let mut build = Command::new(cargo.unwrap_or_else(|| "cargo".into()));
            build.args(["build", "--quiet", "--release", "-p", "engine", "--target-dir"]).arg(folder);
            build.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
            ensure!(build.status().context("cannot start cargo")?.success(), "cannot build the engine");
        }
        Ok(Self { program })
    }

    /// Dumps the tree at `pid` into `images`; returns the wall time.
    pub fn dump(&self, pid: i32, images: &Path) -> Result<Duration> {
        self.dump_with(pid, images, &[])
    }

    /// Dumps it with these options.
    pub fn dump_with(&self, pid: i32, images: &Path, options: &[&str]) -> Result<Duration> {
        self.call(&[&["dump", "-t", &pid.to_string()], options].concat(), images)
    }

    /// The same, and the tree runs on.
    pub fn snapshot(&self, pid: i32, images: &Path) -> Result<Duration> {
        self.call(&["dump", "--leave-running", "-t", &pid.to_string()], images)
    }

    /// Restores a tree from `images`; returns the wall time and the root's pid.
    pub fn restore(&self, images: &Path) -> Result<(Duration, i32)> {
        self.restore_with(images, &[])
    }

    /// Restores it with these options.
    pub fn restore_with(&self, images: &Path, options: &[&str]) -> Result<(Duration, i32)> {
        let took = self.call(&[&["restore", "-d", "--pidfile", "pid"], options].concat(), images)?;
        let pid = images.join("pid");
        let text = std::fs::read_to_string(&pid).context("pid file")?;
        std::fs::remove_file(&pid).context("pid file")?;
        Ok((took, text.trim().parse().context("pid file")?))
    }

    fn call(&self, arguments: &[&str], images: &Path) -> Result<Duration> {
        // A file, not a pipe: a restored process must not hold the bench's end.
        let printed = images.join("printed");
        let output = File::create(&printed).context("output file")?;
        let mut command = Command::new(&self.program);
        // Connections are kept, where there are any.
        command.args(arguments).args(["--tcp-established", "-D"]).arg(images);
        command.current_dir("/").stdin(Stdio::null());
        command.stdout(output.try_clone().context("output file")?).stderr(output);
        let start = Instant::now();
        let status = command.status().with_context(|| format!("cannot start {}", self.program.display()))?;
        let took = start.elapsed();
        let text = || std::fs::read_to_string(&printed).unwrap_or_default();
        ensure!(status.success(), "stasis {}: {status}\n{}", arguments.join(" "), text());
        Ok(took)
    }
}

/// How long the tree of the last dump into `images` was stopped, from the dump's statistics.
pub fn frozen_time(images: &Path) -> Result<Duration> {
    let image = &proto::catalogue::STATS_DUMP;
    let file = File::open(images.join(image.file_name(0))).context("statistics")?;
    let entry: StatsEntry = proto::Reader::open(BufReader::new(file), image)?.required()?;
    let dump = entry.dump.context("statistics of something else")?;
    Ok(Duration::from_micros(dump.frozen_time.into()))
}

/// A program in the same build folder as this bench, whose executable is one folder further down.
pub(crate) fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this executable")?;
    let folder = own.ancestors().nth(2).context("this executable is in no build folder")?;
    Ok(folder.join(name))
}
