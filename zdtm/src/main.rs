//! The runner's command.

use std::process::ExitCode;

fn main() -> ExitCode {
    zdtm::cli::main()
}
