//! A descriptor table with hundreds of files is kept.

use std::fs::{self, File};
use std::io::Read as _;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Failure, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let open = |number: usize| -> Result<File, Failure> {
        let path = cx.path(&format!("file-{number}"));
        fs::write(&path, number.to_string())?;
        Ok(File::open(&path)?)
    };
    let files = (0..600).map(open).collect::<Result<Vec<_>, _>>()?;
    cx.barrier()?;
    for (number, mut file) in files.into_iter().enumerate() {
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        ensure_eq!(text, number.to_string(), "contents");
    }
    Ok(())
}
