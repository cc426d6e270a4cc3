//! The only error shape that reaches the page.

use serde::Serialize;
use specta::Type;

use super::settings::{DeviceChoice, KvFormat};

/// The only error shape that reaches the page.
#[derive(Debug, Clone, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct UserError {
    /// What happened: one sentence, present tense, no jargon.
    pub message: String,
    /// What was kept; empty when nothing could have been lost.
    pub kept: String,
    /// What to do now; each is a button or a hint.
    pub advice: Vec<Advice>,
    /// The error chain, for "copy details".
    pub details: String,
}

/// What the user can do about an error.
#[derive(Debug, Clone, PartialEq, Serialize, Type)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Advice {
    /// Try the same again.
    Retry,
    /// Load the model with this much context.
    SetContext {
        /// Tokens.
        tokens: u32,
    },
    /// Remove documents or shorten the chat by this much.
    Shorten {
        /// Tokens over the limit.
        excess_tokens: u32,
    },
    /// Start a new chat.
    NewChat,
    /// Choose another model.
    ChooseModel,
    /// Load the model on this device.
    SetDevice {
        /// Which.
        device: DeviceChoice,
    },
    /// Load the model with its context held like this.
    SetKv {
        /// How.
        kv: KvFormat,
    },
    /// Load the model again as it is set.
    Reload,
    /// A sentence to show.
    Hint {
        /// The sentence.
        text: String,
    },
}
