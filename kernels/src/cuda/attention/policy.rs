//! A policy as the kernels are told.

use super::abi::{FORCED, PAPER, PATTERN_ALL, PATTERN_HEADS, PATTERN_NONE, PATTERN_RANDOM, PolicyArgs};
use crate::decode::squared_radius;
use crate::{AttentionShape, Forced, KernelError, Paper, Pattern, Policy};

/// What a layer's steps launch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Rule {
    /// Attention to every token; no ring.
    Exact,
    /// The same, and the ring's entries.
    Rest,
    /// A search first.
    Reuse(PolicyArgs),
}

impl Rule {
    /// `forced_heads`: address of the layer's flags, which the caller fills for [`Pattern::Heads`].
    pub(super) fn new(policy: &Policy, shape: AttentionShape, forced_heads: u64) -> Result<Self, KernelError> {
        policy.check(shape.num_q_heads())?;
        Ok(match policy {
            Policy::Exact => Self::Exact,
            Policy::Rest => Self::Rest,
            Policy::Paper(paper) => Self::Reuse(paper_args(paper, shape)),
            Policy::Forced(forced) => Self::Reuse(forced_args(forced, forced_heads)),
        })
    }
}
const NOTHING: PolicyArgs = PolicyArgs {
    kind: PAPER,
    radius_sq: f32::INFINITY,
    min_context: 0,
    max_pause: 0,
    prune: 0,
    pattern: PATTERN_ALL,
    rate: 0.0,
    lag: 0,
    seed: 0,
    forced_heads: 0,
};

fn paper_args(paper: &Paper, shape: AttentionShape) -> PolicyArgs {
    PolicyArgs {
        kind: PAPER,
        radius_sq: squared_radius(paper, shape.head_dim()),
        min_context: saturated(paper.min_context),
        max_pause: saturated(paper.backoff.max_pause() as usize),
        prune: 1,
        ..NOTHING
    }
}

fn forced_args(forced: &Forced, forced_heads: u64) -> PolicyArgs {
    let args = PolicyArgs {
        kind: FORCED,
        max_pause: saturated(forced.backoff.max_pause() as usize),
        lag: saturated(forced.lag_tokens),
        ..NOTHING
    };
    match &forced.pattern {
        Pattern::All => PolicyArgs { pattern: PATTERN_ALL, ..args },
        Pattern::None => PolicyArgs { pattern: PATTERN_NONE, ..args },
        Pattern::Random { rate, seed } => PolicyArgs { pattern: PATTERN_RANDOM, rate: *rate, seed: *seed, ..args },
        Pattern::Heads(_) => PolicyArgs { pattern: PATTERN_HEADS, forced_heads, ..args },
    }
}

/// Tokens and steps beyond the kernels' range never come.
fn saturated(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
