//! The command line of `stasis`, and of `criu` where it takes that name.
//!
//! [`parse`] turns arguments and configuration files into an [`Invocation`] and touches nothing; [`run`] does it. What
//! is known and not implemented is refused by name; everything that is refused is found in one pass.

mod argv;
mod cgroups;
mod check;
mod cleanup;
mod cpuinfo;
pub mod crit;
mod dump;
mod failure;
mod files;
mod grammar;
mod mounts;
mod namespaces;
mod network;
pub mod output;
mod plan;
mod restore;
mod table;
mod verify;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use nix::unistd::AccessFlags;

use crate::config::{Entry, Sources};
use crate::error::SysError;
use crate::options::{
    CheckOptions, CleanupOptions, CpuinfoOptions, DumpOptions, LogLevel, LogOptions, PlanOptions,
    RestoreOptions, VerifyOptions,
};

pub use failure::{Failure, UsageError};
use grammar::{Detail, Given, Verbosity};
use table::{Spec, Takes, Verb};

/// What callers read as the version: that of the interface, on a line of its own, then our own.
const VERSION: &str =
    concat!("Version: 4.2\n", "stasis ", env!("CARGO_PKG_VERSION"), " (takes the place of criu)\n");

/// What a command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// Print this, which was asked for.
    Print(String),
    /// `dump`.
    Dump(DumpOptions),
    /// `restore`.
    Restore(RestoreOptions),
    /// `check`.
    Check(CheckOptions),
    /// `plan`.
    Plan(PlanOptions),
    /// `verify`.
    Verify(VerifyOptions),
    /// `cleanup`.
    Cleanup(CleanupOptions),
    /// `cpuinfo`.
    Cpuinfo(CpuinfoOptions),
    /// `crit`.
    Crit(crit::CritArgs),
}

/// Parses a command line, the program's name included. Nothing is touched, and only configuration files are read.
pub fn parse(args: impl IntoIterator<Item = OsString>, sources: &Sources) -> Result<Invocation, Failure> {
    let args: Vec<OsString> = args.into_iter().skip(1).collect();
    if args.first().is_some_and(|word| word == "crit") {
        return crit::parse(args);
    }
    let arranged = argv::arrange(args);
    if arranged.version {
        return Ok(Invocation::Print(VERSION.to_owned()));
    }
    let Some(command) = arranged.command else {
        let asked = arranged.rest.iter().any(|word| word == "-h" || word == "--help");
        return if asked { Ok(help(grammar::program())) } else { Err(UsageError::NoCommand.into()) };
    };
    let command = command.to_string_lossy();
    if command == "help" {
        return Ok(help(grammar::program()));
    }
    if table::REFUSED_COMMANDS.contains(&&*command) {
        return Err(Failure::NotImplemented(vec![format!("`{command}`")]));
    }
    let verb = Verb::ALL.into_iter().find(|verb| verb.name() == command);
    let verb = verb.ok_or_else(|| UsageError::unknown_command(&command))?;

    let first = match understand(verb, &arranged.rest) {
        Ok(given) => given,
        Err(error) if error.kind() == clap::error::ErrorKind::DisplayHelp => {
            let all = arranged.rest.iter().any(|word| word == "--help");
            return Ok(help(grammar::command(verb, if all { Detail::All } else { Detail::Implemented })));
        }
        Err(error) => return Err(UsageError::from_clap(verb, &error).into()),
    };
    let given = configure(&first, &arranged.rest, sources)?;
    let refused = given.not_implemented();
    if !refused.is_empty() {
        return Err(Failure::NotImplemented(refused));
    }
    Ok(match verb {
        Verb::Dump => Invocation::Dump(dump::options(&given)?),
        Verb::Restore => Invocation::Restore(restore::options(&given)?),
        Verb::Check => Invocation::Check(check::options(&given)?),
        Verb::Plan => Invocation::Plan(plan::options(&given)?),
        Verb::Verify => Invocation::Verify(verify::options(&given)?),
        Verb::Cleanup => Invocation::Cleanup(cleanup::options(&given)),
        Verb::Cpuinfo => Invocation::Cpuinfo(cpuinfo::options(&given)?),
    })
}

/// Does what was asked for, and returns the exit code.
pub fn run(invocation: &Invocation) -> Result<u8, Failure> {
    match invocation {
        Invocation::Print(text) => {
            output::print(text);
            Ok(0)
        }
        Invocation::Dump(options) => dump::run(options),
        Invocation::Restore(options) => restore::run(options),
        Invocation::Check(options) => check::run(options),
        Invocation::Plan(options) => plan::run(options),
        Invocation::Verify(options) => verify::run(options),
        Invocation::Cleanup(options) => cleanup::run(options),
        Invocation::Cpuinfo(options) => cpuinfo::run(options),
        Invocation::Crit(args) => crit::run(args.clone()).map(|()| 0).map_err(Failure::from),
    }
}

fn help(mut program: clap::Command) -> Invocation {
    Invocation::Print(program.render_help().to_string())
}

fn understand<S: AsRef<OsStr>>(verb: Verb, words: &[S]) -> Result<Given, clap::Error> {
    let words = [OsStr::new(verb.name())].into_iter().chain(words.iter().map(AsRef::as_ref));
    let matches = grammar::command(verb, Detail::All).try_get_matches_from(words)?;
    Ok(Given { verb, matches })
}

/// Reads the configuration files and understands everything again, with what they say before the command line.
fn configure(first: &Given, words: &[OsString], sources: &Sources) -> Result<Given, Failure> {
    let verb = first.verb;
    let extra: Option<PathBuf> = first.value("config");
    let mut all = Vec::new();
    for (file, entries) in sources.read(!first.flag("no-default-config"), extra.as_deref())? {
        for entry in entries {
            let at = |cause| Failure::ConfigOption { file: file.clone(), line: entry.line, cause };
            let Some(word) = as_word(verb, &entry).map_err(at)? else { continue };
            // Alone first, so that a wrong value is reported where it stands.
            understand(verb, &[&word]).map_err(|e| at(UsageError::from_clap(verb, &e)))?;
            all.push(word);
        }
    }
    all.extend(words.iter().cloned());
    understand(verb, &all).map_err(|e| UsageError::from_clap(verb, &e).into())
}

/// The option as a word of the command line; none where another command is meant.
fn as_word(verb: Verb, entry: &Entry) -> Result<Option<OsString>, UsageError> {
    let positive = Spec::find(&entry.name);
    let negative = entry.name.strip_prefix("no-").and_then(Spec::find).filter(|s| s.takes == Takes::Flag);
    let spec = positive.or(negative).ok_or_else(|| UsageError::unknown_setting(&entry.name))?;
    if !spec.on.contains(&verb) {
        return Ok(None);
    }
    let option = || format!("\"{}\"", entry.name);
    match (spec.takes, &entry.value) {
        (Takes::Value(_) | Takes::Values(_), None) => Err(UsageError::NoValue { option: option() }),
        (Takes::Flag, Some(_)) => Err(UsageError::NeedlessValue { option: option() }),
        (_, None) => Ok(Some(format!("--{}", entry.name).into())),
        (_, Some(value)) => Ok(Some(format!("--{}={value}", entry.name).into())),
    }
}

/// The images directory and the work directory.
fn directories(given: &Given) -> (PathBuf, PathBuf) {
    let images = given.value("images-dir").unwrap_or_else(|| PathBuf::from("."));
    let work = given.value("work-dir").unwrap_or_else(|| images.clone());
    (images, work)
}

fn log_options(given: &Given, work_dir: &Path) -> LogOptions {
    let steps = given.values::<Verbosity>("verbosity");
    let level = steps.into_iter().fold(LogLevel::default() as u8, |level, step| match step {
        Verbosity::Up(by) => level.saturating_add(by),
        Verbosity::To(to) => to,
    });
    let file: Option<PathBuf> = given.value("log-file");
    let file = file.map(|file| {
        let mut path = work_dir.join(file).into_os_string();
        if given.flag("log-pid") {
            path.push(format!(".{}", std::process::id()));
        }
        PathBuf::from(path)
    });
    LogOptions { level: LogLevel::from_number(level), file }
}

/// Checks that a directory is there and usable, before anything is touched.
fn need_directory(what: &'static str, path: &Path, access: AccessFlags) -> Result<(), Failure> {
    let failure = |cause| Failure::Place { what, path: path.to_owned(), cause };
    let metadata = std::fs::metadata(path).map_err(|e| failure(SysError::io("stat")(e)))?;
    if !metadata.is_dir() {
        return Err(failure(SysError { call: "stat", errno: nix::errno::Errno::ENOTDIR }));
    }
    nix::unistd::access(path, access).map_err(|e| failure(SysError::of("access")(e)))
}

fn start_log(options: &LogOptions) -> Result<(), Failure> {
    crate::logging::start(options).map_err(|cause| Failure::Place {
        what: "log file",
        path: options.file.clone().unwrap_or_default(),
        cause,
    })
}

#[cfg(test)]
mod tests;
