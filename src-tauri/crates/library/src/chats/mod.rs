//! Chats in one `SQLite` file (WAL): a killed app loses at most the last token.
//!
//! A message of the user and the end of a reply are on the disk when the call returns; streamed text survives the
//! process. Every change is one immediate transaction: a full disk or a kill leaves all of it or nothing. The file is
//! readable by its owner only. A file that is not sound, or of a newer version, is refused and not written to.

mod attached;
mod error;
mod messages;
mod open;
mod search;
#[cfg(test)]
mod tests;
mod transfer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

pub use error::ChatError;

/// A row of the sidebar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatRow {
    /// Id.
    pub id: i64,
    /// Title: the first user line unless renamed.
    pub title: String,
    /// Unix milliseconds of the last change.
    pub updated_ms: i64,
    /// Messages on the shown branch.
    pub messages: usize,
}

/// Who wrote a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Author {
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Author {
    fn code(self) -> i64 {
        match self {
            Self::User => 0,
            Self::Assistant => 1,
        }
    }

    /// The table admits no other codes.
    fn from_code(code: i64) -> Self {
        if code == 0 { Self::User } else { Self::Assistant }
    }
}

/// How complete a reply is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageState {
    /// Whole.
    Done,
    /// Being written; after a crash, what was saved of it.
    Writing,
    /// The user stopped it.
    Stopped,
    /// It failed; `error` in `stats_json` says why.
    Failed,
}

impl MessageState {
    fn code(self) -> i64 {
        match self {
            Self::Done => 0,
            Self::Writing => 1,
            Self::Stopped => 2,
            Self::Failed => 3,
        }
    }

    /// The table admits no other codes.
    fn from_code(code: i64) -> Self {
        match code {
            0 => Self::Done,
            1 => Self::Writing,
            2 => Self::Stopped,
            _ => Self::Failed,
        }
    }
}

/// One message of a chat's tree. Siblings (same parent) are its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Id.
    pub id: i64,
    /// The message it answers; `None` for the first.
    pub parent: Option<i64>,
    /// Who.
    pub author: Author,
    /// Text, without documents.
    pub text: String,
    /// How complete.
    pub state: MessageState,
    /// Figures of a reply as JSON, opaque here.
    pub stats_json: Option<String>,
    /// 1-based place among its siblings, and how many there are.
    pub version: (usize, usize),
    /// Ids of its siblings in order, itself included.
    pub siblings: Vec<i64>,
}

/// What a change must outlive before the call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    /// The end of this process.
    Process,
    /// A power cut: the disk is told to flush.
    Power,
}

struct Database {
    connection: Connection,
    durability: Durability,
}

/// The chats of this user. Shared between threads; one call at a time.
pub struct ChatStore {
    path: PathBuf,
    database: Mutex<Database>,
    sole_user: bool,
    /// Held as long as the store lives.
    _lock: File,
    /// `Writing` messages up to this id are of a killed run; 0 when they could be stopped in the file.
    unstopped_through: i64,
}

impl std::fmt::Debug for ChatStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl ChatStore {
    /// Opens or creates the file, migrates it, and turns `Writing` messages of a killed run into `Stopped` ones.
    ///
    /// While another process has the file open its `Writing` messages are left alone. On a full disk the store opens for
    /// reading: every change then says [`ChatError::DiskFull`], and another process may find the file locked.
    pub fn open(path: &Path) -> Result<Self, ChatError> {
        Self::open_with(path, open::MIGRATIONS)
    }

    fn open_with(path: &Path, migrations: &[&str]) -> Result<Self, ChatError> {
        let opened = open::open(path, migrations)?;
        let database = Database { connection: opened.connection, durability: Durability::Power };
        Ok(Self {
            path: path.to_owned(),
            database: Mutex::new(database),
            sole_user: opened.sole_user,
            _lock: opened.lock,
            unstopped_through: opened.unstopped_through,
        })
    }

    /// Whether no other process had the chats open when this one opened them.
    pub fn is_sole_user(&self) -> bool {
        self.sole_user
    }

    /// Newest first; deleted ones left out.
    pub fn list(&self) -> Result<Vec<ChatRow>, ChatError> {
        self.read(rows)
    }

    /// A new, empty chat.
    pub fn create(&self) -> Result<i64, ChatError> {
        self.write(Durability::Power, |db| {
            db.prepare_cached("INSERT INTO chats (created_ms, updated_ms) VALUES (?1, ?1)")?.execute([now_ms()])?;
            Ok(db.last_insert_rowid())
        })
    }

    /// Renames.
    pub fn rename(&self, chat: i64, title: &str) -> Result<(), ChatError> {
        let title = clean_title(title);
        self.write(Durability::Power, |db| {
            let changed = db
                .prepare_cached("UPDATE chats SET title = ?2, renamed = 1 WHERE id = ?1")?
                .execute(params![chat, title])?;
            found("chat", chat, changed == 1)
        })
    }

    /// Hides a chat; [`Self::undelete`] brings it back until [`Self::purge`].
    pub fn delete(&self, chat: i64) -> Result<(), ChatError> {
        self.write(Durability::Power, |db| {
            let changed = db
                .prepare_cached("UPDATE chats SET deleted_ms = ifnull(deleted_ms, ?2) WHERE id = ?1")?
                .execute([chat, now_ms()])?;
            found("chat", chat, changed == 1)
        })
    }

    /// Undo of [`Self::delete`].
    pub fn undelete(&self, chat: i64) -> Result<(), ChatError> {
        self.write(Durability::Power, |db| {
            let changed = db.prepare_cached("UPDATE chats SET deleted_ms = NULL WHERE id = ?1")?.execute([chat])?;
            found("chat", chat, changed == 1)
        })
    }

    /// Chats that [`Self::purge`] would remove, for those who keep files under a chat's id.
    pub fn deleted_before(&self, deleted_before_ms: i64) -> Result<Vec<i64>, ChatError> {
        self.read(|db| {
            let mut statement = db.prepare_cached("SELECT id FROM chats WHERE deleted_ms < ?1 ORDER BY id")?;
            let ids = statement.query_map([deleted_before_ms], |r| r.get(0))?.collect::<Result<_, _>>()?;
            Ok(ids)
        })
    }

    /// Removes chats deleted before `deleted_before_ms` for good, documents included.
    pub fn purge(&self, deleted_before_ms: i64) -> Result<usize, ChatError> {
        let removed = self.write(Durability::Power, |db| {
            // Erasing a message erases its answers first, one level of SQLite's recursion for each, of which it allows
            // 1,000. Without parents all messages go at the first level; unshown, as a chat has one shown first message.
            db.prepare_cached(
                "UPDATE messages SET parent = NULL, shown = 0 WHERE chat IN (SELECT id FROM chats WHERE deleted_ms < ?1)",
            )?
            .execute([deleted_before_ms])?;
            Ok(db.prepare_cached("DELETE FROM chats WHERE deleted_ms < ?1")?.execute([deleted_before_ms])?)
        })?;
        if removed > 0 {
            self.give_back_space()?;
        }
        Ok(removed)
    }

    /// Free pages go back to the disk, and the log with the erased text is emptied; a reader in another process puts that off.
    fn give_back_space(&self) -> Result<(), ChatError> {
        self.read(|db| {
            let mut statement = db.prepare("PRAGMA incremental_vacuum")?;
            let mut pages = statement.query([])?;
            while pages.next()?.is_some() {}
            db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
            Ok(())
        })
    }

    /// The unsent text of a chat's composer.
    pub fn draft(&self, chat: i64) -> Result<String, ChatError> {
        self.read(|db| {
            let mut statement = db.prepare_cached("SELECT draft FROM chats WHERE id = ?1")?;
            let draft = statement.query_row([chat], |r| r.get(0)).optional()?;
            draft.ok_or(ChatError::NotFound { what: "chat", id: chat })
        })
    }

    /// Keeps it.
    pub fn set_draft(&self, chat: i64, text: &str) -> Result<(), ChatError> {
        self.write(Durability::Process, |db| {
            let changed =
                db.prepare_cached("UPDATE chats SET draft = ?2 WHERE id = ?1")?.execute(params![chat, text])?;
            found("chat", chat, changed == 1)
        })
    }

    /// A setting of the app (theme, context, attention mode), as text.
    pub fn setting(&self, key: &str) -> Result<Option<String>, ChatError> {
        self.read(|db| {
            let mut statement = db.prepare_cached("SELECT value FROM settings WHERE key = ?1")?;
            Ok(statement.query_row([key], |r| r.get(0)).optional()?)
        })
    }

    /// Keeps it.
    pub fn set_setting(&self, key: &str, value: &str) -> Result<(), ChatError> {
        self.write(Durability::Process, |db| {
            db.prepare_cached(
                "INSERT INTO settings (key, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value",
            )?
            .execute([key, value])?;
            Ok(())
        })
    }

    /// A setting of one chat (system prompt, sampling), as text.
    pub fn chat_setting(&self, chat: i64, key: &str) -> Result<Option<String>, ChatError> {
        self.read(|db| {
            let mut statement = db.prepare_cached("SELECT value FROM chat_settings WHERE chat = ?1 AND key = ?2")?;
            Ok(statement.query_row(params![chat, key], |r| r.get(0)).optional()?)
        })
    }

    /// Keeps it.
    pub fn set_chat_setting(&self, chat: i64, key: &str, value: &str) -> Result<(), ChatError> {
        self.write(Durability::Process, |db| {
            found("chat", chat, db.prepare_cached("SELECT 1 FROM chats WHERE id = ?1")?.exists([chat])?)?;
            db.prepare_cached(
                "INSERT INTO chat_settings (chat, key, value) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET value = excluded.value",
            )?
            .execute(params![chat, key, value])?;
            Ok(())
        })
    }

    fn read<T>(&self, look: impl FnOnce(&Connection) -> Result<T, ChatError>) -> Result<T, ChatError> {
        look(&self.database().connection).map_err(|error| error.classified(&self.path))
    }

    /// One immediate transaction; an error rolls all of it back.
    fn write<T>(
        &self,
        durability: Durability,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, ChatError>,
    ) -> Result<T, ChatError> {
        let mut database = self.database();
        let attempt = || -> Result<T, ChatError> {
            let Database { connection, durability: current } = &mut *database;
            if *current != durability {
                let level = if durability == Durability::Power { "FULL" } else { "NORMAL" };
                connection.pragma_update(None, "synchronous", level)?;
                *current = durability;
            }
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = change(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        attempt().map_err(|error| error.classified(&self.path))
    }

    /// A thread that panicked with the lock rolled its transaction back while unwinding.
    fn database(&self) -> MutexGuard<'_, Database> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All chats that are not deleted, newest first, with the length of the shown branch.
fn rows(db: &Connection) -> Result<Vec<ChatRow>, ChatError> {
    let mut statement = db.prepare_cached(
        "WITH RECURSIVE shown_branch (chat, id) AS (
             SELECT chat, id FROM messages WHERE parent IS NULL AND shown = 1
             UNION ALL
             SELECT messages.chat, messages.id FROM shown_branch
             JOIN messages ON messages.parent = shown_branch.id AND messages.shown = 1
         ), lengths AS (SELECT chat, count(*) AS length FROM shown_branch GROUP BY chat)
         SELECT chats.id, title, updated_ms, ifnull(length, 0) FROM chats LEFT JOIN lengths ON lengths.chat = chats.id
         WHERE deleted_ms IS NULL ORDER BY updated_ms DESC, chats.id DESC",
    )?;
    let rows = statement
        .query_map([], |r| {
            let messages: i64 = r.get(3)?;
            Ok(ChatRow { id: r.get(0)?, title: r.get(1)?, updated_ms: r.get(2)?, messages: messages as usize })
        })?
        .collect::<Result<_, _>>()?;
    Ok(rows)
}

/// A given title as one line.
fn clean_title(title: &str) -> String {
    title.trim().chars().filter(|c| !c.is_control()).collect()
}

fn found(what: &'static str, id: i64, is: bool) -> Result<(), ChatError> {
    if is { Ok(()) } else { Err(ChatError::NotFound { what, id }) }
}

/// Unix milliseconds; a clock before 1970 counts as 1970.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
