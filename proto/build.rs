//! Compiles every `.proto` file of this directory.
//!
//! `<name>.proto` declares `package flotilla.<name>;` and becomes the module `proto::<name>`. A new file needs no
//! other step. protox does the parsing, so that no `protoc` has to be installed.

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // The directory too, so that a file that is added or removed is noticed.
    println!("cargo:rerun-if-changed={}", root.display());

    let mut names = Vec::new();
    for entry in fs::read_dir(&root)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "proto") {
            println!("cargo:rerun-if-changed={}", path.display());
            let name =
                path.file_stem().and_then(|s| s.to_str()).ok_or("a .proto file's name is not UTF-8")?;
            names.push(name.to_owned());
        }
    }
    names.sort();

    let files: Vec<String> = names.iter().map(|name| format!("{name}.proto")).collect();
    let descriptors = protox::compile(&files, [&root])?;
    for name in &names {
        let file = descriptors.file.iter().find(|d| d.name() == format!("{name}.proto"));
        if file.is_none_or(|f| f.package() != format!("flotilla.{name}")) {
            return Err(format!("{name}.proto: its package must be flotilla.{name}").into());
        }
    }

    // `bytes` fields become `Bytes`: what arrives in one buffer is handed on without copies. Maps are encoded in order:
    // replicas of one state have the same bytes.
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .codec_path("crate::checked::Codec")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;

    let mut modules = String::new();
    for name in &names {
        // A file without any message makes no output.
        let generated = format!("flotilla.{name}.rs");
        if out.join(&generated).exists() {
            writeln!(
                modules,
                "/// Generated from `{name}.proto`.\n#[allow(missing_docs, clippy::all)]\npub mod {name} {{\n    \
                 include!(concat!(env!(\"OUT_DIR\"), \"/{generated}\"));\n}}"
            )?;
        }
    }
    fs::write(out.join("modules.rs"), modules)?;
    Ok(())
}
