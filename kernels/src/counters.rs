//! What a decode step really touched, kept where it happens.

/// What became of one query head in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum HeadOutcome {
    /// No search: exact policy, a context below the minimum, or a paused search.
    NotSearched = 0,
    /// Searched, and no stored query was close enough.
    Missed = 1,
    /// Matched, but another head of its group missed: the group was read and this head refreshed exactly.
    Refreshed = 2,
    /// Reused a stored state; the group's KV beyond amend and tail was not read.
    Reused = 3,
}

/// Counters of one layer's step. Bytes are counted at the loads, never derived from a hit rate.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counters {
    /// One outcome per query head.
    pub heads: Vec<HeadOutcome>,
    /// One per query head: the share Ŵ of this step's softmax mass that lies on tokens whose logits were reused, 0 without
    /// reuse. Those tokens are the prefix of the matched entry, so Ŵ = exp(ℓ of that entry − ℓ over all tokens), ℓ being
    /// log-sum-exps (the state algebra is that of arXiv 2604.00235). Where every reused logit is off by at most ε and W is the
    /// same share under exact attention, used and exact weights differ by no more than min(W, Ŵ)·(e^2ε − 1) in total
    /// variation: a small share makes even a poor match harmless, unless exact attention had its mass there. In 0..=1;
    /// 1 where the sums are not numbers.
    pub reused_mass: Vec<f32>,
    /// KV heads whose whole group reused.
    pub groups_reused: usize,
    /// KV heads.
    pub groups: usize,
    /// K and V bytes read.
    pub kv_bytes_read: u64,
    /// Ring bytes read and written: queries probed, states loaded, the new entry.
    pub ring_bytes: u64,
    /// K and V bytes that exact attention reads at this length.
    pub kv_bytes_exact: u64,
}

impl Counters {
    /// Heads whose match was accepted, reused or refreshed with their group.
    pub fn heads_matched(&self) -> usize {
        self.heads.iter().filter(|h| matches!(h, HeadOutcome::Refreshed | HeadOutcome::Reused)).count()
    }

    /// Heads that reused a stored state.
    pub fn heads_reused(&self) -> usize {
        self.heads.iter().filter(|h| **h == HeadOutcome::Reused).count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Softmax weights of `logits`.
    fn weights(logits: &[f64]) -> Vec<f64> {
        let total: f64 = logits.iter().map(|x| x.exp()).sum();
        logits.iter().map(|x| x.exp() / total).collect()
    }

    proptest! {
        #[test]
        fn reused_mass_bounds_the_total_variation(
            tokens in vec((-6.0f64..6.0, -1.0f64..1.0), 2..40), epsilon in 0.0f64..3.0, cut in 1usize..40,
        ) {
            // The first `reused` tokens keep older logits, off by at most epsilon.
            let reused = cut.min(tokens.len() - 1);
            let exact: Vec<f64> = tokens.iter().map(|(logit, _)| *logit).collect();
            let used: Vec<f64> =
                tokens.iter().enumerate().map(|(i, (x, off))| if i < reused { x + epsilon * off } else { *x }).collect();
            let (p, q) = (weights(&exact), weights(&used));
            let variation = p.iter().zip(&q).map(|(p, q)| (p - q).abs()).sum::<f64>() / 2.0;
            let mass = |weights: &[f64]| weights[..reused].iter().sum::<f64>();
            let bound = mass(&p).min(mass(&q)) * (2.0 * epsilon).exp_m1();
            prop_assert!(variation <= bound + 1e-12, "{variation} > {bound}");
        }
    }
}
