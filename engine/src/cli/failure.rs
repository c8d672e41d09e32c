//! Why a command line comes to nothing, in one sentence each, and the exit codes.

use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::config::ConfigError;
use crate::error::{Class, Error, SysError};

use super::table::{OPTIONS, REFUSED_COMMANDS, Verb};

/// The exit code of a wrong command line.
const USAGE: u8 = 2;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line is wrong.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// A configuration file is wrong.
    #[error("{}, line {line}: {cause}", file.display())]
    ConfigOption {
        /// Its path.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        cause: UsageError,
    },
    /// A configuration file cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The command line is right, and we do not do that yet.
    #[error("{} not implemented yet", enumerate(.0))]
    NotImplemented(Vec<String>),
    /// A directory or file that must be usable is not.
    #[error("{what} {}: {cause}", path.display())]
    Place {
        /// What it is.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        cause: SysError,
    },
    /// The tree runs, but something around it failed.
    #[error("the tree was restored and runs, but {what}: {cause}")]
    AfterRestore {
        /// What failed, after "but".
        what: &'static str,
        /// What the kernel said.
        cause: SysError,
    },
    /// The process that does the work could not be made.
    #[error("cannot start the worker: {0}")]
    Worker(SysError),
    /// It was killed.
    #[error(
        "the worker was killed by signal {0}; the process tree runs on, unless the images are complete (inventory.img)"
    )]
    WorkerKilled(i32),
    /// The process that restores a tree from within its namespaces was killed.
    #[error("the process that restores the tree was killed by signal {0}; nothing of the tree is left")]
    RestoreKilled(i32),
    /// What crit says.
    #[error(transparent)]
    Crit(#[from] crate::crit::CritError),
    /// The library failed.
    #[error(transparent)]
    Engine(#[from] Error),
}

impl Failure {
    /// The process exit code: 2 for a wrong command line, otherwise that of the error's class.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::ConfigOption { .. } | Self::Config(ConfigError::Syntax { .. }) => USAGE,
            Self::NotImplemented(_) => Class::Refused.exit_code(),
            Self::Config(ConfigError::Read { .. }) | Self::Place { .. } | Self::Worker(_) => {
                Class::Environment.exit_code()
            }
            Self::AfterRestore { .. } => Class::Failed.exit_code(),
            Self::WorkerKilled(_) | Self::RestoreKilled(_) => Class::Bug.exit_code(),
            // As crit's users know it.
            Self::Crit(_) => 1,
            Self::Engine(error) => error.exit_code(),
        }
    }
}

fn enumerate(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => format!("{one} is"),
        [most @ .., last] => format!("{} and {last} are", most.join(", ")),
    }
}

/// What is wrong with a command line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// Options, but no command.
    #[error("no command given; `stasis --help` lists them")]
    NoCommand,
    /// A wrong command line of `crit`, in clap's words.
    #[error("crit: {0}")]
    Crit(String),
    /// An unknown command.
    #[error("there is no command \"{name}\"{}", nearest_text(nearest.as_ref()))]
    UnknownCommand {
        /// As given.
        name: String,
        /// The most similar one.
        nearest: Option<String>,
    },
    /// An option that the command does not have.
    #[error("`{command}` has no option {name}{}", nearest_text(nearest.as_ref()))]
    UnknownOption {
        /// The command.
        command: &'static str,
        /// As given.
        name: String,
        /// The most similar one.
        nearest: Option<String>,
    },
    /// An option of a configuration file that no command has.
    #[error("there is no option \"{name}\"{}", nearest_text(nearest.as_ref()))]
    UnknownSetting {
        /// As given.
        name: String,
        /// The most similar one.
        nearest: Option<String>,
    },
    /// A word too many.
    #[error("`{command}` does not know what to do with \"{word}\"")]
    StrayWord {
        /// The command.
        command: &'static str,
        /// The word.
        word: String,
    },
    /// An option without its value.
    #[error("{option} needs a value")]
    NoValue {
        /// The option, with the name of its value.
        option: String,
    },
    /// A flag with a value.
    #[error("{option} takes no value")]
    NeedlessValue {
        /// The option.
        option: String,
    },
    /// A value that cannot be.
    #[error("\"{value}\" cannot be the value of {option}: {reason}")]
    BadValue {
        /// The option, with the name of its value.
        option: String,
        /// As given.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An option that must be there.
    #[error("`{command}` needs {option}")]
    Missing {
        /// The command.
        command: &'static str,
        /// The option.
        option: &'static str,
    },
    /// Two options that say different things.
    #[error("{0} and {1} cannot be together")]
    Contradiction(&'static str, &'static str),
    /// An option that means nothing without another one.
    #[error("{option} works only with {with}")]
    Alone {
        /// The option.
        option: &'static str,
        /// The one that is missing.
        with: &'static str,
    },
    /// An unknown feature of `check`.
    #[error("there is no feature \"{name}\"{}", nearest_text(nearest.as_ref()))]
    UnknownFeature {
        /// As given.
        name: String,
        /// The most similar one.
        nearest: Option<String>,
    },
    /// Anything else that clap finds.
    #[error("`{command}`: {reason}")]
    Grammar {
        /// The command.
        command: &'static str,
        /// In clap's words.
        reason: String,
    },
}

fn nearest_text(name: Option<&String>) -> String {
    name.map_or_else(String::new, |name| format!("; the nearest is {name}"))
}

/// The name that was probably meant.
pub(super) fn nearest<'a>(name: &str, among: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Below this value of the measure, a suggestion confuses more than it helps.
    const SIMILAR: f64 = 0.8;
    among
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity > SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

impl UsageError {
    pub(super) fn unknown_command(name: &str) -> Self {
        let known = Verb::ALL.map(Verb::name).into_iter().chain(REFUSED_COMMANDS.iter().copied());
        Self::UnknownCommand { name: name.to_owned(), nearest: nearest(name, known).map(str::to_owned) }
    }

    pub(super) fn unknown_setting(name: &str) -> Self {
        let known = OPTIONS.iter().map(|spec| spec.long);
        Self::UnknownSetting { name: name.to_owned(), nearest: nearest(name, known).map(str::to_owned) }
    }

    fn unknown_option(verb: Verb, name: &str) -> Self {
        let known = OPTIONS.iter().filter(|spec| spec.on.contains(&verb)).map(|spec| spec.long);
        let nearest = name.strip_prefix("--").and_then(|name| nearest(name, known));
        let nearest = nearest.map(|name| format!("--{name}"));
        Self::UnknownOption { command: verb.name(), name: name.to_owned(), nearest }
    }

    /// A value that cannot be, of an option with the name of its value.
    pub(super) fn bad_value(option: &str, value: &str, reason: &str) -> Self {
        Self::BadValue { option: option.to_owned(), value: value.to_owned(), reason: reason.to_owned() }
    }

    /// From what clap says.
    pub(super) fn from_clap(verb: Verb, error: &clap::Error) -> Self {
        let text = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => text.clone(),
            _ => String::new(),
        };
        let (arg, value) = (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue));
        match error.kind() {
            ErrorKind::UnknownArgument if arg.starts_with('-') => {
                let name = arg.split_once('=').map_or(arg.as_str(), |(name, _)| name);
                Self::unknown_option(verb, name)
            }
            ErrorKind::UnknownArgument => Self::StrayWord { command: verb.name(), word: arg },
            ErrorKind::InvalidValue | ErrorKind::NoEquals | ErrorKind::WrongNumberOfValues
                if value.is_empty() =>
            {
                Self::NoValue { option: arg }
            }
            ErrorKind::TooManyValues => Self::NeedlessValue { option: arg },
            ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
                let reason = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
                Self::BadValue { option: arg, value, reason }
            }
            _ => Self::Grammar { command: verb.name(), reason: first_line(error) },
        }
    }
}

fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}
