//! Figures of an answer as a person reads them. Reading and writing are told apart; nothing is claimed that was not counted.

use reprise_engine::{StopReason, Summary};

use crate::figures::{bytes, grouped, percent, seconds};

/// Of one answer.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) summary: Summary,
    /// Of the prompt, when the reading was stopped.
    pub(crate) unread_tokens: usize,
}

/// Whether an answer was stopped before its first word.
pub(crate) fn stopped_while_reading(s: &Summary) -> bool {
    s.stop == StopReason::User && s.decode_tokens == 0
}

/// One line for standard error.
pub(crate) fn line(figures: &Figures, min_context: usize) -> String {
    let s = &figures.summary;
    let mut parts = vec![reading(figures), writing(s)];
    if s.decode_tokens > 0 {
        parts.push(attention(s, min_context));
    }
    if let Some(audit) = audit(s) {
        parts.push(audit);
    }
    if let Some(stop) = stop(s.stop) {
        parts.push(stop.to_owned());
    }
    format!("[{}]", parts.join("; "))
}

fn reading(Figures { summary: s, unread_tokens }: &Figures) -> String {
    let new = s.prompt_tokens.saturating_sub(s.cached_tokens + unread_tokens);
    if new == 0 && *unread_tokens > 0 {
        return format!("read none of {} tokens", grouped(*unread_tokens as u64));
    }
    let remembered =
        if s.cached_tokens > 0 { format!(" + {} remembered", grouped(s.cached_tokens as u64)) } else { String::new() };
    let rate = if new > 0 && s.prefill_s > 0.0 {
        format!(" ({} tokens/s)", grouped((new as f64 / s.prefill_s).round() as u64))
    } else {
        String::new()
    };
    let all = if *unread_tokens > 0 { format!(" of {}", grouped((new + unread_tokens) as u64)) } else { String::new() };
    format!("read {}{all}{remembered} tokens in {}{rate}", grouped(new as u64), seconds(s.prefill_s))
}

fn writing(s: &Summary) -> String {
    if s.decode_tokens == 0 {
        return "wrote nothing".to_owned();
    }
    // The last token is chosen without a step of its own, so the rate is steps over their time.
    let rate = if s.decode_steps > 0 && s.decode_s > 0.0 {
        format!(" in {} ({:.1} tokens/s)", seconds(s.decode_s), s.decode_steps as f64 / s.decode_s)
    } else {
        String::new()
    };
    format!("wrote {}{rate}", grouped(s.decode_tokens as u64))
}

fn attention(s: &Summary, min_context: usize) -> String {
    if s.attention == "exact" {
        return "exact attention".to_owned();
    }
    if s.decode_steps == 0 {
        return "reuse not tried: no step was needed".to_owned();
    }
    if s.exact_fallback_steps >= s.decode_steps {
        return format!("exact attention: reuse begins at {} tokens of context", grouped(min_context as u64));
    }
    let mut parts = vec![match (s.head_hit_rate, s.group_hit_rate) {
        (Some(heads), Some(groups)) => format!("reused {} of heads, {} of groups", percent(heads), percent(groups)),
        _ => "reuse on".to_owned(),
    }];
    if s.kv_bytes_exact > 0 {
        let touched = s.kv_bytes_read + s.ring_bytes;
        let share = percent(touched as f64 / s.kv_bytes_exact as f64);
        parts.push(format!("touched {} where exact reads {} ({share})", bytes(touched), bytes(s.kv_bytes_exact)));
    }
    if s.exact_fallback_steps > 0 {
        parts.push(format!("{} steps exact", grouped(s.exact_fallback_steps as u64)));
    }
    parts.join(", ")
}

fn audit(s: &Summary) -> Option<String> {
    // Audits of exact steps compare a thing with itself.
    let audit = s.audit.filter(|audit| audit.reused_samples > 0)?;
    Some(format!(
        "checked {} head outputs ({} reused): off by {:.1e} on average, {:.1e} at most",
        audit.samples, audit.reused_samples, audit.mean_relative_error, audit.max_relative_error
    ))
}

fn stop(reason: StopReason) -> Option<&'static str> {
    match reason {
        StopReason::EndOfTurn => None,
        StopReason::MaxTokens => Some("stopped at --max-tokens"),
        StopReason::ContextFull => Some("stopped: the context is full"),
        StopReason::User => Some("stopped by you"),
    }
}

/// Several lines, for `/stats`.
pub(crate) fn table(figures: &Figures, min_context: usize) -> String {
    let s = &figures.summary;
    let first = if s.decode_tokens > 0 { format!("; first token after {}", seconds(s.ttft_s)) } else { String::new() };
    let mut lines = vec![
        format!("model      {} on {}", s.model, s.device),
        format!("reading    {}{first}", reading(figures)),
        format!("writing    {}", writing(s)),
    ];
    if s.decode_tokens > 0 {
        lines.push(format!("attention  {}", attention(s, min_context)));
    }
    lines.extend(audit(s).map(|text| format!("audit      {text}")));
    lines.extend(stop(s.stop).map(|text| format!("end        {text}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use reprise_engine::{AuditSummary, KvFormat};

    use super::*;

    fn figures() -> Summary {
        Summary {
            model: "demo".to_owned(),
            device: "CPU".to_owned(),
            kv: KvFormat::Bf16,
            attention: "mac",
            prompt_tokens: 8192,
            cached_tokens: 2048,
            prefill_s: 6.0,
            ttft_s: 6.1,
            decode_tokens: 101,
            decode_s: 2.0,
            decode_steps: 100,
            stop: StopReason::EndOfTurn,
            head_hit_rate: Some(0.9),
            group_hit_rate: Some(0.7),
            kv_bytes_read: 90_000_000,
            ring_bytes: 10_000_000,
            kv_bytes_exact: 400_000_000,
            exact_fallback_steps: 0,
            audit: Some(AuditSummary {
                samples: 24,
                mean_relative_error: 1e-3,
                max_relative_error: 5e-3,
                reused_samples: 20,
            }),
            token_ids: Vec::new(),
        }
    }

    fn all_read(summary: Summary) -> Figures {
        Figures { summary, unread_tokens: 0 }
    }

    #[test]
    fn reading_writing_and_reuse_are_told_apart() {
        let line = line(&all_read(figures()), 2048);
        for part in [
            "read 6,144 + 2,048 remembered tokens in 6.0 s (1,024 tokens/s)",
            "wrote 101 in 2.0 s (50.0 tokens/s)",
            "reused 90 % of heads, 70 % of groups",
            "touched 100 MB where exact reads 400 MB (25 %)",
            "checked 24 head outputs (20 reused)",
        ] {
            assert!(line.contains(part), "{part:?} is missing in {line:?}");
        }
    }

    #[test]
    fn a_fallback_to_exact_is_said() {
        let short =
            Summary { exact_fallback_steps: 100, head_hit_rate: None, group_hit_rate: None, audit: None, ..figures() };
        assert!(line(&all_read(short), 2048).contains("exact attention: reuse begins at 2,048 tokens"));
    }

    #[test]
    fn an_answer_of_one_token_divides_by_nothing() {
        let one = Summary { decode_tokens: 1, decode_steps: 0, decode_s: 0.0, prefill_s: 0.0, ..figures() };
        let line = line(&all_read(one), 2048);
        assert!(!line.contains("NaN") && !line.contains("inf") && line.contains("wrote 1;"), "{line}");
    }

    #[test]
    fn a_stopped_reading_claims_only_what_was_read() {
        let stopped = Summary {
            prefill_s: 2.0,
            decode_tokens: 0,
            decode_steps: 0,
            decode_s: 0.0,
            audit: None,
            stop: StopReason::User,
            ..figures()
        };
        let part = Figures { summary: stopped, unread_tokens: 4096 };
        assert_eq!(
            line(&part, 2048),
            "[read 2,048 of 6,144 + 2,048 remembered tokens in 2.0 s (1,024 tokens/s); wrote nothing; stopped by you]"
        );
        let nothing = Figures { unread_tokens: 6144, ..part };
        assert_eq!(line(&nothing, 2048), "[read none of 6,144 tokens; wrote nothing; stopped by you]");
        let table = table(&nothing, 2048);
        assert!(!table.contains("reuse") && !table.contains("first token"), "{table}");
    }
}
