//! `stasis plan`.

use crate::options::PlanOptions;
use crate::plan::Plan;

use super::grammar::Given;
use super::{Failure, UsageError, directories, dump, log_options, output, start_log};

pub(super) fn options(given: &Given) -> Result<PlanOptions, UsageError> {
    let (_, work_dir) = directories(given);
    Ok(PlanOptions {
        tree: dump::tree(given)?,
        shell_job: given.flag("shell-job"),
        connections: dump::connections(given),
        skip_in_flight: given.flag("skip-in-flight"),
        external_unix: dump::external_unix(given)?,
        log: log_options(given, &work_dir),
    })
}

pub(super) fn run(options: &PlanOptions) -> Result<u8, Failure> {
    start_log(&options.log)?;
    let plan = Plan::of(options)?;
    output::print(&plan.to_string());
    Ok(plan.exit_code())
}
