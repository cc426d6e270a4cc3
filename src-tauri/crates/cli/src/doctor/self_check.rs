//! The fast kernels against the f64 oracle on this machine's instruction set, on inputs that nobody has seen before.

use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use half::{bf16, f16};
use mac_attention::cuda::{CudaElement, HeldKv};
use mac_attention::reference::{ReferenceRing, attend, relative_l2};
use mac_attention::{
    AttentionShape, Backoff, Counters, DecodeAttention, Forced, KvView, Paper, Parallel, Pattern, Policy,
    PrefillAttention, Query, Ring, RingLayout, ThreadPool,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::failure::Failure;

/// Query heads, KV heads, head dimension: every head dimension with a kernel, groups of 1, 3, 4 and 16.
const SHAPES: [(usize, usize, usize); 5] = [(8, 2, 64), (12, 4, 96), (32, 8, 128), (2, 2, 128), (16, 1, 256)];
/// Small, so that the ring wraps and prefixes end inside spans.
pub(super) const LAYOUT: RingLayout = RingLayout { slots: 48, band: 32 };
/// Tokens read before decoding, and decode steps: long enough for chains of reuse.
pub(super) const PROMPT: usize = 611;
pub(super) const STEPS: usize = 40;
/// A chain of `STEPS` merges adds at most about √STEPS roundings to those of one pass; 8 is above √40.
const CHAIN: f64 = 8.0;

/// One shape under one policy.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    shape: String,
    policy: &'static str,
    seed: u64,
    steps: usize,
    /// Largest ‖fast − oracle‖ / ‖oracle‖ of any head's output.
    worst_relative_error: f64,
    /// [`CHAIN`] × the error of the textbook formula in plain f32 on the same inputs.
    bound: f64,
    /// Fast kernel and oracle reused the same heads in every step.
    same_decisions: bool,
    /// Heads that reused ÷ heads.
    reused: f64,
    pub(crate) pass: bool,
}

impl Check {
    /// For a person.
    pub(crate) fn line(&self) -> String {
        let verdict = match (self.pass, self.same_decisions) {
            (true, _) => "ok",
            (false, true) => "FAIL",
            (false, false) => "FAIL: other heads reused than in the oracle",
        };
        format!(
            "  {:<13} {:<14} {:.1e} (bound {:.1e}), {:>5} of heads reused  {verdict}",
            self.shape,
            self.policy,
            self.worst_relative_error,
            self.bound,
            crate::figures::percent(self.reused),
        )
    }
}

/// Runs every shape under every policy, the shapes side by side because the oracle is slow.
pub(crate) fn run(pool: &ThreadPool) -> Result<Vec<Check>, Failure> {
    let seed = fresh_seed();
    each_shape(|shape| {
        let inputs = Inputs::new(shape, seed);
        let mut checks = vec![inputs.check_prefill(pool)?];
        for (name, policy) in policies() {
            checks.push(inputs.check_decode(name, &policy, pool)?);
        }
        Ok(checks)
    })
}

/// What `check` gives for every shape, in order; each has a thread.
pub(super) fn each_shape(
    check: impl Fn(AttentionShape) -> Result<Vec<Check>, Failure> + Sync,
) -> Result<Vec<Check>, Failure> {
    let shapes = SHAPES.iter().map(|(q, kv, dim)| AttentionShape::new(*q, *kv, *dim)).collect::<Result<Vec<_>, _>>()?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = shapes.iter().map(|shape| scope.spawn(|| check(*shape))).collect();
        let mut checks = Vec::new();
        for thread in threads {
            checks.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(checks)
    })
}

/// Another one at every call.
pub(super) fn fresh_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

pub(super) fn policies() -> [(&'static str, Policy); 4] {
    let forced = |pattern| Policy::Forced(Forced { pattern, lag_tokens: 7, backoff: Backoff::Off });
    [
        ("exact", Policy::Exact),
        ("all reused", forced(Pattern::All)),
        ("70 % reused", forced(Pattern::Random { rate: 0.7, seed: 1 })),
        (
            "nearest query",
            Policy::Paper(Paper { threshold: 0.45, min_context: 0, backoff: Backoff::On { max_pause: 4 } }),
        ),
    ]
}

/// One layer of random keys, values and queries.
pub(super) struct Inputs {
    pub(super) shape: AttentionShape,
    seed: u64,
    pub(super) k: Vec<bf16>,
    pub(super) v: Vec<bf16>,
    /// `[tokens, num_q_heads, head_dim]`
    q_pre: Vec<f32>,
    q_rot: Vec<f32>,
    pub(super) bound: f64,
    /// Of K and V.
    element: CudaElement,
}

/// Room for the prompt and all steps.
pub(super) const CAPACITY: usize = PROMPT + STEPS;

impl Inputs {
    pub(super) fn new(shape: AttentionShape, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let kv_elements = shape.num_kv_heads() * CAPACITY * shape.head_dim();
        let q_elements = CAPACITY * shape.num_q_heads() * shape.head_dim();
        let mut draw = || (0..4).map(|_| rng.random_range(-0.85f32..0.85)).sum::<f32>();
        let k = (0..kv_elements).map(|_| bf16::from_f32(draw())).collect();
        let v = (0..kv_elements).map(|_| bf16::from_f32(draw())).collect();
        let q_rot = (0..q_elements).map(|_| draw()).collect();
        let q_pre = wandering_queries(shape, &mut rng);
        let mut inputs = Self { shape, seed, k, v, q_pre, q_rot, bound: 0.0, element: CudaElement::Bf16 };
        inputs.bound = CHAIN * inputs.plain_f32_error();
        inputs
    }

    pub(super) fn kv(&self, len: usize) -> Result<KvView<'_>, Failure> {
        Ok(KvView::new(self.shape, &self.k, &self.v, CAPACITY, len)?)
    }

    /// Rounds everything to what a GPU is given, whose cache is of that type; K and V as it holds them.
    pub(super) fn round_for(&mut self, element: CudaElement) -> HeldKv {
        self.element = element;
        for x in &mut self.q_pre {
            *x = bf16::from_f32(*x).to_f32();
        }
        for x in &mut self.q_rot {
            *x = match element.queries() {
                CudaElement::Bf16 => bf16::from_f32(*x).to_f32(),
                _ => f16::from_f32(*x).to_f32(),
            };
        }
        element.hold(self.shape.head_dim(), &mut self.k, &mut self.v)
    }

    pub(super) fn width(&self) -> usize {
        self.shape.num_q_heads() * self.shape.head_dim()
    }

    pub(super) fn query(&self, tokens: std::ops::Range<usize>) -> Query<'_> {
        let span = tokens.start * self.width()..tokens.end * self.width();
        Query { pre: &self.q_pre[span.clone()], rot: &self.q_rot[span] }
    }

    /// Ring and outputs `[PROMPT, num_q_heads, head_dim]` after the prompt was read.
    fn read_prompt(&self, pool: &dyn Parallel) -> Result<(Ring, Vec<f32>), Failure> {
        let mut ring = Ring::new(self.shape, LAYOUT)?;
        let mut out = vec![0.0; PROMPT * self.width()];
        let mut prefill = PrefillAttention::new(self.shape);
        let never = AtomicBool::new(false);
        prefill.chunk(
            self.query(0..PROMPT),
            &self.kv(PROMPT)?,
            &mut ring,
            PROMPT - LAYOUT.slots,
            &mut out,
            pool,
            &never,
        )?;
        Ok((ring, out))
    }

    /// The oracle after the prompt.
    pub(super) fn oracle(&self) -> Result<ReferenceRing, Failure> {
        let mut oracle = ReferenceRing::new(self.shape, LAYOUT);
        let prompt = self.kv(PROMPT)?;
        for pos in PROMPT - LAYOUT.slots..PROMPT {
            let query = self.query(pos..pos + 1);
            oracle.seed(query.pre, query.rot, &prompt, pos);
        }
        Ok(oracle)
    }

    fn check_prefill(&self, pool: &dyn Parallel) -> Result<Check, Failure> {
        let (_, out) = self.read_prompt(pool)?;
        let worst = self.worst_of_prompt(&out, 0..PROMPT)?;
        Ok(self.verdict("prefill", 0, worst, true, 0.0))
    }

    /// Worst relative error of `out`, outputs of the prompt's tokens in `span`, at places where kernels go wrong.
    pub(super) fn worst_of_prompt(&self, out: &[f32], span: std::ops::Range<usize>) -> Result<f64, Failure> {
        let kv = self.kv(PROMPT)?;
        let mut worst = 0.0;
        // First and last tokens, and some on either side of the usual block borders.
        let places = [0, 1, 15, 16, 63, 64, 127, 255, 256, 511, 512, PROMPT - 1];
        for pos in places.into_iter().filter(|pos| span.contains(pos)) {
            let rows = self.query(pos..pos + 1).rot;
            let out = &out[(pos - span.start) * self.width()..][..self.width()];
            for (q_head, got) in out.chunks(self.shape.head_dim()).enumerate() {
                let want = attend(self.head(rows, q_head), &kv, q_head / self.shape.group_size(), 0..pos + 1);
                worst = worse(worst, relative_l2(got, &want.out));
            }
        }
        Ok(worst)
    }

    fn check_decode(&self, name: &'static str, policy: &Policy, pool: &dyn Parallel) -> Result<Check, Failure> {
        let (mut ring, _) = self.read_prompt(pool)?;
        let mut oracle = self.oracle()?;
        let mut decode = DecodeAttention::new(self.shape, LAYOUT.band);
        let mut out = vec![0.0; self.width()];
        let mut counters = Counters::default();
        let (mut worst, mut same_decisions, mut reused) = (0.0, true, 0);
        for pos in PROMPT..CAPACITY {
            let (query, kv) = (self.query(pos..pos + 1), self.kv(pos + 1)?);
            decode.step(query, &kv, &mut ring, policy, &mut out, &mut counters, pool)?;
            let want = oracle.step(query.pre, query.rot, &kv, policy);
            same_decisions &= counters.heads == want.outcomes;
            reused += counters.heads_reused();
            for (got, want) in out.chunks(self.shape.head_dim()).zip(&want.out) {
                worst = worse(worst, relative_l2(got, want));
            }
        }
        let reused = reused as f64 / (STEPS * self.shape.num_q_heads()) as f64;
        Ok(self.verdict(name, STEPS, worst, same_decisions, reused))
    }

    pub(super) fn verdict(
        &self,
        policy: &'static str,
        steps: usize,
        worst: f64,
        same_decisions: bool,
        reused: f64,
    ) -> Check {
        let kv = match self.element {
            CudaElement::Q8 => " q8_0",
            CudaElement::Fp8 => " fp8",
            CudaElement::Bf16 | CudaElement::F16 => "",
        };
        let shape = format!("{}/{}/{}{kv}", self.shape.num_q_heads(), self.shape.num_kv_heads(), self.shape.head_dim());
        let pass = worst <= self.bound && same_decisions;
        Check {
            shape,
            policy,
            seed: self.seed,
            steps,
            worst_relative_error: worst,
            bound: self.bound,
            same_decisions,
            reused,
            pass,
        }
    }

    fn head<'a>(&self, rows: &'a [f32], q_head: usize) -> &'a [f32] {
        &rows[q_head * self.shape.head_dim()..][..self.shape.head_dim()]
    }

    /// Worst relative error of the textbook formula in f32, over all heads at the last position.
    fn plain_f32_error(&self) -> f64 {
        let Ok(kv) = self.kv(CAPACITY) else { return 0.0 };
        let rows = self.query(CAPACITY - 1..CAPACITY).rot;
        let errors = (0..self.shape.num_q_heads()).map(|q_head| {
            let (query, kv_head) = (self.head(rows, q_head), q_head / self.shape.group_size());
            let got = plain_f32(query, kv.keys(kv_head), kv.values(kv_head), self.shape.softmax_scale());
            relative_l2(&got, &attend(query, &kv, kv_head, 0..CAPACITY).out)
        });
        errors.fold(0.0, worse)
    }
}

/// `f64::max` would drop NaN, and a broken kernel would look perfect.
pub(super) fn worse(a: f64, b: f64) -> f64 {
    if b.is_nan() || b > a { b } else { a }
}

/// Softmax attention, one operation after the other.
fn plain_f32(query: &[f32], keys: &[bf16], values: &[bf16], scale: f32) -> Vec<f32> {
    let scores: Vec<f32> = keys
        .chunks(query.len())
        .map(|key| scale * query.iter().zip(key).map(|(q, k)| q * k.to_f32()).sum::<f32>())
        .collect();
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = scores.iter().map(|score| (score - top).exp()).collect();
    let total: f32 = weights.iter().sum();
    let mut out = vec![0.0; query.len()];
    for (value, weight) in values.chunks(query.len()).zip(&weights) {
        for (x, v) in out.iter_mut().zip(value) {
            *x += weight / total * v.to_f32();
        }
    }
    out
}

/// Queries that return to one of a few places per head, each time a little farther along: the nearest one is always
/// the latest visit, by a margin that no rounding can turn, and all others are far beyond the threshold.
fn wandering_queries(shape: AttentionShape, rng: &mut ChaCha8Rng) -> Vec<f32> {
    const PLACES: usize = 3;
    const DRIFT: f32 = 0.02;
    let (heads, head_dim) = (shape.num_q_heads(), shape.head_dim());
    let mut vectors =
        |n: usize| -> Vec<f32> { (0..n * heads * head_dim).map(|_| rng.random_range(-1.7f32..1.7)).collect() };
    let (places, along) = (vectors(PLACES), vectors(1));
    let visits: Vec<usize> = (0..CAPACITY * heads).map(|_| rng.random_range(0..PLACES)).collect();
    let mut queries = Vec::with_capacity(CAPACITY * heads * head_dim);
    for pos in 0..CAPACITY {
        // Only what the ring still holds at the first step can be matched.
        let visit = pos.saturating_sub(PROMPT - LAYOUT.slots);
        for head in 0..heads {
            let place = &places[(visits[pos * heads + head] * heads + head) * head_dim..][..head_dim];
            let along = &along[head * head_dim..][..head_dim];
            queries.extend(place.iter().zip(along).map(|(p, a)| p + a * DRIFT * visit as f32));
        }
    }
    queries
}

#[cfg(test)]
mod tests {
    use mac_attention::Serial;

    use super::*;

    #[test]
    fn a_wrong_kernel_would_be_seen() {
        let shape = AttentionShape::new(2, 1, 64).unwrap();
        let inputs = Inputs::new(shape, 1);
        assert!(inputs.bound > 0.0 && inputs.bound < 1e-3, "{}", inputs.bound);
        let kv = inputs.kv(CAPACITY).unwrap();
        let query = inputs.query(0..1).rot;
        let right = attend(&query[..64], &kv, 0, 0..CAPACITY).out;
        // One token of 651 left out, as a kernel with a wrong border would.
        let wrong: Vec<f32> = attend(&query[..64], &kv, 0, 0..CAPACITY - 1).out.iter().map(|x| *x as f32).collect();
        assert!(relative_l2(&wrong, &right) > 10.0 * inputs.bound);
        assert!(worse(0.0, f64::NAN).is_nan());
        assert!(inputs.check_decode("exact", &Policy::Exact, &Serial).unwrap().pass);
    }
}
