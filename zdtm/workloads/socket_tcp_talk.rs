//! A client outside of the tree asks without a pause, and gets every answer.

use std::io::Read as _;
use std::net::TcpStream;
use std::time::Duration;

use zdtm::workload::{Context, Verdict};
use zdtm::{ensure, ensure_eq};

use crate::tcp;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (listener, address) = tcp::listen(tcp::host(cx))?;
    let mut listener = Some(listener);
    tcp::outsider(cx, |cx| {
        drop(listener.take());
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(25)))?;
        stream.set_nodelay(true)?;
        let mut rounds = 0_u64;
        while !cx.passed() || rounds == 0 {
            tcp::say(&stream, &rounds.to_ne_bytes())?;
            tcp::hear(&stream, &(rounds + 1).to_ne_bytes())?;
            rounds += 1;
        }
        ensure!(rounds > 10, "only {rounds} rounds");
        Ok(())
    })?;
    let listener = listener.ok_or_else(|| zdtm::workload::Failure::new("no listener"))?;
    let (mut stream, _) = listener.accept()?;
    let server = cx.child(|_| {
        let mut bytes = [0; 8];
        let mut expected = 0;
        while stream.read_exact(&mut bytes).is_ok() {
            ensure_eq!(u64::from_ne_bytes(bytes), expected, "the question");
            expected += 1;
            tcp::say(&stream, &expected.to_ne_bytes())?;
        }
        ensure!(expected > 10, "only {expected} questions");
        Ok(())
    })?;
    drop(stream);
    cx.barrier()?;
    cx.wait_for("outsider")?;
    server.join()
}
