//! One generation, from its events to the terminal.

use reprise_engine::{EngineError, Event, Generation, PrefillProgress};

use super::summary::{Figures, stopped_while_reading};
use super::wire;
use crate::failure::Failure;
use crate::figures::{grouped, percent};
use crate::output::{StatusLine, json, write};

/// What a finished generation leaves.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) text: String,
    pub(crate) figures: Figures,
}

/// Prints events until the last one. Stops the generation when nobody reads the output any more.
pub(crate) fn follow(generation: &Generation, as_json: bool) -> Result<Reply, Failure> {
    let mut text = String::new();
    let mut status = StatusLine::beside(as_json);
    let mut unread_tokens = None;
    for event in &generation.events {
        let printed = match event {
            Event::Prefill(progress) => {
                unread_tokens = Some(progress.total.saturating_sub(progress.done));
                status.show(&reading(&progress));
                if as_json { json(&wire::Prefill::from(progress)) } else { Ok(()) }
            }
            Event::Token(token) => {
                status.clear();
                text.push_str(&token.text);
                if as_json { json(&wire::Token::from(&token)) } else { write(&token.text) }
            }
            Event::Done(summary) => {
                status.clear();
                if as_json {
                    json(&wire::Done::from(&*summary))?;
                }
                let stopped = stopped_while_reading(&summary);
                let unread_tokens = if stopped { unread_tokens.unwrap_or(summary.prompt_tokens) } else { 0 };
                return Ok(Reply { text, figures: Figures { summary: *summary, unread_tokens } });
            }
            Event::Failed(error) => return Err(error.into()),
        };
        if let Err(failure) = printed {
            generation.stop.stop();
            return Err(failure);
        }
    }
    // The channel closed without a last event: the engine thread is gone.
    Err(EngineError::Stopped.into())
}

/// `reading 12,288 of 98,304 tokens (12 %), 2,210 tokens/s, 39 s left`
fn reading(progress: &PrefillProgress) -> String {
    let PrefillProgress { done, total, cached, .. } = *progress;
    let share = if total == 0 { 1.0 } else { done as f64 / total as f64 };
    let mut parts =
        vec![format!("reading {} of {} tokens ({})", grouped(done as u64), grouped(total as u64), percent(share))];
    if cached > 0 {
        parts.push(format!("{} remembered", grouped(cached as u64)));
    }
    parts.extend(progress.tokens_per_s.map(|rate| format!("{} tokens/s", grouped(rate.round() as u64))));
    let left = progress.remaining.map(|left| left.as_secs_f64().round() as u64);
    parts.extend(left.filter(|left| *left > 0).map(|left| format!("{} left", time_left(left))));
    parts.join(", ")
}

/// Whole seconds, or minutes with them.
fn time_left(seconds: u64) -> String {
    if seconds < 100 { format!("{seconds} s") } else { format!("{} min {:02} s", seconds / 60, seconds % 60) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn progress_says_share_rate_and_time_left() {
        let progress = PrefillProgress {
            done: 12_288,
            total: 98_304,
            cached: 0,
            elapsed: Duration::from_secs(5),
            tokens_per_s: Some(2210.4),
            remaining: Some(Duration::from_secs(39)),
        };
        assert_eq!(reading(&progress), "reading 12,288 of 98,304 tokens (12 %), 2,210 tokens/s, 39 s left");
    }
}
