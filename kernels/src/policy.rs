//! When a head may reuse a stored state.

use crate::KernelError;

/// How a decode step decides between reuse and exact attention. More rules may join (a calibrated bound is next).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Policy {
    /// Every group is read; nothing is matched and nothing is written to the ring.
    Exact,
    /// Every group is read and nothing is matched, but the entries are written: a step in which reuse rests (see [`crate::Pace`]).
    Rest,
    /// The paper's rule: nearest past query within an absolute radius.
    Paper(Paper),
    /// Hits are dictated; the search runs all the same, so that timings are honest. For benchmarks and tests.
    Forced(Forced),
}

/// Hit when `‖q̃_t − q̃_p‖² < 2·D·(1−τ)²`, strictly, over queries before rotation (arXiv 2604.00235).
#[derive(Debug, Clone, PartialEq)]
pub struct Paper {
    /// τ in 0..=1; higher is stricter, 1 never hits.
    pub threshold: f32,
    /// Shortest context, in tokens, at which matching is tried.
    pub min_context: usize,
    /// Whether groups that keep missing pause their search.
    pub backoff: Backoff,
}

/// A search that finds nothing costs bytes: after four in a row without reuse a group pauses for 1, 2, 4 … `max_pause` steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backoff {
    /// Search every step, whatever pause an earlier policy left; it is kept as it is.
    Off,
    /// Pause at most this many steps between searches; a hit resets the pause.
    On {
        /// Longest pause, in steps; 0 is the same as [`Self::Off`].
        max_pause: u32,
    },
}

impl Backoff {
    /// Longest pause, in steps; 0 without back-off.
    pub(crate) fn max_pause(self) -> u32 {
        match self {
            Self::Off => 0,
            Self::On { max_pause } => max_pause,
        }
    }
}

/// Dictated hits, each from the entry `lag_tokens` back (or the farthest valid one nearer than that).
#[derive(Debug, Clone, PartialEq)]
pub struct Forced {
    /// Which heads hit.
    pub pattern: Pattern,
    /// Distance to the entry that is reused, in tokens, at least 1.
    pub lag_tokens: usize,
    /// As in [`Paper::backoff`]; skips only the cost of the search, never a dictated hit.
    pub backoff: Backoff,
}

/// Which heads hit in a step.
#[derive(Debug, Clone, PartialEq)]
pub enum Pattern {
    /// All of them.
    All,
    /// None.
    None,
    /// Each head on its own with this probability, from a counter-based generator: the same (seed, position, head) always decides alike.
    Random {
        /// Probability of a hit, 0..=1.
        rate: f32,
        /// Seed of the decisions; give each layer its own.
        seed: u64,
    },
    /// One flag per query head.
    Heads(Vec<bool>),
}

impl Default for Paper {
    /// The reference's serving defaults, with back-off.
    fn default() -> Self {
        Self { threshold: 0.45, min_context: 2048, backoff: Backoff::On { max_pause: 16 } }
    }
}

impl Policy {
    /// # Errors
    /// [`KernelError::Setting`] for a threshold or rate outside 0..=1 (NaN included), a zero lag, or a head list of the wrong length.
    pub fn check(&self, num_q_heads: usize) -> Result<(), KernelError> {
        let unit = |what, x: f32| {
            // Written so that NaN is refused.
            if (0.0..=1.0).contains(&x) {
                Ok(())
            } else {
                Err(KernelError::Setting { what, why: format!("{x} is not in 0..=1") })
            }
        };
        match self {
            Self::Exact | Self::Rest => Ok(()),
            Self::Paper(paper) => unit("threshold", paper.threshold),
            Self::Forced(forced) => {
                if forced.lag_tokens == 0 {
                    return Err(KernelError::Setting { what: "lag_tokens", why: "a query cannot reuse itself".into() });
                }
                match &forced.pattern {
                    Pattern::Random { rate, .. } => unit("rate", *rate),
                    Pattern::Heads(heads) if heads.len() != num_q_heads => {
                        Err(KernelError::Length { what: "forced heads", expected: num_q_heads, got: heads.len() })
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}
