//! Compiles a folder of CUDA sources into fatbins that a crate embeds, if this machine has a CUDA compiler.
//!
//! A build script calls [`embed`], or [`embed_with`] if its sources include headers of another folder. It leaves
//! `$OUT_DIR/fatbins.rs`, an expression of type `&[(&str, &[u8], &str)]`: per source its name without `.cu`, its compressed fatbin, and what `ptxas` said of it.
//! Without nvcc the list is empty, and the crate says so at run time.
//!
//! | variable | meaning |
//! |---|---|
//! | `NVCC` | the compiler; else `nvcc` of the build folder (see [`find_nvcc`]), of `PATH` or of `/usr/local/cuda` |
//! | `REPRISE_CUDA_ARCHS` | architectures, for example `90a`; default all of [`ARCHITECTURES`]. For quick builds |
#![expect(clippy::print_stdout, reason = "Cargo reads what a build script prints")]

mod compile;
mod find;

pub use compile::{ARCHITECTURES, PTX_ARCHITECTURE};
pub use find::find_nvcc;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use compile::{Compiler, Fatbin};

/// Compiles every `.cu` directly in `folder` (relative to the crate) and writes `$OUT_DIR/fatbins.rs`.
///
/// # Errors
/// In words for the person who builds: a source that does not compile, a file that cannot be read or written. No
/// compiler is no error.
pub fn embed(folder: &str) -> Result<(), String> {
    embed_with(folder, &[])
}

/// As [`embed`], for sources that include `headers` of other folders by their names alone. Whatever those include in turn must be
/// named as well: a change of any of them, and of nothing else there, compiles everything anew.
///
/// # Errors
/// As for [`embed`].
pub fn embed_with(folder: &str, headers: &[&str]) -> Result<(), String> {
    let var = |name: &str| env::var_os(name).ok_or_else(|| format!("{name} is not set: this runs in a build script"));
    let manifest = PathBuf::from(var("CARGO_MANIFEST_DIR")?);
    let folder = manifest.join(folder);
    let headers: Vec<_> = headers.iter().map(|header| manifest.join(header)).collect();
    let out = PathBuf::from(var("OUT_DIR")?);
    let output = out.join("fatbins.rs");
    println!("cargo::rerun-if-env-changed=NVCC");
    println!("cargo::rerun-if-env-changed=REPRISE_CUDA_ARCHS");

    let files = files_of(&folder)?;
    // The folder too, for files that are new in it.
    for file in [&folder].into_iter().chain(&files).chain(&headers) {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    let Some(nvcc) = find_nvcc(&out) else {
        return write(&output, "&[]");
    };
    println!("cargo::rerun-if-changed={}", nvcc.display());
    let architectures = env::var("REPRISE_CUDA_ARCHS").ok();
    let watched: Vec<_> = files.iter().chain(&headers).filter(|file| !is_source(file)).collect();
    let mut include: Vec<_> = headers.iter().filter_map(|header| header.parent()).collect();
    include.sort();
    include.dedup();
    let compiler = Compiler::new(nvcc, &out, architectures.as_deref(), &include, &watched)?;
    let sources: Vec<_> = files.iter().filter(|file| is_source(file)).collect();
    write(&output, &table(&compiler.compile_all(&sources)?))
}

fn is_source(file: &Path) -> bool {
    file.extension().is_some_and(|e| e == "cu")
}

/// Sources and headers directly in `folder`, in order of their names.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error| format!("cannot read {}: {error}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|e| e == "cu" || e == "cuh" || e == "h") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn table(fatbins: &[Fatbin]) -> String {
    let mut text = String::from("&[\n");
    for Fatbin { name, file, report } in fatbins {
        // Debug quotes and escapes as Rust source does.
        let _ = writeln!(text, "    ({name:?}, include_bytes!({file:?}), include_str!({report:?})),");
    }
    text.push(']');
    text
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}
