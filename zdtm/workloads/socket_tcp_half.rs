//! A TCP connection one of whose directions is closed: the end comes behind the last data, and the other direction goes on.

use std::net::Shutdown;

use zdtm::workload::{Context, Verdict};

use crate::tcp;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (client, server) = tcp::connect(tcp::host(cx))?;
    tcp::say(&client, b"the last words")?;
    client.shutdown(Shutdown::Write)?;
    if cx.args().get(1).is_some_and(|who| who == "end") {
        tcp::hear(&server, b"the last words")?;
        tcp::hear_end(&server)?;
    }
    cx.barrier()?;
    if cx.args().get(1).is_none_or(|who| who != "end") {
        tcp::hear(&server, b"the last words")?;
        tcp::hear_end(&server)?;
    }
    tcp::say(&server, b"still open")?;
    tcp::hear(&client, b"still open")?;
    drop(server);
    tcp::hear_end(&client)
}
