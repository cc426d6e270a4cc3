//! A folder of sources through its ignore files: what would be attached, what is left out and why.

mod excludes;
pub(crate) mod secrets;

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use ignore::WalkBuilder;

use crate::documents::{DocumentError, MAX_PDF_BYTES, clean_name};

/// Larger files are data, not source. PDFs have [`MAX_PDF_BYTES`].
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// Most files of a listing; a tree with more is not what anyone means to ask about.
pub const MAX_FILES: usize = 20_000;

/// Most left-out entries that are named; the rest are counted in one more entry.
const MAX_SKIPPED: usize = 20_000;

/// A file that can be attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderFile {
    /// Absolute.
    pub path: PathBuf,
    /// Relative to the folder, with `/`.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// Looks like it holds secrets (keys, tokens, `.env`): unticked until the user ticks it.
    pub secret: Option<String>,
}

/// A file or folder that is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Relative, with `/`; a folder's ends with one and stands for everything in it.
    pub name: String,
    /// Why, in words.
    pub reason: String,
}

/// What a folder holds, in a stable order (by name, byte-wise), so that the prompt is byte-stable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FolderListing {
    /// The folder's own name.
    pub name: String,
    /// To attach.
    pub files: Vec<FolderFile>,
    /// Left out.
    pub skipped: Vec<Skipped>,
    /// The folder has more than [`MAX_FILES`] files; the last entry of `skipped` says so too.
    pub cut_short: bool,
}

/// Walks a folder. Respects `.gitignore` (also outside a repository), default excludes (lock files, build output, vendored trees, binaries, files over 1 MiB).
///
/// Links are not followed. What the ignore files leave out is listed too, a folder once and not file by file.
pub fn list(folder: &Path, cancel: &AtomicBool) -> Result<FolderListing, DocumentError> {
    let io_error = |source| DocumentError::Io { path: folder.to_owned(), source };
    let root = folder.canonicalize().map_err(io_error)?;
    if !root.is_dir() {
        return Err(io_error(std::io::ErrorKind::NotADirectory.into()));
    }
    // Those of the folders above count too.
    if let Some(path) = root.ancestors().find_map(excludes::endless_ignore_file) {
        let source = std::io::Error::other("an ignore file that is no file or too large");
        return Err(DocumentError::Io { path, source });
    }
    let name = root.file_name().map_or_else(|| "/".to_owned(), |n| clean_name(&n.to_string_lossy()));
    let mut survey =
        Survey { root: &root, cancel, listing: FolderListing { name, ..FolderListing::default() }, unnamed: 0 };
    survey.walk()?;
    let unnamed = survey.unnamed;
    let mut listing = survey.listing;
    listing.files.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()).then_with(|| a.path.cmp(&b.path)));
    listing.skipped.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    if unnamed > 0 {
        let reason = format!("{unnamed} more files and folders are left out");
        listing.skipped.push(Skipped { name: format!("{}/", listing.name), reason });
    }
    if listing.cut_short {
        let reason = format!("the folder has more than {MAX_FILES} files; the rest was not looked at");
        listing.skipped.push(Skipped { name: format!("{}/", listing.name), reason });
    }
    Ok(listing)
}

struct Survey<'a> {
    root: &'a Path,
    cancel: &'a AtomicBool,
    listing: FolderListing,
    /// Left-out entries beyond [`MAX_SKIPPED`].
    unnamed: usize,
}

impl Survey<'_> {
    fn walk(&mut self) -> Result<(), DocumentError> {
        let walk = WalkBuilder::new(self.root)
            // Hidden entries are judged by our own list: `.github` is source, `.venv` is not.
            .hidden(false)
            .require_git(false)
            .follow_links(false)
            .filter_entry(|entry| {
                // Left-out folders are yielded by their parent's comparison, not entered.
                let is_dir = entry.file_type().is_some_and(|t| t.is_dir());
                entry.depth() == 0
                    || !is_dir
                    || excludes::folder(&entry.file_name().to_string_lossy(), entry.path()).is_none()
            })
            .sort_by_file_name(Ord::cmp)
            .build();
        let mut allowed = HashSet::new();
        let mut folders = Vec::new();
        for entry in walk {
            self.check_cancel()?;
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.skip_error(&error);
                    continue;
                }
            };
            match entry.file_type() {
                Some(kind) if kind.is_dir() => folders.push(entry.path().to_owned()),
                Some(kind) if kind.is_file() => {
                    if self.listing.files.len() >= MAX_FILES {
                        self.listing.cut_short = true;
                        break;
                    }
                    self.judge_file(entry.path());
                }
                kind => {
                    let is_link = kind.is_some_and(|k| k.is_symlink());
                    self.skip(
                        entry.path(),
                        false,
                        if is_link { "a symbolic link" } else { "a device, pipe or socket" },
                    );
                }
            }
            allowed.insert(entry.into_path());
        }
        if !self.listing.cut_short {
            self.list_ignored(&folders, &allowed)?;
        }
        Ok(())
    }

    /// What the walk passed over in silence: every child of an entered folder that it did not yield.
    fn list_ignored(&mut self, folders: &[PathBuf], allowed: &HashSet<PathBuf>) -> Result<(), DocumentError> {
        for folder in folders {
            self.check_cancel()?;
            // An unreadable folder was reported by the walk.
            let Ok(children) = folder.read_dir() else { continue };
            for child in children.flatten() {
                let path = child.path();
                if allowed.contains(&path) {
                    continue;
                }
                let is_dir = child.file_type().is_ok_and(|t| t.is_dir());
                let excluded = is_dir.then(|| excludes::folder(&child.file_name().to_string_lossy(), &path)).flatten();
                self.skip(&path, is_dir, excluded.unwrap_or("ignored by an ignore file"));
            }
        }
        Ok(())
    }

    fn judge_file(&mut self, path: &Path) {
        let file_name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(reason) = excludes::file(&file_name) {
            return self.skip(path, false, reason);
        }
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) => return self.skip(path, false, &format!("cannot be read: {error}")),
        };
        let bytes = match file.metadata() {
            Ok(metadata) => metadata.len(),
            Err(error) => return self.skip(path, false, &format!("cannot be read: {error}")),
        };
        if bytes == 0 {
            return self.skip(path, false, "empty");
        }
        // One byte more than allowed tells a file that grew meanwhile.
        let mut content = Vec::new();
        if let Err(error) = file.by_ref().take(MAX_FILE_BYTES + 1).read_to_end(&mut content) {
            return self.skip(path, false, &format!("cannot be read: {error}"));
        }
        let is_pdf = content.starts_with(b"%PDF-");
        let limit = if is_pdf { MAX_PDF_BYTES } else { MAX_FILE_BYTES };
        if bytes > limit || !is_pdf && content.len() as u64 > limit {
            return self.skip(path, false, &format!("larger than {} MiB", limit >> 20));
        }
        if !is_pdf && content_inspector::inspect(&content).is_binary() {
            return self.skip(path, false, "binary");
        }
        let secret = secrets::reason(&file_name, if is_pdf { &[] } else { &content }, self.cancel);
        let name = self.relative(path);
        self.listing.files.push(FolderFile { path: path.to_owned(), name, bytes, secret });
    }

    fn skip(&mut self, path: &Path, is_dir: bool, reason: &str) {
        if self.listing.skipped.len() < MAX_SKIPPED {
            let mut name = self.relative(path);
            if is_dir {
                name.push('/');
            }
            self.listing.skipped.push(Skipped { name, reason: reason.to_owned() });
        } else {
            self.unnamed += 1;
        }
    }

    fn skip_error(&mut self, error: &ignore::Error) {
        let path = error_path(error).unwrap_or(self.root).to_owned();
        self.skip(&path, path.is_dir(), &format!("cannot be read: {}", error_reason(error)));
    }

    fn relative(&self, path: &Path) -> String {
        let relative = path.strip_prefix(self.root).unwrap_or(path);
        let parts: Vec<_> = relative.components().map(|c| c.as_os_str().to_string_lossy()).collect();
        clean_name(&parts.join("/"))
    }

    fn check_cancel(&self) -> Result<(), DocumentError> {
        if self.cancel.load(Ordering::Relaxed) { Err(DocumentError::Cancelled) } else { Ok(()) }
    }
}

fn error_path(error: &ignore::Error) -> Option<&Path> {
    match error {
        ignore::Error::WithPath { path, .. } => Some(path),
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => error_path(err),
        ignore::Error::Loop { child, .. } => Some(child),
        _ => None,
    }
}

fn error_reason(error: &ignore::Error) -> String {
    match error {
        ignore::Error::WithPath { err, .. }
        | ignore::Error::WithDepth { err, .. }
        | ignore::Error::WithLineNumber { err, .. } => error_reason(err),
        other => other.to_string(),
    }
}
