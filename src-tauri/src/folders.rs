//! A folder of sources: listed with token counts, then the chosen files attached.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reprise_library::folder::{self, FolderFile};
use tauri::ipc::Channel;

use crate::app::App;
use crate::documents::{self, Source};
use crate::ipc::{AttachEvent, FolderFileView, FolderView, SkippedView, UserError};

/// Time for counting before the list is shown; files beyond it are shown without a count.
const COUNT_FOR: Duration = Duration::from_secs(3);

/// Lets the user choose a folder and lists it.
pub fn pick(app: &App) -> Result<Option<FolderView>, UserError> {
    let Some(path) = app.desktop().pick_folder() else { return Ok(None) };
    let cancel = app.reading();
    let listing = folder::list(&path, &cancel)?;
    let tokens = count(app, &listing.files, &cancel);
    let files = listing
        .files
        .iter()
        .zip(tokens)
        .map(|(file, tokens)| FolderFileView {
            name: file.name.clone(),
            bytes: file.bytes as f64,
            tokens,
            secret: file.secret.clone(),
        })
        .collect();
    let skipped = listing
        .skipped
        .iter()
        .map(|left_out| SkippedView { name: left_out.name.clone(), reason: left_out.reason.clone() })
        .collect();
    let name = listing.name.clone();
    let handle = app.handles().keep_folder(listing);
    Ok(Some(FolderView { handle, name, files, skipped }))
}

/// Attaches files of a listed folder in the folder's order, whatever the order of `names`.
pub fn attach(
    app: &App,
    chat: i32,
    handle: u32,
    names: &[String],
    channel: &Channel<AttachEvent>,
) -> Result<(), UserError> {
    let wanted: HashSet<&str> = names.iter().map(String::as_str).collect();
    let chosen: Vec<Source> = {
        let handles = app.handles();
        let listing = handles.folder(handle);
        let listing =
            listing.ok_or_else(|| UserError::new("This folder is no longer at hand.").hint("Choose it again."))?;
        let chosen = listing.files.iter().filter(|file| wanted.contains(file.name.as_str()));
        chosen.map(|file| Source { path: file.path.clone(), name: Some(file.name.clone()) }).collect()
    };
    documents::attach_all(app, chat, chosen.into_iter(), channel);
    Ok(())
}

/// Exact tokens of each file, as far as the time goes.
fn count(app: &App, files: &[FolderFile], cancel: &AtomicBool) -> Vec<Option<u32>> {
    let Ok(engine) = app.model().engine() else { return vec![None; files.len()] };
    let began = Instant::now();
    let one = |file: &FolderFile| {
        if began.elapsed() > COUNT_FOR || cancel.load(Ordering::Relaxed) {
            return None;
        }
        let document = app.reader().read(&file.path, Some(&file.name), &mut |_| {}, cancel).ok()?;
        app.library().tokens(&engine, &document).ok()
    };
    files.iter().map(one).collect()
}
