//! Talking to a program: is it ready, and does it answer as it should?

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::entry::{FileText, HttpProbe, Probe, Ready, RunProbe, TcpProbe};
use crate::target::{self, Values};
use crate::watch::{Exit, Watch};

/// How long a program may take to become ready, or to write what a probe waits for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a program may take to answer one request.
const ANSWER: Duration = Duration::from_secs(5);

/// Waits until the target is ready.
pub fn wait_ready(watch: &mut Watch, ready: Option<&Ready>, pid: i32, values: &Values) -> Result<()> {
    let Some(ready) = ready else {
        let settled = std::time::Instant::now() + Duration::from_millis(300);
        return watch.until("the start of the program", PATIENCE, |watch| {
            still_runs(watch, pid)?;
            Ok((std::time::Instant::now() >= settled).then_some(()))
        });
    };
    watch.until(&format!("ready: {ready:?}"), PATIENCE, |watch| {
        still_runs(watch, pid)?;
        let is_ready = match ready {
            Ready::Tcp(port) => connect(&values.expand(port)).is_ok(),
            Ready::File(text) => holds(text, values)?,
            Ready::Command(command) => run(watch, &values.expand_all(command), values)?.0 == Exit::Code(0),
        };
        Ok(is_ready.then_some(()))
    })
}

fn still_runs(watch: &mut Watch, pid: i32) -> Result<()> {
    match watch.take_exit(pid) {
        Some(exit) => bail!("the program {exit} before it was ready (its output is in output.log)"),
        None => Ok(()),
    }
}

/// Does one exchange, and checks the answer.
pub fn check(watch: &mut Watch, probe: &Probe, values: &Values) -> Result<()> {
    match probe {
        Probe::Run(RunProbe { command, expect }) => {
            let words = values.expand_all(command);
            let (exit, output) = run(watch, &words, values)?;
            ensure!(exit == Exit::Code(0), "`{}` {exit}: {output}", words.join(" "));
            contains(&output, &values.expand(expect), || format!("`{}`", words.join(" ")))
        }
        Probe::Tcp(TcpProbe { port, send, expect }) => {
            let port = values.expand(port);
            let expect = values.expand(expect);
            let answer = exchange(&port, &values.expand(send), &expect)?;
            contains(&answer, &expect, || format!("tcp port {port}"))
        }
        Probe::Http(HttpProbe { port, path, expect }) => {
            let port = values.expand(port);
            let path = values.expand(path);
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            let expect = values.expand(expect);
            let answer = exchange(&port, &request, &expect)?;
            contains(&answer, &expect, || format!("http port {port}, {path}"))
        }
        Probe::File(text) => {
            let what = format!("{} holds {:?}", text.path, text.contains);
            watch.until(&what, PATIENCE, |_| Ok(holds(text, values)?.then_some(())))
        }
        Probe::Grows(path) => {
            let path = values.dir.join(values.expand(path));
            let before = length(&path)?;
            let what = format!("{} grows beyond {before} bytes", path.display());
            watch.until(&what, PATIENCE, |_| Ok((length(&path)? > before).then_some(())))
        }
    }
}

fn contains(answer: &str, part: &str, who: impl Fn() -> String) -> Result<()> {
    ensure!(answer.contains(part), "{} should answer {part:?}, answered {answer:?}", who());
    Ok(())
}

fn length(path: &Path) -> Result<u64> {
    Ok(path.metadata().with_context(|| path.display().to_string())?.len())
}

fn holds(text: &FileText, values: &Values) -> Result<bool> {
    let part = values.expand(&text.contains);
    match std::fs::read(values.dir.join(values.expand(&text.path))) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).contains(&part)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context(text.path.clone()),
    }
}

/// Runs a command to its end; its standard output is returned.
fn run(watch: &mut Watch, words: &[String], values: &Values) -> Result<(Exit, String)> {
    let output = tempfile::tempfile()?;
    let mut command = target::command(words, &values.dir, &std::collections::BTreeMap::new())?;
    command.stdout(Stdio::from(output.try_clone()?)).stderr(Stdio::from(output.try_clone()?));
    let pid = command.spawn().with_context(|| format!("cannot start {}", words.join(" ")))?.id() as i32;
    let exit = watch.wait_exit(pid, &format!("`{}` ends", words.join(" ")))?;
    Ok((exit, read_from_start(output)?))
}

fn read_from_start(mut file: std::fs::File) -> Result<String> {
    use std::io::Seek as _;
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Runs the setup commands of an entry.
pub fn setup(watch: &mut Watch, words: &[String], values: &Values) -> Result<()> {
    let (exit, output) = run(watch, words, values)?;
    ensure!(exit == Exit::Code(0), "`{}` {exit}: {output}", words.join(" "));
    Ok(())
}

fn connect(port: &str) -> Result<TcpStream> {
    let port: u16 = port.parse().with_context(|| format!("`{port}` is no port number"))?;
    let stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    Ok(stream)
}

/// Sends a text and reads until the expected part has come, the peer closes, or time is up.
fn exchange(port: &str, send: &str, expect: &str) -> Result<String> {
    let mut stream = connect(port).with_context(|| format!("tcp port {port}"))?;
    stream.write_all(send.as_bytes())?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            // Silence is an answer too: the caller says what was expected instead.
            Err(_) => break,
        }
        if String::from_utf8_lossy(&answer).contains(expect) || answer.len() > 1 << 20 {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
