//! Documents and a question as the first user message, and the way back from text to page.
//!
//! The format is what the demo model was trained on and what every model gets:
//!
//! ```text
//! <document name="handbook.pdf">
//! [page 1]
//! ...
//! </document>
//!
//! The question
//! ```
//!
//! It is byte-stable: the same documents and question always give the same bytes, so a model's memory of them can be
//! used again. Nothing of the clock, the machine or the order of a hash map gets in.

mod coverage;
mod escape;

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

pub use coverage::{Coverage, DocumentCoverage};

use crate::documents::{Document, clean_name};

/// Where a byte span of the message came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSpan {
    /// Bytes of the message text, half-open.
    pub bytes: Range<usize>,
    /// Index of the document.
    pub document: usize,
    /// Its page.
    pub page: u32,
}

/// Spans in text order, not overlapping.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceMap {
    /// One span for each page that has text.
    pub spans: Vec<SourceSpan>,
    /// The documents as the message names them, in attachment order.
    pub documents: Vec<PlacedDocument>,
}

/// A document's block in the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedDocument {
    /// Its name as the model reads and cites it; unlike [`Document::name`] never the same twice.
    pub name: String,
    /// From `<document` through `</document>`.
    pub bytes: Range<usize>,
    /// Pages in the file.
    pub pages_total: u32,
    /// Whether it has `[page N]` lines.
    pub paged: bool,
}

/// A place in a document that a byte of the message stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Index of the document.
    pub document: usize,
    /// Its page.
    pub page: u32,
    /// Line within the page's text, 1-based.
    pub line: u32,
}

impl SourceMap {
    /// The span that holds a byte of the message, if any.
    pub fn at(&self, byte: usize) -> Option<&SourceSpan> {
        let i = self.spans.partition_point(|s| s.bytes.end <= byte);
        self.spans.get(i).filter(|s| s.bytes.contains(&byte))
    }

    /// Document, page and line of a byte of `message`, the text this map was made with.
    pub fn place_of(&self, message: &str, byte: usize) -> Option<Place> {
        let span = self.at(byte)?;
        let before = message.as_bytes().get(span.bytes.start..byte)?;
        let line = before.split(|b| *b == b'\n').count() as u32;
        Some(Place { document: span.document, page: span.page, line })
    }

    /// The span a citation names: `page` of the document called `name`; without a name, of the only paged document.
    pub fn cited(&self, name: Option<&str>, page: u32) -> Option<&SourceSpan> {
        let document = match name {
            Some(name) => self.document_named(name)?,
            None => self.only_paged()?,
        };
        self.span_of(document, page)
    }

    /// The span of a page, if it has text.
    pub fn span_of(&self, document: usize, page: u32) -> Option<&SourceSpan> {
        let i = self.spans.binary_search_by(|s| (s.document, s.page).cmp(&(document, page))).ok()?;
        self.spans.get(i)
    }

    /// Index of the document a citation means: by its exact name, else by case-blind name or path ending if only one fits.
    pub fn document_named(&self, name: &str) -> Option<usize> {
        let name = name.trim();
        if name.is_empty() {
            return None;
        }
        if let Some(exact) = self.documents.iter().position(|d| d.name == name) {
            return Some(exact);
        }
        let wanted = name.trim_start_matches("./").to_lowercase();
        let mut fitting = self.documents.iter().enumerate().filter(|(_, d)| {
            let have = d.name.to_lowercase();
            have.strip_suffix(&wanted).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
        });
        let (index, _) = fitting.next()?;
        fitting.next().is_none().then_some(index)
    }

    /// Bytes of a page's lines `lines` (1-based, half-open), for marking a cited passage in `message`.
    pub fn lines_of(&self, message: &str, span: &SourceSpan, lines: Range<u32>) -> Option<Range<usize>> {
        let text = message.get(span.bytes.clone())?;
        let mut range: Option<Range<usize>> = None;
        let mut start = span.bytes.start;
        for (number, line) in (1..).zip(text.split_inclusive('\n')) {
            let end = start + line.len();
            if lines.contains(&number) {
                range = Some(range.map_or(start, |r| r.start)..end);
            }
            start = end;
        }
        range
    }

    fn only_paged(&self) -> Option<usize> {
        let mut paged = self.documents.iter().enumerate().filter(|(_, d)| d.paged);
        let (index, _) = paged.next()?;
        paged.next().is_none().then_some(index)
    }
}

/// Writes documents in attachment order, then the question (format: one `<document name="…">` block each, `[page N]` lines for
/// paged ones, a blank line after each block). Byte-stable. What could close or open a block or pass for a page line
/// inside a text is escaped; [`source_text`] takes that back.
pub fn first_message(documents: &[&Document], question: &str) -> (String, SourceMap) {
    let text_bytes: usize = documents.iter().flat_map(|d| &d.pages).map(|p| p.text.len() + 16).sum();
    let mut message = String::with_capacity(text_bytes + documents.len() * 128 + question.len());
    let mut map = SourceMap::default();
    for (index, (document, name)) in documents.iter().zip(shown_names(documents)).enumerate() {
        let start = message.len();
        message.push_str("<document name=\"");
        message.push_str(&name);
        message.push_str("\">\n");
        write_pages(document, index, &mut message, &mut map.spans);
        message.push_str("</document>");
        map.documents.push(PlacedDocument {
            name,
            bytes: start..message.len(),
            pages_total: document.report.pages_total.max(document.pages.len() as u32),
            paged: document.kind.is_paged(),
        });
        message.push_str("\n\n");
    }
    message.push_str(question);
    (message, map)
}

/// A piece of the message as it stands in the source, for showing what was cited.
pub fn source_text(message_piece: &str) -> Cow<'_, str> {
    escape::unescape(message_piece)
}

/// The names under which documents stand in the message: cleaned, and a repeated one numbered (`a.txt (2)`).
pub fn shown_names(documents: &[&Document]) -> Vec<String> {
    let mut taken = HashSet::with_capacity(documents.len());
    let mut names = Vec::with_capacity(documents.len());
    for document in documents {
        let plain = clean_name(&document.name);
        let mut name = plain.clone();
        let mut number = 2_u32;
        while !taken.insert(name.clone()) {
            name = format!("{plain} ({number})");
            number += 1;
        }
        names.push(name);
    }
    names
}

fn write_pages(document: &Document, index: usize, message: &mut String, spans: &mut Vec<SourceSpan>) {
    use std::fmt::Write;
    for page in &document.pages {
        if document.kind.is_paged() {
            // Writing to a string cannot fail.
            let _ = writeln!(message, "[page {}]", page.number);
        }
        if page.text.is_empty() {
            continue;
        }
        let start = message.len();
        message.push_str(&escape::escape(&page.text));
        spans.push(SourceSpan { bytes: start..message.len(), document: index, page: page.number });
        if !message.ends_with('\n') {
            message.push('\n');
        }
    }
}

#[cfg(test)]
mod tests;
