//! Configuration files: the options of the command line, one a line and without dashes.
//!
//! ```text
//! # a comment
//! tcp-established
//! log-file "/var/log/my dump.log"
//! ```

use std::path::{Path, PathBuf};

use crate::error::SysError;

/// One line that says something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The line, counted from 1.
    pub line: usize,
    /// The name, without dashes.
    pub name: String,
    /// What stands behind it, without quotes.
    pub value: Option<String>,
}

/// A line that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    /// `--name` where `name` should stand.
    #[error("option names stand without dashes here, so write {0}")]
    Dashes(String),
    /// A quote without its partner.
    #[error("a double quote is not closed")]
    OpenQuote,
    /// Two values.
    #[error("an option takes one value; put it in double quotes if it has blanks")]
    TwoValues,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("configuration file {}: {cause}", file.display())]
    Read {
        /// Its path.
        file: PathBuf,
        /// What the kernel said.
        cause: SysError,
    },
    /// It can, but says something wrong.
    #[error("{}, line {line}: {cause}", file.display())]
    Syntax {
        /// Its path.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        cause: SyntaxError,
    },
}

/// Where configuration comes from, apart from `--config`.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Files that may be missing, in the order in which they are read: later ones win.
    pub defaults: Vec<PathBuf>,
    /// `$CRIU_CONFIG_FILE`, which must exist.
    pub named: Option<PathBuf>,
}

impl Sources {
    /// The files that CRIU reads: those of the system, of the user, and of the environment.
    pub fn of_process() -> Self {
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
        let mut defaults = vec![PathBuf::from("/etc/criu/default.conf")];
        defaults.extend(home.map(|home| Path::new(&home).join(".criu/default.conf")));
        let named = std::env::var_os("CRIU_CONFIG_FILE").filter(|name| !name.is_empty()).map(PathBuf::from);
        Self { defaults, named }
    }

    /// Reads all files, the most important last. `extra` is `--config`; without `defaults`, it and the environment's
    /// file are all.
    pub fn read(
        &self,
        defaults: bool,
        extra: Option<&Path>,
    ) -> Result<Vec<(PathBuf, Vec<Entry>)>, ConfigError> {
        let mut files = Vec::new();
        for file in self.defaults.iter().filter(|_| defaults) {
            match read_file(file) {
                Err(ConfigError::Read { cause, .. }) if is_absent(cause) => {}
                entries => files.push((file.clone(), entries?)),
            }
        }
        for file in self.named.as_deref().into_iter().chain(extra) {
            files.push((file.to_owned(), read_file(file)?));
        }
        Ok(files)
    }
}

fn is_absent(cause: SysError) -> bool {
    use nix::errno::Errno;
    matches!(cause.errno, Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES)
}

fn read_file(file: &Path) -> Result<Vec<Entry>, ConfigError> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| ConfigError::Read { file: file.to_owned(), cause: SysError::io("open")(e) })?;
    parse(&text).map_err(|(line, cause)| ConfigError::Syntax { file: file.to_owned(), line, cause })
}

/// Parses the text of a file; an error comes with its line.
pub fn parse(text: &str) -> Result<Vec<Entry>, (usize, SyntaxError)> {
    let mut entries = Vec::new();
    for (index, text) in text.lines().enumerate() {
        let line = index + 1;
        let mut words = split(text).map_err(|e| (line, e))?.into_iter();
        let Some(name) = words.next() else { continue };
        let value = words.next();
        if words.next().is_some() {
            return Err((line, SyntaxError::TwoValues));
        }
        if let Some(name) = name.strip_prefix('-') {
            return Err((line, SyntaxError::Dashes(name.trim_start_matches('-').to_owned())));
        }
        entries.push(Entry { line, name, value });
    }
    Ok(entries)
}

/// Splits a line into its words: separated by blanks, or by the first `=`; with double quotes around a word, blanks
/// and number signs in it are its own, and `\"` is a quote.
fn split(line: &str) -> Result<Vec<String>, SyntaxError> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut separated = false;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => quoted(&mut chars, word.get_or_insert_default())?,
            '#' if word.is_none() => break,
            '=' if !separated && words.len() + usize::from(word.is_some()) == 1 => {
                separated = true;
                words.extend(word.take());
            }
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

fn quoted(chars: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), SyntaxError> {
    loop {
        match chars.next().ok_or(SyntaxError::OpenQuote)? {
            '"' => return Ok(()),
            '\\' => match chars.next().ok_or(SyntaxError::OpenQuote)? {
                c @ ('"' | '\\') => word.push(c),
                c => word.extend(['\\', c]),
            },
            c => word.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("", None)]
    #[case("  # only a comment", None)]
    #[case("tcp-established", Some(("tcp-established", None)))]
    #[case("  log-file dump.log # where", Some(("log-file", Some("dump.log"))))]
    #[case("log-file=dump.log", Some(("log-file", Some("dump.log"))))]
    #[case("external a=b", Some(("external", Some("a=b"))))]
    #[case("external = mnt[a=b]:c", Some(("external", Some("mnt[a=b]:c"))))]
    #[case(r#"log-file "my #1 \"dump\".log""#, Some(("log-file", Some(r#"my #1 "dump".log"#))))]
    #[case("external file[1:2]#3", Some(("external", Some("file[1:2]#3"))))]
    #[case("log-file \"\"", Some(("log-file", Some(""))))]
    fn lines_are_read(#[case] text: &str, #[case] expected: Option<(&str, Option<&str>)>) {
        let entries = parse(text).unwrap();
        let read = entries.first().map(|e| (e.name.as_str(), e.value.as_deref()));
        assert_eq!((read, entries.len()), (expected, usize::from(expected.is_some())));
    }

    #[rstest]
    #[case("\n--leave-running", SyntaxError::Dashes("leave-running".to_owned()))]
    #[case("\nlog-file \"x", SyntaxError::OpenQuote)]
    #[case("\nlog-file a b", SyntaxError::TwoValues)]
    fn mistakes_come_with_their_line(#[case] text: &str, #[case] error: SyntaxError) {
        assert_eq!(parse(text).unwrap_err(), (2, error));
    }

    #[test]
    fn a_missing_default_is_fine_and_a_missing_named_file_is_not() {
        let sources = Sources { defaults: vec!["/nonexistent/default.conf".into()], named: None };
        assert!(sources.read(true, None).unwrap().is_empty());
        let error = sources.read(true, Some(Path::new("/nonexistent/my.conf"))).unwrap_err();
        let text = "configuration file /nonexistent/my.conf: open: No such file or directory (ENOENT)";
        assert_eq!(error.to_string(), text);
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
