//! Compiles `messages/*.proto` in pure Rust (no `protoc` is needed): Rust types through prost, and the descriptors
//! (with our own options, which prost's types would drop) as bytes for the JSON rendering.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The message of an open file.
const FILE: &str = "file_entry";

fn main() -> Result<(), Box<dyn Error>> {
    let messages = Path::new("messages");
    println!("cargo::rerun-if-changed={}", messages.display());
    println!("cargo::rerun-if-changed=build.rs");

    let mut files: Vec<PathBuf> =
        fs::read_dir(messages)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "proto"));
    // The order of a directory is not fixed; the output should be.
    files.sort();

    let mut compiler = protox::Compiler::new([messages])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    let with_comments = compiler.file_descriptor_set();
    compiler.include_source_info(false);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;

    let mut config = prost_build::Config::new();
    // There are many, and each has one of them.
    let messages = with_comments.file.iter().flat_map(|file| &file.message_type);
    for field in messages.filter(|message| message.name() == FILE).flat_map(|message| &message.field) {
        // All that have a type of ours, but for the enum.
        if field.type_name.is_some() && field.name() != "type" {
            config.boxed(format!("{FILE}.{}", field.name()));
        }
    }
    config.compile_fds(with_comments)?;
    Ok(())
}
