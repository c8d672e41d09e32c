//! Whether an image set is whole, and whether it could be restored here and now. Nothing is created or changed.
//!
//! Everything is read back: files with checksums are compared with them to the last byte, and every image is decoded, so
//! that a set of another program, which has no checksums, is looked at as far as it can be. All that is damaged is told; if
//! nothing is, then all that would stand in the way of a restore.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::BufReader;

use proto::catalogue::{Container, ImageType, STASIS_CHECKSUMS};
use proto::json::{Form, JsonError, RawBytes, decode};

use crate::error::{
    Action, Class, Context as _, Error, Explain, Object, Problem, Result, SysError, TargetState,
};
use crate::image::Images;
use crate::options::VerifyOptions;
use crate::restore::Foreseen;

/// What was looked at, and is in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Files of the set.
    pub files: usize,
    /// Bytes in them.
    pub bytes: u64,
    /// How many of the files have checksums.
    pub summed: usize,
    /// What was found out about a restore.
    pub foreseen: Foreseen,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, bytes, summed, foreseen } = self;
        let sums = match *summed {
            0 => "they have no checksums, so that only their form was looked at".to_owned(),
            n if n + 1 >= *files => "all as their checksums say".to_owned(),
            n => format!("{n} of them with checksums, and as those say"),
        };
        writeln!(f, "{files} image files, {bytes} bytes: {sums}")?;
        f.write_str("the set can be restored here")?;
        match foreseen {
            Foreseen::All => writeln!(f),
            Foreseen::Namespaces => {
                writeln!(
                    f,
                    ", as far as can be said: files in its namespaces are looked at when those are there"
                )
            }
        }
    }
}

/// An image that cannot be decoded.
#[derive(Debug, thiserror::Error)]
#[error("it is damaged: {0}")]
struct Undecodable(JsonError);

impl Explain for Undecodable {
    fn class(&self) -> Class {
        Class::Refused
    }

    fn help(&self) -> Option<String> {
        Some("dump the process again, or copy the whole image directory again".into())
    }
}

/// Verifies the set in the images directory of a restore with these options.
pub fn verify(VerifyOptions { restore: options }: &VerifyOptions) -> Result<Verified> {
    let fail = |problems| Error {
        action: Action::Verify,
        target: options.images_dir.display().to_string(),
        problems,
        state: TargetState::NothingRestored,
    };
    let images = Images::open(&options.images_dir).with_checksums().map_err(|p| fail(vec![p]))?;
    let mut problems = Vec::new();
    let names = names(&images).map_err(|p| fail(vec![p]))?;
    let mut bytes = 0;
    for name in &names {
        match look_at(&images, name) {
            Ok(size) => bytes += size,
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(fail(problems));
    }
    let foreseen = crate::restore::check(options, &images).map_err(fail)?;
    Ok(Verified { files: names.len(), bytes, summed: images.names().count(), foreseen })
}

/// All files that are there and belong to a set, and those that should be there.
fn names(images: &Images) -> std::result::Result<BTreeSet<String>, Problem> {
    let dir = images.dir();
    let about = || Object::Path(dir.to_owned());
    let entries = std::fs::read_dir(dir).map_err(SysError::io("opendir")).about(about)?;
    let there = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_image = |name: &String| {
        ImageType::by_file_name(name).is_some_and(|(image, _)| image.container != Container::Service)
    };
    Ok(there.filter(is_image).chain(images.names().map(str::to_owned)).collect())
}

/// Reads one file to its end, and decodes it. Its size.
fn look_at(images: &Images, name: &str) -> std::result::Result<u64, Problem> {
    let file = images.open_file(name)?;
    images.verify(name, &file)?;
    let about = || Object::Image(name.to_owned());
    let size = file.metadata().map_err(SysError::io("fstat")).about(about)?.len();
    let image = ImageType::by_file_name(name).map(|(image, _)| image);
    // The checksums cover themselves, and were read; raw files are bytes and nothing else.
    let is_decoded =
        image.is_some_and(|image| image.container != Container::Raw && image.magic != STASIS_CHECKSUMS.magic);
    if is_decoded {
        decode_all(file).map_err(|e| Problem::new(Undecodable(e)).object(about()).step("decode it"))?;
    }
    Ok(size)
}

fn decode_all(file: File) -> std::result::Result<(), JsonError> {
    decode(BufReader::new(file), Form::Plain, RawBytes::LeaveOut).map(drop)
}
