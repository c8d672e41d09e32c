//! Removed files that are open on two mounts, one of which shows a folder of the other's file system.

use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

use crate::mounting;

pub(crate) fn run(cx: &mut Context) -> Verdict {
    let (place, bound) = (mounting::new_tmpfs(cx, "place")?, mounting::folder(cx, "bound")?);
    fs::create_dir(place.join("in"))?;
    mounting::bind(&place.join("in"), &bound)?;
    let make = |path: std::path::PathBuf| {
        let file = fs::File::create_new(&path)?;
        fs::remove_file(path).map(|()| file)
    };
    let mut files = [make(bound.join("file"))?, make(place.join("file"))?];
    mounting::barrier(cx)?;
    for file in &mut files {
        file.write_all(b"text")?;
        ensure_eq!(fs::read_to_string(format!("/proc/self/fd/{}", file.as_raw_fd()))?, "text", "text");
    }
    let names = fs::read_dir(place.join("in"))?.count() + fs::read_dir(&place)?.count();
    ensure_eq!(names, 1, "names in the file system");
    Ok(())
}
