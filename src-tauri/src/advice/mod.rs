//! From facts to advice: the only translation of the crates' errors into what the page shows.
//!
//! Each answers three questions: what happened, what was kept, what to do now.

mod engine;

use std::error::Error;
use std::fmt::Write;

use reprise_library::chats::ChatError;
use reprise_library::documents::DocumentError;
use reprise_library::models::ModelError;

use crate::ipc::{Advice, UserError};

/// Nothing else of the chat is touched by a source that cannot be read.
const CHAT_UNCHANGED: &str = "The chat and its other documents are unchanged.";
/// A failed write changes nothing that was saved before.
const SAVED_STAYS: &str = "Everything saved before is unchanged.";
/// A model that cannot be loaded leaves chats alone.
const CHATS_STAY: &str = "Your chats are unchanged.";

impl UserError {
    /// An error in words, with nothing kept or advised yet.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), kept: String::new(), advice: Vec::new(), details: String::new() }
    }

    /// Says what was kept.
    #[must_use]
    pub fn kept(mut self, kept: impl Into<String>) -> Self {
        self.kept = kept.into();
        self
    }

    /// Adds something to do.
    #[must_use]
    pub fn advise(mut self, advice: Advice) -> Self {
        self.advice.push(advice);
        self
    }

    /// Adds a sentence on what to do.
    #[must_use]
    pub fn hint(self, text: impl Into<String>) -> Self {
        self.advise(Advice::Hint { text: text.into() })
    }

    /// Adds an error with its causes, for "copy details".
    #[must_use]
    pub fn because(mut self, error: &dyn Error) -> Self {
        self.details = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            // Errors that print their cause themselves would say it twice.
            if !self.details.contains(&inner.to_string()) {
                let _ = write!(self.details, ": {inner}");
            }
            cause = inner.source();
        }
        self
    }
}

impl From<ChatError> for UserError {
    fn from(error: ChatError) -> Self {
        let told = match &error {
            ChatError::DiskFull { .. } => Self::new("The disk is full, so the chat could not be saved.")
                .kept(SAVED_STAYS)
                .hint("Free some space on this disk, then try again.")
                .advise(Advice::Retry),
            ChatError::Damaged { path, .. } => Self::new("The file that holds your chats is damaged.")
                .kept("The file was left exactly as it is; new chats last until Reprise closes.")
                .hint(format!(
                    "Put a backup in place of {}, or move that file away to start afresh, then start Reprise again.",
                    path.display()
                )),
            ChatError::TooNew { found, supported, .. } => {
                Self::new("Your chats were saved by a newer version of Reprise.")
                    .kept("They were left exactly as they are; new chats last until Reprise closes.")
                    .hint(format!("Start the newer version again (format {found}; this one reads {supported})."))
            }
            ChatError::NotFound { what, .. } => Self::new(format!("This {what} no longer exists."))
                .kept(SAVED_STAYS)
                .hint("Open the chat again from the list."),
            ChatError::InUse { .. } => Self::new("This document was sent already; the answers rest on it.")
                .kept("The chat is unchanged.")
                .hint("Start a new chat without it.")
                .advise(Advice::NewChat),
            ChatError::NotAChat { .. } => Self::new("This file is not an exported chat.")
                .kept(CHATS_STAY)
                .hint("Choose a file that Reprise exported."),
            ChatError::Io { .. } => Self::new("The folder that holds your chats cannot be used.")
                .kept(SAVED_STAYS)
                .hint("Make it writable or free some space, then start Reprise again."),
            _ => Self::new("The chat could not be saved or read.").kept(SAVED_STAYS).advise(Advice::Retry),
        };
        told.because(&error)
    }
}

impl From<DocumentError> for UserError {
    fn from(error: DocumentError) -> Self {
        let told = match &error {
            DocumentError::Io { path, source } => {
                let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
                let hint = match source.kind() {
                    std::io::ErrorKind::NotFound => "It may have been moved or renamed: choose it again.",
                    std::io::ErrorKind::PermissionDenied => "Allow reading it in its file properties, then try again.",
                    _ => "Check that it still opens in another program, then try again.",
                };
                Self::new(format!("{name} cannot be read.")).hint(hint)
            }
            DocumentError::TooLarge { name, bytes, limit } => {
                Self::new(format!("{name} is too large: {} where at most {} are read.", size(*bytes), size(*limit)))
                    .hint("Split it, or attach only the part you need.")
            }
            DocumentError::Encrypted { name } => Self::new(format!("{name} is protected by a password."))
                .hint("Save a copy without the password in your PDF viewer and attach that."),
            DocumentError::Damaged { name, .. } => Self::new(format!("{name} is damaged and cannot be read."))
                .hint("Open it in a PDF viewer and save it again, or fetch it once more."),
            DocumentError::NoText { name, pages } => {
                Self::new(format!("{name} has no text on any of its {pages} pages; it may be a scan."))
                    .hint("Run text recognition (OCR) on it first and attach the result.")
            }
            DocumentError::NotText { name, .. } => Self::new(format!("{name} is not a text or PDF file."))
                .hint("Attach PDF, text, Markdown or source files."),
            DocumentError::GaveUp { name, .. } => {
                Self::new(format!("Reading {name} took too much time or memory and was given up."))
                    .hint("Print it to a new PDF in your PDF viewer and attach that.")
            }
            DocumentError::Cancelled => Self::new("Reading was cancelled.").advise(Advice::Retry),
            _ => Self::new("The document could not be read.").advise(Advice::Retry),
        };
        told.kept(CHAT_UNCHANGED).because(&error)
    }
}

impl From<ModelError> for UserError {
    fn from(error: ModelError) -> Self {
        let told = match &error {
            ModelError::NotFound { name, .. } => Self::new(format!("The model {name} is not on this computer."))
                .hint("Choose a model file (.gguf), or use the built-in demo model."),
            ModelError::Ambiguous { name, choices } => Self::new(format!("{name} holds several models."))
                .hint(format!("Choose one of: {}.", choices.join(", "))),
            ModelError::NotAModel { path, .. } => {
                let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
                Self::new(format!("{name} is not a model that Reprise can read."))
            }
            _ => Self::new("The model could not be found."),
        };
        told.kept(CHATS_STAY).advise(Advice::ChooseModel).because(&error)
    }
}

/// A count for people: `131,072`.
fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size for people, in powers of 1024.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut value = bytes as f64;
    let mut unit = "bytes";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if value < 10.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

#[cfg(test)]
mod tests;
