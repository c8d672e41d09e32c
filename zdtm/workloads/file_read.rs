//! A process that reads a file all the time misses no byte and sees none twice.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _};

use zdtm::ensure;
use zdtm::workload::{Context, Verdict, pattern};

const LENGTH: usize = 1 << 18;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let path = cx.path("file");
    fs::write(&path, pattern(3, LENGTH))?;
    let reader = cx.child(|cx| {
        let mut file = File::open(&path)?;
        // Made once, since whoever looks at the process from outside compares its mappings.
        let (expected, mut bytes) = (pattern(3, LENGTH), Vec::with_capacity(LENGTH));
        let mut rounds = 0_u32;
        while !cx.passed() {
            file.rewind()?;
            bytes.clear();
            let mut part = [0; 777];
            loop {
                match file.read(&mut part)? {
                    0 => break,
                    count => bytes.extend_from_slice(&part[..count]),
                }
            }
            ensure!(bytes.len() == LENGTH, "{} bytes instead of {LENGTH}", bytes.len());
            ensure!(bytes == expected, "contents that differ");
            rounds += 1;
            if rounds == 1 {
                cx.post("reading")?;
            }
        }
        Ok(())
    })?;
    cx.wait_for("reading")?;
    cx.barrier()?;
    reader.join()
}
