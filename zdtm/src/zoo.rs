//! The folder of zoo files: names, patterns, the catalogue.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::entry::{self, Entry};

/// The names that the field's own suite uses, with the area each belongs to.
const CATALOGUE: &str = include_str!("../zoo/catalogue.tsv");

/// An entry with its name and its file.
#[derive(Debug, Clone)]
pub struct Named {
    /// `static/pipe00` for `zoo/static/pipe00.yaml`.
    pub name: String,
    /// The file it was read from.
    pub path: PathBuf,
    /// What the file says.
    pub entry: Entry,
}

/// The zoo that this runner was built with.
pub fn built_in() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("zoo")
}

/// Reads the whole zoo, sorted by name.
pub fn load(root: &Path) -> Result<Vec<Named>> {
    ensure!(root.is_dir(), "{}: no zoo there (--zoo DIR names it)", root.display());
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let relative = path.strip_prefix(root).unwrap_or(&path).with_extension("");
            Ok(Named { name: relative.display().to_string(), entry: entry::load(&path)?, path })
        })
        .collect()
}

/// Reads one file from anywhere, a user's own service; its name is the path as it was given.
pub fn load_file(path: &Path) -> Result<Named> {
    let name = path.display().to_string();
    let path = path.canonicalize().with_context(|| name.clone())?;
    Ok(Named { name, entry: entry::load(&path)?, path })
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for item in folder.read_dir().with_context(|| folder.display().to_string())? {
        let path = item?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    Ok(())
}

/// The area of a name in the catalogue.
pub fn area(name: &str) -> Option<&'static str> {
    CATALOGUE.lines().skip(1).find_map(|line| {
        let mut columns = line.split('\t');
        (columns.next() == Some(name)).then(|| columns.next()).flatten()
    })
}

/// Whether a pattern selects a name: a glob (`*`, `?`, which also match `/`), or a prefix.
pub fn matches(pattern: &str, name: &str) -> bool {
    if pattern.contains(['*', '?']) {
        glob(pattern.as_bytes(), name.as_bytes())
    } else {
        name.starts_with(pattern)
    }
}

fn glob(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=name.len()).any(|skipped| glob(rest, &name[skipped..])),
        (Some((b'?', pattern)), Some((_, name))) => glob(pattern, name),
        (Some((wanted, pattern)), Some((found, name))) => wanted == found && glob(pattern, name),
        _ => false,
    }
}

/// The entries that the patterns select, in the zoo's order. An exact name selects only itself.
///
/// A pattern that ends in `.yaml` is a file, from anywhere.
pub fn select(zoo: &[Named], patterns: &[String]) -> Result<Vec<Named>> {
    let mut picked = vec![false; zoo.len()];
    let mut own = Vec::new();
    for pattern in patterns {
        let is_file = Path::new(pattern).extension().is_some_and(|extension| extension == "yaml");
        if is_file {
            own.push(load_file(Path::new(pattern))?);
            continue;
        }
        let exact = zoo.iter().any(|named| named.name == *pattern);
        let mut found = false;
        for (named, picked) in zoo.iter().zip(&mut picked) {
            if if exact { named.name == *pattern } else { matches(pattern, &named.name) } {
                *picked = true;
                found = true;
            }
        }
        ensure!(found, "no zoo entry matches `{pattern}` (`zdtm list` names them all)");
    }
    let chosen = zoo.iter().zip(picked).filter(|(_, picked)| *picked).map(|(named, _)| named.clone());
    Ok(chosen.chain(own).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_globs_or_prefixes() {
        assert!(matches("static/pipe", "static/pipe00"));
        assert!(matches("static/", "static/pipe00"));
        assert!(matches("*/pipe0?", "static/pipe00"));
        assert!(matches("*pipe*", "transition/pipe_loop00"));
        assert!(!matches("pipe", "static/pipe00"));
        assert!(!matches("static/pipe?", "static/pipe00"));
    }

    #[test]
    fn an_exact_name_selects_only_itself() {
        let named = |name: &str| Named {
            name: name.to_owned(),
            path: PathBuf::new(),
            entry: entry::parse("about: x\nworkload: y\n").unwrap(),
        };
        let zoo = [named("static/futex"), named("static/futex-rl")];
        let names = |pattern: &str| -> Vec<String> {
            select(&zoo, &[pattern.to_owned()]).unwrap().into_iter().map(|named| named.name).collect()
        };
        assert_eq!(names("static/futex"), ["static/futex"]);
        assert_eq!(names("static/fut"), ["static/futex", "static/futex-rl"]);
        assert!(select(&zoo, &["nothing".to_owned()]).is_err());
    }

    #[test]
    fn the_catalogue_knows_areas() {
        assert_eq!(area("static/pipe00"), Some("files"));
        assert_eq!(area("static/no-such-entry"), None);
    }

    #[test]
    fn every_zoo_file_loads() {
        load(&built_in()).unwrap();
    }
}
