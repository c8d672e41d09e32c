//! Files that were opened before and after a change of the root directory stay open.

use std::fs::{self, File};
use std::io::Read as _;

use zdtm::ensure_eq;
use zdtm::workload::{Context, Verdict};

pub(crate) fn run(cx: &mut Context) -> Verdict {
    fs::create_dir(cx.path("jail"))?;
    fs::write(cx.path("outside"), "outside")?;
    fs::write(cx.path("jail/inside"), "inside")?;
    let child = cx.child(|cx| {
        let mut outside = File::open(cx.path("outside"))?;
        nix::unistd::chroot(&cx.path("jail"))?;
        nix::unistd::chdir("/")?;
        let mut inside = File::open("/inside")?;
        File::create("/child-ready")?;
        while !fs::exists("/child-go")? {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let mut texts = [String::new(), String::new()];
        outside.read_to_string(&mut texts[0])?;
        inside.read_to_string(&mut texts[1])?;
        ensure_eq!(texts, ["outside", "inside"], "contents");
        Ok(())
    })?;
    cx.wait_for("jail/child-ready")?;
    cx.barrier()?;
    cx.post("jail/child-go")?;
    child.join()
}
