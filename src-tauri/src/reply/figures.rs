//! Engine figures as the page gets them. Every number that leaves here is finite.

use mac_attention::HeadOutcome;
use reprise_engine::{StepStats, StopReason, Summary, TokenEvent};
use reprise_library::documents::{Document, DocumentKind};

use crate::ipc::{ReplyStats, StepView, StopKind, TokenStep};

/// One token and its step.
pub(super) fn token(event: TokenEvent) -> TokenStep {
    TokenStep { index: count(event.index), text: event.text, step: event.step.as_ref().map(step) }
}

fn step(stats: &StepStats) -> StepView {
    StepView {
        context_tokens: count(stats.context_tokens),
        ms: finite(stats.seconds * 1e3),
        reuse_active: stats.reuse_active,
        heads_matched: count(stats.heads_matched),
        heads_total: count(stats.layers * stats.num_q_heads),
        groups_reused: count(stats.groups_reused),
        groups_total: count(stats.layers * stats.num_kv_heads),
        kv_bytes_read: stats.kv_bytes_read as f64,
        ring_bytes: stats.ring_bytes as f64,
        kv_bytes_exact: stats.kv_bytes_exact as f64,
        heads: stats.heads.iter().map(|head| digit(*head)).collect(),
    }
}

fn digit(head: HeadOutcome) -> char {
    match head {
        HeadOutcome::NotSearched => '0',
        HeadOutcome::Missed => '1',
        HeadOutcome::Refreshed => '2',
        HeadOutcome::Reused => '3',
    }
}

/// Figures under a finished reply.
pub(super) fn reply(summary: &Summary, documents: &[(i64, Document)]) -> ReplyStats {
    ReplyStats {
        model: summary.model.clone(),
        device: summary.device.clone(),
        attention: summary.attention.to_owned(),
        prompt_tokens: count(summary.prompt_tokens),
        cached_tokens: count(summary.cached_tokens),
        prefill_s: finite(summary.prefill_s),
        ttft_s: finite(summary.ttft_s),
        decode_tokens: count(summary.decode_tokens),
        decode_s: finite(summary.decode_s),
        decode_steps: count(summary.decode_steps),
        stop: match summary.stop {
            StopReason::EndOfTurn => StopKind::EndOfTurn,
            StopReason::MaxTokens => StopKind::MaxTokens,
            StopReason::ContextFull => StopKind::ContextFull,
            StopReason::User => StopKind::User,
        },
        head_hit_rate: summary.head_hit_rate.filter(|rate| rate.is_finite()),
        group_hit_rate: summary.group_hit_rate.filter(|rate| rate.is_finite()),
        kv_bytes_read: summary.kv_bytes_read as f64,
        ring_bytes: summary.ring_bytes as f64,
        kv_bytes_exact: summary.kv_bytes_exact as f64,
        exact_fallback_steps: count(summary.exact_fallback_steps),
        audit_samples: summary.audit.map_or(0, |audit| count(audit.samples)),
        audit_mean_error: summary.audit.map(|audit| audit.mean_relative_error).filter(|error| error.is_finite()),
        audit_max_error: summary.audit.map(|audit| audit.max_relative_error).filter(|error| error.is_finite()),
        sources: documents.iter().map(|(_, document)| source(document)).collect(),
    }
}

/// A document in context with the pages that had text: `handbook.pdf (pages 1–24)`.
fn source(document: &Document) -> String {
    if document.kind != DocumentKind::Pdf {
        return document.name.clone();
    }
    let with_text = document.pages.iter().filter(|page| !page.text.trim().is_empty()).map(|page| page.number);
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for page in with_text {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == page => *last = page,
            _ => runs.push((page, page)),
        }
    }
    let word = if matches!(runs[..], [(first, last)] if first == last) { "page" } else { "pages" };
    let runs =
        runs.iter().map(|(first, last)| if first == last { first.to_string() } else { format!("{first}–{last}") });
    format!("{} ({word} {})", document.name, runs.collect::<Vec<_>>().join(", "))
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use reprise_library::documents::{Page, ReadReport};

    use super::*;

    fn pdf(pages_with_text: &[u32]) -> Document {
        let pages = (1..=6)
            .map(|number| Page {
                number,
                text: if pages_with_text.contains(&number) { "text".into() } else { String::new() },
            })
            .collect();
        Document::new("handbook.pdf".into(), DocumentKind::Pdf, pages, ReadReport::default())
    }

    #[test]
    fn a_source_names_the_pages_that_had_text() {
        assert_eq!(source(&pdf(&[1, 2, 3, 5])), "handbook.pdf (pages 1–3, 5)");
        assert_eq!(source(&pdf(&[4])), "handbook.pdf (page 4)");
    }

    #[test]
    fn a_step_counts_heads_over_all_layers() {
        let stats = StepStats {
            context_tokens: 100,
            seconds: f64::INFINITY,
            reuse_active: true,
            layers: 2,
            num_q_heads: 2,
            num_kv_heads: 1,
            heads: vec![HeadOutcome::NotSearched, HeadOutcome::Missed, HeadOutcome::Refreshed, HeadOutcome::Reused],
            heads_matched: 2,
            groups_reused: 0,
            kv_bytes_read: 1 << 40,
            ring_bytes: 3,
            kv_bytes_exact: 4,
        };
        let view = step(&stats);
        assert_eq!((view.heads.as_str(), view.heads_total, view.groups_total), ("0123", 4, 2));
        assert_eq!((view.ms, view.kv_bytes_read), (0.0, 1_099_511_627_776.0));
    }
}
