//! CPU kernel, f64 oracle and CUDA kernels side by side, step by step.

use std::sync::atomic::AtomicBool;

use mac_attention::cuda::Gpu;
use mac_attention::reference::{ReferenceRing, relative_l2};
use mac_attention::{
    Counters, DecodeAttention, HeadOutcome, Paper, Policy, PrefillAttention, Ring, RingEntry, RingLayout, Serial,
};

use crate::layer::{DeviceLayer, Layer};

/// Of any head's output against f64. Rounding of the weights to 16 bits alone would reach 4e-3.
const TOLERANCE: f64 = 2e-3;
/// Squared distances closer to the radius, or to each other, than this share may fall either way.
const ROUNDING: f64 = 1e-4;

/// What a run has seen, so that a test can tell that it saw enough.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) steps: usize,
    pub(crate) missed: usize,
    pub(crate) refreshed: usize,
    pub(crate) reused: usize,
    pub(crate) not_searched: usize,
    /// Decisions that rounding may turn, after which the device took over the CPU's entries.
    pub(crate) excused: usize,
    pub(crate) deepest: u32,
    pub(crate) worst: f64,
}

pub(crate) struct Pair<'a> {
    layer: &'a Layer,
    layout: RingLayout,
    attention: DecodeAttention,
    pub(crate) ring: Ring,
    oracle: ReferenceRing,
    pub(crate) device: DeviceLayer<'a>,
    counters: Counters,
    out: Vec<f32>,
    pub(crate) seen: Seen,
}

impl<'a> Pair<'a> {
    /// All three after a prompt of `prompt` tokens.
    pub(crate) fn new(gpu: &Gpu, layer: &'a Layer, layout: RingLayout, prompt: usize) -> Self {
        let mut pair = Self {
            layer,
            layout,
            attention: DecodeAttention::new(layer.shape, layout.band),
            ring: Ring::new(layer.shape, layout).unwrap(),
            oracle: ReferenceRing::new(layer.shape, layout),
            device: DeviceLayer::new(gpu, layer, layout),
            counters: Counters::default(),
            out: vec![f32::NAN; layer.row()],
            seen: Seen::default(),
        };
        if prompt > 0 {
            let mut out = vec![0.0; prompt * layer.row()];
            let (query, kv) = (layer.queries(0, prompt), layer.kv(prompt));
            let never = AtomicBool::new(false);
            PrefillAttention::new(layer.shape).chunk(query, &kv, &mut pair.ring, 0, &mut out, &Serial, &never).unwrap();
            for pos in prompt.saturating_sub(layout.slots)..prompt {
                let query = layer.queries(pos, pos + 1);
                pair.oracle.seed(query.pre, query.rot, &kv, pos);
            }
            pair.device.set_len(prompt);
            pair.device.attention.restore_ring(0, &pair.ring).unwrap();
            pair.device.attention.seek(prompt).unwrap();
        }
        pair
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        self.ring.truncate(len);
        self.oracle.truncate(len);
        self.device.attention.truncate(len).unwrap();
        self.device.set_len(len);
    }

    /// One step at `pos` on all three; outcomes, outputs and entries must agree.
    pub(crate) fn step(&mut self, pos: usize, policy: &Policy) {
        let before = self.ring.clone();
        let (kv, query) = (self.layer.kv(pos + 1), self.layer.queries(pos, pos + 1));
        self.attention.step(query, &kv, &mut self.ring, policy, &mut self.out, &mut self.counters, &Serial).unwrap();
        let want = self.oracle.step(query.pre, query.rot, &kv, policy);
        self.device.attention.set_policy(0, policy).unwrap();
        let got = self.device.step(pos);
        let counters = self.device.attention.report().unwrap()[0].clone();
        self.seen.steps += 1;

        assert_eq!(counters.heads, self.counters.heads, "outcomes at {pos} under {policy:?}");
        assert_eq!(want.outcomes, self.counters.heads, "CPU and oracle at {pos} under {policy:?}");
        self.compare_counters(pos, &counters);
        for outcome in &counters.heads {
            match outcome {
                HeadOutcome::NotSearched => self.seen.not_searched += 1,
                HeadOutcome::Missed => self.seen.missed += 1,
                HeadOutcome::Refreshed => self.seen.refreshed += 1,
                HeadOutcome::Reused => self.seen.reused += 1,
            }
        }
        for (q_head, (got, want)) in got.chunks_exact(self.layer.shape.head_dim()).zip(&want.out).enumerate() {
            let error = relative_l2(got, want);
            self.seen.worst = self.seen.worst.max(error);
            assert!(error < TOLERANCE, "output of head {q_head} at {pos}: off by {error:e} under {policy:?}");
        }
        if !self.compare_rings(pos, policy, &before) {
            self.compare_masses(pos, &counters.reused_mass, &want.reused_mass);
        }
    }

    fn compare_counters(&self, pos: usize, got: &Counters) {
        let want = &self.counters;
        assert_eq!((got.groups, got.groups_reused), (want.groups, want.groups_reused), "groups at {pos}");
        // The CPU counts the bf16 numbers that it holds.
        let shape = self.layer.shape;
        let token_bytes = self.layer.element.token_bytes(shape);
        let held = |bytes: u64| bytes * token_bytes as u64 / shape.kv_bytes_per_token() as u64;
        let (exact, read) = (held(want.kv_bytes_exact), held(want.kv_bytes_read));
        assert_eq!(got.kv_bytes_exact, exact, "bytes of exact attention at {pos}");
        // The device reads a missed group's band twice, and may have read ahead in vain: at most 4 stages of 16 tokens
        // for each of 4 warps of every block, so no more than the cache once.
        let most = read + (self.layout.band * token_bytes) as u64 + exact;
        assert!(
            (read..=most).contains(&got.kv_bytes_read),
            "K and V bytes at {pos}: {} on the device, {read} on the CPU",
            got.kv_bytes_read,
        );
        let searched = got.heads.iter().any(|head| *head != HeadOutcome::NotSearched);
        assert!(!searched || got.ring_bytes > 0, "ring bytes at {pos}");
    }

    /// As far as both reused the same entries.
    fn compare_masses(&self, pos: usize, got: &[f32], oracle: &[f64]) {
        assert_eq!((got.len(), self.counters.reused_mass.len()), (oracle.len(), oracle.len()));
        for (q_head, (got, want)) in got.iter().zip(&self.counters.reused_mass).enumerate() {
            for want in [f64::from(*want), oracle[q_head]] {
                let close = (f64::from(*got) - want).abs() <= 1e-3 * want;
                assert!(close, "reused mass of head {q_head} at {pos}: {got} of {want}");
            }
            let reused = self.counters.heads[q_head] == HeadOutcome::Reused;
            assert_eq!(reused, *got > 0.0, "reused mass of head {q_head} at {pos}: {got}");
        }
    }

    /// Every position and number of the two rings. Where two candidates were equally near but for rounding, the device
    /// gets the CPU's entries, so that the rest of the run can be compared, and this returns true.
    fn compare_rings(&mut self, pos: usize, policy: &Policy, before: &Ring) -> bool {
        let got = self.device.attention.ring(0).unwrap();
        let sorted = |ring: &Ring| {
            let mut positions: Vec<usize> = ring.positions().collect();
            positions.sort_unstable();
            positions
        };
        assert_eq!(sorted(&got), sorted(&self.ring), "positions after {pos} under {policy:?}");
        let mut excused = false;
        for q_head in 0..self.layer.shape.num_q_heads() {
            let (Some(got), Some(want)) = (got.entry(q_head, pos), self.ring.entry(q_head, pos)) else { continue };
            self.seen.deepest = self.seen.deepest.max(got.depth);
            if let Err(difference) = same_entry(&got, &want) {
                let tied = self.nearly_tied(pos, q_head, policy, before);
                assert!(tied, "entry of head {q_head} at {pos} under {policy:?}: {difference}");
                excused = true;
            }
        }
        // Entries that no step has written since must not change.
        for older in sorted(&got).into_iter().filter(|older| *older != pos) {
            for q_head in 0..self.layer.shape.num_q_heads() {
                let (got, want) = (got.entry(q_head, older), self.ring.entry(q_head, older));
                let same = got.zip(want).map(|(got, want)| same_entry(&got, &want));
                assert_eq!(same, Some(Ok(())), "entry of head {q_head} for {older}, seen at {pos}");
            }
        }
        if excused {
            self.seen.excused += 1;
            self.device.attention.restore_ring(0, &self.ring).unwrap();
        }
        excused
    }

    /// Whether the two nearest candidates of a head are equally far but for rounding.
    fn nearly_tied(&self, pos: usize, q_head: usize, policy: &Policy, before: &Ring) -> bool {
        let Policy::Paper(Paper { threshold, .. }) = policy else { return false };
        let head_dim = self.layer.shape.head_dim();
        let query = &self.layer.queries(pos, pos + 1).pre[q_head * head_dim..][..head_dim];
        let mut distances: Vec<f64> = before
            .positions()
            .filter(|p| *p < pos && pos - p <= self.layout.slots)
            .filter_map(|p| before.entry(q_head, p))
            .filter(|entry| entry.lse.is_finite())
            .map(|entry| squared_distance(query, &entry))
            .collect();
        distances.sort_by(f64::total_cmp);
        let radius = 2.0 * head_dim as f64 * (1.0 - f64::from(*threshold)).powi(2);
        let near = |a: f64, b: f64| (a - b).abs() <= ROUNDING * a.max(b);
        distances.windows(2).next().is_some_and(|two| near(two[0], two[1]))
            || distances.first().is_some_and(|first| near(*first, radius))
    }
}

fn squared_distance(query: &[f32], entry: &RingEntry<'_>) -> f64 {
    let difference = |(q, p): (&f32, &half::bf16)| half::bf16::from_f32(*q).to_f64() - p.to_f64();
    query.iter().zip(entry.query).map(|pair| difference(pair).powi(2)).sum()
}

fn same_entry(got: &RingEntry<'_>, want: &RingEntry<'_>) -> Result<(), String> {
    let close = |a: f32, b: f32| (a - b).abs() <= 1e-3 * b.abs().max(1.0);
    if got.query != want.query {
        return Err("other query".to_owned());
    }
    if got.depth != want.depth || !close(got.distance, want.distance) {
        return Err(format!("depth {} of {}, distance {} of {}", got.depth, want.depth, got.distance, want.distance));
    }
    if want.lse == f32::NEG_INFINITY {
        let empty = got.lse == f32::NEG_INFINITY && got.out.iter().all(|x| *x == 0.0);
        return if empty { Ok(()) } else { Err(format!("empty prefix has {}", got.lse)) };
    }
    let exact: Vec<f64> = want.out.iter().map(|x| f64::from(*x)).collect();
    let error = relative_l2(got.out, &exact);
    if close(got.lse, want.lse) && error < TOLERANCE {
        Ok(())
    } else {
        Err(format!("log-sum-exp {} of {}, state off by {error:e}", got.lse, want.lse))
    }
}
