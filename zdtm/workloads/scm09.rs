//! Credentials travel with each packet because the receiver asked for them; two senders stay apart.

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict, exit_now};

use crate::{scm, unix};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (a, b) = unix::pair(unix::kind(cx))?;
    setsockopt(&b, sockopt::PassCred, &true)?;
    let child = cx.child(|cx| {
        unix::say(&a, b"child")?;
        cx.post("said")?;
        cx.park()?;
        exit_now(0)
    })?;
    cx.wait_for("said")?;
    unix::say(&a, b"parent")?;
    cx.barrier()?;
    ensure_eq!(getsockopt(&b, sockopt::PassCred)?, true, "SO_PASSCRED");
    let (_, first) = scm::receive(&b, b"child")?;
    ensure_eq!(first.map(|c| c.pid()), Some(child.pid.as_raw()), "first sender");
    let (_, second) = scm::receive(&b, b"parent")?;
    ensure_eq!(second.map(|c| c.pid()), Some(std::process::id() as i32), "second sender");
    child.join()
}
