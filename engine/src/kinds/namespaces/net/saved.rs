//! Images of netlink messages, as `ip … save` writes them: a word that says what they are of, then the messages.

use proto::catalogue::ImageType;

use crate::error::Problem;
use crate::image::{Images, NewImages, invalid};
use crate::netlink::{Message, messages, number, push_message};

/// `NLM_F_MULTI` of `include/uapi/linux/netlink.h`: such messages are parts of a list.
const MULTI: u16 = 2;

/// The bytes of an image.
pub(super) fn write(magic: u32, all: &[Message]) -> Vec<u8> {
    let mut bytes = magic.to_ne_bytes().to_vec();
    append(&mut bytes, all);
    bytes
}

fn append(bytes: &mut Vec<u8>, all: &[Message]) {
    for message in all {
        push_message(bytes, message.kind, MULTI, 0, &message.payload);
    }
}

/// Reads an image, which may lack.
pub(super) fn read(images: &Images, image: &ImageType, id: u32, magic: u32) -> Result<Vec<Message>, Problem> {
    if !images.has(image, id.into()) {
        return Ok(Vec::new());
    }
    let bytes = images.read_raw(image, id.into())?;
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    if number(&bytes, 0) != Some(magic) {
        return Err(invalid(image, id.into(), "it does not begin as such images do"));
    }
    parse(image, id, bytes.get(4..).unwrap_or_default())
}

/// Reads an image without a word in front, which may lack.
pub(super) fn read_plain(images: &Images, image: &ImageType, id: u32) -> Result<Vec<Message>, Problem> {
    if !images.has(image, id.into()) {
        return Ok(Vec::new());
    }
    parse(image, id, &images.read_raw(image, id.into())?)
}

fn parse(image: &ImageType, id: u32, bytes: &[u8]) -> Result<Vec<Message>, Problem> {
    whole(bytes).ok_or_else(|| invalid(image, id.into(), "a message is not whole"))
}

/// The messages, if nothing else is there.
fn whole(bytes: &[u8]) -> Option<Vec<Message>> {
    let all = messages(bytes);
    let length: usize = all.iter().map(|message| (16 + message.payload.len()).next_multiple_of(4)).sum();
    (length.next_multiple_of(4) >= bytes.len()).then_some(all)
}

/// Writes messages behind each other, without a word in front.
pub(super) fn write_plain(
    images: &mut NewImages,
    image: &ImageType,
    id: u32,
    all: &[Message],
) -> Result<(), Problem> {
    let mut bytes = Vec::new();
    append(&mut bytes, all);
    images.write_raw(image, id.into(), &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_survives_and_a_damaged_one_is_told() {
        let mut some = Vec::new();
        push_message(&mut some, 20, 0, 0, b"odd");
        push_message(&mut some, 20, 0, 0, b"even");
        let all = messages(&some);
        let bytes = write(7, &all);
        let kinds = |all: Vec<Message>| all.into_iter().map(|m| (m.kind, m.payload)).collect::<Vec<_>>();
        assert_eq!(whole(&bytes[4..]).map(kinds), Some(kinds(all)));
        assert_eq!(whole(&bytes[4..bytes.len() - 2]), None);
        assert_eq!(whole(&[]), Some(Vec::new()));
    }

    #[test]
    fn what_the_field_wrote_is_read() {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../proto/tests/samples/namespaces/images/ifaddr-10.img");
        let Ok(bytes) = std::fs::read(path) else { return };
        assert_eq!(whole(&bytes[4..]).map(|all| all.len()), Some(2));
    }
}
