//! The clap commands, made from the table of options, and what clap understood.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::files::is_unfinished_external;
use super::table::{Group, OPTIONS, REFUSED_COMMANDS, Spec, Takes, Verb};

/// The whole grammar.
pub(super) fn program() -> Command {
    Command::new("stasis")
        .about("Checkpoint and restore of running Linux process trees; takes the place of criu")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .arg(Arg::new("version").long("version").short('V').action(ArgAction::SetTrue).help("Print version"))
        .subcommands(Verb::ALL.map(|verb| command(verb, Detail::All)))
        .after_help(format!("Known, and refused by name for now: {}.", REFUSED_COMMANDS.join(", ")))
}

/// Which options a help text shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// `-h`: what works.
    Implemented,
    /// `--help`: also what is refused.
    All,
}

/// The grammar of one command.
pub(super) fn command(verb: Verb, detail: Detail) -> Command {
    let mut command = Command::new(verb.name()).about(verb.about()).args_override_self(true).after_help(
        "A flag is taken back by --no-NAME. Options may stand in configuration files, without dashes.",
    );
    for spec in OPTIONS.iter().filter(|spec| spec.on.contains(&verb)) {
        command = command.arg(option(spec, verb, detail));
        if spec.takes == Takes::Flag {
            command = command.arg(negation(spec));
        }
    }
    if verb == Verb::Restore {
        let words = Arg::new("command").value_name("CMD").num_args(1..).last(true).hide(true);
        command = command.arg(words.value_parser(value_parser!(OsString)));
    }
    if verb == Verb::Cpuinfo {
        let action = Arg::new("action").value_name("ACTION").help("dump or check").required(true);
        command = command.arg(action.value_parser(super::cpuinfo::action));
    }
    if verb == Verb::Verify {
        let directory = Arg::new("directory").value_name("DIR").help("The same as --images-dir DIR");
        command = command.arg(directory.value_parser(value_parser!(PathBuf)));
    }
    command
}

fn option(spec: &Spec, verb: Verb, detail: Detail) -> Arg {
    let refused = !spec.works.contains(&verb);
    let heading = if refused { Group::Unfinished } else { spec.group };
    let mut arg = Arg::new(spec.long)
        .long(spec.long)
        .help(spec.help)
        .help_heading(heading.heading())
        .hide(refused && detail == Detail::Implemented);
    if let Some(short) = spec.short {
        arg = arg.short(short);
    }
    match spec.takes {
        Takes::Flag => arg.action(ArgAction::SetTrue),
        Takes::Value(name) => values(arg.action(ArgAction::Set), spec, name),
        Takes::Values(name) => values(arg.action(ArgAction::Append), spec, name),
        Takes::Maybe(name) => values(arg.action(ArgAction::Append), spec, name)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("+"),
    }
}

fn values(arg: Arg, spec: &Spec, name: &'static str) -> Arg {
    let arg = arg.value_name(name).allow_hyphen_values(true);
    match (spec.long, name) {
        ("tree", _) => arg.value_parser(value_parser!(i32).range(1..)).allow_negative_numbers(true),
        ("timeout", _) => arg.value_parser(value_parser!(u32)),
        ("cpu-cap", _) => arg.value_parser(super::cpuinfo::capabilities),
        ("verbosity", _) => arg.value_parser(verbosity),
        ("ghost-limit", _) => arg.value_parser(super::files::size),
        ("file-validation", _) => arg.value_parser(super::files::validation),
        ("on-unsupported", _) => arg.value_parser(super::files::unsupported),
        (_, "FILE" | "DIR" | "PATH") => arg.value_parser(value_parser!(PathBuf)),
        _ => arg.value_parser(NonEmptyStringValueParser::new()),
    }
}

/// `--no-NAME`, which is not in the help text.
fn negation(spec: &Spec) -> Arg {
    let name = format!("no-{}", spec.long);
    Arg::new(name.clone()).long(name).action(ArgAction::SetTrue).hide(true).overrides_with(spec.long)
}

/// One `-v`: how far to go up, or where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verbosity {
    Up(u8),
    To(u8),
}

fn verbosity(text: &str) -> Result<Verbosity, &'static str> {
    if !text.is_empty() && text.bytes().all(|b| b == b'+') {
        return Ok(Verbosity::Up(u8::try_from(text.len()).unwrap_or(u8::MAX)));
    }
    text.parse().map(Verbosity::To).map_err(|_not_a_number| "levels go from 0 to 4")
}

/// What clap understood, read through the table.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) verb: Verb,
    pub(super) matches: ArgMatches,
}

impl Given {
    /// Whether the flag is set, and was not taken back behind.
    pub(super) fn flag(&self, long: &str) -> bool {
        self.known(long) && self.matches.get_flag(long)
    }

    /// The value of an option with one value.
    pub(super) fn value<T: Clone + Send + Sync + 'static>(&self, long: &str) -> Option<T> {
        if self.known(long) { self.matches.get_one::<T>(long).cloned() } else { None }
    }

    /// The values of an option with many.
    pub(super) fn values<T: Clone + Send + Sync + 'static>(&self, long: &str) -> Vec<T> {
        if !self.known(long) {
            return Vec::new();
        }
        self.matches.get_many::<T>(long).into_iter().flatten().cloned().collect()
    }

    /// What was asked for and is not implemented, by name.
    pub(super) fn not_implemented(&self) -> Vec<String> {
        OPTIONS
            .iter()
            .filter(|spec| spec.on.contains(&self.verb) && !spec.works.contains(&self.verb))
            .filter(|spec| match spec.takes {
                Takes::Flag => self.matches.get_flag(spec.long),
                _ => self.matches.value_source(spec.long) == Some(ValueSource::CommandLine),
            })
            .map(|spec| format!("--{}", spec.long))
            .chain(
                self.values::<String>("external")
                    .into_iter()
                    .filter(|key| is_unfinished_external(key))
                    .map(|key| format!("--external {key}")),
            )
            .collect()
    }

    fn known(&self, long: &str) -> bool {
        Spec::find(long).is_some_and(|spec| spec.on.contains(&self.verb))
    }
}
