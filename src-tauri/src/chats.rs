//! Chats as the page draws them, from what is stored.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reprise_library::chats::{self as stored, ChatError, StoredMessage};
use serde::Deserialize;

use crate::app::App;
use crate::documents;
use crate::ipc::{Author, ChatRow, ChatView, MessageState, MessageView, ReplyStats, UserError};

/// Which chat the next start shows.
const OPEN_CHAT: &str = "open_chat";
/// How long a deleted chat can be brought back.
const UNDO: Duration = Duration::from_hours(30 * 24);

/// Sidebar rows, newest first.
pub fn list(app: &App) -> Result<Vec<ChatRow>, UserError> {
    app.chats().list()?.into_iter().map(|row| row_view(row, String::new())).collect()
}

/// Matches of a search, best first.
pub fn search(app: &App, query: &str) -> Result<Vec<ChatRow>, UserError> {
    app.chats().search(query)?.into_iter().map(|(row, snippet)| row_view(row, snippet)).collect()
}

/// A new chat, shown at the next start.
pub fn create(app: &App) -> Result<ChatView, UserError> {
    let chat = page_id(app.chats().create()?)?;
    open(app, chat)
}

/// A chat, shown at the next start.
pub fn open(app: &App, chat: i32) -> Result<ChatView, UserError> {
    let view = view(app, chat)?;
    app.chats().set_setting(OPEN_CHAT, &chat.to_string())?;
    app.library().open(chat);
    Ok(view)
}

/// The chat opened last.
pub fn last_open(app: &App) -> Result<Option<i32>, UserError> {
    Ok(app.chats().setting(OPEN_CHAT)?.and_then(|id| id.parse().ok()))
}

/// Gives a chat another title.
pub fn rename(app: &App, chat: i32, title: &str) -> Result<(), UserError> {
    let title = title.trim();
    if title.is_empty() {
        return Err(UserError::new("A chat needs a title.").kept("It keeps the one it has."));
    }
    Ok(app.chats().rename(chat.into(), title)?)
}

/// Hides a chat.
pub fn delete(app: &App, chat: i32) -> Result<(), UserError> {
    if app.reply().chat() == Some(chat) {
        app.stop_reply();
        app.reply().wait(crate::reply::LONGEST_STOP);
    }
    Ok(app.chats().delete(chat.into())?)
}

/// Brings it back.
pub fn undelete(app: &App, chat: i32) -> Result<(), UserError> {
    Ok(app.chats().undelete(chat.into())?)
}

/// Erases chats that were deleted too long ago to be brought back.
pub fn erase_old(app: &App) -> Result<usize, UserError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let before = now.saturating_sub(UNDO).as_millis();
    Ok(app.chats().purge(i64::try_from(before).unwrap_or(0))?)
}

/// Keeps the composer's text.
pub fn set_draft(app: &App, chat: i32, text: &str) -> Result<(), UserError> {
    Ok(app.chats().set_draft(chat.into(), text)?)
}

/// Shows another version of a message.
pub fn show_version(app: &App, message: i32) -> Result<ChatView, UserError> {
    app.chats().show_version(message.into())?;
    view(app, page_id(app.chats().chat_of(message.into())?)?)
}

/// A chat with its shown branch.
pub fn view(app: &App, chat: i32) -> Result<ChatView, UserError> {
    let row = app.chats().list()?.into_iter().find(|row| row.id == i64::from(chat));
    let row = row.ok_or(ChatError::NotFound { what: "chat", id: chat.into() })?;
    let messages = app.chats().branch(chat.into())?.iter().map(message_view).collect::<Result<_, _>>()?;
    Ok(ChatView {
        id: chat,
        title: row.title,
        messages,
        documents: documents::views(app, chat)?,
        draft: app.chats().draft(chat.into())?,
    })
}

/// One message.
pub fn message_view(message: &StoredMessage) -> Result<MessageView, UserError> {
    let figures = message.stats_json.as_deref();
    Ok(MessageView {
        id: page_id(message.id)?,
        author: match message.author {
            stored::Author::User => Author::User,
            stored::Author::Assistant => Author::Assistant,
        },
        text: message.text.clone(),
        state: match message.state {
            stored::MessageState::Done => MessageState::Done,
            stored::MessageState::Writing => MessageState::Writing,
            stored::MessageState::Stopped => MessageState::Stopped,
            stored::MessageState::Failed => MessageState::Failed,
        },
        stats: figures.and_then(|json| serde_json::from_str::<ReplyStats>(json).ok()),
        error: figures.and_then(|json| serde_json::from_str::<Failure>(json).ok()).map(|failure| failure.error),
        version: u32::try_from(message.version.0).unwrap_or(u32::MAX),
        siblings: message.siblings.iter().map(|id| page_id(*id)).collect::<Result<_, _>>()?,
    })
}

/// What is stored instead of figures when a reply failed.
#[derive(Debug, serde::Serialize, Deserialize)]
pub struct Failure {
    /// Why.
    pub error: String,
}

fn row_view(row: stored::ChatRow, snippet: String) -> Result<ChatRow, UserError> {
    Ok(ChatRow { id: page_id(row.id)?, title: row.title, updated_ms: row.updated_ms as f64, snippet })
}

/// An id as the page can hold it.
pub fn page_id(id: i64) -> Result<i32, UserError> {
    i32::try_from(id).map_err(|error| UserError::new("There are too many messages.").because(&error))
}
