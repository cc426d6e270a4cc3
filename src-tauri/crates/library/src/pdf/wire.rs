//! What the reader process says on its standard output: one JSON object a line.

use serde::{Deserialize, Serialize};

/// Longest line either side accepts, in bytes. A page's text is bounded well below ([`MAX_PAGE_BYTES`]), and JSON at
/// worst writes six bytes for one.
pub(super) const MAX_LINE_BYTES: usize = 32 << 20;

/// Most text of one page, in bytes; a page set in the smallest print has a few ten thousand.
pub(super) const MAX_PAGE_BYTES: usize = 4 << 20;

/// Most text of one file, in bytes: more than any context holds.
pub(super) const MAX_TEXT_BYTES: usize = 256 << 20;

/// Most pages of one file.
pub(super) const MAX_PAGES: u32 = 100_000;

/// Always `Start`, then pages in order, then `End`; or `Failed` at any point, and nothing after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    /// The file is open.
    Start { pages: u32 },
    /// A page was read.
    Page { number: u32, text: String, without_text: bool },
    /// A page was not.
    PageFailed { number: u32, why: String },
    /// All pages are through.
    End { notes: Vec<String> },
    /// The file cannot be read.
    Failed { failure: Failure, why: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Failure {
    /// A password is needed.
    Encrypted,
    /// The parser could make nothing of it.
    Damaged,
}
