//! Reports for machines: JUnit XML and JSON.

use serde::Serialize;

use crate::outcome::{Outcome, Record, Totals};

/// The report as JSON.
pub fn json(records: &[Record], totals: Totals) -> String {
    #[derive(Serialize)]
    struct Report<'a> {
        totals: Totals,
        entries: &'a [Record],
    }
    let report = Report { totals, entries: records };
    let mut text = serde_json::to_string_pretty(&report).expect("records have string keys only");
    text.push('\n');
    text
}

/// The report as JUnit XML: one suite, one case per entry.
pub fn junit(records: &[Record], totals: Totals) -> String {
    let seconds: f64 = records.iter().map(|record| record.seconds).sum();
    let counts = format!(
        "tests=\"{}\" failures=\"{}\" skipped=\"{}\" time=\"{seconds:.3}\"",
        totals.all(),
        totals.failed,
        totals.skipped
    );
    let mut lines = vec![
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>".to_owned(),
        format!("<testsuites {counts}>"),
        format!("  <testsuite name=\"zdtm\" {counts}>"),
    ];
    lines.extend(records.iter().map(case));
    lines.push("  </testsuite>\n</testsuites>\n".to_owned());
    lines.join("\n")
}

fn case(record: &Record) -> String {
    let (folder, name) = record.name.rsplit_once('/').unwrap_or(("zoo", &record.name));
    let (folder, name, seconds) = (escape(folder), escape(&record.flavor.label(name)), record.seconds);
    let head = format!("    <testcase classname=\"{folder}\" name=\"{name}\" time=\"{seconds:.3}\"");
    let inner = match &record.outcome {
        Outcome::Passed => return format!("{head}/>"),
        Outcome::Skipped(reason) => format!("<skipped message=\"{}\"/>", escape(reason)),
        Outcome::Failed(failure) => {
            let phase = failure.phase.as_str();
            format!("<failure message=\"{phase}\">{}</failure>", escape(&failure.message))
        }
    };
    format!("{head}>\n      {inner}\n    </testcase>")
}

/// Escapes text for XML; characters that XML cannot hold become question marks.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(character),
            other if other.is_control() || matches!(other, '\u{fffe}' | '\u{ffff}') => escaped.push('?'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Flavor;
    use crate::outcome::{Failure, Phase};

    fn records() -> Vec<Record> {
        let record = |name: &str, outcome| Record {
            flavor: Flavor::Host,
            name: name.to_owned(),
            about: "A sentence.".to_owned(),
            seconds: 0.25,
            outcome,
            kept: None,
        };
        let failure = Failure { phase: Phase::Dump, message: "fd 3: \"<x>\" & \u{1}\nmore".to_owned() };
        vec![
            record("static/pipe00", Outcome::Passed),
            record("static/caps00", Outcome::Skipped("not root".to_owned())),
            record("apps/redis", Outcome::Failed(failure)),
        ]
    }

    #[test]
    fn junit_is_escaped() {
        insta::assert_snapshot!(junit(&records(), Totals::of(&records())));
    }

    #[test]
    fn json_has_one_entry_each() {
        insta::assert_snapshot!(json(&records(), Totals::of(&records())));
    }
}
