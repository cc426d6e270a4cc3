//! One question and its reply.

use serde::{Deserialize, Serialize};
use specta::Type;
use specta_typescript::Number;

use super::chat::{ChatView, MessageView};
use super::error::UserError;
use super::settings::AttentionMode;

/// What the next question would send.
#[derive(Debug, Clone, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct ContextUse {
    /// Tokens of the attached documents, each.
    pub documents: Vec<DocumentTokens>,
    /// Exact tokens of the whole prompt, template included.
    pub prompt_tokens: u32,
    /// Of these, the draft's.
    pub draft_tokens: u32,
    /// Of these, in the KV cache already.
    pub cached_tokens: u32,
    /// Kept free for the reply.
    pub reply_tokens: u32,
    /// Context of the loaded model.
    pub context_tokens: u32,
    /// Predicted reading time from this machine's own rate; `None` before anything was read.
    #[specta(type = Option<Number>)]
    pub predicted_read_s: Option<f64>,
}

/// Tokens of one document.
#[derive(Debug, Clone, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct DocumentTokens {
    /// The document.
    pub document: i32,
    /// Its tokens.
    pub tokens: u32,
}

/// What the page asks the engine to do; the reply comes on a channel.
#[derive(Debug, Clone, PartialEq, Deserialize, Type)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Ask {
    /// A new user message at the end of the shown branch.
    Question {
        /// Its text.
        text: String,
    },
    /// Another version of a reply (regenerate).
    Again {
        /// The reply's id.
        message: i32,
        /// `exact` answers with exact attention for comparison; `None` as set.
        attention: Option<AttentionMode>,
    },
    /// Carry on a stopped reply.
    Continue {
        /// The reply's id.
        message: i32,
    },
    /// Another version of a user message, then a reply to it.
    Edit {
        /// The user message's id.
        message: i32,
        /// The new text.
        text: String,
    },
}

/// A reply while it is made, at most one message a frame.
#[derive(Debug, Clone, PartialEq, Serialize, Type)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ReplyEvent {
    /// The messages exist in the chat now.
    Started {
        /// The chat with the new messages.
        chat: ChatView,
        /// Id of the reply being written.
        reply: i32,
    },
    /// Reading.
    Prefill {
        /// Prompt tokens in the KV cache.
        done: u32,
        /// Prompt tokens.
        total: u32,
        /// Cached ones among them.
        cached: u32,
        /// Rate.
        #[specta(type = Option<Number>)]
        tokens_per_s: Option<f64>,
        /// Seconds left.
        #[specta(type = Option<Number>)]
        remaining_s: Option<f64>,
    },
    /// Text and the steps behind it.
    Tokens {
        /// What became complete since the last message.
        text: String,
        /// One entry per token.
        steps: Vec<TokenStep>,
    },
    /// Finished or stopped.
    Done {
        /// The finished message.
        message: MessageView,
    },
    /// Failed; the message keeps what was written.
    Failed {
        /// Why.
        error: UserError,
        /// The message as kept; `None` if none was begun.
        message: Option<MessageView>,
    },
}

/// One token and its step.
#[derive(Debug, Clone, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct TokenStep {
    /// 0-based in the reply.
    pub index: u32,
    /// Its text, possibly empty.
    pub text: String,
    /// Its decode step; `None` for the last token.
    pub step: Option<StepView>,
}

/// Counters of one decode step.
#[derive(Debug, Clone, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct StepView {
    /// Context during the step.
    pub context_tokens: u32,
    /// Milliseconds of the step, measured.
    #[specta(type = Number)]
    pub ms: f64,
    /// Reuse was searched for.
    pub reuse_active: bool,
    /// Heads matched, all layers.
    pub heads_matched: u32,
    /// Heads, all layers.
    pub heads_total: u32,
    /// KV groups not read.
    pub groups_reused: u32,
    /// KV groups, all layers.
    pub groups_total: u32,
    /// K and V bytes read.
    #[specta(type = Number)]
    pub kv_bytes_read: f64,
    /// Ring bytes touched.
    #[specta(type = Number)]
    pub ring_bytes: f64,
    /// What exact attention reads at this length.
    #[specta(type = Number)]
    pub kv_bytes_exact: f64,
    /// One digit per head, layer by layer: 0 not searched, 1 missed, 2 refreshed with its group, 3 reused.
    pub heads: String,
}

/// Figures under a reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct ReplyStats {
    /// Model.
    pub model: String,
    /// Device.
    pub device: String,
    /// `mac` or `exact`.
    pub attention: String,
    /// Prompt tokens.
    pub prompt_tokens: u32,
    /// Cached ones.
    pub cached_tokens: u32,
    /// Seconds of reading.
    #[specta(type = Number)]
    pub prefill_s: f64,
    /// Seconds to the first token.
    #[specta(type = Number)]
    pub ttft_s: f64,
    /// Tokens written.
    pub decode_tokens: u32,
    /// Seconds of decode steps.
    #[specta(type = Number)]
    pub decode_s: f64,
    /// Decode steps.
    pub decode_steps: u32,
    /// `endOfTurn`, `maxTokens`, `contextFull`, `user`.
    pub stop: StopKind,
    /// Heads matched ÷ heads.
    #[specta(type = Option<Number>)]
    pub head_hit_rate: Option<f64>,
    /// Groups reused ÷ groups.
    #[specta(type = Option<Number>)]
    pub group_hit_rate: Option<f64>,
    /// KV bytes read.
    #[specta(type = Number)]
    pub kv_bytes_read: f64,
    /// Ring bytes.
    #[specta(type = Number)]
    pub ring_bytes: f64,
    /// Exact attention's KV bytes.
    #[specta(type = Number)]
    pub kv_bytes_exact: f64,
    /// Exact although reuse was asked for.
    pub exact_fallback_steps: u32,
    /// Audited (layer, head, step) triples.
    pub audit_samples: u32,
    /// Mean relative error of them.
    #[specta(type = Option<Number>)]
    pub audit_mean_error: Option<f64>,
    /// Largest.
    #[specta(type = Option<Number>)]
    pub audit_max_error: Option<f64>,
    /// Which documents were in context, with the pages that had text: `handbook.pdf (pages 1–24)`.
    pub sources: Vec<String>,
}

/// Why writing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Type)]
#[serde(rename_all = "camelCase")]
pub enum StopKind {
    /// The model ended its turn.
    EndOfTurn,
    /// The limit on new tokens.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// The user stopped it.
    User,
}
