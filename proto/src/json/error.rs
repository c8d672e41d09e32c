//! What can be wrong between an image and its JSON.

use std::fmt;

use serde_json::{Map, Value};

/// Why an image could not become JSON, or JSON an image.
///
/// Places are named as jq would: `.entries[3].reg.flags`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// The image itself is damaged, or of a type that has no JSON.
    #[error(transparent)]
    Image(#[from] crate::Error),

    /// The input is not JSON at all.
    #[error("not JSON: {0}")]
    Syntax(serde_json::Error),

    /// The output could not be written.
    #[error("write JSON: {0}")]
    Write(std::io::Error),

    /// The image has fields that our messages lack: a newer version wrote it.
    #[error("{path}: field number {number} of {message} is unknown here and cannot be shown")]
    UnknownField { path: String, message: String, number: u32 },

    /// The type of image is not one that can be made from JSON.
    #[error(".magic: no image with entries is called {name:?}")]
    UnknownImage { name: String },

    /// A key that the message does not have.
    #[error("{path}: unknown key {key:?}")]
    UnknownKey { path: String, key: String },

    /// A key without which the message is not complete.
    #[error("{path}: the key {key:?} is missing")]
    MissingKey { path: String, key: String },

    /// Another type of value.
    #[error("{path}: expected {expected}, found {found}")]
    Unexpected { path: String, expected: &'static str, found: String },

    /// A number that does not fit.
    #[error("{path}: {value} does not fit into {kind}")]
    OutOfRange { path: String, value: i128, kind: &'static str },

    /// A name that belongs to nothing.
    #[error("{path}: {name:?} is no name of {of}")]
    UnknownName { path: String, name: String, of: String },

    /// Raw bytes whose number is not the one that the entry says.
    #[error("{path}: the entry says {expected} bytes, but there are {found}")]
    WrongLength { path: String, expected: u64, found: u64 },

    /// More entries than the type of image has.
    #[error("{image}: there can be no more than {entries} entries")]
    TooManyEntries { image: &'static str, entries: usize },
}

/// Where in the JSON we are; rendered only when something is wrong.
#[derive(Debug, Clone, Copy)]
pub(super) enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("."),
            Self::Key(Path::Root, key) => write!(f, ".{key}"),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// An error that says what was expected instead of `found`.
pub(super) fn unexpected(expected: &'static str, found: &Value, path: &Path<'_>) -> JsonError {
    /// As much of a value as a message should repeat.
    const SHOWN: usize = 40;
    let found = match found {
        Value::Null => "null".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        scalar => {
            let text = scalar.to_string();
            match text.char_indices().nth(SHOWN) {
                Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
                None => text,
            }
        }
    };
    JsonError::Unexpected { path: path.to_string(), expected, found }
}

pub(super) fn object<'v>(value: &'v Value, path: &Path<'_>) -> Result<&'v Map<String, Value>, JsonError> {
    value.as_object().ok_or_else(|| unexpected("an object", value, path))
}

pub(super) fn array<'v>(value: &'v Value, path: &Path<'_>) -> Result<&'v Vec<Value>, JsonError> {
    value.as_array().ok_or_else(|| unexpected("a list", value, path))
}

pub(super) fn string<'v>(value: &'v Value, path: &Path<'_>) -> Result<&'v str, JsonError> {
    value.as_str().ok_or_else(|| unexpected("a string", value, path))
}
