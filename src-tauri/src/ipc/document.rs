//! Documents, folders and drops. The page never sees a path: files stay behind handles.

use serde::Serialize;
use specta::Type;
use specta_typescript::Number;
use tauri_specta::Event;

use super::error::UserError;

/// A chip.
#[derive(Debug, Clone, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct DocumentView {
    /// Id.
    pub id: i32,
    /// Name in prompt and citations.
    pub name: String,
    /// `pdf`, `text`, `code`, `paste`.
    pub kind: DocumentKind,
    /// Pages; 1 for unpaged ones.
    pub pages: u32,
    /// Exact tokens with the loaded model; `None` while no model is loaded.
    pub tokens: Option<u32>,
    /// Pages without text.
    pub pages_without_text: Vec<u32>,
    /// Pages that failed, in words.
    pub problems: Vec<String>,
    /// Sent already: it can no longer be removed.
    pub locked: bool,
}

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub enum DocumentKind {
    /// PDF.
    Pdf,
    /// Prose.
    Text,
    /// Source code.
    Code,
    /// Pasted.
    Paste,
}

/// One page for the viewer.
#[derive(Debug, Clone, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct PageView {
    /// The document.
    pub document: i32,
    /// Its name.
    pub name: String,
    /// Page shown.
    pub page: u32,
    /// Pages in all.
    pub pages: u32,
    /// Text of the page.
    pub text: String,
}

/// Progress of attaching, on a channel: any number of `reading`, then `attached` or `refused` per source, then `end`.
#[derive(Debug, Clone, PartialEq, Serialize, Type)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum AttachEvent {
    /// A source is being read.
    Reading {
        /// File name.
        name: String,
        /// Pages done.
        pages_done: u32,
        /// Pages in all; 0 while unknown.
        pages_total: u32,
    },
    /// It is attached.
    Attached {
        /// Its chip.
        document: DocumentView,
    },
    /// It could not be attached.
    Refused {
        /// File name.
        name: String,
        /// Why.
        error: UserError,
    },
    /// Nothing more comes.
    End,
}

/// A folder's files to choose from.
#[derive(Debug, Clone, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct FolderView {
    /// Stands for the folder in `attachFolder`; the page never sees a path.
    pub handle: u32,
    /// The folder's name.
    pub name: String,
    /// What can be attached, in prompt order.
    pub files: Vec<FolderFileView>,
    /// What is left out and why.
    pub skipped: Vec<SkippedView>,
}

/// One file of a folder.
#[derive(Debug, Clone, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct FolderFileView {
    /// Relative name.
    pub name: String,
    /// Bytes.
    #[specta(type = Number)]
    pub bytes: f64,
    /// Exact tokens; `None` while no model is loaded.
    pub tokens: Option<u32>,
    /// Why it may hold secrets.
    pub secret: Option<String>,
}

/// Something left out.
#[derive(Debug, Clone, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct SkippedView {
    /// Relative name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// Files dropped on the window, as an event: the page answers with `attachDropped(handle)`.
#[derive(Debug, Clone, PartialEq, Serialize, Type, Event)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum DropEvent {
    /// Files hover over the window.
    Over,
    /// They left.
    Left,
    /// They were dropped.
    Dropped {
        /// Stands for the files.
        handle: u32,
        /// Their names.
        names: Vec<String>,
    },
}
