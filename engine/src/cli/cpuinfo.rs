//! `stasis cpuinfo dump` and `stasis cpuinfo check`, and what `--cpu-cap` says.

use nix::unistd::AccessFlags;

use crate::options::{CpuCap, CpuinfoAction, CpuinfoOptions};

use super::grammar::Given;
use super::{Failure, UsageError, directories, log_options, need_directory, output, start_log};

/// What stands behind `cpuinfo`.
pub(super) fn action(text: &str) -> Result<CpuinfoAction, &'static str> {
    match text {
        "dump" => Ok(CpuinfoAction::Dump),
        "check" => Ok(CpuinfoAction::Check),
        _ => Err("it is dump or check"),
    }
}

/// The value of `--cpu-cap`: names, each adding to those before, or with `^` taking away.
pub(super) fn capabilities(text: &str) -> Result<CpuCap, &'static str> {
    let usual = CpuCap { fpu: true, ins: true, cpu: false };
    // Without a value.
    if text == "+" {
        return Ok(usual);
    }
    let mut caps = if text.starts_with('^') { usual } else { CpuCap::default() };
    for word in text.split(',') {
        let (name, on) = word.strip_prefix('^').map_or((word, true), |name| (name, false));
        match name {
            "none" => caps = CpuCap::default(),
            "all" => caps = CpuCap { fpu: on, ins: on, cpu: on },
            "fpu" => caps.fpu = on,
            "ins" => caps.ins = on,
            "cpu" => caps.cpu = on,
            _ => {
                return Err(
                    "it is a list of fpu, ins, cpu, all and none, each with a ^ before it to leave it out",
                );
            }
        }
    }
    Ok(caps)
}

/// What `--cpu-cap` says; the last one counts.
pub(super) fn cpu_cap(given: &Given) -> Option<CpuCap> {
    given.values("cpu-cap").pop()
}

pub(super) fn options(given: &Given) -> Result<CpuinfoOptions, UsageError> {
    let (images_dir, work_dir) = directories(given);
    let action = given.matches.get_one("action").copied();
    Ok(CpuinfoOptions {
        action: action.ok_or(UsageError::Missing { command: "cpuinfo", option: "dump or check" })?,
        images_dir,
        cpu_cap: cpu_cap(given).unwrap_or(CpuCap { fpu: true, ins: true, cpu: false }),
        log: log_options(given, &work_dir),
    })
}

pub(super) fn run(options: &CpuinfoOptions) -> Result<u8, Failure> {
    let access = match options.action {
        CpuinfoAction::Dump => AccessFlags::W_OK | AccessFlags::X_OK,
        CpuinfoAction::Check => AccessFlags::R_OK | AccessFlags::X_OK,
    };
    need_directory("images directory", &options.images_dir, access)?;
    start_log(&options.log)?;
    output::print(&crate::cpuinfo::run(options)?);
    Ok(0)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("+", Ok((true, true, false)))]
    #[case("none", Ok((false, false, false)))]
    #[case("fpu", Ok((true, false, false)))]
    #[case("fpu,cpu", Ok((true, false, true)))]
    #[case("all,^cpu", Ok((true, true, false)))]
    #[case("^fpu", Ok((false, true, false)))]
    #[case("fpu,", Err(()))]
    #[case("sse", Err(()))]
    fn lists_add_and_take_away(#[case] text: &str, #[case] expected: Result<(bool, bool, bool), ()>) {
        let caps = capabilities(text).map(|caps| (caps.fpu, caps.ins, caps.cpu));
        assert_eq!(caps.map_err(|_why| ()), expected);
    }
}
