//! Reuse against the f64 recurrence: the same decisions, the same states.

use crate::layer::{Layer, pool};
use mac_attention::cpu::SimdLevel;
use mac_attention::reference::{ReferenceRing, attend, relative_l2};
use mac_attention::{
    Backoff, Counters, DecodeAttention, Forced, HeadOutcome, Paper, Parallel, Pattern, Policy, Ring, RingLayout, Serial,
};
use proptest::prelude::*;

/// The fast ring and the oracle side by side.
struct Pair<'a> {
    layer: &'a Layer,
    attention: DecodeAttention,
    ring: Ring,
    oracle: ReferenceRing,
    out: Vec<f32>,
    counters: Counters,
    /// Largest relative error allowed.
    tolerance: f64,
}

impl<'a> Pair<'a> {
    fn new(layer: &'a Layer, layout: RingLayout, simd: SimdLevel) -> Self {
        Self {
            layer,
            attention: DecodeAttention::with_simd(layer.shape, layout.band, simd),
            ring: Ring::new(layer.shape, layout).unwrap(),
            oracle: ReferenceRing::new(layer.shape, layout),
            out: vec![f32::NAN; layer.row()],
            counters: Counters::default(),
            tolerance: 1e-5,
        }
    }

    /// One step at `pos` on both sides; outcomes, outputs and entries must agree.
    fn step(&mut self, pos: usize, policy: &Policy, pool: &dyn Parallel) -> Result<(), TestCaseError> {
        let (kv, query) = (self.layer.kv(pos + 1), self.layer.queries(pos, pos + 1));
        self.attention.step(query, &kv, &mut self.ring, policy, &mut self.out, &mut self.counters, pool).unwrap();
        let want = self.oracle.step(query.pre, query.rot, &kv, policy);
        prop_assert_eq!(&self.counters.heads, &want.outcomes, "at {}", pos);
        prop_assert_eq!(self.counters.reused_mass.len(), want.reused_mass.len());
        for (q_head, (got, want)) in self.counters.reused_mass.iter().zip(&want.reused_mass).enumerate() {
            // A share errs relatively by what the two log-sum-exps err absolutely.
            let close = (f64::from(*got) - want).abs() <= 10.0 * self.tolerance * want;
            let reused = self.counters.heads[q_head] == HeadOutcome::Reused;
            prop_assert!(close && reused == (*got > 0.0), "mass of head {} at {}: {} of {}", q_head, pos, got, want);
        }
        let head_dim = self.layer.shape.head_dim();
        for (q_head, (got, want)) in self.out.chunks_exact(head_dim).zip(&want.out).enumerate() {
            let error = relative_l2(got, want);
            prop_assert!(error < self.tolerance, "output of head {} at {}: {}", q_head, pos, error);
            let entry = self.ring.entry(q_head, pos);
            let want = self.oracle.entry(q_head, pos);
            prop_assert_eq!(entry.is_some(), want.is_some());
            let (Some(entry), Some(want)) = (entry, want) else { continue };
            prop_assert_eq!(entry.query, &want.query[..]);
            prop_assert_eq!(entry.depth, want.depth);
            prop_assert!((f64::from(entry.distance) - want.distance).abs() <= 1e-4 * want.distance.max(1.0));
            if want.state.lse == f64::NEG_INFINITY {
                prop_assert!(entry.lse == f32::NEG_INFINITY && entry.out.iter().all(|x| *x == 0.0));
            } else {
                prop_assert!(
                    (f64::from(entry.lse) - want.state.lse).abs() < self.tolerance * want.state.lse.abs().max(1.0)
                );
                prop_assert!(relative_l2(entry.out, &want.state.out) < self.tolerance);
            }
        }
        Ok(())
    }
}

fn forced(pattern: Pattern, lag_tokens: usize) -> Policy {
    Policy::Forced(Forced { pattern, lag_tokens, backoff: Backoff::Off })
}

fn paper(threshold: f32) -> Policy {
    Policy::Paper(Paper { threshold, min_context: 0, backoff: Backoff::Off })
}

#[test]
fn decode_from_the_first_token_through_ring_wraps_follows_the_oracle() {
    let layer = Layer::random(8, 2, 64, 160, 1).with_gridded_queries(2);
    let layout = RingLayout { slots: 24, band: 10 };
    let heads = Pattern::Heads(vec![true, true, true, true, true, false, true, true]);
    let policies = [
        paper(0.0),
        paper(0.6),
        paper(0.8),
        forced(Pattern::All, 1),
        forced(Pattern::All, 24),
        forced(Pattern::All, 1000),
        forced(Pattern::None, 3),
        forced(heads, 5),
        forced(Pattern::Random { rate: 0.8, seed: 3 }, 7),
    ];
    for simd in SimdLevel::available() {
        for policy in &policies {
            let mut pair = Pair::new(&layer, layout, simd);
            for pos in 0..160 {
                pair.step(pos, policy, &Serial).unwrap();
            }
        }
    }
}

#[test]
fn every_kind_of_outcome_occurs_with_gridded_queries() {
    let layer = Layer::random(8, 2, 64, 160, 1).with_gridded_queries(2);
    let mut seen = std::collections::HashSet::new();
    let mut attention = DecodeAttention::new(layer.shape, 10);
    let mut ring = Ring::new(layer.shape, RingLayout { slots: 24, band: 10 }).unwrap();
    let (mut out, mut counters) = (vec![0.0; layer.row()], Counters::default());
    for pos in 0..160 {
        let policy = if pos % 10 == 9 { Policy::Exact } else { paper(0.775) };
        let query = layer.queries(pos, pos + 1);
        attention.step(query, &layer.kv(pos + 1), &mut ring, &policy, &mut out, &mut counters, &Serial).unwrap();
        seen.extend(counters.heads.iter().map(|head| *head as u8));
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[test]
fn a_chain_of_two_thousand_hits_does_not_drift_from_the_recurrence() {
    let layer = Layer::random(2, 1, 64, 3600, 12);
    let layout = RingLayout { slots: 32, band: 16 };
    for lag in [1, 13] {
        let mut pair = Pair::new(&layer, layout, SimdLevel::best());
        // Every hop rounds the log-sum-exp to f32, an error of up to 5e-7 near 10: a random walk of 2,000 such steps.
        pair.tolerance = 1e-4;
        let start = 1500;
        for pos in start - 32..start {
            pair.step(pos, &forced(Pattern::None, 1), &Serial).unwrap();
        }
        for pos in start..start + 2050 {
            pair.step(pos, &forced(Pattern::All, lag), &Serial).unwrap();
            assert!(pair.counters.heads.iter().all(|head| *head == HeadOutcome::Reused));
        }
        let depth = pair.ring.entry(0, start + 2049).unwrap().depth;
        assert!(depth as usize >= 2050 / lag, "depth {depth}");
    }
}

#[test]
fn with_one_repeated_query_reuse_is_exact_attention() {
    let mut layer = Layer::random(4, 2, 64, 900, 13);
    let row = layer.row();
    let first: Vec<f32> = layer.q_rot[..row].to_vec();
    for token in 0..900 {
        layer.q_rot[token * row..(token + 1) * row].copy_from_slice(&first);
        layer.q_pre[token * row..(token + 1) * row].copy_from_slice(&first);
    }
    let mut pair = Pair::new(&layer, RingLayout { slots: 64, band: 32 }, SimdLevel::best());
    for pos in 300..900 {
        pair.step(pos, &paper(0.45), &Serial).unwrap();
        let kv = layer.kv(pos + 1);
        for q_head in 0..4 {
            let span = q_head * 64..(q_head + 1) * 64;
            let want = attend(&first[span.clone()], &kv, q_head / 2, 0..pos + 1);
            assert!(relative_l2(&pair.out[span.clone()], &want.out) < 1e-5);
            // All distances are 0, so the oldest entry of the window was reused, with the logits of this very query: the
            // reused mass is the exact one.
            let stored = RingLayout { slots: 64, band: 32 }.prefix_end(pos.saturating_sub(64).max(300));
            let mass = (attend(&first[span], &kv, q_head / 2, 0..stored).lse - want.lse).exp();
            let mass = if pos == 300 { 0.0 } else { mass };
            assert!((f64::from(pair.counters.reused_mass[q_head]) - mass).abs() < 1e-5, "head {q_head} at {pos}");
        }
        let reused = pair.counters.heads_reused();
        assert_eq!(reused, if pos == 300 { 0 } else { 4 });
    }
}

#[test]
fn ties_go_to_the_smallest_position_also_after_a_wrap() {
    let mut layer = Layer::random(1, 1, 64, 60, 14);
    layer.q_pre.fill(0.5);
    let mut pair = Pair::new(&layer, RingLayout { slots: 8, band: 4 }, SimdLevel::best());
    for pos in 0..60 {
        pair.step(pos, &paper(0.45), &Serial).unwrap();
        // All distances are 0: the oldest valid entry wins, and those before position 4 cover nothing.
        if pos >= 12 {
            let oldest = pair.ring.entry(0, pos).unwrap().depth;
            let before = pair.oracle.entry(0, pos).unwrap().depth;
            assert_eq!(oldest, before);
        }
    }
}

#[test]
fn an_invalid_nearest_entry_does_not_shadow_a_valid_one() {
    let mut layer = Layer::random(2, 1, 64, 40, 15);
    layer.q_pre.fill(1.0);
    let row = layer.row();
    // Position 20 has the very query of position 21, but its stored state is not finite; 19 is a little farther.
    layer.q_pre[20 * row..22 * row].fill(2.0);
    layer.q_pre[19 * row..20 * row].fill(1.875);
    layer.q_rot[20 * row..21 * row].fill(f32::NAN);
    let mut attention = DecodeAttention::new(layer.shape, 4);
    let mut ring = Ring::new(layer.shape, RingLayout { slots: 8, band: 4 }).unwrap();
    let (mut out, mut counters) = (vec![0.0; row], Counters::default());
    for pos in 10..22 {
        let policy = if pos == 21 { paper(0.45) } else { paper(1.0) };
        let query = layer.queries(pos, pos + 1);
        attention.step(query, &layer.kv(pos + 1), &mut ring, &policy, &mut out, &mut counters, &Serial).unwrap();
    }
    assert!(!ring.entry(0, 20).unwrap().lse.is_finite());
    assert_eq!(counters.heads, [HeadOutcome::Reused; 2]);
    let want = (64.0_f32 * 0.125 * 0.125).sqrt();
    assert_eq!(ring.entry(0, 21).unwrap().distance, want);
    assert!(out.iter().all(|x| x.is_finite()));
}

#[test]
fn a_nan_query_misses_and_poisons_nothing() {
    let mut layer = Layer::random(2, 1, 64, 60, 16);
    layer.q_pre.fill(1.0);
    let row = layer.row();
    layer.q_pre[40 * row..41 * row].fill(f32::NAN);
    let mut attention = DecodeAttention::new(layer.shape, 4);
    let mut ring = Ring::new(layer.shape, RingLayout { slots: 8, band: 4 }).unwrap();
    let (mut out, mut counters) = (vec![0.0; row], Counters::default());
    for pos in 10..60 {
        let query = layer.queries(pos, pos + 1);
        attention.step(query, &layer.kv(pos + 1), &mut ring, &paper(0.45), &mut out, &mut counters, &Serial).unwrap();
        let want = if pos == 10 || pos == 40 { HeadOutcome::Missed } else { HeadOutcome::Reused };
        assert_eq!(counters.heads, [want; 2], "at {pos}");
        assert!(out.iter().all(|x| x.is_finite()));
    }
}

#[test]
fn entries_beyond_a_cut_are_never_reused() {
    let layer = Layer::random(4, 2, 64, 80, 17);
    let mut pair = Pair::new(&layer, RingLayout { slots: 16, band: 6 }, SimdLevel::best());
    for pos in 0..50 {
        pair.step(pos, &forced(Pattern::All, 3), &Serial).unwrap();
    }
    pair.ring.truncate(40);
    pair.oracle.truncate(40);
    for pos in 40..60 {
        pair.step(pos, &forced(Pattern::All, 3), &Serial).unwrap();
    }
    // Without a word, by stepping at an earlier position.
    for pos in 45..80 {
        pair.step(pos, &forced(Pattern::All, 3), &Serial).unwrap();
    }
    pair.ring.clear();
    pair.step(79, &Policy::Exact, &Serial).unwrap();
    pair.ring.clear();
    let query = layer.queries(79, 80);
    let all = forced(Pattern::All, 3);
    pair.attention
        .step(query, &layer.kv(80), &mut pair.ring, &all, &mut pair.out, &mut pair.counters, &Serial)
        .unwrap();
    assert!(pair.counters.heads.iter().all(|head| *head == HeadOutcome::Missed));
}

#[test]
fn exact_writes_nothing_into_the_ring() {
    let layer = Layer::random(2, 1, 64, 60, 18);
    let mut pair = Pair::new(&layer, RingLayout { slots: 16, band: 6 }, SimdLevel::best());
    for pos in 0..60 {
        pair.step(pos, &Policy::Exact, &Serial).unwrap();
    }
    assert_eq!(pair.ring.positions().count(), 0);
}

#[test]
fn a_resting_step_writes_its_entry_and_searches_nothing() {
    let layer = Layer::random(2, 1, 64, 60, 18);
    let mut pair = Pair::new(&layer, RingLayout { slots: 16, band: 6 }, SimdLevel::best());
    for pos in 0..60 {
        pair.step(pos, &Policy::Rest, &Serial).unwrap();
        assert!(pair.counters.heads.iter().all(|head| *head == HeadOutcome::NotSearched));
    }
    assert_eq!(pair.ring.positions().count(), 16);
    pair.step(59, &forced(Pattern::All, 3), &Serial).unwrap();
    assert_eq!(pair.counters.groups_reused, 1, "what rested steps wrote is reused");
}

#[test]
fn backoff_follows_the_oracle_and_ends_with_a_hit() {
    let layer = Layer::random(8, 2, 64, 200, 19).with_gridded_queries(20);
    let layout = RingLayout { slots: 24, band: 10 };
    let backoff = Backoff::On { max_pause: 4 };
    for threshold in [0.6, 0.775, 1.0] {
        let policy = Policy::Paper(Paper { threshold, min_context: 30, backoff });
        let mut pair = Pair::new(&layer, layout, SimdLevel::best());
        let mut paused_steps = 0;
        for pos in 0..200 {
            pair.step(pos, &policy, &Serial).unwrap();
            paused_steps += usize::from(pos >= 30 && pair.counters.heads[0] == HeadOutcome::NotSearched);
        }
        // Without any hit: four searches, pauses of 1 and 2, then four paused steps of every five.
        assert!(threshold < 1.0 || paused_steps > 120, "{paused_steps} of 170");
    }
    let policy = Policy::Forced(Forced { pattern: Pattern::Random { rate: 0.9, seed: 1 }, lag_tokens: 4, backoff });
    let mut pair = Pair::new(&layer, layout, SimdLevel::best());
    for pos in 0..200 {
        pair.step(pos, &policy, &Serial).unwrap();
    }
}

#[test]
fn counters_count_what_was_read() {
    let layer = Layer::random(8, 2, 64, 2000, 21);
    let layout = RingLayout { slots: 32, band: 100 };
    let mut attention = DecodeAttention::new(layer.shape, layout.band);
    let mut ring = Ring::new(layer.shape, layout).unwrap();
    let (mut out, mut counters) = (vec![0.0; layer.row()], Counters::default());
    let group_token_bytes = (layer.shape.kv_bytes_per_token() / 2) as u64;
    let (entry, state, key) = (64 * 2 + 64 * 4 + 12, 64 * 4 + 12, 64 * 2);
    for pos in 1900..1940 {
        let query = layer.queries(pos, pos + 1);
        let none = forced(Pattern::None, 1);
        attention.step(query, &layer.kv(pos + 1), &mut ring, &none, &mut out, &mut counters, &Serial).unwrap();
    }
    let probed = 8 * 32 * key;
    assert_eq!(counters.kv_bytes_read, 1940 * 2 * group_token_bytes);
    assert_eq!(counters.ring_bytes, probed + 8 * entry + 8);
    assert_eq!((counters.groups, counters.groups_reused, counters.heads_matched()), (2, 0, 0));

    let mut heads = vec![true; 8];
    heads[6] = false;
    let mixed = forced(Pattern::Heads(heads), 9);
    attention
        .step(layer.queries(1940, 1941), &layer.kv(1941), &mut ring, &mixed, &mut out, &mut counters, &Serial)
        .unwrap();
    assert_eq!(counters.kv_bytes_read, (1941 + 9 + 100) * group_token_bytes);
    assert_eq!(counters.kv_bytes_exact, 1941 * 2 * group_token_bytes);
    assert_eq!(counters.ring_bytes, probed + 8 * entry + 8 + 4 * state);
    assert_eq!((counters.groups_reused, counters.heads_matched(), counters.heads_reused()), (1, 7, 4));
    let refreshed = HeadOutcome::Refreshed;
    assert_eq!(counters.heads[4..], [refreshed, refreshed, HeadOutcome::Missed, refreshed]);
    assert_eq!(ring.entry(4, 1940).unwrap().depth, 0, "refreshed exactly");
    assert_eq!(ring.entry(0, 1940).unwrap().depth, 1);
}

#[test]
fn the_number_of_threads_changes_no_bit_of_reuse() {
    let layer = Layer::random(8, 2, 128, 1500, 22);
    let layout = RingLayout { slots: 64, band: 40 };
    let run = |pool: &dyn Parallel| {
        let mut pair = Pair::new(&layer, layout, SimdLevel::best());
        let mut outs = Vec::new();
        for pos in 1400..1500 {
            let query = layer.queries(pos, pos + 1);
            let policy = forced(Pattern::Random { rate: 0.9, seed: 5 }, 11);
            pair.attention
                .step(query, &layer.kv(pos + 1), &mut pair.ring, &policy, &mut pair.out, &mut pair.counters, pool)
                .unwrap();
            outs.push((pair.out.clone(), pair.counters.clone()));
        }
        outs
    };
    let one = run(&pool(1));
    assert!(one.iter().any(|(_, counters)| counters.groups_reused > 0));
    assert!(one == run(&pool(3)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_ring_and_policy_follows_the_oracle(
        group_size in 1usize..=5, dim in 0usize..3, slots in 1usize..40, band in 1usize..40, start in 0usize..60,
        kind in 0usize..4, level in 0.5f32..1.0, lag in 1usize..50, max_pause in 0u32..5, seed: u64,
    ) {
        let head_dim = [64, 96, 128][dim];
        let layer = Layer::random(2 * group_size, 2, head_dim, start + 60, seed).with_gridded_queries(seed ^ 1);
        let backoff = Backoff::On { max_pause };
        let policy = match kind {
            0 | 1 => Policy::Paper(Paper { threshold: level, min_context: start + 5, backoff }),
            2 => Policy::Forced(Forced { pattern: Pattern::Random { rate: level, seed }, lag_tokens: lag, backoff }),
            _ => Policy::Forced(Forced { pattern: Pattern::All, lag_tokens: lag, backoff }),
        };
        let unpaused = Policy::Paper(Paper { threshold: level, min_context: 0, backoff: Backoff::Off });
        let levels = SimdLevel::available();
        let mut pair = Pair::new(&layer, RingLayout { slots, band }, levels[(seed % levels.len() as u64) as usize]);
        for pos in start..start + 60 {
            // Now and then another policy: pauses stand still, or are left alone.
            let policy = match (pos * 7 + seed as usize % 7) % 11 {
                0 => &Policy::Rest,
                1 => &Policy::Exact,
                2 => &unpaused,
                _ => &policy,
            };
            pair.step(pos, policy, &Serial)?;
        }
    }
}
