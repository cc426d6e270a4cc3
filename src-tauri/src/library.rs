//! Documents in memory: read from the database once a chat, counted once a model.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use reprise_engine::Engine;
use reprise_library::chats::{ChatError, ChatStore};
use reprise_library::documents::Document;
use reprise_library::prompt;

use crate::app::lock;
use crate::ipc::UserError;

/// A chat's documents in attachment order, with their ids.
pub(crate) type Documents = Arc<Vec<(i64, Document)>>;

/// Chats whose documents stay in memory; each may hold megabytes of text.
const CHATS_KEPT: usize = 4;

/// What is in memory.
#[derive(Default)]
pub struct Library {
    opened: Mutex<Option<i32>>,
    /// Least recently used first.
    documents: Mutex<Vec<(i32, Documents)>>,
    /// Held from looking whether a document is there, or its name taken, until it is attached.
    attaching: Mutex<()>,
    /// Tokens by the SHA-256 of the text and the name, with the loaded model.
    tokens: Mutex<HashMap<(String, String), u32>>,
}

impl Library {
    /// Remembers which chat is on the screen.
    pub fn open(&self, chat: i32) {
        *lock(&self.opened) = Some(chat);
    }

    /// The chat on the screen.
    pub fn opened(&self) -> Option<i32> {
        *lock(&self.opened)
    }

    /// A chat's documents.
    pub fn documents(&self, chats: &ChatStore, chat: i32) -> Result<Documents, ChatError> {
        let mut kept = lock(&self.documents);
        let documents = match kept.iter().position(|(of, _)| *of == chat) {
            Some(place) => kept.remove(place).1,
            None => Arc::new(chats.documents(chat.into())?),
        };
        if kept.len() >= CHATS_KEPT {
            kept.remove(0);
        }
        kept.push((chat, Arc::clone(&documents)));
        Ok(documents)
    }

    /// Documents are attached one after the other, however many are read at once.
    pub fn attaching(&self) -> MutexGuard<'_, ()> {
        lock(&self.attaching)
    }

    /// The chat that holds a document: the one opened last, else one whose documents are in memory. The chat on the
    /// screen is among these, even where another one that was left again took longer to open.
    pub fn chat_of(&self, chats: &ChatStore, document: i64) -> Result<Option<i32>, ChatError> {
        let holds = |documents: &Documents| documents.iter().any(|(id, _)| *id == document);
        if let Some(opened) = self.opened()
            && holds(&self.documents(chats, opened)?)
        {
            return Ok(Some(opened));
        }
        Ok(lock(&self.documents).iter().find(|(_, documents)| holds(documents)).map(|(chat, _)| *chat))
    }

    /// Forgets a chat's documents after they changed.
    pub fn changed(&self, chat: i32) {
        lock(&self.documents).retain(|(of, _)| *of != chat);
    }

    /// Forgets all counts: another model counts differently.
    pub fn forget_counts(&self) {
        lock(&self.tokens).clear();
    }

    /// Exact tokens of a document as it stands in the prompt.
    pub fn tokens(&self, engine: &Engine, document: &Document) -> Result<u32, UserError> {
        let key = (document.sha256.clone(), document.name.clone());
        if let Some(known) = lock(&self.tokens).get(&key) {
            return Ok(*known);
        }
        let (text, _) = prompt::first_message(&[document], "");
        let tokens = u32::try_from(engine.count_text(&text)?).unwrap_or(u32::MAX);
        lock(&self.tokens).insert(key, tokens);
        Ok(tokens)
    }
}
