//! What a dump of a tree would meet, found out without stopping it.
//!
//! Only `/proc` and duplicates of descriptors are looked at, so the answer holds for this moment. State that only a stopped
//! thread shows (registers, pending signals) is not in it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::fd::AsFd as _;

use crate::dump::apart::{HomeLinks, refuse_namespaces};
use crate::dump::inspect::{read_proc, read_smaps};
use crate::dump::namespace_links::NamespaceLinks;
use crate::dump::{target, task};
use crate::error::{Action, Class, Error, Object, Problem, Result, TargetState, TaskName};
use crate::kinds::files::socket_reading::Sorts;
use crate::kinds::files::{self, FdFacts, FilesDump};
use crate::kinds::mm;
use crate::kinds::namespaces;
use crate::mount_spaces;
use crate::net_spaces;
use crate::options::PlanOptions;
use crate::pid_spaces::{self, PidSpaces};
use crate::procfs::{self, status::Status};
use crate::sys::pidfd;
use crate::task_spaces::{self, TaskSpaces};
use crate::time_spaces;
use crate::tracee::freeze::task_name;
use crate::user_spaces;

/// What becomes of one object.
#[derive(Debug)]
pub enum Verdict {
    /// A dump takes it, as this kind.
    Taken(&'static str),
    /// A dump refuses it.
    Refused(Problem),
}

/// One task of the tree.
#[derive(Debug)]
pub struct TaskPlan {
    /// Which.
    pub name: TaskName,
    /// How many threads it has.
    pub threads: u32,
    /// Its descriptors, and what becomes of each.
    pub fds: Vec<(Object, Verdict)>,
    /// How many mappings there are of each kind.
    pub mappings: BTreeMap<&'static str, usize>,
    /// Everything else that is refused.
    pub refused: Vec<Problem>,
}

/// The answer.
#[derive(Debug, Default)]
pub struct Plan {
    /// Tasks, parents before their children.
    pub tasks: Vec<TaskPlan>,
    /// What is refused of the tree as a whole.
    pub refused: Vec<Problem>,
}

impl Plan {
    /// Looks at the tree of a dump with these options.
    pub fn of(PlanOptions { dump: options }: &PlanOptions) -> Result<Self> {
        let fail = |problem| Error {
            action: Action::Plan,
            target: target::describe(options),
            problems: vec![problem],
            state: TargetState::Untouched,
        };
        target::check(options.tree).map_err(fail)?;
        let mut files = FilesDump::new(options);
        files.looks_only = true;
        let home = HomeLinks::read(options);
        let mut plan = Self::default();
        let mut left = vec![options.tree];
        while let Some(pid) = left.pop() {
            // A task that has ended meanwhile is none of the tree.
            let Some(name) = task_name(pid) else { continue };
            match TaskPlan::of(name.clone(), &home, &mut files) {
                Ok(task) => plan.tasks.push(task),
                Err(problem) => plan.refused.push(problem.task(&name)),
            }
            left.extend(children(pid));
        }
        if !options.shell_job {
            plan.refused.extend(task::outside_leader(options.tree));
        }
        files.check(&mut plan.refused);
        plan.refused.extend(files.state::<PidSpaces>().without_init());
        plan.refused.extend(files.state::<TaskSpaces>().without_members());
        user_spaces::check(&mut files, &mut plan.refused);
        let pids: Vec<i32> = plan.tasks.iter().map(|task| task.name.host_pid).collect();
        namespaces::look(&mut files, &pids, &mut plan.refused);
        Ok(plan)
    }

    /// The process exit code: 0 if a dump would take everything.
    pub fn exit_code(&self) -> u8 {
        if self.refusals() == 0 { 0 } else { Class::Refused.exit_code() }
    }

    /// How many objects a dump would refuse.
    pub fn refusals(&self) -> usize {
        let of_task = |task: &TaskPlan| {
            let fds = task.fds.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Refused(_))).count();
            fds + task.refused.len()
        };
        self.refused.len() + self.tasks.iter().map(of_task).sum::<usize>()
    }
}

impl TaskPlan {
    fn of(name: TaskName, home: &HomeLinks, files: &mut FilesDump<'_>) -> Result<Self, Problem> {
        let pid = name.host_pid;
        files.add_member(pid);
        let status: Status = read_proc(format!("/proc/{pid}/status"), procfs::status::parse)?;
        let mut plan = Self {
            name,
            threads: status.threads,
            fds: Vec::new(),
            mappings: BTreeMap::new(),
            refused: Vec::new(),
        };
        let links = NamespaceLinks::read(pid);
        if status.state == procfs::stat::State::Zombie {
            plan.refused.extend(pid_spaces::of_task(files, pid, &links, &status).err());
            return Ok(plan);
        }
        plan.refused.extend(refuse_namespaces(&links, home, files.options));
        // Nothing is said here of what tasks share.
        let mut ids = namespaces::ids_of_tree(&files.options.inside.types);
        for id in [&mut ids.fs_id, &mut ids.files_id, &mut ids.vm_id] {
            *id = pid.cast_unsigned();
        }
        mount_spaces::note(files, pid, &links);
        match net_spaces::id_of_task(files, pid, &links) {
            Ok(id) => ids.net_ns_id = Some(id),
            Err(problem) => plan.refused.push(problem),
        }
        plan.refused.extend(time_spaces::of_task(files, pid, &links).err());
        match pid_spaces::of_task(files, pid, &links, &status) {
            Ok(pids) => ids.pid_ns_id = pids.own.or(ids.pid_ns_id),
            Err(problem) => plan.refused.push(problem),
        }
        plan.refused.extend(task_spaces::of_task(files, pid, &links, &mut ids).err());
        plan.refused.extend(user_spaces::of_task(files, pid, &links, &mut ids, &mut Vec::new()).err());
        for vma in read_smaps(pid)? {
            let object = || Object::Vma {
                start: vma.vma.start,
                end: vma.vma.end,
                name: String::from_utf8_lossy(&vma.vma.path).into_owned(),
            };
            match mm::claim(&vma) {
                Ok(kind) => *plan.mappings.entry(kind.name()).or_default() += 1,
                Err(e) => plan.refused.push(Problem::new(e).object(object())),
            }
        }
        let (pidfd, sorts) = (pidfd::open(pid)?, Sorts::default());
        for fd in files::list(pid) {
            let facts = match FdFacts::read(pid, pidfd.as_fd(), fd, &sorts) {
                Ok(facts) => facts,
                Err(problem) => {
                    plan.refused.push(problem);
                    continue;
                }
            };
            let verdict = match files.dump_fd(pid, pidfd.as_fd(), fd) {
                Ok(Some(_)) => {
                    Verdict::Taken(files::claim(&facts).map_or("opened again", |kind| kind.name()))
                }
                Ok(None) => Verdict::Taken("lost, as --on-unsupported says"),
                Err(problem) => Verdict::Refused(problem),
            };
            plan.fds.push((facts.object(), verdict));
        }
        Ok(plan)
    }
}

/// Children of all threads of a process.
fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
        .collect()
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused = |f: &mut fmt::Formatter<'_>, problem: &Problem| {
            let object = problem.object.as_ref().map(|o| format!("{o}: ")).unwrap_or_default();
            write!(f, "  REFUSED  {object}{}", problem.cause)?;
            match problem.cause.help() {
                Some(help) => writeln!(f, " ({help})"),
                None => writeln!(f),
            }
        };
        for task in &self.tasks {
            writeln!(
                f,
                "{}, {} thread{}",
                task.name,
                task.threads,
                if task.threads == 1 { "" } else { "s" }
            )?;
            for (kind, count) in &task.mappings {
                writeln!(f, "  taken    {count} mapping{} ({kind})", if *count == 1 { "" } else { "s" })?;
            }
            for (object, verdict) in &task.fds {
                match verdict {
                    Verdict::Taken(kind) => writeln!(f, "  taken    {object} ({kind})")?,
                    Verdict::Refused(problem) => {
                        let known = problem.object.clone().unwrap_or_else(|| object.clone());
                        writeln!(f, "  REFUSED  {known}: {}", problem.cause)?;
                    }
                }
            }
            task.refused.iter().try_for_each(|problem| refused(f, problem))?;
        }
        self.refused.iter().try_for_each(|problem| refused(f, problem))?;
        match self.refusals() {
            0 => writeln!(f, "a dump would take all of it"),
            1 => writeln!(f, "a dump would refuse 1 object"),
            n => writeln!(f, "a dump would refuse {n} objects"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::files::FileRefusal;

    #[test]
    fn reads_like_a_list() {
        let name = TaskName { host_pid: 4242, inner_pid: None, comm: "nginx".into() };
        let log = Object::Fd { fd: 2, link: "/var/log/nginx/error.log".into() };
        let bpf = Object::Fd { fd: 7, link: "anon_inode:bpf-map".into() };
        let fds = vec![
            (log, Verdict::Taken("regular")),
            (bpf, Verdict::Refused(Problem::new(FileRefusal::NoKind))),
        ];
        let mappings = [("anonymous", 12), ("vdso", 1)].into();
        let task = TaskPlan { name, threads: 1, fds, mappings, refused: Vec::new() };
        let plan = Plan { tasks: vec![task], refused: Vec::new() };
        insta::assert_snapshot!(plan.to_string(), @r"
        process 4242 (nginx), 1 thread
          taken    12 mappings (anonymous)
          taken    1 mapping (vdso)
          taken    fd 2: /var/log/nginx/error.log (regular)
          REFUSED  fd 7: anon_inode:bpf-map: descriptors of this kind are not supported yet
        a dump would refuse 1 object
        ");
        assert_eq!(plan.exit_code(), 3);
    }
}
