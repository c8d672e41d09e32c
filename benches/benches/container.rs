//! What a container costs: namespaces, 40 mounts and a pair of network devices.

use benches::container::{Container, MOUNTS};
use benches::session::Subject as _;
use benches::stasis::Stasis;
use benches::suite::Suite;

fn main() {
    let mut suite = Suite::new();
    let mut container: Option<Container> = None;
    for verb in ["dump", "restore"] {
        suite.measure("container", &format!("{verb} {MOUNTS} mounts and a veth"), 5.0, || {
            let container = match &mut container {
                Some(container) => container,
                none => none.insert(Container::start(&Stasis::find()?)?),
            };
            if verb == "dump" { container.dump() } else { container.restore() }
        });
    }
    let samples = container.as_ref().map(|container| container.samples.clone()).unwrap_or_default();
    suite.time("container dump", &samples.dump, "< 60 ms");
    suite.time("container restore", &samples.restore, "< 80 ms");
    suite.time("container frozen time", &samples.frozen, "none");
    drop(container);
    suite.finish();
}
