//! A client and a server talk all the time, over a connection through a file.

use std::os::fd::OwnedFd;

use nix::sys::socket::SockType::Stream;
use zdtm::ensure;
use zdtm::workload::{Context, Verdict, check_pattern, exit_now, pattern};

use crate::unix;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let address = unix::file(&cx.path("transition.sock"))?;
    let listener = unix::listening(Stream, &address)?;
    let client = cx.child(|_| {
        let end = unix::connected(Stream, &address)?;
        let mut buffer = [0; 512];
        loop {
            match nix::unistd::read(&end, &mut buffer)? {
                0 => exit_now(0),
                length => unix::say(&end, &buffer[..length])?,
            }
        }
    })?;
    let server = unix::accepted(&listener)?;
    let driver = cx.child(|cx| {
        let mut round = 0;
        while !cx.passed() || round < 100 {
            echo(&server, round)?;
            round += 1;
            if round == 1 {
                cx.post("talking")?;
            }
        }
        exit_now(0)
    })?;
    drop(server);
    cx.wait_for("talking")?;
    cx.barrier()?;
    driver.join()?;
    client.join()
}

fn echo(server: &OwnedFd, round: u64) -> Verdict {
    let words = pattern(round, 256);
    unix::say(server, &words)?;
    let mut heard = Vec::new();
    while heard.len() < words.len() {
        let mut buffer = [0; 512];
        let length = nix::unistd::read(server, &mut buffer)?;
        ensure!(length > 0, "the client is gone");
        heard.extend_from_slice(&buffer[..length]);
    }
    check_pattern(&heard, round, "echo")
}
