//! The JSON lines of `reprise chat --json`. Field names are a contract: add, never rename.

use reprise_engine::{AuditSummary, PrefillProgress, StepStats, StopReason, Summary, TokenEvent};
use serde::Serialize;

/// Reading.
#[derive(Debug, Serialize)]
pub(crate) struct Prefill {
    event: &'static str,
    done: usize,
    total: usize,
    cached: usize,
    elapsed_s: f64,
    tokens_per_s: Option<f64>,
    remaining_s: Option<f64>,
}

impl From<PrefillProgress> for Prefill {
    fn from(p: PrefillProgress) -> Self {
        Self {
            event: "prefill",
            done: p.done,
            total: p.total,
            cached: p.cached,
            elapsed_s: p.elapsed.as_secs_f64(),
            tokens_per_s: p.tokens_per_s,
            remaining_s: p.remaining.map(|d| d.as_secs_f64()),
        }
    }
}

/// One token; `step` is what its decode step touched, null where none ran.
#[derive(Debug, Serialize)]
pub(crate) struct Token<'a> {
    event: &'static str,
    index: usize,
    id: u32,
    text: &'a str,
    step: Option<Step>,
}

#[derive(Debug, Serialize)]
struct Step {
    context_tokens: usize,
    seconds: f64,
    reuse_active: bool,
    heads: usize,
    heads_matched: usize,
    groups: usize,
    groups_reused: usize,
    kv_bytes_read: u64,
    ring_bytes: u64,
    kv_bytes_exact: u64,
}

impl From<&StepStats> for Step {
    fn from(s: &StepStats) -> Self {
        Self {
            context_tokens: s.context_tokens,
            seconds: s.seconds,
            reuse_active: s.reuse_active,
            heads: s.layers * s.num_q_heads,
            heads_matched: s.heads_matched,
            groups: s.layers * s.num_kv_heads,
            groups_reused: s.groups_reused,
            kv_bytes_read: s.kv_bytes_read,
            ring_bytes: s.ring_bytes,
            kv_bytes_exact: s.kv_bytes_exact,
        }
    }
}

impl<'a> From<&'a TokenEvent> for Token<'a> {
    fn from(t: &'a TokenEvent) -> Self {
        Self { event: "token", index: t.index, id: t.id, text: &t.text, step: t.step.as_ref().map(Step::from) }
    }
}

/// The figures of the whole answer.
#[derive(Debug, Serialize)]
pub(crate) struct Done<'a> {
    event: &'static str,
    model: &'a str,
    device: &'a str,
    kv: &'static str,
    attention: &'a str,
    prompt_tokens: usize,
    cached_tokens: usize,
    prefill_s: f64,
    ttft_s: f64,
    decode_tokens: usize,
    decode_s: f64,
    decode_steps: usize,
    stop: &'static str,
    head_hit_rate: Option<f64>,
    group_hit_rate: Option<f64>,
    kv_bytes_read: u64,
    ring_bytes: u64,
    kv_bytes_exact: u64,
    exact_fallback_steps: usize,
    audit: Option<Audit>,
}

#[derive(Debug, Serialize)]
struct Audit {
    samples: usize,
    mean_relative_error: f64,
    max_relative_error: f64,
    reused_samples: usize,
}

impl From<AuditSummary> for Audit {
    fn from(a: AuditSummary) -> Self {
        Self {
            samples: a.samples,
            mean_relative_error: a.mean_relative_error,
            max_relative_error: a.max_relative_error,
            reused_samples: a.reused_samples,
        }
    }
}

/// The name of a stop reason in JSON.
pub(crate) fn stop_name(stop: StopReason) -> &'static str {
    match stop {
        StopReason::EndOfTurn => "end_of_turn",
        StopReason::MaxTokens => "max_tokens",
        StopReason::ContextFull => "context_full",
        StopReason::User => "user",
    }
}

impl<'a> From<&'a Summary> for Done<'a> {
    fn from(s: &'a Summary) -> Self {
        Self {
            event: "done",
            model: &s.model,
            device: &s.device,
            kv: s.kv.name(),
            attention: s.attention,
            prompt_tokens: s.prompt_tokens,
            cached_tokens: s.cached_tokens,
            prefill_s: s.prefill_s,
            ttft_s: s.ttft_s,
            decode_tokens: s.decode_tokens,
            decode_s: s.decode_s,
            decode_steps: s.decode_steps,
            stop: stop_name(s.stop),
            head_hit_rate: s.head_hit_rate,
            group_hit_rate: s.group_hit_rate,
            kv_bytes_read: s.kv_bytes_read,
            ring_bytes: s.ring_bytes,
            kv_bytes_exact: s.kv_bytes_exact,
            exact_fallback_steps: s.exact_fallback_steps,
            audit: s.audit.map(Audit::from),
        }
    }
}
