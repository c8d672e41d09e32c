//! BTF: the types of the running kernel, as `/sys/kernel/btf/vmlinux` describes them (Documentation/bpf/btf.rst).
//!
//! There are more than a hundred thousand, and somebody waits, so this is written for speed.

/// `BTF_MAGIC` of `include/uapi/linux/btf.h`.
const MAGIC: u16 = 0xeb9f;
/// Structures in structures that a field may be in.
const DEPTH: u32 = 4;

// `BTF_KIND_*` of the same header.
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const FUNC: u32 = 12;

/// What is looked for.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    /// A function of this name.
    Function(&'a str),
    /// A structure of this name.
    Structure(&'a str),
}

/// A description that has been read as far as needed.
#[derive(Debug)]
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins that has been met; the first has the id 1.
    starts: Vec<u32>,
}

/// The words that each type begins with, `struct btf_type`.
#[derive(Debug, Clone, Copy)]
struct Head {
    name: u32,
    info: u32,
}

impl Head {
    fn kind(self) -> u32 {
        self.info >> 24 & 0x1f
    }

    /// How many members, values or parameters follow.
    fn count(self) -> usize {
        (self.info & 0xffff) as usize
    }

    /// How many bytes follow; none for a kind that is newer than this.
    fn rest(self) -> Option<usize> {
        Some(match self.kind() {
            // Pointers, forward declarations, typedefs, qualifiers, functions, floats, tags of types: nothing.
            2 | 7..=12 | 16 | 18 => 0,
            // Integers, variables, tags of declarations.
            1 | 14 | 17 => 4,
            // Arrays, and each member of structures, unions, data sections and enumerations of 64 bits.
            3 => 12,
            STRUCT | UNION | 15 | 19 => 12 * self.count(),
            // Each value of an enumeration, and each parameter.
            6 | 13 => 8 * self.count(),
            _ => return None,
        })
    }
}

impl<'a> Btf<'a> {
    /// Finds the sections of a description, in the byte order of this machine.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let magic = u16::from_ne_bytes(*bytes.first_chunk()?);
        let header = word(bytes, 4)? as usize;
        let section = |at: usize| {
            let (offset, len) = (word(bytes, at)? as usize, word(bytes, at + 4)? as usize);
            bytes.get(header.checked_add(offset)?..)?.get(..len)
        };
        let (types, strings) = (section(8)?, section(16)?);
        (magic == MAGIC).then_some(Self { types, strings, starts: Vec::new() })
    }

    /// The ids of some types; none unless all of them are there.
    pub fn find(&mut self, wanted: &[Wanted<'_>]) -> Option<Vec<u32>> {
        let mut found = vec![None; wanted.len()];
        let mut at = 0;
        self.starts.clear();
        while found.iter().any(Option::is_none) {
            let head = head(self.types, at)?;
            self.starts.push(at as u32);
            at += 12 + head.rest()?;
            if !matches!(head.kind(), STRUCT | FUNC) {
                continue;
            }
            for (wanted, found) in wanted.iter().zip(&mut found) {
                let (kind, name) = match wanted {
                    Wanted::Function(name) => (FUNC, name),
                    Wanted::Structure(name) => (STRUCT, name),
                };
                if found.is_none() && head.kind() == kind && self.is_called(head.name, name) {
                    *found = Some(self.starts.len() as u32);
                }
            }
        }
        found.into_iter().collect()
    }

    /// Bytes of a structure that was found.
    pub fn size_of(&self, structure: u32) -> Option<u32> {
        let at = *self.starts.get(structure.checked_sub(1)? as usize)? as usize;
        head(self.types, at).filter(|head| matches!(head.kind(), STRUCT | UNION))?;
        word(self.types, at + 8)
    }

    /// Where a structure that was found has a field, in bytes, be it in a part of it that has no name.
    pub fn offset_of(&self, structure: u32, field: &str) -> Option<u32> {
        self.field(structure, field, DEPTH)
    }

    fn field(&self, structure: u32, field: &str, depth: u32) -> Option<u32> {
        let at = *self.starts.get(structure.checked_sub(1)? as usize)? as usize;
        let head = head(self.types, at).filter(|head| matches!(head.kind(), STRUCT | UNION))?;
        for member in (at + 12..).step_by(12).take(head.count()) {
            let [name, kind, offset] = [0, 4, 8].map(|by| word(self.types, member + by));
            // Eight bits may say how wide a bitfield is.
            let offset = (offset? & 0x00ff_ffff) / 8;
            if self.is_called(name?, field) {
                return Some(offset);
            }
            if name? == 0
                && depth > 0
                && let Some(inner) = self.field(kind?, field, depth - 1)
            {
                return Some(offset + inner);
            }
        }
        None
    }

    fn is_called(&self, at: u32, name: &str) -> bool {
        let text = self.strings.get(at as usize..).and_then(|text| text.strip_prefix(name.as_bytes()));
        text.is_some_and(|rest| rest.first() == Some(&0))
    }
}

fn head(types: &[u8], at: usize) -> Option<Head> {
    Some(Head { name: word(types, at)?, info: word(types, at + 4)? })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    /// A function `f`, and `struct s { int a; union { struct { long b; }; }; }`.
    fn small() -> Vec<u8> {
        let strings = b"\0f\0s\0a\0b\0";
        let kind = |kind: u32, count: u32| kind << 24 | count;
        let types = [
            [0, kind(2, 0), 0].as_slice(),
            &[1, kind(FUNC, 0), 0],
            &[0, kind(STRUCT, 1), 8, 7, 1, 32],
            &[0, kind(UNION, 1), 8, 0, 3, 0],
            &[3, kind(STRUCT, 2), 16, 5, 1, 0, 0, 4, 64],
        ]
        .concat();
        let len = types.len() as u32 * 4;
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        for word in [24, 0, len, len, strings.len() as u32].iter().chain(&types) {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn fields_of_nameless_parts_are_found() {
        let bytes = small();
        let mut btf = Btf::new(&bytes).unwrap();
        assert_eq!(btf.find(&[Wanted::Function("f"), Wanted::Structure("s")]), Some(vec![2, 5]));
        assert_eq!(["a", "b", "c"].map(|name| btf.offset_of(5, name)), [Some(0), Some(12), None]);
        assert_eq!(btf.offset_of(2, "a"), None);
        assert_eq!([3, 5, 2].map(|id| btf.size_of(id)), [Some(8), Some(16), None]);
        assert_eq!(btf.find(&[Wanted::Structure("f")]), None);
    }

    proptest! {
        #[test]
        fn never_panics_on_damage(at in any::<proptest::sample::Index>(), byte in any::<u8>(), cut in any::<proptest::sample::Index>()) {
            let mut bytes = small();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Some(mut btf) = Btf::new(&bytes) {
                let _ = btf.find(&[Wanted::Structure("s")]);
                let _ = (0..7).map(|id| btf.offset_of(id, "b")).collect::<Vec<_>>();
            }
        }
    }
}
