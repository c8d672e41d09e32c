//! The raw bytes that follow entries, as the key `extra` of the entry.
//!
//! Padding is not shown, as long as it is zero: the programs that wrote it did not always clear it, and an image must
//! survive the way to JSON and back unchanged.

use std::io::{Read, Write};

use prost_reflect::{DynamicMessage, ReflectMessage as _};
use serde_json::{Map, Value};

use super::error::{array, object};
use super::parse::base64 as from_base64;
use super::render::base64;
use super::{Form, JsonError, Path, parse, render};
use crate::catalogue::{Extra, ImageType};
use crate::container::{Reader, Writer};
use crate::error::Error;

/// The message that the pieces of a ghost file's body begin with.
const CHUNK: &str = "ghost_chunk_entry";

/// Whether such a message of such an image may have the key `extra`.
pub(super) fn belongs_to(image: &ImageType, message: &str) -> bool {
    image.extra != Extra::No
        && (image.extra != Extra::GhostFile || matches!(message, "ghost_file_entry" | CHUNK))
}

/// The message of the entry with this number, where the one before is `previous`.
pub(super) fn next_message(image: &ImageType, previous: &DynamicMessage, entry: u64) -> Option<&'static str> {
    match image.extra {
        Extra::GhostFile if is_chunk(previous) || flag(previous, "chunks") => Some(CHUNK),
        // The body of the only entry went up to the end of the file.
        Extra::GhostFile => None,
        _ => image.payload.message(entry),
    }
}

/// Reads what follows `message`, as JSON.
pub(super) fn read<R: Read>(
    reader: &mut Reader<R>,
    message: &DynamicMessage,
    form: Form,
    path: &Path<'_>,
) -> Result<Option<Value>, JsonError> {
    let json = match reader.image().extra {
        Extra::No => return Ok(None),
        Extra::PipeData => plain(reader, number(message, "bytes"))?,
        Extra::SkQueues => plain(reader, number(message, "length"))?,
        Extra::GhostFile if is_chunk(message) => plain(reader, number(message, "len"))?,
        Extra::GhostFile if flag(message, "chunks") => return Ok(None),
        Extra::GhostFile => base64(&reader.rest()?).into(),
        Extra::IpcShm if flag(message, "in_pagemaps") => return Ok(None),
        Extra::IpcShm => padded(reader, number(message, "size"), 4)?,
        Extra::IpcSem => semaphores(reader, number(message, "nsems"))?,
        Extra::IpcMsg => {
            let count = number(message, "qnum");
            let path = Path::Key(path, "extra");
            let mut messages = Vec::new();
            for _ in 0..count {
                let path = Path::Index(&path, messages.len());
                let Some(message) = reader.dynamic_entry_of("ipc_msg")? else {
                    let (image, entry, offset) =
                        (reader.image().pattern, reader.entries_read(), reader.offset());
                    return Err(Error::MissingEntry { image, entry, offset }.into());
                };
                let mut object = render::message(&message, form, &path)?;
                object.insert("extra".to_owned(), padded(reader, number(&message, "msize"), 8)?);
                messages.push(Value::Object(object));
            }
            Value::Array(messages)
        }
        Extra::TcpStream => parts(reader, message, [("inq", "inq_len"), ("outq", "outq_len")])?,
        Extra::BpfMapData => parts(reader, message, [("keys", "keys_bytes"), ("values", "values_bytes")])?,
    };
    Ok(Some(json))
}

/// Writes what follows `message`, from JSON.
pub(super) fn write<W: Write>(
    writer: &mut Writer<W>,
    image: &ImageType,
    message: &DynamicMessage,
    extra: Option<&Value>,
    path: &Path<'_>,
) -> Result<(), JsonError> {
    let missing = || JsonError::MissingKey { path: path.to_string(), key: "extra".to_owned() };
    let has_none = match image.extra {
        Extra::No => true,
        Extra::GhostFile => flag(message, "chunks"),
        Extra::IpcShm => flag(message, "in_pagemaps"),
        _ => false,
    };
    let extra = match (extra, has_none) {
        (None, true) => return Ok(()),
        (Some(_), true) => {
            return Err(JsonError::UnknownKey { path: path.to_string(), key: "extra".to_owned() });
        }
        (None, false) => return Err(missing()),
        (Some(extra), false) => extra,
    };
    let path = &Path::Key(path, "extra");
    match image.extra {
        Extra::No => {}
        Extra::PipeData => write_exactly(writer, number(message, "bytes"), 1, extra, path)?,
        Extra::SkQueues => write_exactly(writer, number(message, "length"), 1, extra, path)?,
        Extra::GhostFile if is_chunk(message) => {
            write_exactly(writer, number(message, "len"), 1, extra, path)?;
        }
        Extra::GhostFile => writer.extra(&from_base64(extra, path)?)?,
        Extra::IpcShm => write_exactly(writer, number(message, "size"), 4, extra, path)?,
        Extra::IpcSem => write_semaphores(writer, number(message, "nsems"), extra, path)?,
        Extra::IpcMsg => write_messages(writer, number(message, "qnum"), extra, path)?,
        Extra::TcpStream => {
            write_parts(writer, message, [("inq", "inq_len"), ("outq", "outq_len")], extra, path)?;
        }
        Extra::BpfMapData => {
            write_parts(writer, message, [("keys", "keys_bytes"), ("values", "values_bytes")], extra, path)?;
        }
    }
    Ok(())
}

fn is_chunk(message: &DynamicMessage) -> bool {
    message.descriptor().name() == CHUNK
}

fn flag(message: &DynamicMessage, field: &str) -> bool {
    message.get_field_by_name(field).and_then(|v| v.as_bool()).unwrap_or(false)
}

fn number(message: &DynamicMessage, field: &str) -> u64 {
    let value = message.get_field_by_name(field);
    value.and_then(|v| v.as_u64().or_else(|| v.as_u32().map(u64::from))).unwrap_or(0)
}

fn plain<R: Read>(reader: &mut Reader<R>, len: u64) -> Result<Value, Error> {
    Ok(base64(&reader.extra(len)?).into())
}

/// What `len` is with its padding. Saturates where no file can be that long.
fn with_padding(len: u64, alignment: u64) -> u64 {
    len.checked_next_multiple_of(alignment).unwrap_or(u64::MAX)
}

/// Cuts off the padding, unless there is something in it.
fn without_padding(mut bytes: Vec<u8>, len: u64) -> Vec<u8> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if bytes.get(len..).is_some_and(|padding| padding.iter().all(|b| *b == 0)) {
        bytes.truncate(len);
    }
    bytes
}

fn padded<R: Read>(reader: &mut Reader<R>, len: u64, alignment: u64) -> Result<Value, Error> {
    let bytes = reader.extra(with_padding(len, alignment))?;
    Ok(base64(&without_padding(bytes, len)).into())
}

fn semaphores<R: Read>(reader: &mut Reader<R>, count: u64) -> Result<Value, Error> {
    // 32 bits in the message: this cannot overflow.
    let len = count * 2;
    let bytes = without_padding(reader.extra(with_padding(len, 8))?, len);
    let (values, _) = bytes.as_chunks();
    Ok(values.iter().map(|value| u16::from_le_bytes(*value)).collect())
}

fn parts<R: Read>(
    reader: &mut Reader<R>,
    message: &DynamicMessage,
    parts: [(&str, &str); 2],
) -> Result<Value, Error> {
    let mut object = Map::new();
    for (part, len) in parts {
        object.insert(part.to_owned(), plain(reader, number(message, len))?);
    }
    Ok(Value::Object(object))
}

/// Writes bytes with their padding, whether the latter is there or not.
fn write_padded<W: Write>(
    writer: &mut Writer<W>,
    len: u64,
    alignment: u64,
    mut bytes: Vec<u8>,
    path: &Path<'_>,
) -> Result<(), JsonError> {
    let (found, padded) = (bytes.len() as u64, with_padding(len, alignment));
    if found != len && found != padded {
        return Err(JsonError::WrongLength { path: path.to_string(), expected: len, found });
    }
    // At most `alignment - 1` more than there are.
    bytes.resize(usize::try_from(padded).unwrap_or(bytes.len()), 0);
    Ok(writer.extra(&bytes)?)
}

fn write_exactly<W: Write>(
    writer: &mut Writer<W>,
    len: u64,
    alignment: u64,
    extra: &Value,
    path: &Path<'_>,
) -> Result<(), JsonError> {
    write_padded(writer, len, alignment, from_base64(extra, path)?, path)
}

fn write_semaphores<W: Write>(
    writer: &mut Writer<W>,
    count: u64,
    extra: &Value,
    path: &Path<'_>,
) -> Result<(), JsonError> {
    let mut bytes = Vec::new();
    for (index, value) in array(extra, path)?.iter().enumerate() {
        let number = value.as_u64().and_then(|value| u16::try_from(value).ok());
        let number = number.ok_or_else(|| {
            super::error::unexpected("a number of 16 bits", value, &Path::Index(path, index))
        })?;
        bytes.extend(number.to_le_bytes());
    }
    write_padded(writer, count * 2, 8, bytes, path)
}

fn write_messages<W: Write>(
    writer: &mut Writer<W>,
    count: u64,
    extra: &Value,
    path: &Path<'_>,
) -> Result<(), JsonError> {
    let messages = array(extra, path)?;
    if messages.len() as u64 != count {
        let found = messages.len() as u64;
        return Err(JsonError::WrongLength { path: path.to_string(), expected: count, found });
    }
    for (index, json) in messages.iter().enumerate() {
        let path = Path::Index(path, index);
        let mut json = object(json, &path)?.clone();
        let body = json.shift_remove("extra");
        let message = parse::message_named("ipc_msg", &json, &path)?;
        writer.entry(&message)?;
        let body =
            body.ok_or_else(|| JsonError::MissingKey { path: path.to_string(), key: "extra".to_owned() })?;
        write_exactly(writer, number(&message, "msize"), 8, &body, &Path::Key(&path, "extra"))?;
    }
    Ok(())
}

fn write_parts<W: Write>(
    writer: &mut Writer<W>,
    message: &DynamicMessage,
    parts: [(&str, &str); 2],
    extra: &Value,
    path: &Path<'_>,
) -> Result<(), JsonError> {
    let object = object(extra, path)?;
    if let Some(key) = object.keys().find(|key| parts.iter().all(|(part, _)| part != key)) {
        return Err(JsonError::UnknownKey { path: path.to_string(), key: key.clone() });
    }
    for (part, len) in parts {
        let json = object
            .get(part)
            .ok_or_else(|| JsonError::MissingKey { path: path.to_string(), key: part.to_owned() })?;
        write_exactly(writer, number(message, len), 1, json, &Path::Key(path, part))?;
    }
    Ok(())
}
