//! From messages to JSON.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::{DynamicMessage, Kind, Value};
use serde_json::{Map, Value as Json};

use super::schema::{DeviceEncoding, Field, Hints, fields};
use super::{Form, JsonError, Path, quoted};

/// The fields of a message that are set, in the order of their declaration.
pub(super) fn message(
    message: &DynamicMessage,
    form: Form,
    path: &Path<'_>,
) -> Result<Map<String, Json>, JsonError> {
    nested(message, form, Inherited { hex: false }, path)
}

/// Hints of the field that holds a message, which hold inside as well.
#[derive(Clone, Copy)]
struct Inherited {
    hex: bool,
}

fn nested(
    message: &DynamicMessage,
    form: Form,
    inherited: Inherited,
    path: &Path<'_>,
) -> Result<Map<String, Json>, JsonError> {
    let descriptor = prost_reflect::ReflectMessage::descriptor(message);
    if let Some(unknown) = message.unknown_fields().next() {
        return Err(JsonError::UnknownField {
            path: path.to_string(),
            message: descriptor.name().to_owned(),
            number: unknown.number(),
        });
    }
    let mut object = Map::new();
    for field in fields(&descriptor) {
        if !message.has_field(&field.descriptor) {
            continue;
        }
        let name = field.descriptor.name();
        let path = Path::Key(path, name);
        let value = message.get_field(&field.descriptor);
        let json = match value.as_ref() {
            Value::List(values) => Json::Array(list(values, field, form, inherited, &path)?),
            value => single(value, field, form, inherited, &path)?,
        };
        object.insert(name.to_owned(), json);
    }
    Ok(object)
}

fn list(
    values: &[Value],
    field: &Field,
    form: Form,
    inherited: Inherited,
    path: &Path<'_>,
) -> Result<Vec<Json>, JsonError> {
    if form == Form::Pretty
        && field.hints.address
        && let Some(address) = address(values)
    {
        return Ok(vec![address.into()]);
    }
    let render = |(index, value)| single(value, field, form, inherited, &Path::Index(path, index));
    values.iter().enumerate().map(render).collect()
}

/// The address that one or four words in network byte order are.
fn address(words: &[Value]) -> Option<String> {
    let bytes: Vec<u8> =
        words.iter().map(|w| w.as_u32().map(u32::to_le_bytes)).collect::<Option<Vec<_>>>()?.concat();
    if let Ok(v4) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(Ipv4Addr::from(v4).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).to_string())
}

fn single(
    value: &Value,
    field: &Field,
    form: Form,
    inherited: Inherited,
    path: &Path<'_>,
) -> Result<Json, JsonError> {
    let hints = &field.hints;
    let hex = inherited.hex || hints.hex;
    Ok(match value {
        Value::Message(message) => Json::Object(nested(message, form, Inherited { hex }, path)?),
        Value::Bool(value) => (*value).into(),
        Value::String(value) => value.as_str().into(),
        // Both forms have the same conversion: encoding could not tell them apart.
        Value::Bytes(bytes) if hints.quoted => quoted::encode(bytes).into(),
        Value::Bytes(bytes) => base64(bytes).into(),
        Value::EnumNumber(number) => enum_value(*number, field),
        Value::I32(value) => (*value).into(),
        Value::I64(value) => (*value).into(),
        Value::U32(value) => unsigned(u64::from(*value), hints, hex, form),
        Value::U64(value) => unsigned(*value, hints, hex, form),
        // The format has no floating point numbers and no maps.
        Value::F32(value) => f64::from(*value).into(),
        Value::F64(value) => (*value).into(),
        Value::List(_) | Value::Map(_) => Json::Null,
    })
}

fn enum_value(number: i32, field: &Field) -> Json {
    match field.descriptor.kind() {
        Kind::Enum(kind) => kind.get_value(number).map_or(number.into(), |value| value.name().into()),
        _ => number.into(),
    }
}

fn unsigned(value: u64, hints: &Hints, hex: bool, form: Form) -> Json {
    if form == Form::Plain {
        return value.into();
    }
    if let Some(flags) = hints.flags {
        return flags.render(value).into();
    }
    if let Some(dict) = hints.dict {
        return dict.render(value).map_or(value.into(), Into::into);
    }
    match hints.device {
        Some(DeviceEncoding::Kernel) => format!("{}:{}", value >> 20, value & 0xf_ffff).into(),
        Some(DeviceEncoding::User) => {
            let (major, minor) = ((value >> 8) & 0xfff, (value & 0xff) | ((value >> 12) & 0xf_ff00));
            format!("{major}:{minor}").into()
        }
        None if hex => format!("{value:#x}").into(),
        None => value.into(),
    }
}

/// Base64 with a line break after each 76 characters, and at the end.
pub(super) fn base64(bytes: &[u8]) -> String {
    /// The bytes that 76 characters stand for.
    const LINE: usize = 57;
    let mut text = String::new();
    for line in bytes.chunks(LINE) {
        STANDARD.encode_string(line, &mut text);
        text.push('\n');
    }
    text
}
