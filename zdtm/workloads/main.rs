//! The zoo's own programs, in one executable: `zdtm-workload NAME [ARGS]`.

mod busyloop00;
mod capability;
mod caps00;
mod caps01;
mod child_subreaper;
mod child_subreaper_existing_child;
mod cmdlinenv00;
mod different_creds;
mod dumpable01;
mod dumpable02;
mod env00;
mod fork;
mod fpu00;
mod fpu01;
mod fpu02;
mod fpu03;
mod futex;
mod futex_rl;
mod gpr00;
mod groups;
mod loginuid;
mod mapping;
mod mmx00;
mod oom_score_adj;
mod pdeath_sig;
mod pid00;
mod pid_file;
mod pid_reuse;
mod pipe00;
mod pstree;
mod pthread00;
mod pthread01;
mod rlimits00;
mod rseq00;
mod sched_policy00;
mod sched_prio00;
mod seccomp_no_new_privs;
mod segments;
mod selfexe00;
mod sigaltstack;
mod sleeping00;
mod spinning;
mod sse00;
mod sse20;
mod thread_different_uid_gid;
mod timers;
mod umask00;
mod wait00;
mod xids00;
mod zombie00;
mod zombie01;

use zdtm::workload::Workload;

/// Every workload.
static WORKLOADS: &[Workload] = &[
    Workload { name: "busyloop00", run: busyloop00::run },
    Workload { name: "caps00", run: caps00::run },
    Workload { name: "caps01", run: caps01::run },
    Workload { name: "child_subreaper", run: child_subreaper::run },
    Workload { name: "child_subreaper_existing_child", run: child_subreaper_existing_child::run },
    Workload { name: "cmdlinenv00", run: cmdlinenv00::run },
    Workload { name: "different_creds", run: different_creds::run },
    Workload { name: "dumpable01", run: dumpable01::run },
    Workload { name: "dumpable02", run: dumpable02::run },
    Workload { name: "env00", run: env00::run },
    Workload { name: "fork", run: fork::run },
    Workload { name: "fpu00", run: fpu00::run },
    Workload { name: "fpu01", run: fpu01::run },
    Workload { name: "fpu02", run: fpu02::run },
    Workload { name: "fpu03", run: fpu03::run },
    Workload { name: "futex", run: futex::run },
    Workload { name: "futex-rl", run: futex_rl::run },
    Workload { name: "gpr00", run: gpr00::run },
    Workload { name: "groups", run: groups::run },
    Workload { name: "loginuid", run: loginuid::run },
    Workload { name: "mmx00", run: mmx00::run },
    Workload { name: "oom_score_adj", run: oom_score_adj::run },
    Workload { name: "pdeath_sig", run: pdeath_sig::run },
    Workload { name: "pid00", run: pid00::run },
    Workload { name: "pid_file", run: pid_file::run },
    Workload { name: "pid_reuse", run: pid_reuse::run },
    Workload { name: "pipe00", run: pipe00::run },
    Workload { name: "pstree", run: pstree::run },
    Workload { name: "pthread00", run: pthread00::run },
    Workload { name: "pthread01", run: pthread01::run },
    Workload { name: "rlimits00", run: rlimits00::run },
    Workload { name: "rseq00", run: rseq00::run },
    Workload { name: "sched_policy00", run: sched_policy00::run },
    Workload { name: "sched_prio00", run: sched_prio00::run },
    Workload { name: "seccomp_no_new_privs", run: seccomp_no_new_privs::run },
    Workload { name: "segments", run: segments::run },
    Workload { name: "selfexe00", run: selfexe00::run },
    Workload { name: "sigaltstack", run: sigaltstack::run },
    Workload { name: "sleeping00", run: sleeping00::run },
    Workload { name: "sse00", run: sse00::run },
    Workload { name: "sse20", run: sse20::run },
    Workload { name: "thread_different_uid_gid", run: thread_different_uid_gid::run },
    Workload { name: "timers", run: timers::run },
    Workload { name: "umask00", run: umask00::run },
    Workload { name: "wait00", run: wait00::run },
    Workload { name: "xids00", run: xids00::run },
    Workload { name: "zombie00", run: zombie00::run },
    Workload { name: "zombie01", run: zombie01::run },
];

fn main() -> std::process::ExitCode {
    zdtm::workload::main(WORKLOADS)
}
