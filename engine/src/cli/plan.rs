//! `stasis plan`.

use crate::options::PlanOptions;
use crate::plan::Plan;

use super::grammar::Given;
use super::{Failure, UsageError, dump, output, start_log};

pub(super) fn options(given: &Given) -> Result<PlanOptions, UsageError> {
    Ok(PlanOptions { dump: dump::options(given)? })
}

pub(super) fn run(options: &PlanOptions) -> Result<u8, Failure> {
    start_log(&options.dump.log)?;
    let plan = Plan::of(options)?;
    output::print(&plan.to_string());
    Ok(plan.exit_code())
}
