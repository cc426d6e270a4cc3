//! Compiles a folder of CUDA sources into fatbins that a crate embeds, if this machine has a CUDA compiler.
//!
//! A build script calls [`embed`]. It leaves `$OUT_DIR/fatbins.rs`, an expression of type
//! `&[(&str, &[u8], &str)]`: per source its name without `.cu`, its compressed fatbin, and what `ptxas` said of it.
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
    let var = |name: &str| env::var_os(name).ok_or_else(|| format!("{name} is not set: this runs in a build script"));
    let folder = PathBuf::from(var("CARGO_MANIFEST_DIR")?).join(folder);
    let out = PathBuf::from(var("OUT_DIR")?);
    let output = out.join("fatbins.rs");
    println!("cargo::rerun-if-env-changed=NVCC");
    println!("cargo::rerun-if-env-changed=REPRISE_CUDA_ARCHS");

    let files = files_of(&folder)?;
    for file in &files {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    let Some(nvcc) = find_nvcc(&out) else {
        return write(&output, "&[]");
    };
    println!("cargo::rerun-if-changed={}", nvcc.display());
    let architectures = env::var("REPRISE_CUDA_ARCHS").ok();
    let compiler = Compiler::new(nvcc, &out, architectures.as_deref(), &files)?;
    let sources: Vec<_> = files.iter().filter(|file| file.extension().is_some_and(|e| e == "cu")).collect();
    write(&output, &table(&compiler.compile_all(&sources)?))
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
