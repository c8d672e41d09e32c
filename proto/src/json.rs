//! Images as JSON, and back: the form in which people look at images, and tools edit them.
//!
//! An image is an object `{"magic": NAME, "entries": [...]}`. The fields of an entry come in the order in which the
//! message declares them, unset fields are left out, enums are shown by name, bytes are base64 with a line break every 76
//! characters. Raw bytes that belong to an entry are its key `extra`.
//!
//! The pretty form also follows the rendering hints of `messages/stasis_options.proto`. Encoding takes both forms.
//! Nothing is dropped silently: a field that we do not know is an error in both directions.

mod error;
mod extra;
mod names;
mod parse;
mod quoted;
mod render;
mod schema;
mod text;

use std::io::Read;

use serde_json::{Map, Value};

pub use self::error::JsonError;
use self::error::Path;
pub use self::text::{to_text, write_text};
use crate::catalogue::ImageType;
use crate::container::{Reader, Writer};

/// How values are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people: indented, and with the rendering hints.
    Pretty,
    /// For programs: on one line, numbers as numbers.
    Plain,
}

/// What becomes of the raw bytes that follow entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawBytes {
    /// They are shown as `extra`.
    Show,
    /// They are left out. What is left cannot be encoded again.
    LeaveOut,
}

/// Makes JSON from an image; the type of image is known by its magic.
pub fn decode(image: impl Read, form: Form, raw_bytes: RawBytes) -> Result<Value, JsonError> {
    let mut reader = Reader::detect(image)?;
    let mut entries = Vec::new();
    // The chunks of a ghost file are shown as entries of their own, but are not messages that the catalogue names.
    let mut message_name = reader.image().payload.message(0);
    while let Some(name) = message_name
        && let Some(message) = reader.dynamic_entry_of(name)?
    {
        let index = entries.len();
        let list = Path::Key(&Path::Root, "entries");
        let mut entry = render::message(&message, form, &Path::Index(&list, index))?;
        if let Some(extra) = extra::read(&mut reader, &message, form, &Path::Index(&list, index))?
            && raw_bytes == RawBytes::Show
        {
            entry.insert("extra".to_owned(), extra);
        }
        entries.push(Value::Object(entry));
        message_name = extra::next_message(reader.image(), &message, entries.len() as u64);
    }
    let mut object = Map::new();
    object.insert("magic".to_owned(), reader.image().magic_name.into());
    object.insert("entries".to_owned(), Value::Array(entries));
    Ok(Value::Object(object))
}

/// Makes an image from JSON of either form.
pub fn encode(json: &Value) -> Result<Vec<u8>, JsonError> {
    let root = Path::Root;
    let object = error::object(json, &root)?;
    if let Some(key) = object.keys().find(|key| *key != "magic" && *key != "entries") {
        return Err(JsonError::UnknownKey { path: root.to_string(), key: key.clone() });
    }
    let member = |key: &'static str| {
        object.get(key).ok_or_else(|| JsonError::MissingKey { path: root.to_string(), key: key.to_owned() })
    };
    let magic_path = Path::Key(&root, "magic");
    let name = error::string(member("magic")?, &magic_path)?;
    let image = ImageType::by_magic_name(name).filter(|image| image.has_entries());
    let image = image.ok_or_else(|| JsonError::UnknownImage { name: name.to_owned() })?;
    let list = Path::Key(&root, "entries");
    let mut writer = Writer::create(Vec::new(), image)?;
    let mut message_name = image.payload.message(0);
    for (index, json) in error::array(member("entries")?, &list)?.iter().enumerate() {
        let path = Path::Index(&list, index);
        let name = message_name.ok_or(JsonError::TooManyEntries { image: image.pattern, entries: index })?;
        let mut entry = error::object(json, &path)?.clone();
        let json_extra = if extra::belongs_to(image, name) { entry.shift_remove("extra") } else { None };
        let message = parse::message_named(name, &entry, &path)?;
        writer.entry(&message)?;
        extra::write(&mut writer, image, &message, json_extra.as_ref(), &path)?;
        message_name = extra::next_message(image, &message, index as u64 + 1);
    }
    Ok(writer.finish()?)
}

/// Makes an image from the text of JSON.
pub fn encode_text(text: &[u8]) -> Result<Vec<u8>, JsonError> {
    encode(&serde_json::from_slice(text).map_err(JsonError::Syntax)?)
}
