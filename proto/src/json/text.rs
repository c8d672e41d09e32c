//! JSON as text, in the layout that users of crit know: all of it ASCII, a space after commas and colons.

use std::io::{self, Write};

use serde::Serialize as _;
use serde_json::Value;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

use super::{Form, JsonError};

/// Writes JSON: indented by four in the pretty form, on one line in the plain one; with a line break at the end.
pub fn write_text(output: &mut dyn Write, json: &Value, form: Form) -> Result<(), JsonError> {
    let layout = Layout { form, depth: 0, has_value: false };
    let mut serializer = Serializer::with_formatter(&mut *output, layout);
    json.serialize(&mut serializer).map_err(|e| JsonError::Write(e.into()))?;
    output.write_all(b"\n").map_err(JsonError::Write)
}

/// JSON as [`write_text`] writes it.
pub fn to_text(json: &Value, form: Form) -> String {
    let mut text = Vec::new();
    // A vector takes everything, and the layout is ASCII.
    write_text(&mut text, json, form).expect("writing to memory does not fail");
    String::from_utf8(text).expect("the text is ASCII")
}

struct Layout {
    form: Form,
    depth: usize,
    has_value: bool,
}

impl Layout {
    fn open<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.has_value = false;
        writer.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.has_value {
            self.line_break(writer)?;
        }
        self.has_value = true;
        writer.write_all(bracket)
    }

    fn separate<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        match (self.form, first) {
            (_, true) => {}
            (Form::Pretty, false) => writer.write_all(b",")?,
            (Form::Plain, false) => writer.write_all(b", ")?,
        }
        self.line_break(writer)
    }

    fn line_break<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if self.form == Form::Pretty {
            writer.write_all(b"\n")?;
            for _ in 0..self.depth {
                writer.write_all(b"    ")?;
            }
        }
        Ok(())
    }
}

impl Formatter for Layout {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.separate(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _writer: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.separate(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _writer: &mut W) -> io::Result<()> {
        self.has_value = true;
        Ok(())
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut units = [0; 2];
        for character in fragment.chars() {
            if (' '..='~').contains(&character) {
                CompactFormatter.write_string_fragment(writer, character.encode_utf8(&mut [0; 4]))?;
            } else {
                for unit in character.encode_utf16(&mut units) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_is_ascii_and_spaced() {
        let json = json!({"a": [], "b": {}, "c": [1, {"d": "x\n\u{7f}ä😀\"\u{1}"}], "e": "/"});
        let plain = r#"{"a": [], "b": {}, "c": [1, {"d": "x\n\u007f\u00e4\ud83d\ude00\"\u0001"}], "e": "/"}"#;
        assert_eq!(to_text(&json, Form::Plain), format!("{plain}\n"));
        let pretty = to_text(&json, Form::Pretty);
        assert!(
            pretty.starts_with("{\n    \"a\": [],\n    \"b\": {},\n    \"c\": [\n        1,\n"),
            "{pretty}"
        );
        assert_eq!(serde_json::from_str::<Value>(&pretty).unwrap(), json);
    }
}
