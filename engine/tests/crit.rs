//! What `stasis crit` prints about image sets made by CRIU 4.2, and about damaged ones.

#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "all of this file is a test")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use engine::crit::{self, CritError, Form, ImageSet, RawBytes};

/// One view of an image set.
type Explore = fn(&ImageSet, &mut dyn Write) -> Result<(), CritError>;

fn samples(set: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/tests/samples").join(set).join("images")
}

fn explored(set: &str, explore: Explore) -> String {
    let mut output = Vec::new();
    explore(&ImageSet::new(samples(set)), &mut output).unwrap();
    String::from_utf8(output).unwrap()
}

fn info(set: &str, image: &str) -> Result<String, CritError> {
    let path = samples(set).join(image);
    let mut output = Vec::new();
    crit::info(&path, &mut fs::File::open(&path).unwrap(), &mut output)?;
    Ok(String::from_utf8(output).unwrap())
}

#[test]
fn ps_shows_the_tree() {
    insta::assert_snapshot!(explored("kernel-objects", crit::ps));
    insta::assert_snapshot!("ps-of-a-shell", explored("shell-loop", crit::ps));
}

#[test]
fn fds_shows_every_kind_of_file() {
    insta::assert_snapshot!(explored("kernel-objects", crit::fds));
}

#[test]
fn mems_looks_like_maps() {
    insta::assert_snapshot!(explored("sleep", crit::mems));
}

#[test]
fn rss_counts_what_is_in_the_images() {
    insta::assert_snapshot!(explored("sleep", crit::rss));
}

#[test]
fn all_sets_can_be_explored() {
    for set in ["kernel-objects", "namespaces", "shell-loop", "sleep"] {
        for explore in [crit::ps as Explore, crit::fds, crit::mems, crit::rss] {
            assert!(explored(set, explore).lines().count() > 1, "{set}");
        }
    }
}

#[test]
fn info_counts_entries() {
    insta::assert_snapshot!(info("kernel-objects", "pagemap-shmem-13469.img").unwrap());
}

#[test]
fn what_cannot_be_shown_is_named() {
    let error = info("sleep", "pages-1.img").unwrap_err().to_string();
    let error = error.rsplit_once("images/").unwrap().1;
    insta::assert_snapshot!(error, @"pages-1.img: pages-%u.img files hold raw data, there are no entries to be decoded");
}

#[test]
fn a_damaged_set_is_refused_with_the_name_of_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let render = |explore: Explore| {
        let error = explore(&ImageSet::new(dir.path()), &mut Vec::new()).unwrap_err().to_string();
        error.replace(dir.path().to_str().unwrap(), "DIR")
    };
    insta::assert_snapshot!(render(crit::ps), @"DIR/pstree.img: No such file or directory (os error 2)");
    let pstree = fs::read(samples("sleep").join("pstree.img")).unwrap();
    fs::write(dir.path().join("pstree.img"), &pstree[..12]).unwrap();
    insta::assert_snapshot!(
        render(crit::ps),
        @"DIR/pstree.img: entry 0 at byte 8: the file ends after 0 of 14 bytes, 14 are missing"
    );
    fs::write(dir.path().join("pstree.img"), &pstree).unwrap();
    fs::write(dir.path().join("files.img"), &pstree).unwrap();
    insta::assert_snapshot!(
        render(crit::fds),
        @"DIR/files.img: not files.img: its magic is 0x50273030 (pstree.img), expected 0x56303138"
    );
}

#[test]
fn images_go_to_json_and_back() {
    let path = samples("kernel-objects").join("sk-queues.img");
    let image = fs::read(&path).unwrap();
    for form in [Form::Pretty, Form::Plain] {
        let (mut json, mut again) = (Vec::new(), Vec::new());
        crit::decode(&path, &mut image.as_slice(), &mut json, form, RawBytes::Show).unwrap();
        crit::encode(Path::new("json"), &mut json.as_slice(), &mut again).unwrap();
        assert_eq!(again, image);
    }
    let mut json = Vec::new();
    crit::decode(&path, &mut image.as_slice(), &mut json, Form::Pretty, RawBytes::LeaveOut).unwrap();
    assert!(!String::from_utf8(json.clone()).unwrap().contains("extra"));
    let error = crit::encode(Path::new("json"), &mut json.as_slice(), &mut Vec::new()).unwrap_err();
    insta::assert_snapshot!(error, @r#"json: .entries[0]: the key "extra" is missing"#);
}

#[test]
fn exploring_a_damaged_set_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let images: Vec<_> =
        fs::read_dir(samples("shell-loop")).unwrap().map(|image| image.unwrap().path()).collect();
    let copy = |image: &Path| dir.path().join(image.file_name().unwrap());
    for image in &images {
        fs::write(copy(image), fs::read(image).unwrap()).unwrap();
    }
    let set = ImageSet::new(dir.path());
    for image in images.iter().filter(|image| !image.to_str().unwrap().contains("pages-")) {
        let whole = fs::read(image).unwrap();
        for (number, place) in (8..whole.len()).step_by(whole.len().div_ceil(40)).enumerate() {
            let mut damaged = whole.clone();
            damaged[place] ^= [0xff, 0x01, 0x80, 0x08][number % 4];
            fs::write(copy(image), damaged).unwrap();
            for explore in [crit::ps as Explore, crit::fds, crit::mems, crit::rss] {
                if let Err(error) = explore(&set, &mut Vec::new()) {
                    assert!(error.to_string().contains("img: "), "{error}");
                }
            }
        }
        fs::write(copy(image), whole).unwrap();
    }
}
