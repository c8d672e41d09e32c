//! From JSON, of either form, to messages.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::{DynamicMessage, EnumDescriptor, Kind, MessageDescriptor, Value};
use serde_json::{Map, Value as Json};

use super::error::{array, object, string, unexpected};
use super::schema::{DeviceEncoding, Field, field, fields};
use super::{JsonError, Path, quoted};
use crate::messages::descriptor;

/// The message with this name in the format.
pub(super) fn message_named(
    name: &str,
    json: &Map<String, Json>,
    path: &Path<'_>,
) -> Result<DynamicMessage, JsonError> {
    let descriptor = descriptor(name).expect("a test checks that the catalogue's messages exist");
    message(&descriptor, json, path)
}

fn message(
    descriptor: &MessageDescriptor,
    json: &Map<String, Json>,
    path: &Path<'_>,
) -> Result<DynamicMessage, JsonError> {
    let mut message = DynamicMessage::new(descriptor.clone());
    for (key, json) in json {
        let Some(field) = field(descriptor, key) else {
            return Err(JsonError::UnknownKey { path: path.to_string(), key: key.clone() });
        };
        let path = Path::Key(path, key);
        let value = if field.descriptor.is_list() {
            Value::List(list(json, field, &path)?)
        } else {
            single(json, field, &path)?
        };
        message.set_field(&field.descriptor, value);
    }
    for field in fields(descriptor) {
        if field.descriptor.is_required() && !message.has_field(&field.descriptor) {
            let key = field.descriptor.name().to_owned();
            return Err(JsonError::MissingKey { path: path.to_string(), key });
        }
    }
    Ok(message)
}

fn list(json: &Json, field: &Field, path: &Path<'_>) -> Result<Vec<Value>, JsonError> {
    let mut values = Vec::new();
    for (index, json) in array(json, path)?.iter().enumerate() {
        let path = Path::Index(path, index);
        match json {
            Json::String(text) if field.hints.address && text.contains(['.', ':']) => {
                values.extend(address(text, &path)?);
            }
            json => values.push(single(json, field, &path)?),
        }
    }
    Ok(values)
}

/// An address as words in network byte order.
fn address(text: &str, path: &Path<'_>) -> Result<Vec<Value>, JsonError> {
    let bytes = match text.parse() {
        Ok(IpAddr::V4(v4)) => v4.octets().to_vec(),
        Ok(IpAddr::V6(v6)) => v6.octets().to_vec(),
        Err(_) => return Err(unexpected("an IPv4 or IPv6 address", &text.into(), path)),
    };
    let (words, _) = bytes.as_chunks();
    Ok(words.iter().map(|word| Value::U32(u32::from_le_bytes(*word))).collect())
}

fn single(json: &Json, field: &Field, path: &Path<'_>) -> Result<Value, JsonError> {
    let kind = field.descriptor.kind();
    Ok(match &kind {
        Kind::Message(inner) => Value::Message(message(inner, object(json, path)?, path)?),
        Kind::Bool => Value::Bool(json.as_bool().ok_or_else(|| unexpected("true or false", json, path))?),
        Kind::String => Value::String(string(json, path)?.to_owned()),
        Kind::Bytes if field.hints.quoted => {
            let bytes = quoted::decode(string(json, path)?);
            Value::Bytes(bytes.ok_or_else(|| unexpected("quoted-printable text", json, path))?.into())
        }
        Kind::Bytes => Value::Bytes(base64(json, path)?.into()),
        Kind::Enum(values) => Value::EnumNumber(enum_number(json, values, path)?),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(fit(number(json, field, path)?, "32 bits", path)?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(fit(number(json, field, path)?, "64 bits", path)?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            Value::I32(fit(number(json, field, path)?, "32 bits with sign", path)?)
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            Value::I64(fit(number(json, field, path)?, "64 bits with sign", path)?)
        }
        // The format has none.
        Kind::Double | Kind::Float => return Err(unexpected("no floating point number", json, path)),
    })
}

fn fit<T: TryFrom<i128>>(value: i128, kind: &'static str, path: &Path<'_>) -> Result<T, JsonError> {
    T::try_from(value).map_err(|_out_of_range| JsonError::OutOfRange { path: path.to_string(), value, kind })
}

fn enum_number(json: &Json, values: &EnumDescriptor, path: &Path<'_>) -> Result<i32, JsonError> {
    match json {
        Json::String(name) => {
            let value = values.get_value_by_name(name);
            value.map(|value| value.number()).ok_or_else(|| unknown_name(name, values.name(), path))
        }
        json => fit(integer(json, path)?, "32 bits with sign", path),
    }
}

/// A number, or the text that the field's hint makes of one.
fn number(json: &Json, field: &Field, path: &Path<'_>) -> Result<i128, JsonError> {
    let Json::String(text) = json else {
        return integer(json, path);
    };
    let hints = &field.hints;
    if let Some(flags) = hints.flags {
        let mut value = 0;
        for name in text.split('|').map(str::trim).filter(|name| !name.is_empty()) {
            let bits = flags.bit(name).map(i128::from).or_else(|| text_number(name));
            value |= bits.ok_or_else(|| unknown_name(name, flags.name, path))?;
        }
        return Ok(value);
    }
    if let Some(dict) = hints.dict {
        let value = dict.value(text).map(i128::from).or_else(|| text_number(text));
        return value.ok_or_else(|| unknown_name(text, dict.name, path));
    }
    if let Some(encoding) = hints.device
        && let Some((major, minor)) = text.split_once(':')
    {
        let device = device(major, minor, encoding);
        return device.map(i128::from).ok_or_else(|| unexpected("a device major:minor", json, path));
    }
    integer(json, path)
}

fn device(major: &str, minor: &str, encoding: DeviceEncoding) -> Option<u32> {
    let major: u32 = major.parse().ok().filter(|major| *major < 1 << 12)?;
    let minor: u32 = minor.parse().ok().filter(|minor| *minor < 1 << 20)?;
    Some(match encoding {
        DeviceEncoding::Kernel => major << 20 | minor,
        DeviceEncoding::User => minor & 0xff | major << 8 | (minor & 0xf_ff00) << 12,
    })
}

fn integer(json: &Json, path: &Path<'_>) -> Result<i128, JsonError> {
    let value = match json {
        Json::Number(number) => number.as_i128(),
        Json::String(text) => text_number(text),
        _ => None,
    };
    value.ok_or_else(|| unexpected("an integer", json, path))
}

fn text_number(text: &str) -> Option<i128> {
    match text.strip_prefix("0x") {
        // Without the conversion, a sign behind the prefix would be accepted.
        Some(digits) => {
            u64::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+')).map(i128::from)
        }
        None => text.parse().ok(),
    }
}

fn unknown_name(name: &str, of: &str, path: &Path<'_>) -> JsonError {
    JsonError::UnknownName { path: path.to_string(), name: name.to_owned(), of: of.to_owned() }
}

/// Base64, with or without line breaks.
pub(super) fn base64(json: &Json, path: &Path<'_>) -> Result<Vec<u8>, JsonError> {
    let mut text = string(json, path)?.to_owned();
    text.retain(|c| !c.is_ascii_whitespace());
    STANDARD.decode(text).map_err(|_malformed| unexpected("base64", json, path))
}
