//! Image sets made by CRIU 4.2 become the JSON that stands beside them, and themselves again.

#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "all of this file is a test")]

use std::fs;
use std::path::{Path, PathBuf};

use proto::json::{Form, RawBytes, decode, encode_text, to_text};
use proto::{ImageType, Reader, Writer};

/// Every image of every set, with its JSON where it has one.
fn samples() -> Vec<(PathBuf, Option<PathBuf>)> {
    let sets = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    let mut samples = Vec::new();
    for set in fs::read_dir(sets).unwrap() {
        let set = set.unwrap().path();
        for image in fs::read_dir(set.join("images")).unwrap() {
            let image = image.unwrap().path();
            let json = set.join("json").join(image.file_stem().unwrap()).with_extension("json");
            samples.push((image, json.exists().then_some(json)));
        }
    }
    samples.sort();
    assert!(samples.len() > 80, "only {} samples", samples.len());
    samples
}

fn with_entries() -> impl Iterator<Item = (PathBuf, Vec<u8>)> {
    let images = samples().into_iter().map(|(image, _)| image);
    images.filter(|image| image_type(image).has_entries()).map(|image| {
        let bytes = fs::read(&image).unwrap();
        (image, bytes)
    })
}

fn image_type(path: &Path) -> &'static ImageType {
    let name = path.file_name().unwrap().to_str().unwrap();
    ImageType::by_file_name(name).unwrap_or_else(|| panic!("{name} is in no catalogue")).0
}

#[test]
fn every_image_becomes_the_json_beside_it() {
    let mut compared = 0;
    for (image, json) in samples() {
        let Some(json) = json else {
            continue;
        };
        let bytes = fs::read(&image).unwrap();
        let value = decode(bytes.as_slice(), Form::Pretty, RawBytes::Show)
            .unwrap_or_else(|e| panic!("{}: {e}", image.display()));
        let text = to_text(&value, Form::Pretty);
        let expected = fs::read_to_string(&json).unwrap();
        for (number, (ours, theirs)) in text.lines().zip(expected.lines()).enumerate() {
            assert_eq!(ours, theirs, "{} line {}", json.display(), number + 1);
        }
        assert!(text == expected, "{}: one is longer", json.display());
        compared += 1;
    }
    assert!(compared > 70, "only {compared} compared");
}

#[test]
fn every_image_survives_both_forms_of_json() {
    for (image, bytes) in with_entries() {
        for form in [Form::Pretty, Form::Plain] {
            let value = decode(bytes.as_slice(), form, RawBytes::Show)
                .unwrap_or_else(|e| panic!("{}: {e}", image.display()));
            let again = encode_text(to_text(&value, form).as_bytes())
                .unwrap_or_else(|e| panic!("{} {form:?}: {e}", image.display()));
            assert!(again == bytes, "{} {form:?}: not the same bytes", image.display());
        }
    }
}

#[test]
fn every_entry_survives_the_typed_messages() {
    use proto::messages as m;

    fn copy<M: prost::Message + Default>(reader: &mut Reader<&[u8]>, writer: &mut Writer<Vec<u8>>) -> bool {
        let message = reader.entry::<M>().unwrap();
        message.is_some_and(|message| writer.entry(&message).is_ok())
    }
    type Copy = fn(&mut Reader<&[u8]>, &mut Writer<Vec<u8>>) -> bool;
    let copies: &[(&str, Copy)] = &[
        ("core_entry", copy::<m::CoreEntry>),
        ("fdinfo_entry", copy::<m::FdinfoEntry>),
        ("file_entry", copy::<m::FileEntry>),
        ("fs_entry", copy::<m::FsEntry>),
        ("inventory_entry", copy::<m::InventoryEntry>),
        ("mm_entry", copy::<m::MmEntry>),
        ("pagemap_head", copy::<m::PagemapHead>),
        ("pagemap_entry", copy::<m::PagemapEntry>),
        ("pstree_entry", copy::<m::PstreeEntry>),
        ("task_kobj_ids_entry", copy::<m::TaskKobjIdsEntry>),
        ("tty_info_entry", copy::<m::TtyInfoEntry>),
        ("netns_entry", copy::<m::NetnsEntry>),
        ("stats_entry", copy::<m::StatsEntry>),
    ];
    let mut copied = 0;
    for (path, bytes) in with_entries() {
        let image = image_type(&path);
        let mut reader = Reader::open(bytes.as_slice(), image).unwrap();
        let mut writer = Writer::create(Vec::new(), image).unwrap();
        loop {
            let name = image.payload.message(reader.entries_read()).unwrap();
            let Some((_, copy)) = copies.iter().find(|(message, _)| *message == name) else {
                break;
            };
            if !copy(&mut reader, &mut writer) {
                assert!(writer.finish().unwrap() == bytes, "{}: not the same bytes", path.display());
                copied += 1;
                break;
            }
        }
    }
    assert!(copied > 50, "only {copied} copied");
}
