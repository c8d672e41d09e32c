//! `stasis`: checkpoint and restore of running process trees. A link called `criu` makes it a drop-in.

use std::process::ExitCode;

use engine::cli;
use engine::config::Sources;

fn main() -> ExitCode {
    let invocation = cli::parse(std::env::args_os(), &Sources::of_process());
    cli::output::finish(invocation.and_then(|invocation| cli::run(&invocation)))
}
