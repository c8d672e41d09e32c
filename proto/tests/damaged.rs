//! Damaged and hostile images: always an error that can be read, never a panic, never more memory than there are bytes.

#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "all of this file is a test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::Path;

use proptest::prelude::{any, prop, prop_assert, proptest};
use proto::json::{Form, RawBytes, decode, encode_text, to_text};
use proto::messages::{CoreEntry, PagemapEntry, PagemapHead};
use proto::{ImageType, Reader, catalogue};

thread_local! {
    /// The largest allocation of this thread since it was last cleared.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

struct Watching;

fn note(size: usize) {
    // Threads allocate while they end, when their locals are gone.
    let _gone = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
}

// SAFETY: everything is left to the system's allocator; `note` does not allocate.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller keeps the rules of `alloc`, which are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the rules of `dealloc`, and `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: the caller keeps the rules of `realloc`, and `pointer` came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// Decodes; what goes wrong must be told in one line, and without large allocations.
fn told(image: &[u8]) -> Option<String> {
    LARGEST.set(0);
    let result = decode(image, Form::Pretty, RawBytes::Show);
    let largest = LARGEST.get();
    // Base64 and the doubling of buffers take a few times the bytes; tables of the first use take some themselves.
    let limit = 16 * image.len() + (256 << 10);
    assert!(largest <= limit, "{largest} bytes allocated at once for an image of {}", image.len());
    match result {
        Ok(value) => {
            // What can be shown must not make the other direction panic.
            let _again = encode_text(to_text(&value, Form::Plain).as_bytes());
            None
        }
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
            Some(text)
        }
    }
}

fn samples() -> Vec<(String, Vec<u8>)> {
    let mut samples = Vec::new();
    for set in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples")).unwrap() {
        for image in fs::read_dir(set.unwrap().path().join("images")).unwrap() {
            let image = image.unwrap();
            let name = image.file_name().into_string().unwrap();
            if ImageType::by_file_name(&name).unwrap().0.has_entries() {
                samples.push((name, fs::read(image.path()).unwrap()));
            }
        }
    }
    samples.sort();
    samples
}

/// A header, then whatever follows.
fn image(image: &ImageType, rest: &[u8]) -> Vec<u8> {
    let words: Vec<u32> = image.container.first_word().into_iter().chain([image.magic]).collect();
    words.into_iter().flat_map(u32::to_le_bytes).chain(rest.iter().copied()).collect()
}

fn entry(message: &impl prost::Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    [&(bytes.len() as u32).to_le_bytes(), bytes.as_slice()].concat()
}

#[test]
fn truncated_samples_are_errors_or_shorter() {
    let mut errors = 0;
    for (name, bytes) in samples() {
        let whole = decode(bytes.as_slice(), Form::Plain, RawBytes::Show).unwrap();
        let whole = whole["entries"].as_array().unwrap();
        for len in (0..bytes.len()).step_by(64).chain([4, 5, 7, 9, bytes.len() - 1]) {
            let cut = &bytes[..len.min(bytes.len())];
            errors += usize::from(told(cut).is_some());
            // A cut that is no error must be between entries; the body of a ghost file has no length.
            if let Ok(value) = decode(cut, Form::Plain, RawBytes::Show)
                && !name.starts_with("ghost-file")
            {
                let entries = value["entries"].as_array().unwrap();
                assert!(entries.len() < whole.len(), "{name} cut to {len}");
                assert!(whole.starts_with(entries), "{name} cut to {len}");
            }
        }
    }
    assert!(errors > 1000, "only {errors} errors");
}

#[test]
fn errors_say_what_and_where() {
    let core = |rest: &[u8]| image(&catalogue::CORE, rest);
    let pipe = proto::messages::PipeDataEntry { pipe_id: 1, bytes: u32::MAX, size: None };
    let messages = proto::messages::IpcMsgEntry { qnum: u32::MAX, ..Default::default() };
    let shared = proto::messages::IpcShmEntry { size: u64::MAX, ..Default::default() };
    let lines: Vec<String> = [
        ("empty", vec![]),
        ("short", vec![1, 2, 3]),
        ("unknown magic", b"#!/bin/sh\n".to_vec()),
        ("unknown second word", [catalogue::COMMON_MAGIC.to_le_bytes(), [1, 2, 3, 4]].concat()),
        ("service file as image", {
            let mut bytes = core(&[]);
            bytes[..4].copy_from_slice(&catalogue::SERVICE_MAGIC.to_le_bytes());
            bytes
        }),
        ("half a length", core(&[1, 0])),
        ("endless entry", core(&[0xff; 8])),
        ("large entry", core(&[0, 0, 0, 8, 1, 2, 3])),
        ("no message", core(&[3, 0, 0, 0, 0xff, 0xff, 0xff])),
        ("wrong wire type", core(&[2, 0, 0, 0, 0x0d, 1])),
        ("unknown field", core(&[3, 0, 0, 0, 0x98, 0x06, 1])),
        ("missing pipe data", image(&catalogue::PIPES_DATA, &entry(&pipe))),
        ("missing messages", image(&catalogue::IPCNS_MSG, &entry(&messages))),
        ("missing memory", image(&catalogue::IPCNS_SHM, &entry(&shared))),
    ]
    .into_iter()
    .map(|(case, bytes)| format!("{case}: {}", told(&bytes).unwrap_or_else(|| "no error".to_owned())))
    .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn typed_reading_says_what_and_where() {
    let pagemap = [entry(&PagemapHead { pages_id: 1 }), entry(&PagemapEntry::default())].concat();
    let open =
        |bytes: &[u8], image: &ImageType| Reader::open(bytes, image).map(|_| ()).unwrap_err().to_string();
    let single = |bytes: &[u8]| {
        let bytes = image(&catalogue::CORE, bytes);
        Reader::open(bytes.as_slice(), &catalogue::CORE)
            .unwrap()
            .single::<CoreEntry>()
            .unwrap_err()
            .to_string()
    };
    let core = entry(&CoreEntry::default());
    let lines = [
        open(&image(&catalogue::PAGEMAP, &pagemap), &catalogue::CORE),
        open(b"PK\x03\x04abcd", &catalogue::CORE),
        open(&image(&catalogue::STATS_DUMP, &[]), &catalogue::INVENTORY),
        open(b"", &catalogue::PAGES),
        single(b""),
        single(&[core.clone(), core.clone()].concat()),
        single(&core[..core.len() - 1]),
        single(&[2, 0, 0, 0, 0x1a, 0x7f]),
    ];
    insta::assert_snapshot!(lines.join("\n"));

    let bytes = image(&catalogue::SHMEM_PAGEMAP, &pagemap);
    let mut reader = Reader::open(bytes.as_slice(), &catalogue::SHMEM_PAGEMAP).unwrap();
    assert_eq!(reader.required::<PagemapHead>().unwrap().pages_id, 1);
    assert_eq!(reader.all::<PagemapEntry>().unwrap().len(), 1);
}

#[test]
fn the_oldest_images_have_no_first_word() {
    let bytes = [catalogue::CORE.magic.to_le_bytes().to_vec(), entry(&CoreEntry::default())].concat();
    let core = Reader::open(bytes.as_slice(), &catalogue::CORE).unwrap().single::<CoreEntry>().unwrap();
    assert_eq!(core, CoreEntry::default());
    assert_eq!(*Reader::detect(bytes.as_slice()).unwrap().image(), catalogue::CORE);
}

proptest! {
    #[test]
    fn random_bytes_are_told(
        header in prop::sample::select(catalogue::CATALOGUE),
        rest in prop::collection::vec(any::<u8>(), 0..400),
        with_header in any::<bool>(),
    ) {
        told(&if with_header { image(&header, &rest) } else { rest });
    }

    #[test]
    fn mutated_samples_are_told(
        which in any::<prop::sample::Index>(),
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let samples = samples();
        let (name, mut bytes) = samples[which.index(samples.len())].clone();
        for (place, byte) in places {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        told(&bytes);
        // The same bytes through the typed reader: an error or some messages.
        let kind = ImageType::by_file_name(&name).unwrap().0;
        if let Ok(mut reader) = Reader::open(bytes.as_slice(), kind) {
            while let Ok(Some(entry)) = reader.entry_bytes() {
                prop_assert!(entry.len() <= bytes.len());
            }
        }
    }
}
