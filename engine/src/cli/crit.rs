//! `stasis crit`: looks at image files, and edits them by way of JSON.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, FromArgMatches as _, Subcommand, ValueEnum};

use super::{Failure, Invocation, UsageError};
use crate::crit::{self, CritError, Form, ImageSet, RawBytes};

/// Arguments of `stasis crit`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct CritArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
enum Action {
    /// Show an image as readable JSON
    Show {
        /// The image
        file: PathBuf,
        /// Leave out raw data that belongs to entries
        #[arg(long)]
        nopl: bool,
    },
    /// Make JSON from an image
    Decode {
        /// The image [default: standard input]
        #[arg(short, long = "in", value_name = "FILE")]
        input: Option<PathBuf>,
        /// Where the JSON goes [default: standard output]
        #[arg(short, long = "out", value_name = "FILE")]
        output: Option<PathBuf>,
        /// For people: indented, with names for flags and addresses
        #[arg(long)]
        pretty: bool,
        /// Leave out raw data that belongs to entries
        #[arg(long)]
        nopl: bool,
    },
    /// Make an image from JSON
    Encode {
        /// The JSON [default: standard input]
        #[arg(short, long = "in", value_name = "FILE")]
        input: Option<PathBuf>,
        /// Where the image goes [default: standard output]
        #[arg(short, long = "out", value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Tell what an image is and how many entries it has
    Info {
        /// The image
        file: PathBuf,
    },
    /// Explore a directory of images
    X {
        /// The directory
        dir: PathBuf,
        /// What to look at
        what: Explorer,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Explorer {
    /// The process tree
    Ps,
    /// The open files of each task
    Fds,
    /// The mappings of each task
    Mems,
    /// How much memory of each task is in the images
    Rss,
}

/// Understands the words from `crit` on, which have a grammar of their own.
pub(super) fn parse(words: Vec<OsString>) -> Result<Invocation, Failure> {
    let about = "Look at image files, and edit them by way of JSON";
    let command = CritArgs::augment_args(clap::Command::new("crit").bin_name("stasis crit").about(about))
        .subcommand_required(true)
        .arg_required_else_help(false);
    let parsed = command.try_get_matches_from(words).and_then(|matches| CritArgs::from_arg_matches(&matches));
    match parsed {
        Ok(args) => Ok(Invocation::Crit(args)),
        Err(e) if e.kind() == clap::error::ErrorKind::DisplayHelp => Ok(Invocation::Print(e.to_string())),
        Err(e) => {
            let text = e.to_string();
            let first = text.lines().next().unwrap_or_default();
            Err(UsageError::Crit(first.trim_start_matches("error: ").to_owned()).into())
        }
    }
}

/// Runs one action. Output that nobody reads to its end is no error.
pub fn run(args: CritArgs) -> Result<(), CritError> {
    let mut stdout = io::stdout().lock();
    match act(args.action, &mut io::stdin().lock(), &mut stdout).and_then(|()| Ok(stdout.flush()?)) {
        Err(CritError::Output(e)) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

fn act(action: Action, stdin: &mut dyn Read, stdout: &mut dyn Write) -> Result<(), CritError> {
    match action {
        Action::Show { file, nopl } => {
            crit::decode(&file, &mut open(&file)?, stdout, Form::Pretty, raw_bytes(nopl))
        }
        Action::Decode { input, output, pretty, nopl } => {
            let form = if pretty { Form::Pretty } else { Form::Plain };
            convert(input.as_deref(), output.as_deref(), stdin, stdout, |name, from, to| {
                crit::decode(name, from, to, form, raw_bytes(nopl))
            })
        }
        Action::Encode { input, output } => {
            convert(input.as_deref(), output.as_deref(), stdin, stdout, crit::encode)
        }
        Action::Info { file } => crit::info(&file, &mut open(&file)?, stdout),
        Action::X { dir, what } => {
            let set = ImageSet::new(dir);
            let mut output = BufWriter::new(stdout);
            match what {
                Explorer::Ps => crit::ps(&set, &mut output)?,
                Explorer::Fds => crit::fds(&set, &mut output)?,
                Explorer::Mems => crit::mems(&set, &mut output)?,
                Explorer::Rss => crit::rss(&set, &mut output)?,
            }
            Ok(output.flush()?)
        }
    }
}

/// Converts what the arguments name, or the standard streams.
fn convert(
    input: Option<&Path>,
    output: Option<&Path>,
    stdin: &mut dyn Read,
    stdout: &mut dyn Write,
    conversion: impl FnOnce(&Path, &mut dyn Read, &mut dyn Write) -> Result<(), CritError>,
) -> Result<(), CritError> {
    // The output is collected first: a conversion that fails must not cost the file that was there before.
    let mut converted = Vec::new();
    match input {
        Some(path) => conversion(path, &mut open(path)?, &mut converted)?,
        None => conversion(Path::new("standard input"), stdin, &mut converted)?,
    }
    match output {
        Some(path) => std::fs::write(path, converted)
            .map_err(|source| CritError::File { path: path.to_owned(), source }),
        None => Ok(stdout.write_all(&converted)?),
    }
}

fn open(path: &Path) -> Result<File, CritError> {
    File::open(path).map_err(|source| CritError::File { path: path.to_owned(), source })
}

fn raw_bytes(leave_out: bool) -> RawBytes {
    if leave_out { RawBytes::LeaveOut } else { RawBytes::Show }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        crit: CritArgs,
    }

    fn crit(args: &[&str], mut stdin: &[u8]) -> Result<Vec<u8>, String> {
        let cli = Cli::try_parse_from([&["crit"], args].concat()).map_err(|e| e.to_string())?;
        let mut stdout = Vec::new();
        act(cli.crit.action, &mut stdin, &mut stdout).map_err(|e| e.to_string())?;
        Ok(stdout)
    }

    #[test]
    fn standard_streams_are_the_default() {
        let json = br#"{"magic": "FS", "entries": [{"cwd_id": 1, "root_id": 2}]}"#;
        let image = crit(&["encode"], json).unwrap();
        assert_eq!(crit(&["decode"], &image).unwrap(), [&json[..], b"\n"].concat());
        let pretty = crit(&["decode", "--pretty", "--nopl"], &image).unwrap();
        assert!(pretty.starts_with(b"{\n    \"magic\": \"FS\",\n"));
    }

    #[test]
    fn files_are_kept_when_a_conversion_fails() {
        let dir = tempfile::tempdir().unwrap();
        let (image, json) = (dir.path().join("fs-1.img"), dir.path().join("fs-1.json"));
        let (image, json) = (image.to_str().unwrap(), json.to_str().unwrap());
        let text = r#"{"magic": "FS", "entries": [{"cwd_id": 1, "root_id": 2}]}"#;
        std::fs::write(json, text).unwrap();
        crit(&["encode", "-i", json, "-o", image], b"").unwrap();
        let shown = crit(&["show", image], b"").unwrap();
        crit(&["decode", "--in", image, "--out", json, "--pretty"], b"").unwrap();
        assert_eq!(std::fs::read(json).unwrap(), shown);

        let before = std::fs::read(image).unwrap();
        std::fs::write(json, text.replace("root_id", "rood_id")).unwrap();
        let error = crit(&["encode", "-i", json, "-o", image], b"").unwrap_err();
        assert!(error.ends_with(r#"fs-1.json: .entries[0]: unknown key "rood_id""#), "{error}");
        assert_eq!(std::fs::read(image).unwrap(), before);
    }

    #[test]
    fn explorers_have_their_known_names() {
        for what in ["ps", "fds", "mems", "rss"] {
            let error = crit(&["x", "/nowhere", what], b"").unwrap_err();
            assert_eq!(error, "/nowhere/pstree.img: No such file or directory (os error 2)");
        }
        assert!(
            crit(&["x", "/nowhere", "cpu"], b"").unwrap_err().contains("possible values: ps, fds, mems, rss")
        );
        let error = crit(&["info", "/nowhere.img"], b"").unwrap_err();
        assert_eq!(error, "/nowhere.img: No such file or directory (os error 2)");
    }
}
