//! The program under test: started in a session of its own, with nothing of the runner's left in it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

/// The values that a zoo file may refer to in braces.
#[derive(Debug, Clone)]
pub struct Values {
    /// A TCP port that was free a moment ago.
    pub port: u16,
    /// The test's directory.
    pub dir: PathBuf,
    /// The entry's name.
    pub name: String,
    /// The folder of the zoo file.
    pub here: PathBuf,
}

impl Values {
    /// Replaces the named values; other braces stay.
    pub fn expand(&self, text: &str) -> String {
        text.replace("{port}", &self.port.to_string())
            .replace("{dir}", &self.dir.display().to_string())
            .replace("{outside}", &crate::cell::outside_of(&self.dir).display().to_string())
            .replace("{name}", &self.name)
            .replace("{here}", &self.here.display().to_string())
    }

    /// Replaces the named values in each word.
    pub fn expand_all(&self, words: &[String]) -> Vec<String> {
        words.iter().map(|word| self.expand(word)).collect()
    }
}

/// Finds a TCP port of the loopback address that nobody uses.
pub fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// The variables that targets and probes inherit: few, so that a target looks the same everywhere.
const INHERITED: &[&str] = &["PATH", "HOME", "USER"];

/// A command in the test's directory with a small, predictable environment.
pub fn command(words: &[String], dir: &Path, env: &BTreeMap<String, String>) -> Result<Command> {
    let (program, args) = words.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    command.args(args).current_dir(dir).stdin(Stdio::null()).env_clear().env("LC_ALL", "C");
    command.envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.envs(env);
    Ok(command)
}

/// Starts the target and returns its process id; its output is appended to `log`.
pub fn start(words: &[String], dir: &Path, env: &BTreeMap<String, String>, log: &str) -> Result<i32> {
    let output = append(&dir.join(log))?;
    let mut command = command(words, dir, env)?;
    command.stdout(output.try_clone()?).stderr(output);
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(detach) };
    let child = command.spawn().with_context(|| format!("cannot start {}", words.join(" ")))?;
    Ok(child.id() as i32)
}

/// Opens a log to which several writers append.
pub fn append(path: &Path) -> Result<File> {
    let open = OpenOptions::new().create(true).append(true).open(path);
    open.with_context(|| format!("cannot open {}", path.display()))
}

/// Leaves the runner's session, and drops descriptors and ignored signals inherited from who knows where.
fn detach() -> io::Result<()> {
    nix::unistd::setsid()?;
    // `sigaction` refuses the two signals that glibc keeps for itself, and `posix_spawn` leaves just these ignored.
    // The kernel's structure (asm/signal.h) is four words; all zero is the default action.
    let usual = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: the new action lives during the call. SIGKILL and SIGSTOP give an error that means nothing here.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, usual.as_ptr(), 0, size_of::<u64>()) };
    }
    // SAFETY: close_range has no memory arguments; marking descriptors cannot invalidate those that std uses until exec.
    let failed = unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_values_are_replaced() {
        let values = Values { port: 80, dir: "/d".into(), name: "a/b".into(), here: "/h".into() };
        assert_eq!(
            values.expand("events { port {port}; } {dir}/{name} {here} {x}"),
            "events { port 80; } /d/a/b /h {x}"
        );
    }
}
