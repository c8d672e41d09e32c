//! The zoo's own programs, in one executable: `zdtm-workload NAME [ARGS]`.

mod pipe00;
mod sleeping00;

use zdtm::workload::Workload;

/// Every workload.
static WORKLOADS: &[Workload] =
    &[Workload { name: "pipe00", run: pipe00::run }, Workload { name: "sleeping00", run: sleeping00::run }];

fn main() -> std::process::ExitCode {
    zdtm::workload::main(WORKLOADS)
}
