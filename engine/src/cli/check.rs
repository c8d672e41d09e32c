//! `stasis check`.

use crate::options::{CheckOptions, CheckScope};

use super::grammar::Given;
use super::{Failure, UsageError, directories, log_options, output, start_log};

pub(super) fn options(given: &Given) -> Result<CheckOptions, UsageError> {
    let (_, work_dir) = directories(given);
    Ok(CheckOptions { scope: scope(given)?, log: log_options(given, &work_dir) })
}

fn scope(given: &Given) -> Result<CheckScope, UsageError> {
    let features: Vec<String> = given.values("feature");
    if features.iter().any(|name| name == "list") {
        return Ok(CheckScope::List);
    }
    if let Some(name) = features.iter().find(|name| crate::check::Feature::find(name).is_none()) {
        let known = crate::check::Feature::names();
        let nearest = super::failure::nearest(name, known).map(str::to_owned);
        return Err(UsageError::UnknownFeature { name: name.clone(), nearest });
    }
    Ok(match (features.is_empty(), given.flag("extra"), given.flag("experimental")) {
        (false, ..) => CheckScope::Features(features),
        _ if given.flag("all") => CheckScope::All,
        (_, true, true) => CheckScope::All,
        (_, true, false) => CheckScope::Extra,
        (_, false, true) => CheckScope::Experimental,
        (_, false, false) => CheckScope::Basic,
    })
}

pub(super) fn run(options: &CheckOptions) -> Result<u8, Failure> {
    start_log(&options.log)?;
    let report = crate::check::check(options);
    output::print(&report.to_string());
    Ok(report.exit_code())
}
