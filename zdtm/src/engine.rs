//! The engine under test, known by its command line only.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::target;
use crate::watch::{Exit, Watch};

/// Where one dump and its restore put their files.
#[derive(Debug, Clone)]
pub struct Place {
    /// Images.
    pub images: PathBuf,
    /// Logs and the pid file.
    pub work: PathBuf,
    /// Temporary files of the engine; nothing may be left in it.
    pub tmp: PathBuf,
}

impl Place {
    /// Makes the folders for round `round` below the test's directory.
    pub fn create(dir: &Path, round: u32) -> Result<Self> {
        let place = Self {
            images: dir.join(format!("images.{round}")),
            work: dir.join(format!("work.{round}")),
            tmp: dir.join("engine-tmp"),
        };
        for folder in [&place.images, &place.work, &place.tmp] {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        Ok(place)
    }
}

/// How a call of the engine ended.
#[derive(Debug)]
pub struct Call {
    /// The exit status.
    pub exit: Exit,
    /// The first errors of its log, or the end of what it printed.
    pub errors: Vec<String>,
    /// Log and output together.
    pub text: String,
}

impl Call {
    /// Exit code 0.
    pub fn succeeded(&self) -> bool {
        self.exit == Exit::Code(0)
    }
}

/// Calls `dump` for a tree.
pub fn dump(watch: &mut Watch, engine: &Path, pid: i32, place: &Place, options: &[String]) -> Result<Call> {
    let mut args = vec!["dump".to_owned(), "-t".to_owned(), pid.to_string()];
    args.extend(place_args(place, "dump.log"));
    args.extend_from_slice(options);
    call(watch, engine, &args, place, "dump")
}

/// Calls `restore`, detached; returns the call and the pid file's number.
pub fn restore(
    watch: &mut Watch,
    engine: &Path,
    place: &Place,
    options: &[String],
) -> Result<(Call, Option<i32>)> {
    let pidfile = place.work.join("restore.pid");
    let mut args = vec!["restore".to_owned()];
    args.extend(place_args(place, "restore.log"));
    args.extend(["-d".to_owned(), "--pidfile".to_owned(), pidfile.display().to_string()]);
    args.extend_from_slice(options);
    let call = call(watch, engine, &args, place, "restore")?;
    let pid = std::fs::read_to_string(&pidfile).ok().and_then(|text| text.trim().parse().ok());
    Ok((call, pid))
}

fn place_args(place: &Place, log: &str) -> Vec<String> {
    let images = place.images.display().to_string();
    let work = place.work.display().to_string();
    ["-D", &images, "-W", &work, "-o", log, "-v4"].map(str::to_owned).to_vec()
}

fn call(watch: &mut Watch, engine: &Path, args: &[String], place: &Place, verb: &str) -> Result<Call> {
    let printed = place.work.join(format!("{verb}.out"));
    let output = target::append(&printed)?;
    let mut command = Command::new(engine);
    command.args(args).current_dir(&place.work).stdin(Stdio::null()).env("TMPDIR", &place.tmp);
    command.stdout(output.try_clone()?).stderr(output);
    let child = command.spawn().with_context(|| format!("cannot start {}", engine.display()))?;
    let exit = watch.wait_exit(child.id() as i32, &format!("{verb} ends"))?;
    let log = read_lossy(&place.work.join(format!("{verb}.log")));
    let printed = read_lossy(&printed);
    let errors = first_errors(&log, &printed);
    Ok(Call { exit, errors, text: log + &printed })
}

fn read_lossy(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The first errors of a log; without any, the last lines of what was printed.
fn first_errors(log: &str, printed: &str) -> Vec<String> {
    let errors: Vec<String> =
        log.lines().filter(|line| line.contains("Error (")).take(5).map(str::to_owned).collect();
    if !errors.is_empty() {
        return errors;
    }
    let lines: Vec<&str> = printed.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(5)..].iter().map(|line| (*line).to_owned()).collect()
}

/// What the runner needs beside its own executable.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The engine; none for a run without a dump.
    pub engine: Option<PathBuf>,
    /// Our workloads.
    pub workloads: PathBuf,
}

/// Which engine to use.
#[derive(Debug, Clone)]
pub enum Choice {
    /// The one that was built with the runner.
    Own,
    /// Any program with the same command line.
    Other(PathBuf),
    /// None: targets are not dumped.
    None,
}

/// Finds the engine and the workloads beside this executable; under cargo, builds them first.
pub fn find_programs(choice: &Choice) -> Result<Programs> {
    let own = std::env::current_exe().context("cannot find this executable")?;
    let folder = own.parent().context("this executable is in no folder")?;
    let workloads = folder.join("zdtm-workload");
    let stasis = folder.join("stasis");
    let wants_own = matches!(choice, Choice::Own);
    let cargo = std::env::var_os("CARGO");
    if cargo.is_some() || !workloads.exists() || (wants_own && !stasis.exists()) {
        build(cargo.map_or_else(|| "cargo".into(), PathBuf::from).as_path(), folder, wants_own)?;
    }
    ensure!(workloads.exists(), "{} is missing: run `cargo build -p zdtm`", workloads.display());
    let engine = match choice {
        Choice::None => None,
        Choice::Own if stasis.exists() => Some(stasis),
        Choice::Own => {
            bail!("{} is missing: run `cargo build -p engine`, or name one with --engine", stasis.display())
        }
        Choice::Other(path) => {
            let path = match path.components().count() {
                1 if !path.exists() => crate::need::find_program(&path.to_string_lossy()),
                _ => path.canonicalize().ok(),
            };
            Some(path.context("--engine: no such program")?)
        }
    };
    Ok(Programs { engine, workloads })
}

/// Builds into the folder that this executable is in, with its profile.
fn build(cargo: &Path, folder: &Path, with_engine: bool) -> Result<()> {
    let target = folder.parent().context("this executable is in no target folder")?;
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "-p", "zdtm", "--bin", "zdtm-workload"]);
    if with_engine {
        command.args(["-p", "engine", "--bin", "stasis"]);
    }
    match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => {}
        Some(profile) => {
            command.args(["--profile", profile]);
        }
        None => bail!("this executable is in no target folder"),
    }
    command.arg("--target-dir").arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    let status = command.status().context("cannot run cargo to build the engine and the workloads")?;
    ensure!(status.success(), "building the engine and the workloads failed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_log_come_first() {
        let log =
            "(00.001000) start\n(00.002000) Error (a.rs:1): first\n(00.003000) Error (b.rs:2): second\n";
        assert_eq!(
            first_errors(log, "noise"),
            ["(00.002000) Error (a.rs:1): first", "(00.003000) Error (b.rs:2): second"]
        );
        assert_eq!(first_errors("(00.001000) start\n", "a\n\nb\n"), ["a", "b"]);
    }
}
