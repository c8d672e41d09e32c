//! Commands that set up and show what a workload has, and must succeed.

use std::process::Command;

use zdtm::ensure;
use zdtm::workload::Failure;

/// Runs a program and returns what it prints.
pub(crate) fn output(program: &str, args: &[&str]) -> Result<String, Failure> {
    let output = Command::new(program).args(args).output()?;
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs ip(8) with these words.
pub(crate) fn ip(args: &str) -> Result<String, Failure> {
    output("ip", &args.split(' ').collect::<Vec<_>>())
}
