//! One KV group of a step: its span tasks, and the merge of what they leave.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::lock;
use super::search::HeadPlan;
use crate::cpu::SimdLevel;
use crate::partial::merge;
use crate::ring::PrefixState;
use crate::{AttentionShape, Ring};

const MAX_GROUP: usize = AttentionShape::MAX_GROUP;

/// One read of one KV head.
#[derive(Debug)]
pub(super) struct SpanTask {
    pub kv_head: usize,
    pub tokens: Range<usize>,
}

/// What a span leaves behind (see [`crate::cpu::Span`]).
#[derive(Debug)]
pub(super) struct SpanState {
    /// `[group_size, head_dim]`, paired order.
    pub acc: Vec<f32>,
    pub max: [f32; MAX_GROUP],
    pub sum: [f32; MAX_GROUP],
    pub tokens_read: usize,
}

impl SpanState {
    pub(super) fn new(shape: AttentionShape) -> Self {
        let acc = vec![0.0; shape.group_size() * shape.head_dim()];
        Self { acc, max: [0.0; MAX_GROUP], sum: [0.0; MAX_GROUP], tokens_read: 0 }
    }
}

/// One KV head's share of a step.
#[derive(Debug)]
pub(super) struct Group {
    head_dim: usize,
    /// Tasks not finished yet.
    remaining: AtomicUsize,
    /// Span states of this group; the first `prefix_tasks` of them lie in the prefix, the others in the band.
    tasks: Range<usize>,
    prefix_tasks: usize,
    merged: Mutex<Merged>,
}

/// The merged states of one group.
#[derive(Debug)]
struct Merged {
    /// `[group_size, head_dim]`.
    out: Vec<f32>,
    /// `[group_size, head_dim]`: what the ring keeps.
    prefix: Vec<f32>,
    prefix_lse: [f32; MAX_GROUP],
    depth: [u32; MAX_GROUP],
    distance: [f32; MAX_GROUP],
    /// See [`crate::Counters::reused_mass`].
    reused_mass: [f32; MAX_GROUP],
    /// `[group_size, head_dim]`, paired order.
    scratch: Vec<f32>,
    /// `[head_dim]`.
    natural: Vec<f32>,
}

impl Group {
    pub(super) fn new(shape: AttentionShape) -> Self {
        let elements = shape.group_size() * shape.head_dim();
        let merged = Merged {
            out: vec![0.0; elements],
            prefix: vec![0.0; elements],
            prefix_lse: [f32::NEG_INFINITY; MAX_GROUP],
            depth: [0; MAX_GROUP],
            distance: [0.0; MAX_GROUP],
            reused_mass: [0.0; MAX_GROUP],
            scratch: vec![0.0; elements],
            natural: vec![0.0; shape.head_dim()],
        };
        Self {
            head_dim: shape.head_dim(),
            remaining: AtomicUsize::new(0),
            tasks: 0..0,
            prefix_tasks: 0,
            merged: Mutex::new(merged),
        }
    }

    pub(super) fn plan(&mut self, tasks: Range<usize>, prefix_tasks: usize) {
        *self.remaining.get_mut() = tasks.len();
        self.tasks = tasks;
        self.prefix_tasks = prefix_tasks;
    }

    /// Counts a finished task; true for the last one.
    pub(super) fn is_last(&self) -> bool {
        self.remaining.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Merges the states of all tasks, in the order of their tokens.
    pub(super) fn merge(
        &self,
        simd: SimdLevel,
        states: &[Mutex<SpanState>],
        kv_head: usize,
        heads: &[HeadPlan],
        ring: Option<&Ring>,
    ) {
        let (prefix_states, tail_states) = states[self.tasks.clone()].split_at(self.prefix_tasks);
        let mut merged = lock(&self.merged);
        let Merged { out, prefix, prefix_lse, depth, distance, reused_mass, scratch, natural } = &mut *merged;
        let head_dim = self.head_dim;
        // Log-sum-exps of the reused states.
        let mut reused_lse = [f32::NEG_INFINITY; MAX_GROUP];

        let (totals, lses) = combine(prefix_states, heads.len(), scratch);
        for (h, head) in heads.iter().enumerate() {
            let span = h * head_dim..(h + 1) * head_dim;
            let prefix = &mut prefix[span.clone()];
            let q_head = kv_head * heads.len() + h;
            let reuse = head.reuse.filter(|_| head.reused());
            let Some((found, entry)) = reuse.and_then(|found| Some((found, ring?.entry(q_head, found.pos)?))) else {
                simd.unpair(&scratch[span], totals[h], prefix);
                (prefix_lse[h], depth[h], distance[h]) = (lses[h], 0, 0.0);
                continue;
            };
            simd.unpair(&scratch[span], totals[h], natural);
            prefix.copy_from_slice(entry.out);
            (prefix_lse[h], reused_lse[h]) = (entry.lse, entry.lse);
            merge(prefix, &mut prefix_lse[h], natural, lses[h]);
            depth[h] = entry.depth.saturating_add(1);
            distance[h] = entry.distance + found.distance;
        }

        let (totals, lses) = combine(tail_states, heads.len(), scratch);
        for h in 0..heads.len() {
            let span = h * head_dim..(h + 1) * head_dim;
            simd.unpair(&scratch[span.clone()], totals[h], natural);
            out[span.clone()].copy_from_slice(&prefix[span.clone()]);
            let mut lse = prefix_lse[h];
            merge(&mut out[span], &mut lse, natural, lses[h]);
            reused_mass[h] = share(reused_lse[h], lse);
        }
    }

    /// `[group_size, head_dim]`, after the step's tasks.
    pub(super) fn out(&mut self) -> &[f32] {
        &self.merged.get_mut().unwrap_or_else(PoisonError::into_inner).out
    }

    /// Per head of the group, after the step's tasks; see [`crate::Counters::reused_mass`].
    pub(super) fn reused_mass(&mut self, group_size: usize) -> &[f32] {
        &self.merged.get_mut().unwrap_or_else(PoisonError::into_inner).reused_mass[..group_size]
    }

    /// The prefix state of the group's head `h`, after the step's tasks.
    pub(super) fn prefix_state(&mut self, h: usize) -> PrefixState<'_> {
        let merged = self.merged.get_mut().unwrap_or_else(PoisonError::into_inner);
        PrefixState {
            out: &merged.prefix[h * self.head_dim..(h + 1) * self.head_dim],
            lse: merged.prefix_lse[h],
            depth: merged.depth[h],
            distance: merged.distance[h],
        }
    }
}

/// The share of the softmax mass behind log-sum-exp `all` that lies on the tokens behind `part`, some of them; 1 if that is
/// not a number.
fn share(part: f32, all: f32) -> f32 {
    if part == f32::NEG_INFINITY { 0.0 } else { ((f64::from(part) - f64::from(all)).exp() as f32).min(1.0) }
}

/// Adds up span states into `scratch` (`[group_size, head_dim]`, paired order, on the scale of the largest score) and
/// returns, per head, the factor that normalises it and the natural log-sum-exp. Without a state: zeros and −∞.
fn combine(
    states: &[Mutex<SpanState>],
    group_size: usize,
    scratch: &mut [f32],
) -> ([f32; MAX_GROUP], [f32; MAX_GROUP]) {
    let mut tops = [f32::NEG_INFINITY; MAX_GROUP];
    for state in states {
        let state = lock(state);
        for (top, max) in tops.iter_mut().zip(&state.max).take(group_size) {
            // Written so that NaN stays once it is there.
            *top = if top.is_nan() || *top > *max { *top } else { *max };
        }
    }
    let mut sums = [0.0_f64; MAX_GROUP];
    scratch.fill(0.0);
    for state in states {
        let state = lock(state);
        let head_dim = state.acc.len() / group_size;
        let heads = scratch.chunks_exact_mut(head_dim).zip(state.acc.chunks_exact(head_dim));
        for (h, (scratch, acc)) in heads.enumerate() {
            if state.max[h] == f32::NEG_INFINITY {
                continue;
            }
            let weight = (f64::from(state.max[h]) - f64::from(tops[h])).exp2();
            sums[h] += weight * f64::from(state.sum[h]);
            let weight = weight as f32;
            for (x, y) in scratch.iter_mut().zip(acc) {
                *x += weight * y;
            }
        }
    }
    let mut factors = [0.0; MAX_GROUP];
    let mut lses = [f32::NEG_INFINITY; MAX_GROUP];
    for h in 0..group_size {
        if tops[h] != f32::NEG_INFINITY {
            factors[h] = (1.0 / sums[h]) as f32;
            lses[h] = ((f64::from(tops[h]) + sums[h].log2()) * std::f64::consts::LN_2) as f32;
        }
    }
    (factors, lses)
}
