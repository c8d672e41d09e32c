//! From a type of image to a file name, and back from names and magics.

use super::{CATALOGUE, ImageType};

/// A pattern around its number.
struct Pattern {
    prefix: &'static str,
    suffix: &'static str,
    radix: u32,
}

impl Pattern {
    /// None for a pattern without a number.
    fn of(pattern: &'static str) -> Option<Self> {
        let (prefix, rest) = pattern.split_once('%')?;
        [("lu", 10), ("u", 10), ("x", 16)]
            .into_iter()
            .find_map(|(conversion, radix)| Some((rest.strip_prefix(conversion)?, radix)))
            .map(|(suffix, radix)| Self { prefix, suffix, radix })
    }

    /// The number in `file_name`, if it is one that this pattern makes.
    fn parse(&self, file_name: &str) -> Option<u64> {
        let digits = file_name.strip_prefix(self.prefix)?.strip_suffix(self.suffix)?;
        let id = u64::from_str_radix(digits, self.radix).ok()?;
        (self.format(id) == file_name).then_some(id)
    }

    fn format(&self, id: u64) -> String {
        match self.radix {
            16 => format!("{}{id:x}{}", self.prefix, self.suffix),
            _ => format!("{}{id}{}", self.prefix, self.suffix),
        }
    }
}

impl ImageType {
    /// The name of the file with this number; types of which a set has only one file ignore the number.
    pub fn file_name(&self, id: u64) -> String {
        Pattern::of(self.pattern).map_or_else(|| self.pattern.to_owned(), |p| p.format(id))
    }

    /// Whether there is one file for each of something (task, namespace, inode).
    pub fn is_numbered(&self) -> bool {
        Pattern::of(self.pattern).is_some()
    }

    /// The type and the number that belong to a file name; the number is 0 where names have none.
    pub fn by_file_name(file_name: &str) -> Option<(&'static Self, u64)> {
        CATALOGUE.iter().find_map(|image| match Pattern::of(image.pattern) {
            Some(pattern) => Some((image, pattern.parse(file_name)?)),
            None => (image.pattern == file_name).then_some((image, 0)),
        })
    }

    /// The type with this magic.
    ///
    /// Some types share a magic, and their contents are alike: pagemaps of tasks and of shared memory, statistics of
    /// dump and restore, pending signals of tasks and of threads. The first in the catalogue stands for all of them;
    /// who needs to know better looks at the file name.
    pub fn by_magic(magic: u32) -> Option<&'static Self> {
        CATALOGUE.iter().find(|image| image.has_entries() && image.magic == magic)
    }

    /// The type that JSON calls by this name.
    pub fn by_magic_name(magic_name: &str) -> Option<&'static Self> {
        CATALOGUE.iter().find(|image| image.magic_name == magic_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue;
    use crate::messages::descriptor;

    #[test]
    fn names_are_made_and_recognized() {
        for image in CATALOGUE {
            for id in [0, 1, 31, 0x126_d85, u64::from(u32::MAX)] {
                let name = image.file_name(id);
                let id = if image.is_numbered() { id } else { 0 };
                assert_eq!(ImageType::by_file_name(&name), Some((image, id)), "{name}");
            }
        }
        assert_eq!(catalogue::CORE.file_name(42), "core-42.img");
        assert_eq!(catalogue::PAGEMAP.file_name(42), "pagemap-42.img");
        assert_eq!(catalogue::TCP_STREAM.file_name(0x126_d85), "tcp-stream-126d85.img");
        assert_eq!(catalogue::FILES.file_name(42), "files.img");
        assert_eq!(catalogue::STATS_DUMP.file_name(0), "stats-dump");
    }

    #[test]
    fn other_names_are_not_recognized() {
        for name in [
            "",
            "core-.img",
            "core-x.img",
            "core-+1.img",
            "core-01.img",
            "core-1.img.bak",
            "core-99999999999999999999.img",
            "pagemap-shmem-.img",
            "ghost-file-FF.img",
            "%u.img",
            "core-%u.img",
        ] {
            assert_eq!(ImageType::by_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn all_messages_exist() {
        for image in CATALOGUE {
            for entry in [0, 1] {
                match image.payload.message(entry) {
                    Some(message) => assert!(descriptor(message).is_some(), "{message}"),
                    None => assert!(!image.has_entries(), "{}", image.pattern),
                }
            }
        }
    }

    #[test]
    fn types_that_share_a_magic_are_alike() {
        for image in CATALOGUE.iter().filter(|image| image.has_entries()) {
            let first = ImageType::by_magic(image.magic).unwrap();
            assert_eq!(first.payload, image.payload, "{}", image.pattern);
            assert_eq!(first.extra, image.extra, "{}", image.pattern);
            assert_eq!(first.container, image.container, "{}", image.pattern);
            assert_eq!(ImageType::by_magic_name(image.magic_name).unwrap().magic, image.magic);
            assert!(
                !first.legacy || image.legacy,
                "{}: a current type must come before a legacy one",
                image.pattern
            );
        }
        assert_eq!(ImageType::by_magic(0x5608_4025), Some(&catalogue::PAGEMAP));
        assert_eq!(ImageType::by_magic(0), None);
    }
}
