//! Whether a step of a whole model searches at all.

use crate::{AttentionShape, RingLayout};

/// What a layer's decode step costs on some device, in tokens: one token is the time in which exact attention reads one more.
///
/// | step | tokens |
/// |---|---|
/// | exact, of n tokens | `fixed + n` |
/// | every group reuses | `hit` |
/// | a share of the groups reuses | `fixed + search + (1 - share) * n` |
/// | rest, with entries | `fixed + record + n` |
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PaceCost {
    /// What exact attention takes whatever the length.
    pub fixed: f64,
    /// What a search adds to a step that reads.
    pub search: f64,
    /// A step without reading.
    pub hit: f64,
    /// What writing its entries adds to a step that reads.
    pub record: f64,
}

impl PaceCost {
    /// The CUDA kernels on a device that reads `bytes_per_second`. The times are fitted to those of an H200 with eleven
    /// head layouts (`cuda/README.md`), a little to the side of resting; they are latencies, and so change little from
    /// device to device.
    pub fn cuda(shape: AttentionShape, bytes_per_second: f64) -> Self {
        Self::cuda_with_kv(shape, shape.kv_bytes_per_token(), bytes_per_second)
    }

    /// As [`Self::cuda`] for K and V of `token_bytes` a token in all heads of a layer.
    pub fn cuda_with_kv(shape: AttentionShape, token_bytes: usize, bytes_per_second: f64) -> Self {
        let tokens_per_us = bytes_per_second / 1e6 / token_bytes as f64;
        let head_dim = shape.head_dim() as f64;
        // Query elements that one KV head's search compares with every slot.
        let width = shape.group_size() as f64 * head_dim;
        Self {
            fixed: 6.0 * tokens_per_us,
            search: (4.5 + head_dim / 64.0 + width / 330.0) * tokens_per_us,
            hit: (6.0 + head_dim / 64.0 + width / 256.0) * tokens_per_us,
            record: 0.7 * tokens_per_us,
        }
    }

    /// This crate's CPU path, where a search costs the bytes that it reads and nothing waits for anything.
    pub fn cpu(shape: AttentionShape, layout: RingLayout) -> Self {
        let queries = shape.num_q_heads() * layout.slots * shape.head_dim() * size_of::<half::bf16>();
        let search = queries as f64 / shape.kv_bytes_per_token() as f64;
        Self { fixed: 0.0, search, hit: search + 2.0 * layout.band as f64, record: 1.0 }
    }
}

/// What a step does about reuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaceStep {
    /// The reusing policy; [`Pace::searched`] wants to know what it brought.
    Search,
    /// [`crate::Policy::Rest`]: entries are written, for the next search to find.
    Rest,
    /// [`crate::Policy::Exact`]: not even that.
    Exact,
}

/// Decides between searching and resting, for all layers of a step together, from what the searching steps before it saved.
/// After one that lost it rests for as long as brings the loss below 1/50 of exact attention, at most 64 steps; the last 8
/// of them write their entries. So reuse costs next to nothing where it brings nothing, whatever the length. Where not
/// even a step that reuses everything would be quicker, every step is exact.
///
/// It knows counters and costs but no clock: the same counters decide alike everywhere.
///
/// ```
/// use mac_attention::{Pace, PaceCost, PaceStep::{Exact, Rest, Search}};
///
/// let mut pace = Pace::new(PaceCost { fixed: 0.0, search: 6000.0, hit: 8000.0, record: 100.0 });
/// assert_eq!(pace.next_step(120_000), Search);
/// pace.searched([(0, 8), (0, 8)], 120_000); // lost 6000 of 120,000 tokens, 5 %: rests 3 steps
/// assert_eq!([(); 5].map(|()| pace.next_step(120_000)), [Rest, Rest, Rest, Search, Search]);
/// pace.searched([(8, 8), (4, 8)], 120_000);
/// assert_eq!(pace.next_step(120_000), Search);
/// assert_eq!(pace.next_step(7000), Exact); // quicker than any reuse
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    cost: PaceCost,
    /// Tokens lost per layer in searching steps, exponentially weighted, negative where they gain; `None` before the first.
    average: Option<f64>,
    remaining: u32,
}

impl Pace {
    /// Loss that is accepted, as a share of exact attention.
    const BUDGET: f64 = 1.0 / 50.0;
    /// Longest rest, in steps: so soon is reuse found in a text that begins to repeat itself.
    const LONGEST: f64 = 64.0;
    /// Steps before a search that write entries: most matches are a few steps back.
    const RECORDED: u32 = 8;
    /// Shortest step that reuses everything, as a share of what it should cost: costs lie a little to the side of resting.
    const BEST_HIT: f64 = 0.9;
    /// Weight of the newest step in the average.
    const WEIGHT: f64 = 0.25;

    /// Starts with a search.
    pub fn new(cost: PaceCost) -> Self {
        Self { cost, average: None, remaining: 0 }
    }

    /// What the next step does, at a context of `tokens`; to be asked once per step.
    pub fn next_step(&mut self, tokens: usize) -> PaceStep {
        if Self::BEST_HIT * self.cost.hit >= self.cost.fixed + tokens as f64 {
            return PaceStep::Exact;
        }
        let left = self.remaining;
        self.remaining = left.saturating_sub(1);
        match left {
            0 => PaceStep::Search,
            1..=Self::RECORDED => PaceStep::Rest,
            _ => PaceStep::Exact,
        }
    }

    /// Takes note of a step that searched: per layer the groups reused and the groups there are, at a context of `tokens`.
    pub fn searched(&mut self, layers: impl IntoIterator<Item = (usize, usize)>, tokens: usize) {
        let PaceCost { fixed, search, hit, record } = self.cost;
        let exact = fixed + tokens as f64;
        let (mut lost, mut count) = (0.0, 0.0);
        for (reused, groups) in layers {
            count += 1.0;
            lost += if reused == groups { hit - exact } else { search - tokens as f64 * reused as f64 / groups as f64 };
        }
        if count == 0.0 {
            return;
        }
        let lost = lost / count;
        let average = self.average.map_or(lost, |average| average + Self::WEIGHT * (lost - average));
        self.average = Some(average);
        // The better of now and lately: one step without reuse in a text full of it is no reason to rest.
        let lost = lost.min(average);
        let rest = (lost + f64::from(Self::RECORDED) * record) / (Self::BUDGET * exact);
        self.remaining = if lost > 0.0 { rest.ceil().clamp(1.0, Self::LONGEST) as u32 } else { 0 };
    }

    /// Forgets what was seen, for another text.
    pub fn reset(&mut self) {
        *self = Self::new(self.cost);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn searches(pace: &mut Pace) -> bool {
        pace.next_step(8192) == PaceStep::Search
    }

    const COST: PaceCost = PaceCost { fixed: 5000.0, search: 6000.0, hit: 9000.0, record: 700.0 };

    /// Tokens that 6500 steps of `layers` cost, over those of exact attention.
    fn paced(cost: PaceCost, layers: &[(usize, usize)], tokens: usize) -> f64 {
        let mut pace = Pace::new(cost);
        let exact = cost.fixed + tokens as f64;
        let searching: f64 = layers
            .iter()
            .map(|&(reused, groups)| {
                let share = reused as f64 / groups as f64;
                if reused == groups { cost.hit } else { cost.fixed + cost.search + (1.0 - share) * tokens as f64 }
            })
            .sum::<f64>()
            / layers.len() as f64;
        let mut total = 0.0;
        for _ in 0..6500 {
            total += match pace.next_step(tokens) {
                PaceStep::Search => {
                    pace.searched(layers.iter().copied(), tokens);
                    searching
                }
                PaceStep::Rest => exact + cost.record,
                PaceStep::Exact => exact,
            };
        }
        total / (6500.0 * exact)
    }

    proptest! {
        #[test]
        fn never_slower_than_exact_beyond_the_budget(
            fixed in 0.0f64..20_000.0, search in 1.0f64..40_000.0, hit in 1.0f64..60_000.0, record in 0.0f64..2_000.0,
            reused in proptest::collection::vec(0usize..=8, 1..40), tokens in 500usize..500_000,
        ) {
            let cost = PaceCost { fixed, search, hit, record };
            let layers: Vec<_> = reused.iter().map(|reused| (*reused, 8)).collect();
            // One search in 65 steps is the least, whatever it costs.
            let least = ((search.max(hit) + 8.0 * record) / (fixed + tokens as f64)) / 65.0;
            prop_assert!(paced(cost, &layers, tokens) <= 1.0 + f64::max(1.0 / 50.0, least) * 1.02);
        }
    }

    #[test]
    fn where_reuse_pays_every_step_searches() {
        assert!(paced(COST, &[(8, 8); 4], 8192) < 0.7);
        assert!(paced(COST, &[(8, 8), (6, 8), (7, 8)], 100_000) < 0.3);
        assert!(paced(COST, &[(1, 8); 3], 100_000) < 0.95);
    }

    #[test]
    fn where_reuse_cannot_win_every_step_is_exact_and_it_begins_when_it_can() {
        let mut pace = Pace::new(COST);
        for tokens in 3000..=3100 {
            assert_eq!(
                pace.next_step(tokens),
                PaceStep::Exact,
                "8100 for the best hit, {} for all of it",
                5000 + tokens
            );
        }
        assert_eq!(pace.next_step(3101), PaceStep::Search);
    }

    #[test]
    fn reuse_that_begins_is_found_and_kept() {
        let mut pace = Pace::new(COST);
        for _ in 0..200 {
            if searches(&mut pace) {
                pace.searched([(0, 8)], 8192);
            }
        }
        let rests: Vec<_> =
            (0..=64).map(|_| pace.next_step(8192)).take_while(|step| *step != PaceStep::Search).collect();
        assert!((9..=64).contains(&rests.len()), "{}", rests.len());
        assert_eq!(rests.iter().filter(|step| **step == PaceStep::Rest).count(), 8);
        assert!(
            rests.iter().rev().take(8).all(|step| *step == PaceStep::Rest),
            "entries are those just before the search"
        );
        pace.searched([(8, 8)], 8192);
        assert!(searches(&mut pace), "one full hit resumes");
        pace.searched([(0, 8)], 8192);
        assert!(!searches(&mut pace), "and one bad step after long misses rests again");
    }

    #[test]
    fn one_bad_step_in_a_text_full_of_reuse_does_not_rest() {
        let mut pace = Pace::new(COST);
        for _ in 0..20 {
            assert!(searches(&mut pace));
            pace.searched([(8, 8)], 100_000);
        }
        assert!(searches(&mut pace));
        pace.searched([(0, 8)], 100_000);
        assert!(searches(&mut pace));
        pace.searched([], 100_000);
        pace.reset();
        assert_eq!(pace, Pace::new(COST));
    }
}
