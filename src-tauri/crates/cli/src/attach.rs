//! Paths on the command line to documents, with everything that was not read said on standard error.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use reprise_library::documents::{Document, DocumentError, Reader};
use reprise_library::folder;

use crate::failure::Failure;
use crate::figures::grouped;
use crate::output::{StatusLine, remark};

/// Entries of a list that are spelt out before the rest is only counted.
const SPELT_OUT: usize = 20;

/// Reads one attachment: a file, or every file of a folder that does not look secret.
pub(crate) fn read(path: &Path, cancel: &AtomicBool) -> Result<Vec<Document>, Failure> {
    let executable = std::env::current_exe().map_err(|source| DocumentError::Io { path: path.to_owned(), source })?;
    let reader = Reader { executable };
    if path.is_dir() { read_folder(&reader, path, cancel) } else { read_file(&reader, path, cancel).map(|d| vec![d]) }
}

fn read_file(reader: &Reader, path: &Path, cancel: &AtomicBool) -> Result<Document, Failure> {
    let mut status = StatusLine::new();
    let shown = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut progress = |p: reprise_library::documents::ReadProgress| {
        if p.pages_total > 1 {
            status.show(&format!("reading {shown}: page {} of {}", p.pages_done, p.pages_total));
        }
    };
    let document = reader.read(path, None, &mut progress, cancel)?;
    drop(status);
    for loss in losses(&document) {
        remark(&loss);
    }
    Ok(document)
}

fn read_folder(reader: &Reader, path: &Path, cancel: &AtomicBool) -> Result<Vec<Document>, Failure> {
    let listing = folder::list(path, cancel)?;
    let mut skipped: Vec<(String, String)> = listing.skipped.into_iter().map(|s| (s.name, s.reason)).collect();
    let mut documents = Vec::with_capacity(listing.files.len());
    let mut status = StatusLine::new();
    let total = listing.files.len();
    for (i, file) in listing.files.into_iter().enumerate() {
        status.show(&format!("reading {}: file {} of {total}", listing.name, i + 1));
        if let Some(why) = file.secret {
            skipped.push((file.name, format!("may hold secrets: {why}; attach it by name if you mean it")));
            continue;
        }
        match reader.read(&file.path, Some(&file.name), &mut |_| {}, cancel) {
            Ok(document) => documents.push(document),
            Err(DocumentError::Cancelled) => return Err(Failure::Interrupted),
            Err(error) => skipped.push((file.name, error.to_string())),
        }
    }
    drop(status);
    for document in &documents {
        for loss in losses(document) {
            remark(&loss);
        }
    }
    report_skipped(path, documents.len(), &skipped);
    if documents.is_empty() { Err(Failure::EmptyFolder(PathBuf::from(path))) } else { Ok(documents) }
}

fn report_skipped(folder: &Path, read: usize, skipped: &[(String, String)]) {
    if skipped.is_empty() {
        return;
    }
    remark(&format!(
        "{}: {} files read, {} left out:",
        folder.display(),
        grouped(read as u64),
        grouped(skipped.len() as u64)
    ));
    for (name, why) in skipped.iter().take(SPELT_OUT) {
        remark(&format!("  {name}: {why}"));
    }
    if skipped.len() > SPELT_OUT {
        remark(&format!("  and {} more", grouped((skipped.len() - SPELT_OUT) as u64)));
    }
}

/// What a document lost on the way, one sentence each.
fn losses(document: &Document) -> Vec<String> {
    let Document { name, report, .. } = document;
    let mut lines = Vec::new();
    if !report.pages_without_text.is_empty() {
        let list = page_list(&report.pages_without_text);
        lines.push(format!(
            "{name}: {} of {} pages have no text: {list}",
            report.pages_without_text.len(),
            report.pages_total
        ));
    }
    for (page, why) in report.pages_failed.iter().take(SPELT_OUT) {
        lines.push(format!("{name}: page {page} could not be read: {why}"));
    }
    if report.pages_failed.len() > SPELT_OUT {
        lines.push(format!("{name}: {} more pages could not be read", report.pages_failed.len() - SPELT_OUT));
    }
    lines.extend(report.notes.iter().map(|note| format!("{name}: {note}")));
    lines
}

/// Runs of pages joined, a long list counted: `3, 7–9 and 12 more`.
fn page_list(pages: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &page in pages {
        match runs.last_mut() {
            Some((_, end)) if *end + 1 == page => *end = page,
            _ => runs.push((page, page)),
        }
    }
    let shown: Vec<String> =
        runs.iter().take(SPELT_OUT).map(|(a, b)| if a == b { a.to_string() } else { format!("{a}–{b}") }).collect();
    let rest: u32 = runs.iter().skip(SPELT_OUT).map(|(a, b)| b - a + 1).sum();
    if rest == 0 { shown.join(", ") } else { format!("{} and {rest} more", shown.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_pages_are_joined() {
        assert_eq!(page_list(&[3, 7, 8, 9, 12]), "3, 7–9, 12");
    }

    #[test]
    fn a_long_list_is_counted() {
        let odd: Vec<u32> = (0..30).map(|i| 2 * i + 1).collect();
        assert!(page_list(&odd).ends_with("39 and 10 more"));
    }
}
