//! Documents kept with chats; the text of a document that several chats hold lies in the file once.

use rusqlite::{OptionalExtension, Row, params, types::Type};
use serde::de::DeserializeOwned;

use super::{ChatError, ChatStore, Durability, found};
use crate::documents::{Document, DocumentKind, Page, ReadReport};

impl ChatStore {
    /// Keeps a document with a chat, in attachment order; returns its id.
    pub fn attach(&self, chat: i64, document: &Document) -> Result<i64, ChatError> {
        // The long part of the work, done before anyone has to wait for it.
        let stored = Stored::of(document)?;
        self.write(Durability::Power, |db| {
            found("chat", chat, db.prepare_cached("SELECT 1 FROM chats WHERE id = ?1")?.exists([chat])?)?;
            stored.insert(db, chat)
        })
    }

    /// Removes a document from a chat (only before its first message is sent).
    pub fn detach(&self, document: i64) -> Result<(), ChatError> {
        self.write(Durability::Power, |db| {
            let begun: Option<bool> = db
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM messages WHERE chat = attachments.chat) FROM attachments WHERE id = ?1",
                )?
                .query_row([document], |r| r.get(0))
                .optional()?;
            match begun {
                None => Err(ChatError::NotFound { what: "document", id: document }),
                Some(true) => Err(ChatError::InUse { id: document }),
                Some(false) => {
                    db.prepare_cached("DELETE FROM attachments WHERE id = ?1")?.execute([document])?;
                    Ok(())
                }
            }
        })
    }

    /// A chat's documents in attachment order, with ids.
    pub fn documents(&self, chat: i64) -> Result<Vec<(i64, Document)>, ChatError> {
        self.read(|db| {
            let mut statement = db.prepare_cached(
                "SELECT id, name, kind, report, sha256, pages FROM attachments JOIN contents USING (sha256)
                 WHERE chat = ?1 ORDER BY id",
            )?;
            let documents = statement.query_map([chat], read_document)?.collect::<Result<_, _>>()?;
            Ok(documents)
        })
    }
}

/// A document in the form of its two rows.
pub(super) struct Stored<'a> {
    document: &'a Document,
    kind: String,
    report: String,
    pages: String,
}

impl<'a> Stored<'a> {
    pub(super) fn of(document: &'a Document) -> Result<Self, ChatError> {
        Ok(Self {
            document,
            kind: to_json(&document.kind)?,
            report: to_json(&document.report)?,
            pages: to_json(&document.pages)?,
        })
    }

    pub(super) fn insert(&self, db: &rusqlite::Transaction<'_>, chat: i64) -> Result<i64, ChatError> {
        db.prepare_cached("INSERT INTO contents (sha256, pages) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
            .execute(params![self.document.sha256, self.pages])?;
        db.prepare_cached("INSERT INTO attachments (chat, name, kind, report, sha256) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![chat, self.document.name, self.kind, self.report, self.document.sha256])?;
        Ok(db.last_insert_rowid())
    }
}

fn read_document(row: &Row<'_>) -> rusqlite::Result<(i64, Document)> {
    let kind: DocumentKind = from_json(row, 2)?;
    let report: ReadReport = from_json(row, 3)?;
    let pages: Vec<Page> = from_json(row, 5)?;
    Ok((row.get(0)?, Document { name: row.get(1)?, kind, pages, report, sha256: row.get(4)? }))
}

fn to_json(value: &impl serde::Serialize) -> Result<String, ChatError> {
    serde_json::to_string(value).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)).into())
}

fn from_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    serde_json::from_str(text).map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(e)))
}
