//! Host name and domain name are those that were set.

use nix::errno::Errno;
use nix::sys::utsname::uname;
use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

const HOST: &str = "zoo-host.example";
const DOMAIN: &str = "zoo-domain";

pub(crate) fn names() -> Result<[String; 2], Failure> {
    let names = uname()?;
    Ok([names.nodename(), names.domainname()].map(|name| name.to_string_lossy().into_owned()))
}

pub(crate) fn set(host: &str, domain: &str) -> Verdict {
    nix::unistd::sethostname(host)?;
    // SAFETY: the kernel reads as many bytes as the name has.
    Errno::result(unsafe { libc::setdomainname(domain.as_ptr().cast(), domain.len()) })?;
    Ok(())
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    set(HOST, DOMAIN)?;
    ensure_eq!(names()?, [HOST, DOMAIN], "names before the dump");
    cx.barrier()?;
    ensure_eq!(names()?, [HOST, DOMAIN], "names");
    Ok(())
}
