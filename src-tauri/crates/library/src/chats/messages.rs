//! The tree of messages: branches, versions, and replies that grow while they are written.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};

use super::{Author, ChatError, ChatStore, Durability, MessageState, StoredMessage, found, now_ms};

/// Longest title taken from a message, in characters.
const TITLE_CHARS: usize = 80;

impl ChatStore {
    /// The messages of the shown branch, first to last.
    pub fn branch(&self, chat: i64) -> Result<Vec<StoredMessage>, ChatError> {
        self.read(|db| {
            let mut rows = rows_of(db, chat, Extent::Shown)?;
            if rows.is_empty() {
                found("chat", chat, db.prepare_cached("SELECT 1 FROM chats WHERE id = ?1")?.exists([chat])?)?;
            }
            let mut children: HashMap<Option<i64>, Vec<usize>> = HashMap::new();
            for (index, row) in rows.iter().enumerate() {
                children.entry(row.parent).or_default().push(index);
            }
            let mut branch = Vec::new();
            let mut parent = None;
            while let Some(versions) = children.get(&parent) {
                let shown = versions.iter().position(|i| rows[*i].shown).unwrap_or(versions.len() - 1);
                let siblings = versions.iter().map(|i| rows[*i].id).collect();
                let row = &mut rows[versions[shown]];
                let mut text = std::mem::take(&mut row.text);
                if row.state == MessageState::Writing {
                    text.push_str(&written(db, row.id)?);
                    if row.id <= self.unstopped_through {
                        row.state = MessageState::Stopped;
                    }
                }
                parent = Some(row.id);
                branch.push(StoredMessage {
                    id: row.id,
                    parent: row.parent,
                    author: row.author,
                    text,
                    state: row.state,
                    stats_json: row.stats.take(),
                    version: (shown + 1, versions.len()),
                    siblings,
                });
            }
            Ok(branch)
        })
    }

    /// Adds a message under `parent` and makes it the shown version; durable when this returns.
    pub fn add(
        &self,
        chat: i64,
        parent: Option<i64>,
        author: Author,
        text: &str,
        state: MessageState,
    ) -> Result<i64, ChatError> {
        self.write(Durability::Power, |db| {
            found("chat", chat, db.prepare_cached("SELECT 1 FROM chats WHERE id = ?1")?.exists([chat])?)?;
            if let Some(parent) = parent {
                let mut known = db.prepare_cached("SELECT 1 FROM messages WHERE id = ?1 AND chat = ?2")?;
                found("message", parent, known.exists([parent, chat])?)?;
            }
            hide_versions(db, chat, parent)?;
            db.prepare_cached(
                "INSERT INTO messages (chat, parent, author, state, shown, text, created_ms) VALUES (?1, ?2, ?3, ?4, 1, ?5, ?6)",
            )?
            .execute(params![chat, parent, author.code(), state.code(), text, now_ms()])?;
            let id = db.last_insert_rowid();
            if parent.is_none() && author == Author::User {
                db.prepare_cached("UPDATE chats SET title = ?2 WHERE id = ?1 AND renamed = 0")?
                    .execute(params![chat, title_of(text)])?;
            }
            touch(db, chat)?;
            Ok(id)
        })
    }

    /// Appends streamed text to a `Writing` message. Survives the end of the process, not a power cut: that would cost
    /// a disk flush for every token.
    pub fn append(&self, message: i64, delta: &str) -> Result<(), ChatError> {
        self.write(Durability::Process, |db| {
            let added = db
                .prepare_cached(
                    "INSERT INTO pieces (message, text) SELECT id, ?2 FROM messages WHERE id = ?1 AND state = ?3",
                )?
                .execute(params![message, delta, MessageState::Writing.code()])?;
            found("message being written", message, added == 1)
        })
    }

    /// Ends a reply.
    pub fn finish(&self, message: i64, state: MessageState, stats_json: Option<&str>) -> Result<(), ChatError> {
        self.write(Durability::Power, |db| {
            end(db, message, state)?;
            db.prepare_cached("UPDATE messages SET stats = ?2 WHERE id = ?1")?.execute(params![message, stats_json])?;
            touch(db, chat_of(db, message)?)
        })
    }

    /// Makes a stopped or failed reply `Writing` again, to be continued where it ended.
    pub fn resume(&self, message: i64) -> Result<(), ChatError> {
        self.write(Durability::Power, |db| {
            let changed = db
                .prepare_cached("UPDATE messages SET state = ?2, stats = NULL WHERE id = ?1 AND author = ?3")?
                .execute(params![message, MessageState::Writing.code(), Author::Assistant.code()])?;
            found("reply", message, changed == 1)
        })
    }

    /// Shows another version.
    pub fn show_version(&self, message: i64) -> Result<(), ChatError> {
        self.write(Durability::Process, |db| {
            let place: Option<(i64, Option<i64>)> = db
                .prepare_cached("SELECT chat, parent FROM messages WHERE id = ?1")?
                .query_row([message], |r| Ok((r.get(0)?, r.get(1)?)))
                .optional()?;
            let (chat, parent) = place.ok_or(ChatError::NotFound { what: "message", id: message })?;
            hide_versions(db, chat, parent)?;
            db.prepare_cached("UPDATE messages SET shown = 1 WHERE id = ?1")?.execute([message])?;
            Ok(())
        })
    }

    /// The chat a message belongs to.
    pub fn chat_of(&self, message: i64) -> Result<i64, ChatError> {
        self.read(|db| chat_of(db, message))
    }
}

/// Puts the pieces of a reply into its row and sets its state.
pub(super) fn end(db: &Transaction<'_>, message: i64, state: MessageState) -> Result<(), ChatError> {
    let rest = written(db, message)?;
    let changed = if rest.is_empty() {
        db.prepare_cached("UPDATE messages SET state = ?2 WHERE id = ?1")?.execute(params![message, state.code()])?
    } else {
        db.prepare_cached("UPDATE messages SET state = ?2, text = text || ?3 WHERE id = ?1")?.execute(params![
            message,
            state.code(),
            rest
        ])?
    };
    found("message", message, changed == 1)?;
    db.prepare_cached("DELETE FROM pieces WHERE message = ?1")?.execute([message])?;
    Ok(())
}

/// The streamed text that is not in the reply's row yet.
fn written(db: &Connection, message: i64) -> Result<String, ChatError> {
    let mut statement = db.prepare_cached("SELECT text FROM pieces WHERE message = ?1 ORDER BY id")?;
    let mut pieces = statement.query([message])?;
    let mut text = String::new();
    while let Some(piece) = pieces.next()? {
        text.push_str(piece.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?);
    }
    Ok(text)
}

fn hide_versions(db: &Transaction<'_>, chat: i64, parent: Option<i64>) -> Result<(), ChatError> {
    db.prepare_cached("UPDATE messages SET shown = 0 WHERE chat = ?1 AND parent IS ?2 AND shown = 1")?
        .execute(params![chat, parent])?;
    Ok(())
}

fn touch(db: &Transaction<'_>, chat: i64) -> Result<(), ChatError> {
    db.prepare_cached("UPDATE chats SET updated_ms = ?2 WHERE id = ?1")?.execute(params![chat, now_ms()])?;
    Ok(())
}

fn chat_of(db: &Connection, message: i64) -> Result<i64, ChatError> {
    db.prepare_cached("SELECT chat FROM messages WHERE id = ?1")?
        .query_row([message], |r| r.get(0))
        .optional()?
        .ok_or(ChatError::NotFound { what: "message", id: message })
}

/// A message as it lies in its table, and in an exported chat.
#[derive(Serialize, Deserialize)]
pub(super) struct MessageRow {
    pub(super) id: i64,
    pub(super) parent: Option<i64>,
    pub(super) author: Author,
    pub(super) state: MessageState,
    pub(super) shown: bool,
    pub(super) text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stats: Option<String>,
    pub(super) created_ms: i64,
}

/// How much of a chat's messages is read.
#[derive(Clone, Copy)]
pub(super) enum Extent {
    /// Text and figures of the shown versions, as far as they lie in the messages' rows.
    Shown,
    /// All of it, the pieces of a reply being written included.
    Whole,
}

impl Extent {
    fn columns(self) -> &'static str {
        match self {
            Self::Shown => "iif(shown, text, ''), iif(shown, stats, NULL)",
            Self::Whole => {
                "text || ifnull((SELECT group_concat(text, '' ORDER BY id) FROM pieces WHERE message = messages.id), ''), stats"
            }
        }
    }
}

/// The messages of a chat, parents before their children.
pub(super) fn rows_of(db: &Connection, chat: i64, extent: Extent) -> rusqlite::Result<Vec<MessageRow>> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT id, parent, author, state, shown, created_ms, {} FROM messages WHERE chat = ?1 ORDER BY id",
        extent.columns()
    ))?;
    let rows = statement.query_map([chat], |row| {
        Ok(MessageRow {
            id: row.get(0)?,
            parent: row.get(1)?,
            author: Author::from_code(row.get(2)?),
            state: MessageState::from_code(row.get(3)?),
            shown: row.get(4)?,
            created_ms: row.get(5)?,
            text: row.get(6)?,
            stats: row.get(7)?,
        })
    })?;
    rows.collect()
}

/// The first line that says something, cut at a word.
fn title_of(text: &str) -> String {
    let line = text.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or_default();
    let clean: String = line.chars().filter(|c| !c.is_control()).collect();
    if clean.chars().count() <= TITLE_CHARS {
        return clean;
    }
    let cut: String = clean.chars().take(TITLE_CHARS - 1).collect();
    let at_word = cut.rfind(' ').filter(|at| *at > cut.len() / 2).unwrap_or(cut.len());
    format!("{}…", cut[..at_word].trim_end())
}

#[cfg(test)]
mod tests {
    use super::title_of;

    #[test]
    fn a_title_is_the_first_line_cut_at_a_word() {
        assert_eq!(title_of("\n  What is this?  \nMore"), "What is this?");
        assert_eq!(title_of(" \n"), "");
        let long = title_of(&"word ".repeat(40));
        assert!(long.ends_with("word…") && long.chars().count() <= 80, "{long}");
        assert_eq!(title_of(&"x".repeat(200)).chars().count(), 80);
    }
}
