//! Tasks go into time namespaces of their own, as long as they have one thread each and nobody shares their memory: before that,
//! nobody may enter one (setns(2)).
//!
//! A namespace is made by the task whose children would be born in it, or else by the first that is in it. It is empty then, and
//! its clocks are set (time_namespaces(7)); then those who belong there enter it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd as _;

use proto::catalogue::TIMENS;
use proto::messages::TimensEntry;

use super::plan::PlanRefusal;
use super::set::Task;
use super::stub::{Stubs, add_setns};
use crate::args;
use crate::error::{Context as _, Object, Problem, SysError};
use crate::image::Images;
use crate::procfs::link::NamespaceType;
use crate::time_spaces;
use crate::tracee::batch::Batch;
use crate::visit;

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    /// It makes the namespace of this id, as that of its children.
    Make(usize, u32),
    /// It enters it.
    Enter(usize, u32),
}

/// The namespaces of one task: its own, and that of its children if that is another one.
type Spaces = (u32, Option<u32>);

fn of_task(task: &Task) -> Option<Spaces> {
    let own = task.alive.as_ref()?.ids.time_ns_id?;
    Some((own, task.core().own.time_ns_for_children))
}

/// In which order namespaces are made and entered; or the places of those for whom there is no order.
fn order(all: &[Option<Spaces>]) -> Result<Vec<Move>, Vec<usize>> {
    let Some(Some((home, _))) = all.first() else { return Ok(Vec::new()) };
    let tasks = || all.iter().enumerate().filter_map(|(at, spaces)| Some((at, (*spaces)?)));
    let mut makers: BTreeMap<u32, usize> = BTreeMap::new();
    for (at, (_, children)) in tasks() {
        if let Some(children) = children
            && (children == *home || makers.insert(children, at).is_some())
        {
            return Err(vec![at]);
        }
    }
    let mut left: Vec<(usize, Spaces)> =
        tasks().filter(|(_, (own, children))| own != home || children.is_some()).collect();
    let (mut made, mut moves) = (BTreeSet::from([*home]), Vec::new());
    loop {
        let before = left.len();
        left.retain(|&(at, (own, children))| {
            if !made.contains(&own) {
                if makers.contains_key(&own) {
                    return true;
                }
                moves.push(Move::Make(at, own));
                made.insert(own);
            }
            if own != *home {
                moves.push(Move::Enter(at, own));
            }
            if let Some(children) = children {
                moves.push(Move::Make(at, children));
                made.insert(children);
            }
            false
        });
        if left.is_empty() {
            return Ok(moves);
        }
        if left.len() == before {
            return Err(left.into_iter().map(|(at, _)| at).collect());
        }
    }
}

/// Finds what would make that fail.
pub(super) fn check(tasks: &[Task], images: &Images) -> Vec<Problem> {
    const NAME: &str = NamespaceType::Time.name();
    let refuse = |at: usize, refusal| {
        let problem = Problem::new(refusal);
        tasks.get(at).map(Task::name).into_iter().fold(problem, |problem, name| problem.task(&name))
    };
    let moves = match order(&tasks.iter().map(of_task).collect::<Vec<_>>()) {
        Ok(moves) => moves,
        Err(places) => {
            return places.into_iter().map(|at| refuse(at, PlanRefusal::OtherNamespace(NAME))).collect();
        }
    };
    let shares = |at: usize| {
        let space = |task: &Task| task.alive.as_ref().map(|alive| alive.ids.vm_id);
        let own = tasks.get(at).and_then(space);
        tasks.iter().enumerate().any(|(other, task)| other != at && space(task) == own)
    };
    let problem = |step: &Move| match *step {
        Move::Enter(at, _) if shares(at) => {
            Some(refuse(at, PlanRefusal::LostSharing { what: "address space" }))
        }
        Move::Make(at, id) if !images.has(&TIMENS, id.into()) => {
            Some(refuse(at, PlanRefusal::OtherNamespace(NAME)))
        }
        _ => None,
    };
    moves.iter().filter_map(problem).collect()
}

/// Has all tasks go where they belong; we are in the namespace of the root.
pub(super) fn restore(stubs: &mut Stubs, tasks: &[Task], images: &Images) -> Result<(), Problem> {
    let moves = order(&tasks.iter().map(of_task).collect::<Vec<_>>()).unwrap_or_default();
    if moves.is_empty() {
        return Ok(());
    }
    let (ours, roots) = (time_spaces::own_offsets()?, images.read_single::<TimensEntry>(&TIMENS, 0)?);
    let flag = NamespaceType::Time.clone_flag();
    let mut made: BTreeMap<u32, File> = BTreeMap::new();
    for step in moves {
        let (Move::Make(at, id) | Move::Enter(at, id)) = step;
        let Some(stub) = stubs.0.get_mut(at) else { continue };
        let mut batch = Batch::new();
        if let Move::Make(..) = step {
            batch.call("unshare", libc::SYS_unshare, args![flag]);
            stub.run("make a time namespace", &batch)?;
            let theirs: TimensEntry = images.read_single(&TIMENS, id.into())?;
            let path = format!("/proc/{}/timens_offsets", stub.pid);
            let written = std::fs::write(&path, time_spaces::offsets_text(ours, roots, theirs));
            written.map_err(SysError::io("write")).about(|| Object::Path(path.into())).of_task(&stub.name)?;
            made.insert(id, visit::of_children(stub.pid, NamespaceType::Time).of_task(&stub.name)?);
        } else if let Some(file) = made.get(&id) {
            add_setns(&mut batch, file.as_fd(), flag);
            stub.run("go into its time namespace", &batch)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_children_elsewhere_makes_the_namespace() {
        use Move::{Enter, Make};
        assert_eq!(order(&[Some((5, None)), None]), Ok(vec![]));
        assert_eq!(order(&[Some((5, Some(17)))]), Ok(vec![Make(0, 17)]));
        // The child comes first in the list, and waits for its namespace.
        let tasks = [Some((5, None)), Some((17, Some(18))), Some((5, Some(17))), Some((18, None))];
        let moves = vec![Make(2, 17), Enter(1, 17), Make(1, 18), Enter(3, 18)];
        assert_eq!(order(&tasks), Ok(moves));
        // Nobody makes children there any more.
        let tasks = [Some((5, None)), Some((17, None)), Some((17, None))];
        assert_eq!(order(&tasks), Ok(vec![Make(1, 17), Enter(1, 17), Enter(2, 17)]));
    }

    #[test]
    fn some_have_no_order() {
        let circle = [Some((5, None)), Some((17, Some(18))), Some((18, Some(17)))];
        assert_eq!(order(&circle), Err(vec![1, 2]));
        let twice = [Some((5, None)), Some((5, Some(17))), Some((5, Some(17)))];
        assert_eq!(order(&twice), Err(vec![2]));
        assert_eq!(order(&[Some((5, None)), Some((17, Some(5)))]), Err(vec![1]));
    }
}
