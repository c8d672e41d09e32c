//! What an idle process costs: the fixed part of every dump and restore.

use benches::suite::Suite;

fn main() {
    let mut suite = Suite::new();
    let samples = suite.dump_and_restore("latency", "idle", 3.0, &[]);
    suite.time("idle dump", &samples.dump, "< 12 ms");
    suite.time("idle restore", &samples.restore, "< 8 ms");
    suite.time("idle frozen time", &samples.frozen, "< 2 ms");
    suite.finish();
}
