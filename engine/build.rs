//! Builds the agent as a flat, position-independent image, and checks that it is one.
//!
//! A nested cargo builds `parasite`'s binary for the host triple, on the same toolchain, in a target directory of its
//! own. What comes out must need no relocation, no symbol and no writable byte, or it could not run at any address in
//! any process; anything else fails the build with a sentence.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

/// Bytes the agent may have.
const BUDGET: usize = 16 * 1024;

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let parasite = manifest.parent().expect("engine is in a workspace").join("parasite");
    println!("cargo::rerun-if-changed={}", parasite.display());
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));

    let elf = build(&parasite, &out.join("agent"));
    let bytes = fs::read(&elf).unwrap_or_else(|e| fail(&format!("cannot read {}: {e}", elf.display())));
    let object =
        object::File::parse(&*bytes).unwrap_or_else(|e| fail(&format!("the agent is no ELF file: {e}")));
    check(&object);
    let text =
        object.section_by_name(".text").and_then(|s| s.data().ok()).unwrap_or_else(|| fail("it has no code"));
    if text.len() > BUDGET {
        fail(&format!("it has {} bytes, {BUDGET} are allowed", text.len()));
    }
    let mut layout = String::new();
    let symbols = [
        ("SERVE", "agent_serve"),
        ("AGAIN", "agent_again"),
        ("ONCE", "agent_once"),
        ("END", "agent_end"),
        ("TOLD", "agent_told"),
        ("LANDING", "agent_landing"),
        ("LANDING_TOLD", "agent_landing_told"),
        ("LANDING_LEAVE", "agent_landing_leave"),
        ("LANDING_DATA", "agent_landing_data"),
        ("LANDING_END", "agent_landing_end"),
    ];
    for (name, symbol) in symbols {
        let address = object.symbols().find(|s| s.name() == Ok(symbol)).map(|s| s.address());
        let address = address.unwrap_or_else(|| fail(&format!("symbol {symbol} is missing")));
        let line = format!("/// Offset of `{symbol}`.\npub(crate) const {name}: u64 = {address};\n");
        layout.push_str(&line);
    }
    write(&out.join("agent.bin"), text);
    write(&out.join("agent_layout.rs"), layout.as_bytes());
}

/// Runs the nested cargo; the path of the ELF file it made.
fn build(parasite: &Path, target: &Path) -> PathBuf {
    let triple = env::var("TARGET").expect("cargo sets it");
    let script = parasite.join("blob.ld");
    let flags = [
        "-Cpanic=abort".to_owned(),
        "-Crelocation-model=pic".to_owned(),
        "-Copt-level=s".to_owned(),
        "-Clto=fat".to_owned(),
        "-Ccodegen-units=1".to_owned(),
        "-Coverflow-checks=off".to_owned(),
        "-Cdebug-assertions=off".to_owned(),
        "-Cdebuginfo=0".to_owned(),
        "-Cforce-unwind-tables=no".to_owned(),
        "-Clink-arg=-nostartfiles".to_owned(),
        "-Clink-arg=-nostdlib".to_owned(),
        "-Clink-arg=-static".to_owned(),
        "-Clink-arg=-Wl,--build-id=none".to_owned(),
        "-Clink-arg=-Wl,-z,max-page-size=4096".to_owned(),
        format!("-Clink-arg=-T{}", script.display()),
    ];
    let status = Command::new(env::var_os("CARGO").expect("cargo sets it"))
        .args(["build", "--release", "--bin", "agent", "--features", "blob", "--target", &triple])
        .arg("--manifest-path")
        .arg(parasite.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // Clippy and other wrappers would check the agent instead of building it.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTFLAGS")
        .status();
    match status {
        Ok(status) if status.success() => target.join(triple).join("release").join("agent"),
        Ok(status) => fail(&format!("its build ended with {status}")),
        Err(e) => fail(&format!("cannot start cargo: {e}")),
    }
}

/// Fails on whatever would not survive being copied to an arbitrary address.
fn check(object: &object::File<'_>) {
    for section in object.sections() {
        let name = section.name().unwrap_or("?");
        if section.relocations().next().is_some() {
            fail(&format!("section {name} needs relocations"));
        }
        if matches!(name, ".data" | ".bss" | ".got") && section.size() != 0 {
            fail(&format!("it has writable data or a global offset table, in section {name}"));
        }
    }
    for symbol in object.symbols() {
        let name = symbol.name().unwrap_or("?");
        if symbol.is_undefined() && !name.is_empty() {
            fail(&format!("symbol {name} is undefined"));
        }
        if name.contains("panic") {
            fail(&format!("it can panic: {name} is linked in"));
        }
    }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap_or_else(|e| fail(&format!("cannot write {}: {e}", path.display())));
}

fn fail(why: &str) -> ! {
    panic!("the agent is not fit to be injected: {why}");
}
