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
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let counts = format!(
        "tests=\"{}\" failures=\"{}\" skipped=\"{}\" time=\"{seconds:.3}\"",
        totals.all(),
        totals.failed,
        totals.skipped
    );
    text.push_str(&format!("<testsuites {counts}>\n  <testsuite name=\"zdtm\" {counts}>\n"));
    for record in records {
        let (folder, name) = record.name.rsplit_once('/').unwrap_or(("zoo", &record.name));
        text.push_str(&format!(
            "    <testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\"",
            escape(folder),
            escape(name),
            record.seconds
        ));
        match &record.outcome {
            Outcome::Passed => text.push_str("/>\n"),
            Outcome::Skipped(reason) => {
                text.push_str(&format!(
                    ">\n      <skipped message=\"{}\"/>\n    </testcase>\n",
                    escape(reason)
                ));
            }
            Outcome::Failed(failure) => text.push_str(&format!(
                ">\n      <failure message=\"{}\">{}</failure>\n    </testcase>\n",
                failure.phase.as_str(),
                escape(&failure.message)
            )),
        }
    }
    text.push_str("  </testsuite>\n</testsuites>\n");
    text
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
    use crate::outcome::{Failure, Phase};

    fn records() -> Vec<Record> {
        let record = |name: &str, outcome| Record {
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

    fn totals() -> Totals {
        let mut totals = Totals::default();
        records().iter().for_each(|record| totals.count(&record.outcome));
        totals
    }

    #[test]
    fn junit_is_escaped() {
        insta::assert_snapshot!(junit(&records(), totals()));
    }

    #[test]
    fn json_has_one_entry_each() {
        insta::assert_snapshot!(json(&records(), totals()));
    }
}
