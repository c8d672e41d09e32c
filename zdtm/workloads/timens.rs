//! Time namespaces that only a part of a tree is in, or that nobody is in yet: `timens nested`, `timens kids`.

use std::fs;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::time::{ClockId, clock_gettime};
use zdtm::workload::{Child, Context, Failure, Verdict};
use zdtm::{ensure, ensure_eq};

/// From `include/uapi/linux/sched.h`.
const CLONE_NEWTIME: i32 = 0x80;
/// More than passes between two looks at clocks.
const SLACK: i64 = 60;

/// Makes a namespace for children, with clocks this much ahead of those that they would have had.
fn make(monotonic: i64, boottime: i64) -> Verdict {
    unshare(CloneFlags::from_bits_retain(CLONE_NEWTIME))?;
    let [[m, mn], [b, bn]] = offsets("self")?;
    let text = format!("monotonic {} {mn}\nboottime {} {bn}\n", m + monotonic, b + boottime);
    Ok(fs::write("/proc/self/timens_offsets", text)?)
}

/// Seconds and nanoseconds of both clocks, for children of a process.
fn offsets(pid: &str) -> Result<[[i64; 2]; 2], Failure> {
    let text = fs::read_to_string(format!("/proc/{pid}/timens_offsets"))?;
    let numbers: Vec<i64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [m, mn, b, bn] => Ok([[m, mn], [b, bn]]),
        _ => Err(Failure::new(format!("timens_offsets says {text}"))),
    }
}

/// How far the children's clocks of one process are ahead of those of another, in nanoseconds.
fn distance(one: &str, other: &str) -> Result<[i64; 2], Failure> {
    let (one, other) = (offsets(one)?, offsets(other)?);
    let of = |at: usize| {
        let nanoseconds = |[seconds, rest]: [i64; 2]| seconds * 1_000_000_000 + rest;
        nanoseconds(one[at]) - nanoseconds(other[at])
    };
    Ok([of(0), of(1)])
}

fn now() -> Result<[i64; 2], Failure> {
    let read = |clock| Ok::<_, Failure>(Duration::from(clock_gettime(clock)?).as_secs() as i64);
    Ok([read(ClockId::CLOCK_MONOTONIC)?, read(ClockId::CLOCK_BOOTTIME)?])
}

/// Leaves what our clocks show for somebody else.
fn show(cx: &Context, name: &str) -> Verdict {
    let [monotonic, boottime] = now()?;
    fs::write(cx.path(&format!("{name}.part")), format!("{monotonic} {boottime}"))?;
    Ok(fs::rename(cx.path(&format!("{name}.part")), cx.path(name))?)
}

/// Fails unless somebody's clocks, which they have just left, are this much ahead of ours.
fn check(cx: &Context, name: &str, ahead: [i64; 2]) -> Verdict {
    cx.wait_for(name)?;
    let text = fs::read_to_string(cx.path(name))?;
    let theirs: Vec<i64> = text.split(' ').filter_map(|word| word.parse().ok()).collect();
    for ((ours, theirs), ahead) in now()?.into_iter().zip(theirs).zip(ahead) {
        ensure!((theirs - ours - ahead).abs() < SLACK, "{name}: {theirs}, here it is {ours}");
    }
    Ok(())
}

fn shows(cx: &Context, name: &'static str) -> Result<Child, Failure> {
    cx.child(|cx| show(cx, name))
}

fn kids(cx: &mut Context) -> Verdict {
    let before = now()?;
    make(5000, -3)?;
    cx.barrier()?;
    for (was, is) in before.into_iter().zip(now()?) {
        ensure!((0..SLACK).contains(&(is - was)), "own clocks went from {was} to {is}");
    }
    shows(cx, "kid")?.join()?;
    check(cx, "kid", [5000, -3])
}

/// A child in a namespace that nobody has for children any more, and a grandchild below that.
fn nested(cx: &mut Context) -> Verdict {
    make(1000, 2000)?;
    let child = cx.child(|cx| {
        make(10_000, 0)?;
        let grandchild = cx.child(|cx| {
            cx.post("grandchild")?;
            cx.park()?;
            cx.wait_for("look")?;
            show(cx, "grandchild.clocks")
        })?;
        cx.wait_for("grandchild")?;
        cx.post("child")?;
        cx.park()?;
        cx.wait_for("look")?;
        show(cx, "child.clocks")?;
        grandchild.join()
    })?;
    cx.wait_for("child")?;
    make(100, 7)?;
    let pid = child.pid.to_string();
    let before = distance(&pid, "self")?;
    cx.barrier()?;
    ensure_eq!(distance(&pid, "self")?, before, "how far the child's children are ahead");
    cx.post("look")?;
    check(cx, "child.clocks", [1000, 2000])?;
    check(cx, "grandchild.clocks", [11_000, 2000])?;
    shows(cx, "next")?.join()?;
    check(cx, "next", [1100, 2007])?;
    child.join()
}

pub(crate) fn run(cx: &mut Context) -> Verdict {
    match cx.args() {
        [what] if what == "kids" => kids(cx),
        [what] if what == "nested" => nested(cx),
        other => Err(Failure::new(format!("{other:?} is neither kids nor nested"))),
    }
}
