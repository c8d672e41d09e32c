//! A subreaper keeps what it adopted, and adopts what becomes an orphan later.

use std::time::Duration;

use nix::sys::prctl::{get_child_subreaper, set_child_subreaper};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, exit_now};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let reaper = cx.child(|cx| {
        set_child_subreaper(true)?;
        let this = getpid();
        let early = cx.child(|cx| {
            cx.child(|cx| orphan(cx, this, "early", 21))?;
            Ok(())
        })?;
        early.join()?;
        let late = cx.child(|cx| {
            cx.child(|cx| orphan(cx, this, "late", 22))?;
            cx.post("late-parent")?;
            cx.park()
        })?;
        cx.post("reaper")?;
        cx.park()?;
        late.join()?;
        ensure_eq!(get_child_subreaper()?, true, "being a subreaper");
        let mut codes = Vec::new();
        while let WaitStatus::Exited(_, code) = waitpid(None::<Pid>, None)? {
            codes.push(code);
            if codes.len() == 2 {
                break;
            }
        }
        codes.sort_unstable();
        ensure_eq!(codes, [21, 22], "ends of the orphans");
        Ok(())
    })?;
    ["reaper", "late-parent", "early"].iter().try_for_each(|name| cx.wait_for(name))?;
    cx.barrier()?;
    reaper.join()
}

fn orphan(cx: &Context, reaper: Pid, name: &str, code: i32) -> Verdict {
    if name == "early" {
        wait_until_adopted(reaper);
    }
    cx.post(name)?;
    cx.park()?;
    wait_until_adopted(reaper);
    exit_now(code)
}

fn wait_until_adopted(reaper: Pid) {
    while getppid() != reaper {
        std::thread::sleep(Duration::from_millis(1));
    }
}
