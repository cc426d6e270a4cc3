//! Attaching documents: read away from the window, told on a channel, kept with the chat.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reprise_library::documents::{self as source, Document, DocumentError, ReadProgress};
use reprise_library::models;
use tauri::ipc::Channel;

use crate::app::App;
use crate::chats::page_id;
use crate::ipc::{AttachEvent, DocumentKind, DocumentView, PageView, UserError};

/// Shortest time between two progress messages of a source: one frame at 30 a second.
const PROGRESS_EVERY: Duration = Duration::from_millis(33);

/// A source to read, and how the prompt shall call it (`None`: by its file name).
pub struct Source {
    /// Where it is.
    pub path: PathBuf,
    /// Its name.
    pub name: Option<String>,
}

/// Files from the native dialog.
pub fn attach_picked(app: &App, chat: i32, channel: &Channel<AttachEvent>) -> Result<(), UserError> {
    let picked = app.desktop().pick_documents().unwrap_or_default();
    attach_all(app, chat, picked.into_iter().map(|path| Source { path, name: None }), channel);
    Ok(())
}

/// Files of a drop.
pub fn attach_dropped(app: &App, chat: i32, handle: u32, channel: &Channel<AttachEvent>) -> Result<(), UserError> {
    let dropped = app.handles().take_drop(handle);
    let dropped =
        dropped.ok_or_else(|| UserError::new("These files are no longer at hand.").hint("Drop them again."))?;
    attach_all(app, chat, dropped.into_iter().map(|path| Source { path, name: None }), channel);
    Ok(())
}

/// The sample handbook.
pub fn attach_sample(app: &App, chat: i32, channel: &Channel<AttachEvent>) -> Result<(), UserError> {
    let path = models::sample_document().ok_or_else(|| {
        UserError::new("The sample handbook is missing from this installation.").hint("Install Reprise again.")
    })?;
    attach_all(app, chat, std::iter::once(Source { path, name: None }), channel);
    Ok(())
}

/// Pasted text.
pub fn attach_paste(app: &App, chat: i32, text: &str, channel: &Channel<AttachEvent>) -> Result<(), UserError> {
    let kept = app.library().documents(app.chats(), chat)?;
    let pasted = kept.iter().filter(|(_, document)| document.kind == source::DocumentKind::Paste).count();
    let document = source::from_paste(text, pasted + 1);
    let name = document.name.clone();
    let told = match keep(app, chat, document) {
        Ok(document) => AttachEvent::Attached { document },
        Err(error) => AttachEvent::Refused { name, error },
    };
    tell(channel, told);
    tell(channel, AttachEvent::End);
    Ok(())
}

/// Reads sources one after the other; each ends with `attached` or `refused`, all of them with `end`.
pub fn attach_all(app: &App, chat: i32, sources: impl Iterator<Item = Source>, channel: &Channel<AttachEvent>) {
    let cancel = app.reading();
    for source in sources {
        // What was not begun needs no word each: there may be hundreds.
        if cancel.load(Ordering::Relaxed) {
            break;
        }
        let name = source.name.clone().unwrap_or_else(|| file_name(&source.path));
        tell(channel, AttachEvent::Reading { name: name.clone(), pages_done: 0, pages_total: 0 });
        let told = match read(app, &source, &name, &cancel, channel).and_then(|document| keep(app, chat, document)) {
            Ok(document) => AttachEvent::Attached { document },
            Err(error) => AttachEvent::Refused { name, error },
        };
        tell(channel, told);
    }
    tell(channel, AttachEvent::End);
}

fn read(
    app: &App,
    source: &Source,
    name: &str,
    cancel: &AtomicBool,
    channel: &Channel<AttachEvent>,
) -> Result<Document, UserError> {
    if source.path.is_dir() {
        return Err(UserError::new(format!("{name} is a folder.")).hint("Use “Attach a folder” to choose its files."));
    }
    let mut told_at = Instant::now();
    let mut progress = |now: ReadProgress| {
        let last = now.pages_total > 0 && now.pages_done == now.pages_total;
        if last || told_at.elapsed() >= PROGRESS_EVERY {
            told_at = Instant::now();
            let (pages_done, pages_total) = (now.pages_done, now.pages_total);
            tell(channel, AttachEvent::Reading { name: name.to_owned(), pages_done, pages_total });
        }
    };
    Ok(app.reader().read(&source.path, source.name.as_deref(), &mut progress, cancel)?)
}

/// Keeps a document with a chat, unless it is there already. Names are made different, as citations go by name.
pub fn keep(app: &App, chat: i32, mut document: Document) -> Result<DocumentView, UserError> {
    if document.pages.iter().all(|page| page.text.trim().is_empty()) {
        let (name, pages) = (document.name.clone(), document.report.pages_total);
        return Err(match document.kind {
            source::DocumentKind::Pdf => DocumentError::NoText { name, pages }.into(),
            _ => UserError::new(format!("{name} is empty."))
                .kept("The chat and its other documents are unchanged.")
                .hint("Attach something that holds text."),
        });
    }
    let _one_at_a_time = app.library().attaching();
    let kept = app.library().documents(app.chats(), chat)?;
    if let Some((_, same)) = kept.iter().find(|(_, kept)| kept.sha256 == document.sha256) {
        return Err(UserError::new(format!("{} is attached already, as {}.", document.name, same.name))
            .kept("The chat is unchanged.")
            .hint("Ask about the one that is there."));
    }
    document.name = free_name(&document.name, |name| kept.iter().any(|(_, kept)| kept.name == name));
    let id = app.chats().attach(chat.into(), &document)?;
    app.library().changed(chat);
    view(app, id, &document, sent(app, chat)?)
}

/// `notes.txt`, then `notes (2).txt`, and so on.
fn free_name(name: &str, taken: impl Fn(&str) -> bool) -> String {
    if !taken(name) {
        return name.to_owned();
    }
    let folder_end = name.rfind('/').map_or(0, |slash| slash + 1);
    let ending = match name.rfind('.') {
        Some(dot) if dot > folder_end => dot,
        _ => name.len(),
    };
    let (stem, ending) = name.split_at(ending);
    let mut number = 2_u32;
    loop {
        let numbered = format!("{stem} ({number}){ending}");
        if !taken(&numbered) {
            return numbered;
        }
        number += 1;
    }
}

/// Takes a document off its chat.
pub fn remove(app: &App, document: i32) -> Result<(), UserError> {
    let (chat, _) = opened(app, document)?;
    app.chats().detach(document.into())?;
    app.library().changed(chat);
    Ok(())
}

/// One page of a document of an open chat.
pub fn page(app: &App, document: i32, page: u32) -> Result<PageView, UserError> {
    let (_, found) = opened(app, document)?;
    let pages = u32::try_from(found.pages.len()).unwrap_or(u32::MAX).max(found.report.pages_total);
    let shown = found.pages.iter().find(|candidate| candidate.number == page);
    if shown.is_none() && !(1..=pages).contains(&page) {
        return Err(UserError::new(format!("{} has no page {page}; it has {pages}.", found.name)));
    }
    let text = shown.map(|page| page.text.clone()).unwrap_or_default();
    Ok(PageView { document, name: found.name.clone(), page, pages, text })
}

/// A document of an open chat, and that chat.
fn opened(app: &App, id: i32) -> Result<(i32, Document), UserError> {
    let missing = || UserError::new("This document is not in the open chat.").hint("Open its chat again.");
    let chat = app.library().chat_of(app.chats(), id.into())?.ok_or_else(missing)?;
    let documents = app.library().documents(app.chats(), chat)?;
    let found = documents.iter().find(|(kept, _)| *kept == i64::from(id)).ok_or_else(missing)?;
    Ok((chat, found.1.clone()))
}

/// The chips of a chat.
pub fn views(app: &App, chat: i32) -> Result<Vec<DocumentView>, UserError> {
    let locked = sent(app, chat)?;
    let documents = app.library().documents(app.chats(), chat)?;
    documents.iter().map(|(id, document)| view(app, *id, document, locked)).collect()
}

/// Once a question was sent, all its chat's documents are part of the prompt.
fn sent(app: &App, chat: i32) -> Result<bool, UserError> {
    Ok(!app.chats().branch(chat.into())?.is_empty())
}

fn view(app: &App, id: i64, document: &Document, locked: bool) -> Result<DocumentView, UserError> {
    let report = &document.report;
    let failed = report.pages_failed.iter().map(|(page, why)| format!("page {page}: {why}"));
    let tokens = match app.model().engine() {
        Ok(engine) => Some(app.library().tokens(&engine, document)?),
        Err(_) => None,
    };
    Ok(DocumentView {
        id: page_id(id)?,
        name: document.name.clone(),
        kind: match document.kind {
            source::DocumentKind::Pdf => DocumentKind::Pdf,
            source::DocumentKind::Text => DocumentKind::Text,
            source::DocumentKind::Code => DocumentKind::Code,
            source::DocumentKind::Paste => DocumentKind::Paste,
        },
        pages: report.pages_total.max(1),
        tokens,
        pages_without_text: report.pages_without_text.clone(),
        problems: failed.chain(report.notes.iter().cloned()).collect(),
        locked,
    })
}

/// The page may be gone; the document is kept all the same.
fn tell(channel: &Channel<AttachEvent>, event: AttachEvent) {
    let _ = channel.send(event);
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::free_name;

    #[test]
    fn names_are_made_different_before_the_ending() {
        let taken = ["a/notes.txt", "a/notes (2).txt", ".env", "v1.2/LICENSE"];
        let free = |name: &str| free_name(name, |candidate| taken.contains(&candidate));
        assert_eq!(free("new.txt"), "new.txt");
        assert_eq!(free("a/notes.txt"), "a/notes (3).txt");
        assert_eq!(free(".env"), ".env (2)");
        assert_eq!(free("v1.2/LICENSE"), "v1.2/LICENSE (2)");
    }
}
