//! How many tokens to read at once.

use std::time::Duration;

/// Shortest chunk, in tokens, and the step between sizes.
pub const MIN_CHUNK_TOKENS: usize = 32;
/// Longest chunk, in tokens.
pub const MAX_CHUNK_TOKENS: usize = 512;

/// Progress is shown between chunks, so about five times a second. Stop does not wait for them: it is looked at in every
/// layer. Shorter chunks would read every weight more often, most of all where the machine is busy already.
const TARGET: Duration = Duration::from_millis(200);
/// Before anything was measured.
const FIRST_CHUNK_TOKENS: usize = 128;

/// Sizes chunks by the time that the last one took.
#[derive(Debug, Default)]
pub(super) struct Pace {
    chunk_tokens: Option<usize>,
}

impl Pace {
    /// Tokens of the next chunk.
    pub(super) fn next(&self, tokens_left: usize) -> usize {
        self.chunk_tokens.unwrap_or(FIRST_CHUNK_TOKENS).min(tokens_left)
    }

    /// A chunk of `tokens` took this long.
    pub(super) fn measured(&mut self, tokens: usize, took: Duration) {
        // A short tail says little about the rate of full chunks.
        if tokens < MIN_CHUNK_TOKENS {
            return;
        }
        let fitting = TARGET.as_secs_f64() / took.as_secs_f64().max(1e-9) * tokens as f64;
        let rounded = fitting as usize / MIN_CHUNK_TOKENS * MIN_CHUNK_TOKENS;
        self.chunk_tokens = Some(rounded.clamp(MIN_CHUNK_TOKENS, MAX_CHUNK_TOKENS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_shrink_and_grow_with_the_rate() {
        let mut pace = Pace::default();
        assert_eq!(pace.next(1000), 128);
        pace.measured(128, Duration::from_millis(80));
        assert_eq!(pace.next(1000), 320);
        pace.measured(320, Duration::from_secs(10));
        assert_eq!(pace.next(1000), MIN_CHUNK_TOKENS);
        pace.measured(32, Duration::from_nanos(0));
        assert_eq!(pace.next(1000), MAX_CHUNK_TOKENS);
        pace.measured(5, Duration::from_secs(1));
        assert_eq!(pace.next(1000), MAX_CHUNK_TOKENS);
        assert_eq!(pace.next(7), 7);
    }
}
