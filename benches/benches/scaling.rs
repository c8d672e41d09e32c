//! What one more task, thread, descriptor, pair of sockets or mapping costs: the slope between two sizes.

use std::time::Duration;

use benches::suite::{Suite, median};

/// Option of the target, its name in the table, and the two sizes.
const ITEMS: [(&str, &str, usize, usize); 6] = [
    ("--children", "task", 1, 64),
    ("--threads", "thread", 1, 256),
    ("--fds", "regular file", 1, 512),
    ("--pairs", "pair of unix sockets", 1, 500),
    ("--connections", "connection (both ends)", 1, 1000),
    ("--vmas", "mapping", 2, 1000),
];

/// Five thousand, less what a limit of 20,000 descriptors has no room for: both ends of each, twice in the engine.
const MANY: usize = 4900;

fn main() {
    let mut suite = Suite::new();
    for (option, name, few, many) in ITEMS {
        let mut measure = |count: usize| {
            let arguments = [option.to_owned(), count.to_string()];
            suite.dump_and_restore("scaling", &format!("{name} x{count}"), 1.0, &arguments)
        };
        let (small, large) = (measure(few), measure(many));
        for (verb, small, large) in
            [("dump", &small.dump, &large.dump), ("restore", &small.restore, &large.restore)]
        {
            if let (Some(small), Some(large)) = (median(small), median(large)) {
                let micros = |time: Duration| time.as_secs_f64() * 1e6;
                let slope = (micros(large) - micros(small)) / (many - few) as f64;
                suite.line(format!(
                    "{:<28} {slope:>10.1} us each   ({few}: {:.2} ms, {many}: {:.2} ms)",
                    format!("{verb}, per {name}"),
                    micros(small) / 1e3,
                    micros(large) / 1e3,
                ));
            }
        }
    }
    let arguments = ["--connections".to_owned(), MANY.to_string()];
    let many = suite.dump_and_restore("scaling", &format!("connections x{MANY}"), 1.0, &arguments);
    suite.time(&format!("{MANY} connections, dump"), &many.dump, "linear");
    suite.time(&format!("{MANY} connections, frozen"), &many.frozen, "< 500 ms");
    suite.time(&format!("{MANY} connections, restore"), &many.restore, "linear");
    suite.finish();
}
