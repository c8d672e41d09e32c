//! Compiles `messages/*.proto` in pure Rust (no `protoc` is needed): Rust types through prost, and the descriptors
//! (with our own options, which prost's types would drop) as bytes for the JSON rendering.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

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

    prost_build::Config::new().compile_fds(with_comments)?;
    Ok(())
}
