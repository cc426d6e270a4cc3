//! A chat as one JSON text: to keep elsewhere, to hand on, to bring back.

use std::collections::HashMap;

use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::attached::Stored;
use super::messages::{Extent, MessageRow, rows_of};
use super::{ChatError, ChatStore, Durability, MessageState, clean_title, found, now_ms};
use crate::documents::{Document, DocumentKind, Page, ReadReport, clean_name};

/// Version of the exported form.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct ExportedChat {
    /// The form; also what tells such a file from any other JSON.
    reprise_chat: u32,
    title: String,
    created_ms: i64,
    documents: Vec<ExportedDocument>,
    messages: Vec<MessageRow>,
}

#[derive(Serialize, Deserialize)]
struct ExportedDocument {
    name: String,
    kind: DocumentKind,
    pages: Vec<Page>,
    #[serde(default)]
    report: ReadReport,
}

impl ExportedDocument {
    /// The document, if a reader could have made it. The hash is taken anew: a wrong one would put a foreign text under a
    /// known document, and so would pages that no reader makes, as the hash does not tell them apart.
    fn into_document(self) -> Result<Document, ChatError> {
        let refuse = |why: &str| ChatError::NotAChat { why: format!("document {}: {why}", clean_name(&self.name)) };
        let numbers_fit = if self.kind.is_paged() {
            self.pages.first().is_some_and(|p| p.number >= 1) && self.pages.is_sorted_by(|a, b| a.number < b.number)
        } else {
            matches!(self.pages[..], [Page { number: 1, .. }])
        };
        if !numbers_fit {
            return Err(refuse("its pages are not numbered as they should be"));
        }
        if self.pages.iter().any(|p| p.text.contains(|c: char| c.is_control() && c != '\n' && c != '\t')) {
            return Err(refuse("control characters stand in its text"));
        }
        Ok(Document::new(clean_name(&self.name), self.kind, self.pages, self.report))
    }
}

impl ChatStore {
    /// The whole chat, all versions and documents, as JSON for [`Self::import`].
    pub fn export(&self, chat: i64) -> Result<String, ChatError> {
        let documents = self.documents(chat)?;
        let exported = self.read(|db| {
            let mut statement = db.prepare_cached("SELECT title, created_ms FROM chats WHERE id = ?1")?;
            let head = statement.query_map([chat], |r| Ok((r.get(0)?, r.get(1)?)))?.next().transpose()?;
            let (title, created_ms) = head.ok_or(ChatError::NotFound { what: "chat", id: chat })?;
            let messages = rows_of(db, chat, Extent::Whole)?;
            Ok(ExportedChat { reprise_chat: FORMAT, title, created_ms, documents: Vec::new(), messages })
        })?;
        let documents = documents
            .into_iter()
            .map(|(_, d)| ExportedDocument { name: d.name, kind: d.kind, pages: d.pages, report: d.report })
            .collect();
        serde_json::to_string_pretty(&ExportedChat { documents, ..exported })
            .map_err(|e| ChatError::NotAChat { why: e.to_string() })
    }

    /// Adds an exported chat as a new one; its id. All of it or nothing.
    pub fn import(&self, json: &str) -> Result<i64, ChatError> {
        let refuse = |why: String| ChatError::NotAChat { why };
        let chat: ExportedChat = serde_json::from_str(json).map_err(|e| refuse(e.to_string()))?;
        if chat.reprise_chat != FORMAT {
            return Err(refuse(format!("form {}, this version reads {FORMAT}", chat.reprise_chat)));
        }
        let documents: Vec<Document> =
            chat.documents.into_iter().map(ExportedDocument::into_document).collect::<Result<_, _>>()?;
        let stored: Vec<Stored<'_>> = documents.iter().map(Stored::of).collect::<Result<_, _>>()?;
        self.write(Durability::Power, |db| {
            db.prepare_cached("INSERT INTO chats (title, renamed, created_ms, updated_ms) VALUES (?1, 1, ?2, ?3)")?
                .execute(params![clean_title(&chat.title), chat.created_ms, now_ms()])?;
            let id = db.last_insert_rowid();
            for document in &stored {
                document.insert(db, id)?;
            }
            insert_messages(db, id, &chat.messages)?;
            Ok(id)
        })
    }
}

fn insert_messages(db: &rusqlite::Transaction<'_>, chat: i64, messages: &[MessageRow]) -> Result<(), ChatError> {
    let mut new_ids = HashMap::with_capacity(messages.len());
    // Of the versions of a message one is shown: the first that says so, else the last.
    let mut shown: HashMap<Option<i64>, &MessageRow> = HashMap::with_capacity(messages.len());
    for message in messages {
        let version = shown.entry(message.parent).or_insert(message);
        if !version.shown {
            *version = message;
        }
    }
    for message in messages {
        let parent = match message.parent {
            None => None,
            // A parent stands before its children, so there is no circle.
            Some(old) => Some(*new_ids.get(&old).ok_or_else(|| ChatError::NotAChat {
                why: format!("message {} answers one that does not stand before it", message.id),
            })?),
        };
        let state = match message.state {
            MessageState::Writing => MessageState::Stopped,
            other => other,
        };
        let is_shown = shown.get(&message.parent).is_some_and(|version| std::ptr::eq(*version, message));
        db.prepare_cached(
            "INSERT INTO messages (chat, parent, author, state, shown, text, stats, created_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![chat, parent, message.author.code(), state.code(), is_shown, message.text, message.stats, message.created_ms])?;
        let unknown = new_ids.insert(message.id, db.last_insert_rowid()).is_none();
        found("message", message.id, unknown)
            .map_err(|_| ChatError::NotAChat { why: format!("message {} stands there twice", message.id) })?;
    }
    Ok(())
}
