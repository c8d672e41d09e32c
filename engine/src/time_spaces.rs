//! The time namespaces of a tree beyond that of its root: those that tasks are in, and those that their children would be born in.
//!
//! `/proc/PID/timens_offsets` tells of the namespace for children (time_namespaces(7)), which is a task's own unless it has made
//! another one since. A namespace that nobody has for its children is entered to be asked. In images there are the clocks as they
//! are seen inside, as those of the root are; so a restore knows how far they are from those of the root, to the nanosecond.

use std::fs::File;
use std::path::PathBuf;

use proto::catalogue::TIMENS;
use proto::messages::{TimensEntry, Timespec};

use crate::dump::inspect::read_proc;
use crate::dump::namespace_links::NamespaceLinks;
use crate::error::{Class, Context as _, Explain, Object, Problem, SysError};
use crate::image::NewImages;
use crate::kinds::files::FilesDump;
use crate::kinds::namespaces::{self, FIRST_FREE_ID, time};
use crate::options::Inside;
use crate::procfs::link::NamespaceType;
use crate::procfs::timens_offsets::{self, Offset, TimensOffsets};
use crate::visit::Visit;

/// Why a task's time namespaces cannot be dumped.
#[derive(Debug, thiserror::Error)]
pub enum TimeSpaceRefusal {
    /// A thread that went elsewhere alone.
    #[error("a thread of it is in another time namespace than its process, or would make its children there")]
    Thread,
}

impl Explain for TimeSpaceRefusal {
    fn class(&self) -> Class {
        Class::Refused
    }
}

/// A time namespace.
#[derive(Debug)]
struct TimeSpace {
    /// What the links in `/proc` say.
    link: PathBuf,
    id: u32,
    /// What leads to it.
    file: File,
    offsets: Option<TimensOffsets>,
}

/// Those of a tree that is being dumped, but for that of its root.
#[derive(Debug, Default)]
pub struct TimeSpaces {
    others: Vec<TimeSpace>,
    /// What the link of the root says, once it was read.
    roots: Option<PathBuf>,
}

/// The ids of a task's namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfTask {
    /// That it is in.
    pub own: u32,
    /// That its children would be in, if it is another one.
    pub children: Option<u32>,
}

/// Nanoseconds by which both clocks are ahead of the initial ones.
fn nanoseconds(offset: Offset) -> i128 {
    i128::from(offset.seconds) * 1_000_000_000 + i128::from(offset.nanoseconds)
}

fn offsets_for_children(pid: &str) -> Result<TimensOffsets, Problem> {
    read_proc(format!("/proc/{pid}/timens_offsets"), timens_offsets::parse)
}

/// The ids of a task's namespaces, which are new if they were not met before; none if the kernel has no such namespaces.
pub fn of_task(cx: &mut FilesDump<'_>, pid: i32, links: &NamespaceLinks) -> Result<Option<OfTask>, Problem> {
    let options = cx.options;
    cx.state::<TimeSpaces>().of_task(options.tree, pid, links, &options.inside)
}

impl TimeSpaces {
    fn of_task(
        &mut self,
        root: i32,
        pid: i32,
        links: &NamespaceLinks,
        inside: &Inside,
    ) -> Result<Option<OfTask>, Problem> {
        let ids = namespaces::ids_of_tree(&inside.types);
        let home = namespaces::id(&ids, NamespaceType::Time).unwrap_or_default();
        let task = PathBuf::from(format!("/proc/{pid}"));
        // Kernels before 5.6 have none.
        let kind = NamespaceType::Time;
        let (Some(own), Some(children)) = (links.of(kind), links.for_children(kind)) else { return Ok(None) };
        let (own, children) = (own.to_owned(), children.to_owned());
        if links.has_strayed_thread(kind) {
            return Err(Problem::new(TimeSpaceRefusal::Thread));
        }
        if self.roots.is_none() {
            self.roots = std::fs::read_link(format!("/proc/{root}/ns/time")).ok();
        }
        let roots = &self.roots;
        let mut known = |link: &PathBuf, name: &str| -> Result<u32, Problem> {
            if Some(link) == roots.as_ref() {
                return Ok(home);
            }
            if let Some(known) = self.others.iter().find(|space| space.link == *link) {
                return Ok(known.id);
            }
            let path = task.join("ns").join(name);
            let file = File::open(&path).map_err(SysError::io("open")).about(|| Object::Path(path))?;
            let id = FIRST_FREE_ID + self.others.len() as u32;
            self.others.push(TimeSpace { link: link.clone(), id, file, offsets: None });
            Ok(id)
        };
        let (own_id, children_id) = (known(&own, "time")?, known(&children, "time_for_children")?);
        if let Some(space) = self.others.iter_mut().find(|space| space.id == children_id) {
            space.offsets = Some(offsets_for_children(&pid.to_string())?);
        }
        Ok(Some(OfTask { own: own_id, children: (children_id != own_id).then_some(children_id) }))
    }

    /// Writes the clocks of the root's namespace, in which we are, and of all others.
    pub fn write(&self, images: &mut NewImages) -> Result<(), Problem> {
        let roots = time::clocks()?;
        images.write(&TIMENS, 0, &[roots])?;
        if self.others.is_empty() {
            return Ok(());
        }
        let ours = own_offsets()?;
        for space in &self.others {
            let theirs = match space.offsets {
                Some(offsets) => offsets,
                None => ask_inside(&space.file).while_trying_to("look into a time namespace")?,
            };
            let seen = |clock: Timespec, ours: Offset, theirs: Offset| {
                from_nanoseconds(to_nanoseconds(clock) + nanoseconds(theirs) - nanoseconds(ours))
            };
            let clocks = TimensEntry {
                monotonic: seen(roots.monotonic, ours.monotonic, theirs.monotonic),
                boottime: seen(roots.boottime, ours.boottime, theirs.boottime),
            };
            images.write(&TIMENS, space.id.into(), &[clocks])?;
        }
        Ok(())
    }
}

/// Nanoseconds that a clock shows. What an image says is taken as it is: the kernel refuses what is impossible.
pub fn to_nanoseconds(time: Timespec) -> i128 {
    i128::from(time.tv_sec as i64) * 1_000_000_000 + i128::from(time.tv_nsec)
}

fn from_nanoseconds(nanoseconds: i128) -> Timespec {
    let seconds = nanoseconds.div_euclid(1_000_000_000);
    Timespec { tv_sec: seconds as u64, tv_nsec: nanoseconds.rem_euclid(1_000_000_000) as u64 }
}

/// The offsets of the namespace that we are in: we make no children elsewhere.
pub fn own_offsets() -> Result<TimensOffsets, Problem> {
    offsets_for_children("self")
}

/// The offsets of a namespace, by going there for the moment. We have one thread, as this asks for.
fn ask_inside(space: &File) -> Result<TimensOffsets, Problem> {
    let _there = Visit::pay(space, NamespaceType::Time)?;
    own_offsets()
}

/// What is written to `/proc/PID/timens_offsets`, for a clock that is to be ahead by so many nanoseconds of the initial one.
pub fn offset_line(clock: &str, nanoseconds: i128) -> String {
    // The seconds may be negative; the nanoseconds may not.
    let (seconds, rest) = (nanoseconds.div_euclid(1_000_000_000), nanoseconds.rem_euclid(1_000_000_000));
    format!("{clock} {seconds} {rest}\n")
}

/// The text of the offsets of a namespace whose clocks showed `theirs` when those of the root's showed `roots`, if the root's
/// has the offsets `ours` now.
pub fn offsets_text(ours: TimensOffsets, roots: TimensEntry, theirs: TimensEntry) -> String {
    let ahead = |ours: Offset, roots: Timespec, theirs: Timespec| {
        nanoseconds(ours) + to_nanoseconds(theirs) - to_nanoseconds(roots)
    };
    offset_line("monotonic", ahead(ours.monotonic, roots.monotonic, theirs.monotonic))
        + &offset_line("boottime", ahead(ours.boottime, roots.boottime, theirs.boottime))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_keep_their_distance() {
        let time = |seconds: u64, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let roots = TimensEntry { monotonic: time(100, 5), boottime: time(200, 0) };
        let theirs = TimensEntry { monotonic: time(90, 6), boottime: time(200, 1) };
        let ours = TimensOffsets {
            monotonic: Offset { seconds: 7, nanoseconds: 999_999_999 },
            boottime: Offset { seconds: -3, nanoseconds: 0 },
        };
        assert_eq!(offsets_text(ours, roots, theirs), "monotonic -2 0\nboottime -3 1\n");
    }

    #[test]
    fn nanoseconds_are_never_negative() {
        assert_eq!(offset_line("monotonic", -1), "monotonic -1 999999999\n");
        assert_eq!(from_nanoseconds(1_500_000_000), Timespec { tv_sec: 1, tv_nsec: 500_000_000 });
    }
}
