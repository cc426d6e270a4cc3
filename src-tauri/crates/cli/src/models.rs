//! `reprise models list`: what `--model` can name on this machine, without the network.

use std::path::Path;

use reprise_library::models::{ModelError, hub_cache, resolve};
use serde::Serialize;

use crate::args::{ModelsCommand, ModelsListArgs};
use crate::failure::Failure;
use crate::figures::bytes;
use crate::output::{json, line, remark};

/// One model.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    /// What `--model` takes.
    name: String,
    /// As it is shown: JSON holds no other bytes than UTF-8.
    path: String,
    /// Weights on disk.
    bytes: u64,
}

/// Runs the command.
pub(crate) fn run(command: ModelsCommand) -> Result<(), Failure> {
    match command {
        ModelsCommand::List(args) => list(&args),
    }
}

fn list(args: &ModelsListArgs) -> Result<(), Failure> {
    let mut rows = Vec::new();
    match resolve(None) {
        Ok(path) => rows.push(row("demo (without --model)".to_owned(), &path)),
        Err(error) => remark(&format!("reprise: {error}")),
    }
    let cache = hub_cache();
    rows.extend(cached(cache.path()));
    for row in &rows {
        if args.json {
            json(row)?;
        } else {
            line(&format!("{:<44} {:>8}  {}", row.name, bytes(row.bytes), row.path))?;
        }
    }
    if !args.json && rows.len() <= 1 {
        remark(&format!(
            "no other models in {}; any .gguf file can be given to --model by its path",
            cache.path().display()
        ));
    }
    Ok(())
}

/// Every model of the hub cache that resolves, in the order of names.
fn cached(cache: &Path) -> Vec<Row> {
    let folders = std::fs::read_dir(cache).into_iter().flatten().flatten();
    let mut names: Vec<String> = folders
        .filter_map(|entry| {
            let folder = entry.file_name().into_string().ok()?;
            Some(folder.strip_prefix("models--")?.replacen("--", "/", 1))
        })
        .collect();
    names.sort_unstable();
    let mut rows = Vec::new();
    for name in names {
        match resolve(Some(&name)) {
            Ok(path) => rows.push(row(name, &path)),
            Err(ModelError::Ambiguous { choices, .. }) => {
                let found =
                    choices.into_iter().filter_map(|choice| resolve(Some(&choice)).ok().map(|path| row(choice, &path)));
                rows.extend(found);
            }
            // A repository of something else: a data set's tokenizer, an image model, an unfinished download.
            Err(_) => {}
        }
    }
    rows
}

fn row(name: String, path: &Path) -> Row {
    Row { name, path: path.display().to_string(), bytes: weight_bytes(path) }
}

fn weight_bytes(path: &Path) -> u64 {
    if path.is_file() {
        return std::fs::metadata(path).map_or(0, |m| m.len());
    }
    let files = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let weights = files.filter(|file| file.extension().is_some_and(|e| e == "safetensors"));
    // Followed, because the cache's snapshots are links.
    weights.filter_map(|file| std::fs::metadata(file).ok()).map(|m| m.len()).sum()
}
