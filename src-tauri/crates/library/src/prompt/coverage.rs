//! What of the documents a model had before it: the footer under an answer.

use std::ops::{Range, RangeInclusive};

use super::SourceMap;

/// Which documents and pages were in context.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// One for each document of which anything was in context, in attachment order.
    pub documents: Vec<DocumentCoverage>,
}

/// Of one document, what was in context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentCoverage {
    /// Index of the document.
    pub document: usize,
    /// Its name as the model reads it.
    pub name: String,
    /// Pages whose whole text was in context, as runs. Unpaged documents have page 1 when they are whole.
    pub pages: Vec<RangeInclusive<u32>>,
    /// Pages of which only a part was.
    pub pages_partly: Vec<u32>,
    /// Pages in the file, also those without text.
    pub pages_total: u32,
    /// All the text there is was in context.
    pub whole: bool,
}

impl SourceMap {
    /// What of the documents lies in `context`, bytes of the message that the model really had.
    pub fn coverage(&self, context: &Range<usize>) -> Coverage {
        let mut coverage = Coverage::default();
        for (index, document) in self.documents.iter().enumerate() {
            let first = self.spans.partition_point(|s| s.document < index);
            let spans = self.spans[first..].iter().take_while(|s| s.document == index);
            let mut covered = DocumentCoverage {
                document: index,
                name: document.name.clone(),
                pages: Vec::new(),
                pages_partly: Vec::new(),
                pages_total: document.pages_total,
                whole: true,
            };
            for span in spans {
                if context.start <= span.bytes.start && span.bytes.end <= context.end {
                    push_page(&mut covered.pages, span.page);
                    continue;
                }
                covered.whole = false;
                if span.bytes.start < context.end && context.start < span.bytes.end {
                    covered.pages_partly.push(span.page);
                }
            }
            // A document without text is in context when its block is.
            let touched = document.bytes.start < context.end && context.start < document.bytes.end;
            let empty = covered.pages.is_empty() && covered.pages_partly.is_empty();
            if touched && (covered.whole || !empty) {
                coverage.documents.push(covered);
            }
        }
        coverage
    }
}

fn push_page(runs: &mut Vec<RangeInclusive<u32>>, page: u32) {
    match runs.last_mut() {
        Some(run) if run.end() + 1 == page => *run = *run.start()..=page,
        _ => runs.push(page..=page),
    }
}
