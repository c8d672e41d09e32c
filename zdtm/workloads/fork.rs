//! A process that forks all the time loses no child.

use zdtm::workload::{Context, Verdict, exit_now};
use zdtm::{ensure, ensure_eq};

use nix::sys::wait::{WaitStatus, waitpid};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let depth: u32 = cx.args().first().map_or(Ok(1), |word| word.parse())?;
    let forker = cx.child(|cx| {
        let mut made = 0;
        while !cx.passed() {
            let code = made % 100;
            let child = cx.child(|cx| if depth > 1 { twice(cx, code) } else { exit_now(code) })?;
            ensure_eq!(waitpid(child.pid, None)?, WaitStatus::Exited(child.pid, code), "end of a child");
            made += 1;
            if made == 3 {
                cx.post("forking")?;
            }
        }
        ensure!(made > 3, "only {made} children");
        Ok(())
    })?;
    cx.wait_for("forking")?;
    cx.barrier()?;
    forker.join()
}

fn twice(cx: &Context, code: i32) -> Verdict {
    let child = cx.child(|_| exit_now(code))?;
    match waitpid(child.pid, None)? {
        WaitStatus::Exited(_, code) => exit_now(code),
        _ => exit_now(101),
    }
}
