//! Match: which heads may reuse which entry.

use half::bf16;

use super::{DecodeAttention, lock};
use crate::cpu::{Nearest, Scan};
use crate::{Forced, HeadOutcome, Paper, Parallel, Pattern, Policy, Ring};

/// The entry that a head may reuse.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Match {
    pub pos: usize,
    /// `‖q̃_t − q̃_p‖`.
    pub distance: f32,
}

/// What a step does with one query head.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadPlan {
    pub reuse: Option<Match>,
    pub outcome: HeadOutcome,
    /// First token that has to be read for this head: where the reused prefix ends.
    pub amend_from: usize,
}

impl Default for HeadPlan {
    fn default() -> Self {
        Self { reuse: None, outcome: HeadOutcome::NotSearched, amend_from: 0 }
    }
}

impl HeadPlan {
    pub(super) fn reused(&self) -> bool {
        self.outcome == HeadOutcome::Reused
    }
}

/// What a search of one head found, and the bytes it loaded.
#[derive(Debug, Default)]
pub(super) struct Probe {
    nearest: Option<Nearest>,
    bytes: u64,
}

impl DecodeAttention {
    /// Fills `self.heads` and keeps the back-off in `ring`. Returns the ring bytes loaded.
    pub(super) fn match_heads(
        &mut self,
        q_pre: &[f32],
        ring: &mut Ring,
        policy: &Policy,
        t: usize,
        pool: &dyn Parallel,
    ) -> u64 {
        self.heads.fill(HeadPlan::default());
        let (backoff, limit) = match policy {
            Policy::Exact | Policy::Rest => return 0,
            Policy::Paper(paper) if t < paper.min_context => return 0,
            Policy::Paper(paper) => (paper.backoff, squared_radius(paper, self.shape.head_dim())),
            Policy::Forced(forced) => (forced.backoff, f32::INFINITY),
        };
        let (max_pause, group_size) = (backoff.max_pause(), self.shape.group_size());
        self.searching.clear();
        for kv_head in 0..self.shape.num_kv_heads() {
            if max_pause == 0 || ring.pause_mut(kv_head).tick() {
                self.searching.extend(kv_head * group_size..(kv_head + 1) * group_size);
            }
        }
        let bytes = self.search(q_pre, ring, limit, t, pool);
        for &q_head in &self.searching {
            self.heads[q_head].outcome = HeadOutcome::Missed;
            if !matches!(policy, Policy::Forced(_)) {
                let nearest = lock(&self.found[q_head]).nearest;
                self.heads[q_head].reuse =
                    nearest.map(|found| Match { pos: found.pos, distance: found.distance_squared.sqrt() });
            }
        }
        if let Policy::Forced(forced) = policy {
            for (q_head, plan) in self.heads.iter_mut().enumerate() {
                if dictates(&forced.pattern, t, q_head) {
                    let q_pre = &q_pre[q_head * self.shape.head_dim()..][..self.shape.head_dim()];
                    plan.reuse = lagged(forced, ring, q_head, t)
                        .map(|pos| Match { pos, distance: distance(ring, q_head, pos, q_pre) });
                }
            }
        }
        for (kv_head, heads) in self.heads.chunks_exact_mut(group_size).enumerate() {
            let searched = heads[0].outcome == HeadOutcome::Missed;
            let reused = heads.iter().all(|head| head.reuse.is_some());
            for head in heads.iter_mut() {
                let Some(found) = head.reuse else { continue };
                head.outcome = if reused { HeadOutcome::Reused } else { HeadOutcome::Refreshed };
                head.amend_from = if reused { ring.layout().prefix_end(found.pos) } else { 0 };
            }
            if searched && max_pause > 0 {
                ring.pause_mut(kv_head).searched(reused, max_pause);
            }
        }
        bytes
    }

    /// Searches the heads in `self.searching`, results in `self.found`; returns the bytes loaded.
    fn search(&mut self, q_pre: &[f32], ring: &Ring, limit: f32, t: usize, pool: &dyn Parallel) -> u64 {
        if self.searching.is_empty() {
            return 0;
        }
        self.live.resize(ring.layout().slots, false);
        ring.mark_live(t, &mut self.live);
        let head_dim = self.shape.head_dim();
        let lanes = self.simd.lanes();
        for (natural, paired) in q_pre.chunks_exact(2 * lanes).zip(self.probes.chunks_exact_mut(2 * lanes)) {
            for (j, x) in natural.iter().enumerate() {
                paired[(j % 2) * lanes + j / 2] = bf16::from_f32(*x).to_f32();
            }
        }
        let this = &*self;
        pool.run(this.searching.len(), &|i| {
            let q_head = this.searching[i];
            let (nearest, bytes) = this.simd.scan(Scan {
                keys: ring.queries(q_head),
                query: &this.probes[q_head * head_dim..(q_head + 1) * head_dim],
                positions: ring.slot_positions(),
                live: &this.live,
                lse: ring.lses(q_head),
                limit,
                head_dim,
            });
            *lock(&this.found[q_head]) = Probe { nearest, bytes };
        });
        self.searching.iter().map(|q_head| lock(&self.found[*q_head]).bytes).sum()
    }
}

/// T² = 2·D·(1 − τ)².
pub(crate) fn squared_radius(paper: &Paper, head_dim: usize) -> f32 {
    2.0 * head_dim as f32 * (1.0 - paper.threshold).powi(2)
}

/// Whether the pattern makes this head hit at position `t`.
pub(crate) fn dictates(pattern: &Pattern, t: usize, q_head: usize) -> bool {
    match pattern {
        Pattern::All => true,
        Pattern::None => false,
        Pattern::Heads(heads) => heads.get(q_head).copied().unwrap_or(false),
        Pattern::Random { rate, seed } => {
            let mixed = mix(mix(mix(*seed) ^ t as u64) ^ q_head as u64);
            // 24 bits, as many as an f32 holds exactly: 0 <= uniform < 1, so rate 0 never and rate 1 always hits.
            ((mixed >> 40) as f32 / 16_777_216.0) < *rate
        }
    }
}

/// One round of `SplitMix64` (Steele, Lea, Flood 2014): a bijection that scatters neighbouring inputs.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The valid entry nearest to `lag_tokens` back, from there towards the present.
fn lagged(forced: &Forced, ring: &Ring, q_head: usize, t: usize) -> Option<usize> {
    let farthest = forced.lag_tokens.min(ring.layout().slots).min(t);
    (1..=farthest).rev().map(|lag| t - lag).find(|pos| ring.is_valid(q_head, *pos))
}

/// `‖q̃ − q̃_pos‖` over bf16 queries.
fn distance(ring: &Ring, q_head: usize, pos: usize, q_pre: &[f32]) -> f32 {
    let stored = ring.entry(q_head, pos).map_or(&[][..], |entry| entry.query);
    stored.iter().zip(q_pre).map(|(p, q)| (bf16::from_f32(*q).to_f32() - p.to_f32()).powi(2)).sum::<f32>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_hits_come_at_their_rate_and_repeat() {
        for rate in [0.0, 0.3, 0.95, 1.0] {
            let pattern = Pattern::Random { rate, seed: 7 };
            let draw = |t, head| dictates(&pattern, t, head);
            let hits =
                (0..4000).flat_map(|t| (0..8).map(move |head| (t, head))).filter(|(t, head)| draw(*t, *head)).count();
            assert!((hits as f32 / 32_000.0 - rate).abs() < 0.01, "{hits} of 32000 at {rate}");
            assert!((0..100).all(|t| draw(t, 3) == draw(t, 3)));
        }
    }

    #[test]
    fn the_radius_of_the_paper() {
        let paper = Paper { threshold: 0.45, ..Paper::default() };
        assert!((squared_radius(&paper, 128) - 77.44).abs() < 1e-4);
        assert_eq!(squared_radius(&Paper { threshold: 1.0, ..paper }, 128), 0.0);
    }
}
