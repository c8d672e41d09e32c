//! The fields of each message in the order of their declaration, with their rendering hints.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost_reflect::{DynamicMessage, ExtensionDescriptor, FieldDescriptor, MessageDescriptor, Value};

use super::names::{Dict, Flags};
use crate::messages::descriptors;

/// How a device number is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeviceEncoding {
    /// The kernel's own: a minor of 20 bits.
    Kernel,
    /// The one of `stat`, in 32 bits: the minor lies on both sides of the major.
    User,
}

/// The rendering hints of one field.
#[derive(Debug, Default)]
pub(super) struct Hints {
    pub(super) hex: bool,
    pub(super) device: Option<DeviceEncoding>,
    pub(super) address: bool,
    pub(super) flags: Option<&'static Flags>,
    pub(super) dict: Option<&'static Dict>,
    pub(super) quoted: bool,
}

/// One field of a message.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) descriptor: FieldDescriptor,
    pub(super) hints: Hints,
}

static SCHEMA: LazyLock<HashMap<String, Vec<Field>>> = LazyLock::new(|| {
    let rendering = descriptors().get_extension_by_name("stasis.rendering");
    descriptors()
        .all_messages()
        .map(|m| (m.full_name().to_owned(), declared(&m, rendering.as_ref())))
        .collect()
});

/// The fields of a message, in the order of their declaration.
pub(super) fn fields(message: &MessageDescriptor) -> &'static [Field] {
    SCHEMA.get(message.full_name()).map_or(&[], Vec::as_slice)
}

/// The field of a message with this name.
pub(super) fn field(message: &MessageDescriptor, name: &str) -> Option<&'static Field> {
    fields(message).iter().find(|field| field.descriptor.name() == name)
}

fn declared(message: &MessageDescriptor, rendering: Option<&ExtensionDescriptor>) -> Vec<Field> {
    // The descriptor lists fields by number; the last step of the path is the place in the declaration.
    let mut fields: Vec<FieldDescriptor> = message.fields().collect();
    fields.sort_by_key(|field| field.path().last().copied());
    fields
        .into_iter()
        .map(|descriptor| {
            let options = descriptor.options();
            let hints = rendering.map(|rendering| options.get_extension(rendering));
            let hints = hints.as_deref().and_then(Value::as_message);
            let hints = hints.map(|hints| Hints::of(hints, descriptor.name())).unwrap_or_default();
            Field { descriptor, hints }
        })
        .collect()
}

impl Hints {
    fn of(options: &DynamicMessage, field: &str) -> Self {
        let is_set = |name: &str| options.get_field_by_name(name).and_then(|v| v.as_bool()).unwrap_or(false);
        let text = |name: &str| {
            let value = options.get_field_by_name(name)?;
            value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
        };
        Self {
            hex: is_set("hex"),
            device: match (is_set("dev"), is_set("odev")) {
                (false, _) => None,
                (true, false) => Some(DeviceEncoding::Kernel),
                (true, true) => Some(DeviceEncoding::User),
            },
            address: is_set("ipadd"),
            flags: text("flags").and_then(|name| Flags::named(&name)),
            dict: text("dict").and_then(|prefix| Dict::named(&format!("{prefix}.{field}"))),
            quoted: text("conv").is_some_and(|conversion| conversion == "unix_name"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::descriptor;

    #[test]
    fn every_hint_names_something_we_have() {
        let rendering = descriptors().get_extension_by_name("stasis.rendering").unwrap();
        let mut hinted = 0;
        for message in descriptors().all_messages() {
            for field in fields(&message) {
                let options = field.descriptor.options();
                if !options.has_extension(&rendering) {
                    continue;
                }
                hinted += 1;
                let name = field.descriptor.full_name();
                let options = options.get_extension(&rendering);
                let options = options.as_message().unwrap();
                let has = |name: &str| options.has_field_by_name(name);
                assert_eq!(has("flags"), field.hints.flags.is_some(), "{name}");
                assert_eq!(has("dict"), field.hints.dict.is_some(), "{name}");
                assert_eq!(has("conv"), field.hints.quoted, "{name}");
                assert!(has("dev") || !has("odev"), "{name}");
            }
        }
        assert!(hinted > 80, "only {hinted} fields have hints: were the options lost?");
    }

    #[test]
    fn fields_come_as_declared() {
        let core = descriptor("core_entry").unwrap();
        let numbers: Vec<u32> = fields(&core).iter().map(|f| f.descriptor.number()).collect();
        assert_eq!(numbers, [1, 2, 6, 8, 9, 10, 11, 12, 13, 3, 4, 5]);
    }
}
