//! The f64 oracle: the textbook with plain loops, slow and obvious. Every test of the fast kernels and the terminal
//! command's self-check compare with it.

use std::ops::Range;

use half::bf16;

use crate::decode::{dictates, squared_radius};
use crate::{AttentionShape, HeadOutcome, KvView, Policy, RingLayout};

/// An attention state in f64: normalised output and natural log-sum-exp; −∞ over no token.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceState {
    /// `[head_dim]`.
    pub out: Vec<f64>,
    /// ln Σ exp(scale · q · k).
    pub lse: f64,
}

impl ReferenceState {
    /// The state over no token.
    pub fn empty(head_dim: usize) -> Self {
        Self { out: vec![0.0; head_dim], lse: f64::NEG_INFINITY }
    }

    /// The state over both spans.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        if self.lse == f64::NEG_INFINITY {
            return other.clone();
        }
        if other.lse == f64::NEG_INFINITY {
            return self.clone();
        }
        let top = self.lse.max(other.lse);
        let (wa, wb) = ((self.lse - top).exp(), (other.lse - top).exp());
        let out = self.out.iter().zip(&other.out).map(|(a, b)| (wa * a + wb * b) / (wa + wb)).collect();
        Self { out, lse: top + (wa + wb).ln() }
    }
}

/// Exact attention of one query (`[head_dim]`, after rotation) over `tokens` of one KV head.
pub fn attend(q_rot: &[f32], kv: &KvView<'_>, kv_head: usize, tokens: Range<usize>) -> ReferenceState {
    let head_dim = kv.shape().head_dim();
    let scale = 1.0 / (head_dim as f64).sqrt();
    let row = |data: &'_ [bf16], token: usize, d: usize| data[token * head_dim + d].to_f64();
    let (keys, values) = (kv.keys(kv_head), kv.values(kv_head));
    let scores: Vec<f64> = tokens
        .clone()
        .map(|token| scale * (0..head_dim).map(|d| f64::from(q_rot[d]) * row(keys, token, d)).sum::<f64>())
        .collect();
    if scores.is_empty() {
        return ReferenceState::empty(head_dim);
    }
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scores.iter().map(|score| (score - top).exp()).sum();
    let mut out = vec![0.0; head_dim];
    for (token, score) in tokens.zip(&scores) {
        let weight = (score - top).exp() / total;
        for (d, x) in out.iter_mut().enumerate() {
            *x += weight * row(values, token, d);
        }
    }
    ReferenceState { out, lse: top + total.ln() }
}

/// One stored entry of the oracle's ring.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceEntry {
    /// Position of the query.
    pub pos: usize,
    /// Query before rotation, rounded to bf16.
    pub query: Vec<bf16>,
    /// State of the prefix.
    pub state: ReferenceState,
    /// Hits since the state was computed exactly.
    pub depth: u32,
    /// Sum of the query distances along those hits.
    pub distance: f64,
}

/// What one step of the oracle did.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceStep {
    /// `[num_q_heads]`, each `[head_dim]`.
    pub out: Vec<Vec<f64>>,
    /// One per query head.
    pub outcomes: Vec<HeadOutcome>,
    /// Position of the entry each head matched, reused or not.
    pub matched: Vec<Option<usize>>,
    /// Per query head; see [`crate::Counters::reused_mass`].
    pub reused_mass: Vec<f64>,
}

/// The reuse recurrence of one layer in f64.
#[derive(Debug, Clone)]
pub struct ReferenceRing {
    shape: AttentionShape,
    layout: RingLayout,
    /// Newest last, at most `slots` per query head.
    entries: Vec<Vec<ReferenceEntry>>,
    /// Per KV head: (steps left to pause, length of the last pause, misses in a row).
    pauses: Vec<(u32, u32, u32)>,
}

impl ReferenceRing {
    /// An empty ring.
    pub fn new(shape: AttentionShape, layout: RingLayout) -> Self {
        Self {
            shape,
            layout,
            entries: vec![Vec::new(); shape.num_q_heads()],
            pauses: vec![(0, 0, 0); shape.num_kv_heads()],
        }
    }

    /// Stores the exact prefix state of a query at `pos`, as prefill does. Both queries are `[num_q_heads, head_dim]`.
    pub fn seed(&mut self, q_pre: &[f32], q_rot: &[f32], kv: &KvView<'_>, pos: usize) {
        for q_head in 0..self.shape.num_q_heads() {
            let kv_head = q_head / self.shape.group_size();
            let state = attend(self.head(q_rot, q_head), kv, kv_head, 0..self.layout.prefix_end(pos));
            let query = rounded(self.head(q_pre, q_head));
            self.store(q_head, ReferenceEntry { pos, query, state, depth: 0, distance: 0.0 });
        }
    }

    /// The entry of `pos`, if it is still in the window.
    pub fn entry(&self, q_head: usize, pos: usize) -> Option<&ReferenceEntry> {
        self.entries[q_head].iter().find(|entry| entry.pos == pos)
    }

    /// Forgets entries at positions `>= len`.
    pub fn truncate(&mut self, len: usize) {
        for entries in &mut self.entries {
            entries.retain(|entry| entry.pos < len);
        }
        self.pauses.fill((0, 0, 0));
    }

    /// One decode step at position `kv.len() - 1`, with the same decisions as [`crate::DecodeAttention::step`].
    pub fn step(&mut self, q_pre: &[f32], q_rot: &[f32], kv: &KvView<'_>, policy: &Policy) -> ReferenceStep {
        let t = kv.len() - 1;
        let prefix_end = self.layout.prefix_end(t);
        let group_size = self.shape.group_size();
        let mut step = ReferenceStep {
            out: Vec::new(),
            outcomes: vec![HeadOutcome::NotSearched; self.shape.num_q_heads()],
            matched: vec![None; self.shape.num_q_heads()],
            reused_mass: vec![0.0; self.shape.num_q_heads()],
        };
        for entries in &mut self.entries {
            entries.retain(|entry| entry.pos < t);
        }
        let mut fresh = Vec::new();
        for kv_head in 0..self.shape.num_kv_heads() {
            let heads = kv_head * group_size..(kv_head + 1) * group_size;
            let searched = self.ticks(kv_head, policy, t);
            for q_head in heads.clone() {
                step.matched[q_head] = self.find(q_head, self.head(q_pre, q_head), policy, t, searched);
                if searched {
                    step.outcomes[q_head] = HeadOutcome::Missed;
                }
            }
            let reused = heads.clone().all(|q_head| step.matched[q_head].is_some());
            self.note(kv_head, policy, searched, reused);
            for q_head in heads {
                let rot = self.head(q_rot, q_head);
                let (state, depth, distance) = match step.matched[q_head].and_then(|pos| self.entry(q_head, pos)) {
                    Some(entry) if reused => {
                        let amend = attend(rot, kv, kv_head, self.layout.prefix_end(entry.pos)..prefix_end);
                        let hop = squared_distance(self.head(q_pre, q_head), &entry.query).sqrt();
                        (entry.state.merge(&amend), entry.depth + 1, entry.distance + hop)
                    }
                    _ => (attend(rot, kv, kv_head, 0..prefix_end), 0, 0.0),
                };
                if step.matched[q_head].is_some() {
                    step.outcomes[q_head] = if reused { HeadOutcome::Reused } else { HeadOutcome::Refreshed };
                }
                let all = state.merge(&attend(rot, kv, kv_head, prefix_end..t + 1));
                if let Some(entry) = step.matched[q_head].filter(|_| reused).and_then(|pos| self.entry(q_head, pos)) {
                    step.reused_mass[q_head] = (entry.state.lse - all.lse).exp();
                }
                step.out.push(all.out);
                fresh.push((state, depth, distance));
            }
        }
        if !matches!(policy, Policy::Exact) {
            for (q_head, (state, depth, distance)) in fresh.into_iter().enumerate() {
                let query = rounded(self.head(q_pre, q_head));
                self.store(q_head, ReferenceEntry { pos: t, query, state, depth, distance });
            }
        }
        step
    }

    fn head<'a>(&self, rows: &'a [f32], q_head: usize) -> &'a [f32] {
        &rows[q_head * self.shape.head_dim()..(q_head + 1) * self.shape.head_dim()]
    }

    fn store(&mut self, q_head: usize, entry: ReferenceEntry) {
        let slots = self.layout.slots;
        let entries = &mut self.entries[q_head];
        // A slot holds one position: whatever it held before is gone.
        entries.retain(|old| old.pos % slots != entry.pos % slots);
        entries.push(entry);
    }

    /// Whether the group searches in this step.
    fn ticks(&mut self, kv_head: usize, policy: &Policy, t: usize) -> bool {
        let backoff = match policy {
            Policy::Exact | Policy::Rest => return false,
            Policy::Paper(paper) if t < paper.min_context => return false,
            Policy::Paper(paper) => paper.backoff,
            Policy::Forced(forced) => forced.backoff,
        };
        let (left, ..) = &mut self.pauses[kv_head];
        if backoff.max_pause() == 0 || *left == 0 {
            return true;
        }
        *left -= 1;
        false
    }

    /// Pauses of 1, 2, 4 … steps once four searches in a row have failed.
    fn note(&mut self, kv_head: usize, policy: &Policy, searched: bool, reused: bool) {
        let (Policy::Paper(crate::Paper { backoff, .. }) | Policy::Forced(crate::Forced { backoff, .. })) = policy
        else {
            return;
        };
        let max_pause = backoff.max_pause();
        if !searched || max_pause == 0 {
            return;
        }
        let (left, length, misses) = &mut self.pauses[kv_head];
        if reused {
            (*left, *length, *misses) = (0, 0, 0);
        } else {
            *misses += 1;
            if *misses >= 4 {
                *length = (*length * 2).max(1).min(max_pause);
                *left = *length;
            }
        }
    }

    fn find(&self, q_head: usize, q_pre: &[f32], policy: &Policy, t: usize, searched: bool) -> Option<usize> {
        let candidates = self.entries[q_head]
            .iter()
            .filter(|entry| entry.pos + self.layout.slots >= t && entry.pos < t && entry.state.lse.is_finite());
        match policy {
            Policy::Paper(paper) if searched => {
                let limit = f64::from(squared_radius(paper, self.shape.head_dim()));
                candidates
                    .map(|entry| (squared_distance(q_pre, &entry.query), entry.pos))
                    .filter(|(squared, _)| *squared < limit)
                    .min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))
                    .map(|(_, pos)| pos)
            }
            Policy::Forced(forced) if dictates(&forced.pattern, t, q_head) => {
                candidates.map(|entry| entry.pos).filter(|pos| t - pos <= forced.lag_tokens).min()
            }
            _ => None,
        }
    }
}

fn rounded(q_pre: &[f32]) -> Vec<bf16> {
    q_pre.iter().map(|x| bf16::from_f32(*x)).collect()
}

/// `‖q̃ − q̃_p‖²` over bf16 queries.
fn squared_distance(q_pre: &[f32], stored: &[bf16]) -> f64 {
    q_pre.iter().zip(stored).map(|(q, p)| (bf16::from_f32(*q).to_f64() - p.to_f64()).powi(2)).sum()
}

/// ‖got − want‖ / ‖want‖; infinite as soon as anything is not finite, so that NaN can never pass for closeness.
pub fn relative_l2(got: &[f32], want: &[f64]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    let (mut error, mut norm) = (0.0, 0.0);
    for (got, want) in got.iter().zip(want) {
        error += (f64::from(*got) - want).powi(2);
        norm += want.powi(2);
    }
    let relative = if error == 0.0 { 0.0 } else { (error / norm).sqrt() };
    if relative.is_finite() && norm.is_finite() { relative } else { f64::INFINITY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_never_passes_for_closeness() {
        assert_eq!(relative_l2(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
        assert!((relative_l2(&[1.0, 0.0], &[1.0, 1.0]) - 0.5_f64.sqrt()).abs() < 1e-12);
        assert_eq!(relative_l2(&[f32::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(relative_l2(&[1.0], &[f64::NAN]), f64::INFINITY);
        assert_eq!(relative_l2(&[1.0], &[0.0]), f64::INFINITY);
        assert_eq!(relative_l2(&[1.0], &[1.0, 1.0]), f64::INFINITY);
    }

    #[test]
    fn one_token_gives_its_value() {
        let shape = AttentionShape::new(1, 1, 64).unwrap();
        let (k, v) = (vec![bf16::ONE; 64], vec![bf16::from_f32(0.5); 64]);
        let kv = KvView::new(shape, &k, &v, 1, 1).unwrap();
        let state = attend(&[2.0; 64], &kv, 0, 0..1);
        assert_eq!(state, ReferenceState { out: vec![0.5; 64], lse: 16.0 });
        assert_eq!(attend(&[2.0; 64], &kv, 0, 0..0), ReferenceState::empty(64));
    }
}
