//! Interval timers (`getitimer(2)`): real, virtual and profiling. Only the task itself can read them.

use proto::messages::{CoreEntry, ItimerEntry};

use super::{Field, Questions, Scope, Step, TaskKind, ThreadImage, ThreadRestore};
use crate::args;
use crate::error::Problem;
use crate::tracee::batch::Batch;

/// The three interval timers.
#[derive(Debug)]
pub struct Itimers;

const TIMERS: [i32; 3] = [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF];

/// The place of timer `which` in an image.
fn entry(core: &mut CoreEntry, which: i32) -> &mut ItimerEntry {
    let timers = super::task(core).timers.get_or_insert_default();
    match which {
        libc::ITIMER_REAL => &mut timers.real,
        libc::ITIMER_VIRTUAL => &mut timers.virt,
        _ => &mut timers.prof,
    }
}

impl TaskKind for Itimers {
    const NAME: &'static str = "itimers";
    const SCOPE: Scope = Scope::Task;
    const IDLE_IF_ZERO: Option<&'static [Field]> = Some(&[
        Field::new(&[Step::In("task_struct", "signal"), Step::Behind, Step::In("signal_struct", "it")], 32),
        Field::new(
            &[Step::In("task_struct", "signal"), Step::Behind, Step::In("signal_struct", "it_real_incr")],
            8,
        ),
        Field::new(
            &[
                Step::In("task_struct", "signal"),
                Step::Behind,
                Step::In("signal_struct", "real_timer"),
                Step::In("hrtimer", "state"),
            ],
            1,
        ),
    ]);

    fn ask_last(_leader: &ThreadImage, questions: &mut Questions) {
        for which in TIMERS {
            let batch = questions.batch();
            // struct itimerval: interval, then what is left, in seconds and microseconds.
            let value = batch.output::<[u64; 4]>();
            batch.call("getitimer", libc::SYS_getitimer, args![which, value]);
            questions.then(move |replies, core| {
                let [isec, iusec, vsec, mut vusec] = replies.output(value)?;
                if which == libc::ITIMER_REAL && (vsec, vusec) == (0, 0) && (isec, iusec) != (0, 0) {
                    // It expired, and its signal is still pending: the kernel arms it again when that is taken. Setting
                    // it with nothing left would disarm it. So it expires once more, which changes nothing then.
                    vusec = 1;
                }
                *entry(core, which) = ItimerEntry { isec, iusec, vsec, vusec };
                Ok(())
            });
        }
    }

    fn restore(_cx: ThreadRestore<'_>, _batch: &mut Batch<'_>) -> Result<(), Problem> {
        Ok(())
    }

    fn start(cx: ThreadRestore<'_>, batch: &mut Batch<'_>) -> Result<(), Problem> {
        let timers = cx.leader.tc.as_ref().and_then(|tc| tc.timers.as_ref());
        let Some(timers) = timers else { return Ok(()) };
        for (which, t) in TIMERS.into_iter().zip([&timers.real, &timers.virt, &timers.prof]) {
            if *t == ItimerEntry::default() {
                continue;
            }
            let value = batch.input(&[t.isec, t.iusec, t.vsec, t.vusec]);
            batch.call("setitimer", libc::SYS_setitimer, args![which, value, 0]);
        }
        Ok(())
    }
}
