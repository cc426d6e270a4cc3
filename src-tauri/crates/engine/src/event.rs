//! What a generation reports while it runs.

use std::time::Duration;

use mac_attention::HeadOutcome;

use crate::{EngineError, KvFormat};

/// In order: any number of `Prefill`, any number of `Token`, then exactly one `Done` or `Failed`.
#[derive(Debug)]
pub enum Event {
    /// Reading.
    Prefill(PrefillProgress),
    /// One token was written.
    Token(TokenEvent),
    /// Finished, stopped by the user included.
    Done(Box<Summary>),
    /// Failed; what was written so far stands, and the KV cache of whole chunks and steps is kept.
    Failed(EngineError),
}

/// How far reading has come. Sent at the start, after each chunk and at the end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrefillProgress {
    /// Prompt tokens in the KV cache now, cached ones included.
    pub done: usize,
    /// Prompt tokens in all.
    pub total: usize,
    /// Prompt tokens that were in the KV cache before.
    pub cached: usize,
    /// Time spent reading so far.
    pub elapsed: Duration,
    /// Tokens read per second so far in this request; `None` before the first chunk.
    pub tokens_per_s: Option<f64>,
    /// Time left at the rate of the last chunks, the growth of attention with depth included; `None` where unknown.
    pub remaining: Option<Duration>,
}

/// One token, and what its step touched.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenEvent {
    /// 0-based within this reply.
    pub index: usize,
    /// Token id.
    pub id: u32,
    /// Text that became complete with this token; empty while a character is still in pieces.
    pub text: String,
    /// The decode step that ran after this token was chosen; `None` for a token that was not fed back: the last one,
    /// unless a stop token (which is no event) was found after it.
    pub step: Option<StepStats>,
}

/// Counters of one decode step over all layers.
#[derive(Debug, Clone, PartialEq)]
pub struct StepStats {
    /// Tokens in the KV cache during the step.
    pub context_tokens: usize,
    /// Wall time of the step, sampling included.
    pub seconds: f64,
    /// The policy was reuse and at least one layer searched.
    pub reuse_active: bool,
    /// Layers.
    pub layers: usize,
    /// Query heads per layer.
    pub num_q_heads: usize,
    /// KV heads per layer.
    pub num_kv_heads: usize,
    /// `[layers, num_q_heads]`.
    pub heads: Vec<HeadOutcome>,
    /// Heads whose match was accepted (reused, or refreshed with their group).
    pub heads_matched: usize,
    /// KV groups that were not read beyond band and tail.
    pub groups_reused: usize,
    /// K and V bytes read, all layers.
    pub kv_bytes_read: u64,
    /// Ring bytes touched, all layers.
    pub ring_bytes: u64,
    /// K and V bytes that exact attention reads at this length.
    pub kv_bytes_exact: u64,
}

/// Why writing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The model ended its turn.
    EndOfTurn,
    /// `max_tokens` were written.
    MaxTokens,
    /// No room left in the context.
    ContextFull,
    /// The user stopped it.
    User,
}

/// Sampled comparison of used against exact attention outputs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AuditSummary {
    /// (layer, head, step) triples compared.
    pub samples: usize,
    /// Mean relative L2 error of a head's output.
    pub mean_relative_error: f64,
    /// Largest.
    pub max_relative_error: f64,
    /// Samples among them that had reused a stored state.
    pub reused_samples: usize,
}

/// Figures of a finished generation. Rates are over decode steps only; reading is apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Model name.
    pub model: String,
    /// Device in words.
    pub device: String,
    /// How keys and values were held.
    pub kv: KvFormat,
    /// `mac`, `exact` or `forced`.
    pub attention: &'static str,
    /// Prompt tokens, cached ones included.
    pub prompt_tokens: usize,
    /// Of these, in the KV cache before.
    pub cached_tokens: usize,
    /// Seconds of reading.
    pub prefill_s: f64,
    /// Seconds from the request to the first token.
    pub ttft_s: f64,
    /// Tokens written, the stop token excluded.
    pub decode_tokens: usize,
    /// Seconds of decode steps.
    pub decode_s: f64,
    /// Decode steps run: as many as tokens written where the model ended its turn (the last was fed back to find that),
    /// else one less.
    pub decode_steps: usize,
    /// Why it ended.
    pub stop: StopReason,
    /// Heads matched ÷ heads, over all steps and layers; `None` without a step.
    pub head_hit_rate: Option<f64>,
    /// Groups reused ÷ groups.
    pub group_hit_rate: Option<f64>,
    /// K and V bytes read in decode steps.
    pub kv_bytes_read: u64,
    /// Ring bytes touched in decode steps.
    pub ring_bytes: u64,
    /// What exact attention would have read in the same steps.
    pub kv_bytes_exact: u64,
    /// Steps that ran exact although reuse was asked for: below the shortest context for it, or while searches rest because
    /// they brought less than they cost.
    pub exact_fallback_steps: usize,
    /// Audits; `None` when none was taken.
    pub audit: Option<AuditSummary>,
    /// All ids written, the stop token excluded.
    pub token_ids: Vec<u32>,
}
