//! `reprise bench attention --device cuda`: one layer's decode step on the GPU, by the device's own clock.

use std::sync::Arc;

use half::{bf16, f16};
use mac_attention::cuda::{
    CudaAttentionSetup, CudaElement, CudaError, CudaLayers, CudaStepKind, DeviceBuffer, Gpu, PlainSum,
};
use mac_attention::{AttentionShape, Backoff, Forced, Pace, PaceCost, PaceStep, Pattern, Policy, Ring, RingLayout};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::cases::Case;
use crate::doctor::cuda_check::{self, Depth, rotated};
use crate::failure::Failure;
use crate::figures::median;

/// Steps that are timed per case unless a plan says otherwise; each is one replay of a graph over all layers.
pub(crate) const STEPS: usize = 34;
const WARM_UP: usize = 2;
/// Share of the free device memory that a benchmark may take.
const MEMORY_SHARE: f64 = 0.85;
/// Layers beyond this only cost memory.
const MAX_LAYERS: usize = 512;
/// Layers must hold this many times the second-level cache, both whole and in what a hit touches.
const CACHES: usize = 2;
/// Numbers that the device adds up while the host prepares a single step, so that it does not wait for the host.
const SPACER: usize = 64 << 20;
/// Length of the noise table in numbers. Prime, so that rows of a power of two never repeat before it is used up.
const NOISE: usize = 65_521;

/// What a case took and touched, per layer and step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measured {
    pub(crate) case: Case,
    /// Median over steps of the mean over layers.
    pub(crate) seconds: f64,
    /// K, V and ring bytes, counted by the kernels.
    pub(crate) bytes: f64,
    /// Share of groups whose K and V were not read.
    pub(crate) groups_reused: f64,
    /// What the arithmetic of the method needs: K, V and ring bytes of exact and reused groups.
    pub(crate) predicted_bytes: f64,
}

/// What a case took under the product's rule, per layer and step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Paced {
    /// Mean over steps and layers.
    pub(crate) seconds: f64,
    /// Share of steps that searched.
    pub(crate) searched: f64,
}

/// A shape at a context, before any memory is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Plan {
    pub(crate) setup: CudaAttentionSetup,
    pub(crate) context: usize,
    /// Distance to the reused entry, in tokens.
    pub(crate) lag: usize,
    /// Longest pause of a search in `no_hit`.
    pub(crate) max_pause: u32,
    /// Steps that are timed per case.
    pub(crate) steps: usize,
    /// Steps of all cases together, and some more.
    pub(crate) room: usize,
}

/// Shortest context: cases need room around it.
pub(crate) const MIN_CONTEXT: usize = 1024;

impl Plan {
    /// A plan for one layer; see [`Self::fill`].
    pub(crate) fn new(shape: AttentionShape, context: usize, lag: usize, max_pause: u32, cases: usize) -> Self {
        let layout = RingLayout::default();
        let setup = CudaAttentionSetup { shape, element: CudaElement::Bf16, layout, layers: 1 };
        let room = cases * (WARM_UP + STEPS) + settling(max_pause);
        Self { setup, context, lag, max_pause, steps: STEPS, room }
    }

    /// `cases` cases of few steps each, and `more` steps beside them.
    pub(crate) fn with_steps(self, steps: usize, cases: usize, more: usize) -> Self {
        Self { steps, room: cases * (WARM_UP + steps) + more, ..self }
    }

    /// K and V of another type than bf16.
    pub(crate) fn with_element(mut self, element: CudaElement) -> Self {
        self.setup.element = element;
        self
    }

    /// Some layers, for a quick look.
    pub(crate) fn with_layers(mut self, layers: usize) -> Self {
        self.setup.layers = layers;
        self
    }

    /// As many layers as keep caches from helping, or as fit.
    pub(crate) fn fill(mut self, gpu: &Gpu) -> Result<Self, Failure> {
        let Self { setup: CudaAttentionSetup { shape, element, layout, .. }, context, lag, .. } = self;
        let token = element.token_bytes(shape);
        let queries = shape.num_q_heads() * shape.head_dim() * layout.slots * size_of::<bf16>();
        let hit = (layout.band + lag).min(context) * token + queries;
        let cache = CACHES * gpu.info().l2_bytes;
        let wanted = cache.div_ceil(hit.min(context * token)).clamp(8, MAX_LAYERS);
        let each = self.capacity() * token + Ring::bytes(shape, layout);
        let (free, _) = gpu.memory()?;
        let fits = (free as f64 * MEMORY_SHARE / each as f64) as usize;
        if fits < 2 {
            return Err(CudaError::OutOfMemory { need_bytes: 2 * each as u64, free_bytes: free }.into());
        }
        self.setup.layers = wanted.min(fits);
        Ok(self)
    }

    /// 16-bit words of K and V of all layers, scales apart.
    pub(crate) fn kv_words(&self) -> usize {
        CudaLayers::kv_words(self.setup, self.capacity())
    }

    fn capacity(&self) -> usize {
        self.context + self.room
    }
}

/// Tolerated misses, then pauses of 1, 2, 4 … up to the longest.
fn settling(max_pause: u32) -> usize {
    9 + 4 * max_pause as usize
}

/// All layers of one shape and context on the device.
pub(crate) struct Bench {
    plan: Plan,
    layers: CudaLayers,
    /// Tokens up to the cursor.
    len: usize,
}

impl Bench {
    /// Layers over `kv`, with queries of noise and full rings.
    pub(crate) fn build(gpu: &Gpu, plan: Plan, kv: &Arc<DeviceBuffer<u16>>) -> Result<Self, Failure> {
        let CudaAttentionSetup { shape, element, layout, .. } = plan.setup;
        let mut layers = CudaLayers::new(gpu, plan.setup, plan.capacity(), Arc::clone(kv))?;
        let mut rng = ChaCha8Rng::seed_from_u64(0x5eed);
        let mut queries =
            || -> Vec<f32> { (0..shape.num_q_heads() * shape.head_dim()).map(|_| noise(&mut rng)).collect() };
        for layer in 0..plan.setup.layers {
            let pre: Vec<bf16> = queries().into_iter().map(bf16::from_f32).collect();
            layers.write_queries(layer, &pre, &rotated(&queries(), element))?;
        }
        let mut bench = Self { plan, layers, len: 0 };
        // One exact step and then chained hits fill the rings at the cost of their own length. Times depend on what is
        // there, not on its values.
        bench.len = plan.context.saturating_sub(plan.room / 2 + layout.slots).max(1);
        bench.layers.truncate(bench.len)?;
        let chain = |pattern| Policy::Forced(Forced { pattern, lag_tokens: 1, backoff: Backoff::Off });
        bench.set_policy(|_| chain(Pattern::None))?;
        bench.advance(CudaStepKind::Policy, 1)?;
        bench.set_policy(|_| chain(Pattern::All))?;
        bench.advance(CudaStepKind::Policy, layout.slots - 1)?;
        Ok(bench)
    }

    /// Times one case.
    pub(crate) fn measure(&mut self, case: Case) -> Result<Measured, Failure> {
        let Plan { setup, lag, max_pause, .. } = self.plan;
        if case == Case::NoHit && max_pause > 0 {
            self.settle_misses()?;
        } else {
            self.set_policy(|layer| case.policy(lag, max_pause, 1 + layer as u64))?;
        }
        let before = self.len;
        self.advance(CudaStepKind::Policy, WARM_UP)?;
        self.layers.report()?;
        let times = self.advance(CudaStepKind::Policy, self.plan.steps)?;
        let (mut bytes, mut reused, mut exact) = (0, 0, 0);
        for counters in self.layers.report()? {
            bytes += counters.kv_bytes_read + counters.ring_bytes;
            reused += counters.groups_reused;
            exact += counters.kv_bytes_exact;
        }
        if case == Case::Exact {
            // It leaves no ring entries, so the next case begins where it began.
            self.layers.seek(before)?;
            self.len = before;
        }
        let steps = (setup.layers * self.plan.steps) as f64;
        let groups_reused = reused as f64 / (steps * setup.shape.num_kv_heads() as f64);
        check(case, groups_reused)?;
        let exact = exact as f64 / steps;
        Ok(Measured {
            case,
            seconds: median(&times) * 1e-6 / setup.layers as f64,
            bytes: bytes as f64 / steps,
            groups_reused,
            predicted_bytes: self.predicted(case, exact, groups_reused),
        })
    }

    /// Seconds of a layer's step when searches rest and entries are written all the same.
    pub(crate) fn measure_rest(&mut self) -> Result<f64, Failure> {
        self.set_policy(|_| Policy::Rest)?;
        self.advance(CudaStepKind::Rest, WARM_UP)?;
        let times = self.advance(CudaStepKind::Rest, self.plan.steps)?;
        Ok(median(&times) * 1e-6 / self.layers() as f64)
    }

    /// Times `case` as the product runs it: per step of all layers [`Pace`] decides between searching, resting and exact
    /// attention. Ends after `limit` steps, or sooner where every step searches.
    pub(crate) fn measure_paced(
        &mut self,
        case: Case,
        limit: usize,
        read_bandwidth: f64,
        sum: &mut PlainSum,
    ) -> Result<Paced, Failure> {
        /// So many searches in a row show that reuse pays.
        const CONVINCED: usize = 12;
        let Plan { setup, lag, max_pause, .. } = self.plan;
        self.set_policy(|layer| case.policy(lag, max_pause, 1 + layer as u64))?;
        // Captured before anything is timed.
        for kind in [CudaStepKind::Policy, CudaStepKind::Rest, CudaStepKind::Exact] {
            self.advance(kind, 0)?;
        }
        let mut pace =
            Pace::new(PaceCost::cuda_with_kv(setup.shape, setup.element.token_bytes(setup.shape), read_bandwidth));
        let spacer = SPACER.min(self.plan.kv_words());
        let (mut total, mut steps, mut searched) = (0.0, 0usize, 0usize);
        self.layers.report()?;
        while steps < limit && !(searched == steps && steps >= CONVINCED) {
            let kind = match pace.next_step(self.len) {
                PaceStep::Search => CudaStepKind::Policy,
                PaceStep::Rest => CudaStepKind::Rest,
                PaceStep::Exact => CudaStepKind::Exact,
            };
            sum.start(self.layers.kv(), spacer)?;
            total += self.advance(kind, 1)?.iter().sum::<f64>();
            steps += 1;
            if kind == CudaStepKind::Policy {
                searched += 1;
                let tokens = self.len;
                pace.searched(self.layers.report()?.iter().map(|layer| (layer.groups_reused, layer.groups)), tokens);
            }
        }
        let share = searched as f64 / steps as f64;
        Ok(Paced { seconds: total * 1e-6 / (steps * setup.layers) as f64, searched: share })
    }

    /// Lets every layer miss until its pauses are as long as they get. Layers begin at different steps of the cycle, so that
    /// every later step pays for searches in proportion.
    fn settle_misses(&mut self) -> Result<(), Failure> {
        let Plan { setup: CudaAttentionSetup { layers, .. }, lag, max_pause, .. } = self.plan;
        let cycle = 1 + max_pause as usize;
        for begun in 0..cycle {
            let begins = |layer: usize| layer * cycle / layers <= begun;
            let case = |layer| if begins(layer) { Case::NoHit } else { Case::Exact };
            self.set_policy(|layer| case(layer).policy(lag, max_pause, 0))?;
            self.advance(CudaStepKind::Policy, 1)?;
        }
        self.advance(CudaStepKind::Policy, settling(max_pause) - cycle)?;
        Ok(())
    }

    /// Layers in turn.
    pub(crate) fn layers(&self) -> usize {
        self.plan.setup.layers
    }

    /// Bytes per second of a plain sum over K and V of all layers.
    pub(crate) fn read_bandwidth(&self, sum: &mut PlainSum) -> Result<f64, Failure> {
        let elements = self.plan.kv_words();
        let times = sum.run(self.layers.kv(), elements, 6)?;
        Ok((elements * size_of::<u16>()) as f64 / (median(&times[1..]) * 1e-6))
    }

    /// Bytes of a step by the method alone: a group that reuses reads amend and band, and every head its ring.
    fn predicted(&self, case: Case, exact: f64, groups_reused: f64) -> f64 {
        if case == Case::Exact {
            return exact;
        }
        let CudaAttentionSetup { shape, element, layout, .. } = self.plan.setup;
        let kept = (layout.band + self.plan.lag) * element.token_bytes(shape);
        let heads = (shape.num_q_heads() * shape.head_dim()) as f64;
        // Queries that are searched, bf16; state read by heads that reuse, f32; entry written, both.
        let searched =
            if case == Case::NoHit && self.plan.max_pause > 0 { 1.0 / f64::from(1 + self.plan.max_pause) } else { 1.0 };
        let ring = heads * (2.0 * layout.slots as f64 * searched + 4.0 * groups_reused + 6.0);
        (1.0 - groups_reused) * exact + groups_reused * kept as f64 + ring
    }

    fn set_policy(&mut self, policy: impl Fn(usize) -> Policy) -> Result<(), Failure> {
        for layer in 0..self.plan.setup.layers {
            self.layers.set_policy(layer, &policy(layer))?;
        }
        Ok(())
    }

    fn advance(&mut self, kind: CudaStepKind, steps: usize) -> Result<Vec<f64>, Failure> {
        let times = self.layers.replay(kind, steps)?;
        self.len += steps;
        Ok(times)
    }
}

/// A case that does not do what its name says must not be timed.
fn check(case: Case, groups_reused: f64) -> Result<(), Failure> {
    let right = match case {
        Case::Exact | Case::NoHit => groups_reused == 0.0,
        Case::AllHit => groups_reused == 1.0,
        Case::Hit(_) => (0.0..=1.0).contains(&groups_reused),
    };
    if right { Ok(()) } else { Err(Failure::Bench(format!("{case} reused {groups_reused} of the groups"))) }
}

/// K and V for the largest of `plans`, all of one format, all noise; smaller ones take a part of it.
pub(crate) fn made_up_kv(gpu: &Gpu, plans: &[Plan]) -> Result<Arc<DeviceBuffer<u16>>, Failure> {
    let mut rng = ChaCha8Rng::seed_from_u64(0x5eed + 1);
    let element = plans.first().map_or(CudaElement::Bf16, |plan| plan.setup.element);
    let table: Vec<u16> = (0..NOISE).map(|_| noise_bits(element, &mut rng)).collect();
    let words = plans.iter().map(Plan::kv_words).max().unwrap_or(0);
    Ok(Arc::new(gpu.repeat(&table, words)?))
}

/// What is wrong must not be timed: the shape's kernels against the oracle, on fresh inputs.
pub(crate) fn verify(gpu: &Gpu, shape: AttentionShape, element: CudaElement) -> Result<(), Failure> {
    for check in cuda_check::check_shape(gpu, shape, element, Depth::Quick)? {
        if !check.pass {
            return Err(Failure::Bench(check.line()));
        }
    }
    Ok(())
}

/// About normal, variance 1: the sum of four uniform draws.
fn noise(rng: &mut ChaCha8Rng) -> f32 {
    // Variance of one draw in −1..1 is 1/3, of four 4/3.
    (0..4).map(|_| rng.random_range(-1.0f32..1.0)).sum::<f32>() * (3.0f32 / 4.0).sqrt()
}

/// A word of K or V: one element of noise, or two of 8 bits of about the same size.
fn noise_bits(element: CudaElement, rng: &mut ChaCha8Rng) -> u16 {
    match element {
        CudaElement::Bf16 => bf16::from_f32(noise(rng)).to_bits(),
        CudaElement::F16 => f16::from_f32(noise(rng)).to_bits(),
        CudaElement::Q8 => u16::from_le_bytes([rng.random_range(1..=255), rng.random_range(1..=255)]),
        // Either sign, magnitudes from 1/8 to 3.75: exponents of −3 to 1 beside a bias of 7.
        CudaElement::Fp8 => {
            u16::from_le_bytes([0; 2].map(|_: u8| rng.random_range(4..=8) << 3 | rng.random::<u8>() & 0x87))
        }
    }
}

/// `NVIDIA H200`, and the CUDA version of its driver.
pub(crate) fn names(gpu: &Gpu) -> (String, String) {
    let info = gpu.info();
    (info.name.clone(), crate::machine::cuda_version(info.driver_version))
}

/// The commit of the working tree, where there is one and git to ask.
pub(crate) fn commit() -> Option<String> {
    let output = std::process::Command::new("git").args(["rev-parse", "--short", "HEAD"]).output().ok()?;
    let hash = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !hash.is_empty()).then_some(hash)
}
