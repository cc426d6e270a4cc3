//! What a client asks for.

use crate::Sampling;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Standing instructions.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// One message of a chat, documents already written into its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// How decode steps attend.
#[derive(Debug, Clone, PartialEq)]
pub enum Attention {
    /// Reuse where a past query was close enough.
    Mac(mac_attention::Paper),
    /// Every step reads the whole KV cache.
    Exact,
    /// Dictated hits, for benchmarks; each layer gets its own random stream.
    Forced(mac_attention::Forced),
}

/// One generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The chat so far; the last message is the user's, or the assistant's when `continue_reply` is set.
    pub messages: Vec<Message>,
    /// Carry on writing the last message, which is the assistant's, instead of starting a new one.
    pub continue_reply: bool,
    /// How decode steps attend.
    pub attention: Attention,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Most tokens to write; `None` writes until the model stops or the context is full.
    pub max_tokens: Option<usize>,
    /// Exact audits: one KV group of one layer every this many steps; 0 turns them off.
    pub audit_every: usize,
}
