//! What the kernel under us can do, found out by doing it: never by its version.
//!
//! A probe that would change the state of a process changes that of a child. Probes answer about the kernel, whether or
//! not this engine makes use of the feature yet.

mod capabilities;
mod features;
mod files;
mod memory;
mod namespaces;
mod network;
mod tracing;

use std::fmt;

use crate::error::SysError;
use crate::options::{CheckOptions, CheckScope};

use features::FEATURES;

/// Who needs a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Every dump or restore.
    Basic,
    /// Every dump or restore, which do without where it is missing: that is noted, unless it was asked about by name.
    Useful,
    /// Some workloads.
    Extra,
    /// Some workloads, and it is young.
    Experimental,
    /// Some systems; asked about by name or with all others.
    Named,
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The kernel does it.
    Yes,
    /// It does, with something to know.
    Note(String),
    /// It does not, which costs only speed or comfort.
    Missed(String),
    /// It does not, and why we think so.
    No(String),
}

impl From<Result<(), SysError>> for Answer {
    fn from(result: Result<(), SysError>) -> Self {
        result.map_or_else(|e| Self::No(e.to_string()), |()| Self::Yes)
    }
}

/// Something a kernel has or has not.
#[derive(Debug)]
pub struct Feature {
    /// Its name, as callers of CRIU know it.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// Who needs it.
    pub tier: Tier,
    probe: fn() -> Answer,
}

impl Feature {
    /// The feature of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        FEATURES.iter().find(|feature| feature.name == name)
    }

    /// All names, in the order of the report.
    pub fn names() -> impl Iterator<Item = &'static str> {
        FEATURES.iter().map(|feature| feature.name)
    }

    /// Finds out.
    pub fn probe(&self) -> Answer {
        (self.probe)()
    }
}

/// The answers, or the names of what could be asked.
#[derive(Debug)]
pub enum Report {
    /// `--feature list`.
    Names,
    /// Everything else.
    Answers(Vec<(&'static Feature, Answer)>),
}

/// Asks what is to be asked.
pub fn check(options: &CheckOptions) -> Report {
    let asked = |feature: &&Feature| match &options.scope {
        CheckScope::Basic => matches!(feature.tier, Tier::Basic | Tier::Useful),
        CheckScope::Extra => matches!(feature.tier, Tier::Basic | Tier::Useful | Tier::Extra),
        CheckScope::Experimental => {
            matches!(feature.tier, Tier::Basic | Tier::Useful | Tier::Experimental)
        }
        CheckScope::All => true,
        CheckScope::Features(names) => names.iter().any(|name| name == feature.name),
        CheckScope::List => false,
    };
    if options.scope == CheckScope::List {
        return Report::Names;
    }
    let answers = FEATURES.iter().filter(asked).map(|feature| {
        let answer = feature.probe();
        log::debug!("{}: {answer:?}", feature.name);
        let by_name = matches!(options.scope, CheckScope::Features(_));
        let answer = match answer {
            Answer::No(reason) if feature.tier == Tier::Useful && !by_name => Answer::Missed(reason),
            answer => answer,
        };
        (feature, answer)
    });
    Report::Answers(answers.collect())
}

impl Report {
    /// 0 if everything that was asked about is there; 4, as for an error of the environment, if not.
    pub fn exit_code(&self) -> u8 {
        let whole = match self {
            Self::Names => true,
            Self::Answers(answers) => !answers.iter().any(|(_, answer)| matches!(answer, Answer::No(_))),
        };
        if whole { 0 } else { crate::error::Class::Environment.exit_code() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers = match self {
            Self::Names => return Feature::names().try_for_each(|name| writeln!(f, "{name}")),
            Self::Answers(answers) => answers,
        };
        for (Feature { name, about, .. }, answer) in answers {
            match answer {
                Answer::Yes => writeln!(f, "yes  {name}: {about}")?,
                Answer::Note(note) => writeln!(f, "yes  {name}: {about}\n       note: {note}")?,
                Answer::Missed(reason) => writeln!(f, "no   {name}: {about}\n       done without: {reason}")?,
                Answer::No(reason) => writeln!(f, "no   {name}: {about}\n       {reason}")?,
            }
        }
        let missing = answers.iter().filter(|(_, answer)| matches!(answer, Answer::No(_))).count();
        match missing {
            0 => writeln!(f, "Looks good."),
            _ => writeln!(f, "{missing} of {} missing.", answers.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static FEATURE: Feature = Feature { name: "x", about: "an x", tier: Tier::Useful, probe: || Answer::Yes };

    #[test]
    fn a_report_says_what_is_missing_and_fails() {
        let missing =
            Report::Answers(vec![(&FEATURE, Answer::Yes), (&FEATURE, Answer::No("no x".to_owned()))]);
        assert_eq!(missing.to_string(), "yes  x: an x\nno   x: an x\n       no x\n1 of 2 missing.\n");
        assert_eq!(missing.exit_code(), 4);
        let whole = Report::Answers(vec![(&FEATURE, Answer::Missed("no x".to_owned()))]);
        assert_eq!(whole.to_string(), "no   x: an x\n       done without: no x\nLooks good.\n");
        assert_eq!(whole.exit_code(), 0);
    }

    #[test]
    fn every_probe_ends() {
        let report = check(&CheckOptions { scope: CheckScope::All, ..CheckOptions::default() });
        let Report::Answers(answers) = report else { panic!("no answers") };
        assert_eq!(answers.len(), FEATURES.len());
        // What this kernel must have for the project to make sense.
        let openat2 = answers.iter().find(|(feature, _)| feature.name == "openat2");
        assert_eq!(openat2.map(|(_, answer)| answer), Some(&Answer::Yes));
    }
}
