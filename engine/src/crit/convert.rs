//! Single images: as JSON, from JSON, and in summary.

use std::io::{BufWriter, Read, Write};
use std::path::Path;

use proto::ImageType;
use proto::catalogue::Payload;
use proto::json::{self, Form, JsonError, RawBytes};
use serde_json::{Value, json};

use super::CritError;

/// Writes an image as JSON. `name` is for messages.
///
/// Nothing is written before all of the image was understood.
pub fn decode(
    name: &Path,
    input: &mut dyn Read,
    output: &mut dyn Write,
    form: Form,
    raw_bytes: RawBytes,
) -> Result<(), CritError> {
    let image = read(name, input)?;
    let value = to_json(name, &image, form, raw_bytes)?;
    write(&value, output, form)
}

/// Writes JSON as an image. `name` is for messages.
pub fn encode(name: &Path, input: &mut dyn Read, output: &mut dyn Write) -> Result<(), CritError> {
    let text = read(name, input)?;
    let image = json::encode_text(&text).map_err(content(name))?;
    output.write_all(&image)?;
    Ok(output.flush()?)
}

/// Writes what an image is and how much is in it, as JSON.
pub fn info(name: &Path, input: &mut dyn Read, output: &mut dyn Write) -> Result<(), CritError> {
    let image = read(name, input)?;
    let value = to_json(name, &image, Form::Plain, RawBytes::LeaveOut)?;
    let magic = value.get("magic").and_then(Value::as_str).unwrap_or_default();
    let count = value.get("entries").and_then(Value::as_array).map_or(0, Vec::len);
    // Types that share a magic are told apart by the name of the file, where it has a name that we know.
    let named = name.file_name().and_then(|n| n.to_str()).and_then(ImageType::by_file_name);
    let detected = ImageType::by_magic_name(magic);
    let image_type = match (named.map(|(named, _)| named), detected) {
        (Some(named), Some(detected)) if named.magic == detected.magic => Some(named),
        _ => detected,
    };
    let summary = json!({
        "magic": magic,
        "count": count,
        "file": image_type.map(|t| t.pattern),
        "messages": match image_type.map(|t| t.payload) {
            Some(Payload::All(message)) => vec![message],
            Some(Payload::HeadThen { head, entries }) => vec![head, entries],
            Some(Payload::Raw) | None => vec![],
        },
        "bytes": image.len(),
    });
    write(&summary, output, Form::Pretty)
}

fn read(name: &Path, input: &mut dyn Read) -> Result<Vec<u8>, CritError> {
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).map_err(|source| CritError::File { path: name.to_owned(), source })?;
    Ok(bytes)
}

fn to_json(name: &Path, image: &[u8], form: Form, raw_bytes: RawBytes) -> Result<Value, CritError> {
    // Raw files have no magic to be known by, but their names tell.
    if let Some((image, _)) = name.file_name().and_then(|n| n.to_str()).and_then(ImageType::by_file_name)
        && !image.has_entries()
    {
        return Err(content(name)(proto::Error::RawImage { image: image.pattern }.into()));
    }
    json::decode(image, form, raw_bytes).map_err(content(name))
}

fn content(name: &Path) -> impl Fn(JsonError) -> CritError {
    move |source| CritError::Content { path: name.to_owned(), source }
}

fn write(value: &Value, output: &mut dyn Write, form: Form) -> Result<(), CritError> {
    // The text comes in many small pieces.
    let mut output = BufWriter::new(output);
    match json::write_text(&mut output, value, form) {
        Err(JsonError::Write(source)) => Err(source.into()),
        _ => Ok(output.flush()?),
    }
}
