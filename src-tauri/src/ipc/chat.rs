//! Chats and messages as the page draws them.

use serde::{Deserialize, Serialize};
use specta::Type;
use specta_typescript::Number;

use super::document::DocumentView;
use super::reply::ReplyStats;

/// A sidebar row.
#[derive(Debug, Clone, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct ChatRow {
    /// Id.
    pub id: i32,
    /// Title.
    pub title: String,
    /// Unix milliseconds.
    #[specta(type = Number)]
    pub updated_ms: f64,
    /// Where a search matched; empty otherwise.
    pub snippet: String,
}

/// An open chat.
#[derive(Debug, Clone, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct ChatView {
    /// Id.
    pub id: i32,
    /// Title.
    pub title: String,
    /// Shown branch.
    pub messages: Vec<MessageView>,
    /// Attached, in order.
    pub documents: Vec<DocumentView>,
    /// Unsent text.
    pub draft: String,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct MessageView {
    /// Id.
    pub id: i32,
    /// `user` or `assistant`.
    pub author: Author,
    /// Text.
    pub text: String,
    /// How complete.
    pub state: MessageState,
    /// Figures of a finished reply.
    pub stats: Option<ReplyStats>,
    /// Why it failed.
    pub error: Option<String>,
    /// 1-based among its siblings.
    pub version: u32,
    /// Sibling ids, itself included.
    pub siblings: Vec<i32>,
}

/// Who wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Type)]
#[serde(rename_all = "camelCase")]
pub enum Author {
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// How complete a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub enum MessageState {
    /// Whole.
    Done,
    /// Being written.
    Writing,
    /// Stopped by the user or by a crash.
    Stopped,
    /// Failed.
    Failed,
}
