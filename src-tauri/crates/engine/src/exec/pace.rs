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

/// Sizes chunks by the time that the last one took. The clock may decide because nothing depends on it but speed: what is
/// read is the same, bit for bit, however it is cut into chunks.
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
    use std::sync::atomic::AtomicBool;

    use mac_attention::{Backoff, Forced, Pattern, RingLayout};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::Attention;
    use crate::exec::{CandleExecutor, Executor};
    use crate::model::named_shape;
    use crate::weights::Precision;

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

    /// Reads `ids` in the chunks that `next` makes of the tokens left; then logits, as bits, after the prompt and after steps
    /// that reuse what the ring holds.
    fn answer(
        executor: &mut CandleExecutor,
        ids: &[u32],
        next: &mut dyn FnMut(usize) -> usize,
    ) -> (Vec<usize>, Vec<u32>) {
        let go_on = AtomicBool::new(false);
        executor.truncate(0);
        let (seed_from, mut left, mut sizes) = (executor.seed_from(ids.len()), ids, Vec::new());
        while !left.is_empty() {
            let (chunk, rest) = left.split_at(next(left.len()));
            let finished = executor.chunk(chunk, seed_from, rest.is_empty(), &go_on);
            assert!(executor.settle(finished, chunk).unwrap());
            sizes.push(chunk.len());
            left = rest;
        }
        let mut bits: Vec<u32> = executor.logits().unwrap().iter().map(|x| x.to_bits()).collect();
        for token in [5, 900, 77] {
            assert!(executor.decode(token, &go_on).unwrap().is_continue());
            assert!(executor.counters().iter().all(|c| c.heads_reused() > 0));
            bits.extend(executor.logits().unwrap().iter().map(|x| x.to_bits()));
        }
        (sizes, bits)
    }

    #[test]
    fn the_clock_changes_no_bit_of_an_answer() {
        let spec = named_shape("demo").unwrap();
        let ring = RingLayout { slots: 300, band: 70 };
        let mut executor = CandleExecutor::with_random_weights(spec, Precision::Q8_0, 1024, ring, 3).unwrap();
        let reuse = Forced { pattern: Pattern::All, lag_tokens: 100, backoff: Backoff::Off };
        executor.set_attention(&Attention::Forced(reuse)).unwrap();
        let ids: Vec<u32> = (0..801_u32).map(|i| i.wrapping_mul(2_654_435_761) % 8192).collect();
        let (_, at_once) = answer(&mut executor, &ids, &mut |left| left);

        let mut rng = ChaCha8Rng::seed_from_u64(4);
        for _ in 0..4 {
            let mut pace = Pace::default();
            let (sizes, bits) = answer(&mut executor, &ids, &mut |left| {
                let tokens = pace.next(left);
                // Between all of a chunk at most and the least at most.
                pace.measured(tokens, Duration::from_millis(rng.random_range(20..2000)));
                tokens
            });
            assert!(bits == at_once, "{sizes:?}");
        }
        for longest in [3, 40, 256] {
            let (sizes, bits) = answer(&mut executor, &ids, &mut |left| {
                if left == 1 { 1 } else { rng.random_range(1..=longest.min(left - 1)) }
            });
            assert_eq!(sizes.last(), Some(&1), "the last token alone");
            assert!(bits == at_once, "{sizes:?}");
        }
    }
}
