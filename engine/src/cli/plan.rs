//! `stasis plan`.

use crate::error::Action;
use crate::options::PlanOptions;
use crate::plan::Plan;

use super::grammar::Given;
use super::{Failure, UsageError, dump, output, start_log};

pub(super) fn options(given: &Given) -> Result<PlanOptions, UsageError> {
    Ok(PlanOptions { dump: dump::options(given)? })
}

pub(super) fn run(options: &PlanOptions) -> Result<u8, Failure> {
    start_log(&options.dump.log)?;
    dump::from_inside(&options.dump, Action::Plan, false, |options| {
        let plan = Plan::of(&PlanOptions { dump: options.clone() })?;
        output::print(&plan.to_string());
        Ok(plan.exit_code())
    })
}
