//! A file or a paste as pages of text.
//!
//! What a file is gets decided by its content, not by its ending: a PDF by its magic, text by the absence of what
//! text never holds. The ending only tells source code from prose.

mod code;
mod decode;
mod name;
mod paste;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use code::is_code;
pub use name::clean_name;
pub use paste::from_paste;

use crate::folder::secrets;
use crate::pdf;

/// Largest PDF that is read, in bytes.
pub const MAX_PDF_BYTES: u64 = 512 << 20;

/// Largest text file that is read, in bytes.
pub const MAX_TEXT_BYTES: u64 = 64 << 20;

/// The magic of a PDF may stand anywhere in this many bytes, as readers of PDF have it.
const MAGIC_WITHIN: usize = 1024;

/// Bytes between two looks at the cancel flag while a text file is read.
const READ_CHUNK: usize = 1 << 20;

/// What kind of source a document is; decides whether its text carries page markers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DocumentKind {
    /// Pages as in the file.
    Pdf,
    /// Prose: one unpaged text.
    Text,
    /// Source code: one unpaged text.
    Code,
    /// Pasted into the composer.
    Paste,
}

/// One page; unpaged documents have exactly one, numbered 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Physical page number, 1-based.
    pub number: u32,
    /// Its text; empty for a page without any.
    pub text: String,
}

/// What could not be read. Empty lists mean nothing was lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReadReport {
    /// Pages in the file.
    pub pages_total: u32,
    /// Pages with no text of their own (scans, drawings).
    pub pages_without_text: Vec<u32>,
    /// Pages that failed, with the reason.
    pub pages_failed: Vec<(u32, String)>,
    /// Other remarks for the user, for example a guessed encoding.
    pub notes: Vec<String>,
}

impl DocumentKind {
    /// Whether its text carries `[page N]` lines in the prompt.
    pub fn is_paged(self) -> bool {
        self == Self::Pdf
    }
}

/// A source, read once and kept with the chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// As the prompt and the citations name it: file name, or path relative to the attached folder. No line breaks, quotes or angle brackets.
    pub name: String,
    /// What it is.
    pub kind: DocumentKind,
    /// Its pages.
    pub pages: Vec<Page>,
    /// What was lost.
    pub report: ReadReport,
    /// SHA-256 of the text with page breaks, in hex: see [`content_sha256`].
    pub sha256: String,
}

/// Why a document could not be read. Facts; advice is the caller's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// The file itself.
    #[error("cannot read {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Larger than we read.
    #[error("{name} has {bytes} B; at most {limit} B are read")]
    TooLarge {
        /// Which.
        name: String,
        /// Its size.
        bytes: u64,
        /// Our limit.
        limit: u64,
    },
    /// Needs a password.
    #[error("{name} is encrypted and needs a password")]
    Encrypted {
        /// Which.
        name: String,
    },
    /// Damaged beyond reading.
    #[error("{name} is damaged: {why}")]
    Damaged {
        /// Which.
        name: String,
        /// The parser's words.
        why: String,
    },
    /// Every page is without text.
    #[error("{name} has {pages} pages and no text on any of them")]
    NoText {
        /// Which.
        name: String,
        /// Its pages.
        pages: u32,
    },
    /// Not a document we read.
    #[error("{name} is not text: {why}")]
    NotText {
        /// Which.
        name: String,
        /// What it looks like.
        why: String,
    },
    /// The reader process was killed for time or memory, or crashed.
    #[error("reading {name} was given up: {why}")]
    GaveUp {
        /// Which.
        name: String,
        /// Limit or signal.
        why: String,
    },
    /// The user cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// Where the PDF reader process comes from and how much it may take.
#[derive(Debug, Clone)]
pub struct Reader {
    /// A binary that calls [`crate::pdf::serve_if_asked`] first thing in `main`.
    pub executable: PathBuf,
}

/// Progress of a read: pages done, pages in all when known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadProgress {
    /// Done.
    pub pages_done: u32,
    /// In all; 0 while unknown.
    pub pages_total: u32,
}

impl Reader {
    /// Reads a PDF, text, Markdown or source file, deciding by content. `name` is how the prompt shall call it; `None` takes the file name.
    ///
    /// A link is followed; a device, pipe or socket is refused, because opening one can block for ever.
    pub fn read(
        &self,
        path: &Path,
        name: Option<&str>,
        progress: &mut dyn FnMut(ReadProgress),
        cancel: &AtomicBool,
    ) -> Result<Document, DocumentError> {
        let io_error = |source| DocumentError::Io { path: path.to_owned(), source };
        let name = clean_name(&name.map_or_else(
            || path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned()),
            str::to_owned,
        ));
        if cancel.load(Ordering::Relaxed) {
            return Err(DocumentError::Cancelled);
        }
        let metadata = path.metadata().map_err(io_error)?;
        if metadata.is_dir() {
            return Err(io_error(std::io::ErrorKind::IsADirectory.into()));
        }
        if !metadata.is_file() {
            return Err(DocumentError::NotText { name, why: "a device, pipe or socket".into() });
        }
        let mut file = File::open(path).map_err(io_error)?;
        let mut head = Vec::with_capacity(MAGIC_WITHIN);
        file.by_ref().take(MAGIC_WITHIN as u64).read_to_end(&mut head).map_err(io_error)?;
        let pdf_start = pdf_start(&head, path);
        // Mail programs put lines before a PDF; its own offsets count from the magic.
        file.seek(SeekFrom::Start(pdf_start.unwrap_or(0))).map_err(io_error)?;
        let limit = if pdf_start.is_some() { MAX_PDF_BYTES } else { MAX_TEXT_BYTES };
        if metadata.len() > limit {
            return Err(DocumentError::TooLarge { name, bytes: metadata.len(), limit });
        }
        if pdf_start.is_some() {
            let source = pdf::Source { name: &name, file, bytes: metadata.len() };
            let (pages, report) = pdf::read(&self.executable, source, progress, cancel)?;
            return Ok(Document::new(name, DocumentKind::Pdf, pages, report));
        }
        progress(ReadProgress { pages_done: 0, pages_total: 1 });
        let bytes = read_all(file, limit, &name, path, cancel)?;
        let decoded = decode::decode(&bytes, &name, cancel)?;
        progress(ReadProgress { pages_done: 1, pages_total: 1 });
        let kind =
            if is_code(&name) || is_code(&path.to_string_lossy()) { DocumentKind::Code } else { DocumentKind::Text };
        let document = Document::unpaged(name, kind, decoded, cancel);
        if cancel.load(Ordering::Relaxed) { Err(DocumentError::Cancelled) } else { Ok(document) }
    }
}

impl Document {
    /// Puts the parts together and takes the hash.
    pub fn new(name: String, kind: DocumentKind, pages: Vec<Page>, report: ReadReport) -> Self {
        let sha256 = content_sha256(kind, &pages);
        Self { name, kind, pages, report, sha256 }
    }

    /// What secrets a text holds is not looked for to the end when cancelled.
    fn unpaged(name: String, kind: DocumentKind, mut decoded: decode::Decoded, cancel: &AtomicBool) -> Self {
        let file_name = name.rsplit('/').next().unwrap_or_default();
        if let Some(reason) = secrets::reason(file_name, decoded.text.as_bytes(), cancel) {
            decoded.notes.push(format!("may hold secrets: it {reason}"));
        }
        let report = ReadReport {
            pages_total: 1,
            pages_without_text: if decoded.text.trim().is_empty() { vec![1] } else { Vec::new() },
            pages_failed: Vec::new(),
            notes: decoded.notes,
        };
        Self::new(name, kind, vec![Page { number: 1, text: decoded.text }], report)
    }
}

/// SHA-256 in hex of everything of a document that reaches the prompt except its name: the text, and for paged
/// documents each page's number. Equal hashes and names give equal prompts.
pub fn content_sha256(kind: DocumentKind, pages: &[Page]) -> String {
    use std::fmt::Write;
    let mut hash = Sha256::new();
    for page in pages {
        if kind.is_paged() {
            // A form feed cannot stand in a page's text, so no two page lists share these bytes.
            hash.update(format!("\x0c{}\n", page.number));
        }
        hash.update(page.text.as_bytes());
    }
    let mut hex = String::with_capacity(64);
    for byte in hash.finalize() {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// Where the magic of a PDF stands. A text file about PDF may well name it, so away from the first byte it counts only
/// for a `.pdf` file or among bytes that are no text.
fn pdf_start(head: &[u8], path: &Path) -> Option<u64> {
    const MAGIC: &[u8] = b"%PDF-";
    let at = head.windows(MAGIC.len()).position(|w| w == MAGIC)?;
    let named = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("pdf"));
    (at == 0 || named || !decode::is_plain_utf8_head(head)).then_some(at as u64)
}

fn read_all(
    mut file: File,
    limit: u64,
    name: &str,
    path: &Path,
    cancel: &AtomicBool,
) -> Result<Vec<u8>, DocumentError> {
    let mut bytes = Vec::new();
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(DocumentError::Cancelled);
        }
        let before = bytes.len();
        file.by_ref()
            .take(READ_CHUNK as u64)
            .read_to_end(&mut bytes)
            .map_err(|source| DocumentError::Io { path: path.to_owned(), source })?;
        if bytes.len() == before {
            return Ok(bytes);
        }
        // The file can have grown since its size was asked for.
        if bytes.len() as u64 > limit {
            return Err(DocumentError::TooLarge { name: name.to_owned(), bytes: bytes.len() as u64, limit });
        }
    }
}
