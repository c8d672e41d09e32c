//! `/proc/PID/limits`: resource limits of another user's process, without the capability that prlimit(2) asks for.

use super::ParseError;
use super::text::Lines;

const FILE: &str = "/proc/PID/limits";

/// Names in the file, in the order of the `RLIMIT_*` numbers of `asm-generic/resource.h`.
const NAMES: [&str; 16] = [
    "Max cpu time",
    "Max file size",
    "Max data size",
    "Max stack size",
    "Max core file size",
    "Max resident set",
    "Max processes",
    "Max open files",
    "Max locked memory",
    "Max address space",
    "Max file locks",
    "Max pending signals",
    "Max msgqueue size",
    "Max nice priority",
    "Max realtime priority",
    "Max realtime timeout",
];

/// `RLIM_INFINITY`, which the file writes as `unlimited`.
pub const UNLIMITED: u64 = u64::MAX;

/// One limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub soft: u64,
    pub hard: u64,
}

/// All limits, by their `RLIMIT_*` number.
pub type Limits = [Limit; 16];

/// Parses the text of `/proc/PID/limits`.
pub fn parse(text: &[u8]) -> Result<Limits, ParseError> {
    let mut limits = [None; NAMES.len()];
    let mut lines = Lines::new(FILE, text);
    lines.require("a headline")?;
    for mut line in lines.by_ref() {
        let known = NAMES.iter().zip(&mut limits).find_map(|(name, slot)| {
            let rest = line.rest.strip_prefix(name.as_bytes())?;
            rest.starts_with(b" ").then_some((slot, rest))
        });
        if let Some((slot, rest)) = known {
            line.rest = rest;
            let mut value = || {
                line.blanks();
                if line.skip(b"unlimited") {
                    Ok(UNLIMITED)
                } else {
                    line.decimal("a number or \"unlimited\"")
                }
            };
            *slot = Some(Limit { soft: value()?, hard: value()? });
        }
    }
    let all: Option<Vec<Limit>> = limits.into_iter().collect();
    all.and_then(|all| all.try_into().ok()).ok_or_else(|| lines.fail("all 16 limits"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    const REAL: &str = "\
Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max file size             unlimited            unlimited            bytes     
Max data size             unlimited            unlimited            bytes     
Max stack size            8388608              unlimited            bytes     
Max core file size        0                    unlimited            bytes     
Max resident set          unlimited            unlimited            bytes     
Max processes             96365                96365                processes 
Max open files            20000                20001                files     
Max locked memory         8388608              8388608              bytes     
Max address space         unlimited            unlimited            bytes     
Max file locks            unlimited            unlimited            locks     
Max pending signals       96365                96365                signals   
Max msgqueue size         819200               819200               bytes     
Max nice priority         0                    0                    
Max realtime priority     0                    0                    
Max realtime timeout      unlimited            unlimited            us        
";

    #[test]
    fn limits_stand_under_their_numbers() {
        let limits = parse(REAL.as_bytes()).unwrap();
        let at = |number: libc::__rlimit_resource_t| limits[number as usize];
        assert_eq!(at(libc::RLIMIT_STACK), Limit { soft: 8_388_608, hard: UNLIMITED });
        assert_eq!(at(libc::RLIMIT_NOFILE), Limit { soft: 20000, hard: 20001 });
        assert_eq!(at(libc::RLIMIT_NICE), Limit { soft: 0, hard: 0 });
        assert_eq!(at(libc::RLIMIT_MSGQUEUE).soft, 819_200);
    }

    #[test]
    fn a_missing_limit_is_an_error() {
        let text = REAL.replace("Max nice", "Max nasty");
        assert_eq!(parse(text.as_bytes()).unwrap_err().expected, "all 16 limits");
    }

    #[test]
    fn our_own_limits_are_read() {
        parse(&std::fs::read("/proc/self/limits").unwrap()).unwrap();
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<Vec<u8>>()) {
            let _ = parse(&text);
        }

        #[test]
        fn never_panics_on_lines(line in r"Max (cpu time|open files) *[0-9u]{0,30} *(unlimited)?.{0,9}") {
            let _ = parse(format!("head\n{line}\n").as_bytes());
        }
    }
}
