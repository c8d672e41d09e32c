//! A program in which a breakpoint of the kernel is set (uprobe) has been through it, and goes through it again.

use std::fs::{self, File};
use std::io::Write as _;

use zdtm::workload::{Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

const TRACING: &str = "/sys/kernel/tracing";

/// What has the breakpoint at its beginning.
#[inline(never)]
extern "C" fn probed(number: u64) -> u64 {
    std::hint::black_box(number) * 3 + 1
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let event = format!("stasis_zdtm/probe_{}", std::process::id());
    let (program, offset) = place(probed as *const () as usize)?;
    tell(&format!("p:{event} {program}:{offset:#x}"))?;
    let verdict = with_probe(cx, &event);
    enable(&event, "0")?;
    tell(&format!("-:{event}"))?;
    verdict?;
    ensure_eq!(probed(4), 13, "the result without the breakpoint");
    Ok(())
}

fn with_probe(cx: &mut Context, event: &str) -> Verdict {
    enable(event, "1")?;
    ensure_eq!(probed(2), 7, "the result with a breakpoint");
    ensure!(fs::read_to_string("/proc/self/maps")?.contains("[uprobes]"), "the kernel has no page for it");
    cx.barrier()?;
    ensure_eq!(probed(3), 10, "the result after the restore");
    Ok(())
}

fn enable(event: &str, how: &str) -> Verdict {
    Ok(fs::write(format!("{TRACING}/events/{event}/enable"), how)?)
}

fn tell(line: &str) -> Verdict {
    let mut events = File::options().append(true).open(format!("{TRACING}/uprobe_events"))?;
    Ok(writeln!(events, "{line}")?)
}

/// The file in which the code at an address is, and where.
fn place(address: usize) -> Result<(String, usize), Failure> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let number = |text: &str| usize::from_str_radix(text, 16).unwrap_or(0);
    for line in maps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [range, _, offset, _, _, file] = words[..] else { continue };
        let (start, end) = range.split_once('-').unwrap_or_default();
        if (number(start)..number(end)).contains(&address) {
            return Ok((file.to_owned(), address - number(start) + number(offset)));
        }
    }
    Err(Failure::new("no code is where it is"))
}
