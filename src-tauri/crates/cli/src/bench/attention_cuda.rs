//! `reprise bench attention --device cuda`: one layer's decode step on the GPU, by the device's own clock.

use std::sync::Arc;

use half::{bf16, f16};
use mac_attention::cuda::{CudaAttentionSetup, CudaElement, CudaLayers, CudaStepKind, DeviceBuffer, Gpu, PlainSum};
use mac_attention::{AttentionShape, Backoff, Forced, Pace, PaceCost, PaceStep, Pattern, Policy};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::cases::Case;
use super::plan::{Plan, WARM_UP, settling};
use crate::doctor::cuda_check::{self, Depth, rotated};
use crate::failure::Failure;
use crate::figures::median;

/// Numbers that the device adds up while the host prepares a single step, so that it does not wait for the host.
const SPACER: usize = 256 << 20;
/// Steps between exact ones where medians are compared. More than one: a step that reads all of a long context leaves the
/// next without addresses in the translation cache, which a row of hits would have.
const EXACT_EVERY: usize = 3;
/// Length of the noise table in numbers. Prime, so that rows of a power of two never repeat before it is used up.
const NOISE: usize = 65_521;

/// What a case took and touched, per layer and step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measured {
    pub(crate) case: Case,
    /// Median over steps of the mean over layers.
    pub(crate) seconds: f64,
    /// The same of exact attention, in turns with the case.
    pub(crate) exact_seconds: f64,
    /// K, V and ring bytes, counted by the kernels.
    pub(crate) bytes: f64,
    /// K and V bytes of exact attention.
    pub(crate) exact_bytes: f64,
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
    /// The same of exact attention, in turns with the case.
    pub(crate) exact_seconds: f64,
    /// Share of steps that searched.
    pub(crate) searched: f64,
}

/// Seconds per layer of steps, and of the exact ones among them.
#[derive(Debug, Default)]
struct Turns {
    steps: Vec<f64>,
    exact: Vec<f64>,
}

/// All layers of one shape and context on the device.
pub(crate) struct Bench {
    plan: Plan,
    layers: CudaLayers,
    sum: PlainSum,
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
        let mut bench = Self { plan, layers, sum: PlainSum::new(gpu)?, len: 0 };
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

    /// Times one case, in turns with exact attention.
    pub(crate) fn measure(&mut self, case: Case) -> Result<Measured, Failure> {
        let Plan { setup, lag, max_pause, steps, .. } = self.plan;
        let before = self.len;
        if case == Case::NoHit && max_pause > 0 {
            self.settle_misses()?;
        } else {
            self.set_policy(|layer| case.policy(lag, max_pause, 1 + layer as u64))?;
        }
        self.warm_up(&[CudaStepKind::Policy])?;
        let mut turns = Turns::default();
        let (mut bytes, mut reused, mut exact) = (0, 0, 0);
        for _ in 0..steps {
            self.turn(CudaStepKind::Policy, EXACT_EVERY, &mut turns)?;
            for counters in self.layers.report()? {
                bytes += counters.kv_bytes_read + counters.ring_bytes;
                reused += counters.groups_reused;
                exact += counters.kv_bytes_exact;
            }
        }
        if case == Case::Exact {
            // It leaves no ring entries, so the next case begins where it began.
            self.seek(before)?;
        }
        let layer_steps = (setup.layers * steps) as f64;
        let groups_reused = reused as f64 / (layer_steps * setup.shape.num_kv_heads() as f64);
        check(case, groups_reused)?;
        let exact_bytes = exact as f64 / layer_steps;
        Ok(Measured {
            case,
            seconds: median(&turns.steps),
            exact_seconds: median(&turns.exact),
            bytes: bytes as f64 / layer_steps,
            exact_bytes,
            groups_reused,
            predicted_bytes: self.predicted(case, exact_bytes, groups_reused),
        })
    }

    /// Seconds of a layer's step when searches rest and entries are written all the same.
    pub(crate) fn measure_rest(&mut self) -> Result<f64, Failure> {
        self.set_policy(|_| Policy::Rest)?;
        self.warm_up(&[CudaStepKind::Rest])?;
        let mut turns = Turns::default();
        (0..self.plan.steps).try_for_each(|_| self.turn(CudaStepKind::Rest, EXACT_EVERY, &mut turns))?;
        Ok(median(&turns.steps))
    }

    /// Times `case` as the product runs it: per step of all layers [`Pace`] decides between searching, resting and exact
    /// attention. Ends after `limit` steps, or sooner where every step searches.
    pub(crate) fn measure_paced(&mut self, case: Case, limit: usize, read_bandwidth: f64) -> Result<Paced, Failure> {
        /// So many searches in a row show that reuse pays.
        const CONVINCED: usize = 12;
        let Plan { setup, lag, max_pause, .. } = self.plan;
        self.set_policy(|layer| case.policy(lag, max_pause, 1 + layer as u64))?;
        self.warm_up(&[CudaStepKind::Policy, CudaStepKind::Rest])?;
        let mut pace =
            Pace::new(PaceCost::cuda_with_kv(setup.shape, setup.element.token_bytes(setup.shape), read_bandwidth));
        let (mut turns, mut steps, mut searched) = (Turns::default(), 0, 0);
        while steps < limit && !(searched == steps && searched >= CONVINCED) {
            let kind = match pace.next_step(self.len) {
                PaceStep::Search => CudaStepKind::Policy,
                PaceStep::Rest => CudaStepKind::Rest,
                PaceStep::Exact => CudaStepKind::Exact,
            };
            // Before every step, because means are compared.
            self.turn(kind, 1, &mut turns)?;
            steps += 1;
            if kind == CudaStepKind::Policy {
                searched += 1;
                let tokens = self.len;
                pace.searched(self.layers.report()?.iter().map(|layer| (layer.groups_reused, layer.groups)), tokens);
            }
        }
        Ok(Paced {
            seconds: mean(&turns.steps),
            exact_seconds: mean(&turns.exact),
            searched: searched as f64 / steps as f64,
        })
    }

    /// Captures the steps' graphs and replays them a few times: the first replay of a graph waits for its upload.
    fn warm_up(&mut self, kinds: &[CudaStepKind]) -> Result<(), Failure> {
        let before = self.len;
        self.advance(CudaStepKind::Exact, WARM_UP)?;
        self.seek(before)?;
        kinds.iter().try_for_each(|kind| self.advance(*kind, WARM_UP).map(|_| ()))
    }

    /// A step of `kind`, and before every `exact_every`-th an exact one at the same position, which leaves nothing behind. A
    /// card has slow moments of a tenth of a second, up to a tenth slower, which must meet both.
    fn turn(&mut self, kind: CudaStepKind, exact_every: usize, turns: &mut Turns) -> Result<(), Failure> {
        if turns.steps.len().is_multiple_of(exact_every) {
            let before = self.len;
            turns.exact.push(self.timed_step(CudaStepKind::Exact)?);
            self.seek(before)?;
            // What it counted.
            self.layers.report()?;
        }
        turns.steps.push(self.timed_step(kind)?);
        Ok(())
    }

    /// Seconds per layer.
    fn timed_step(&mut self, kind: CudaStepKind) -> Result<f64, Failure> {
        self.sum.start(self.layers.kv(), SPACER.min(self.plan.kv_words()))?;
        let microseconds: f64 = self.advance(kind, 1)?.iter().sum();
        Ok(microseconds * 1e-6 / self.layers() as f64)
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
    pub(crate) fn read_bandwidth(&mut self) -> Result<f64, Failure> {
        let elements = self.plan.kv_words();
        let times = self.sum.run(self.layers.kv(), elements, 6)?;
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

    fn seek(&mut self, len: usize) -> Result<(), Failure> {
        self.layers.seek(len)?;
        self.len = len;
        Ok(())
    }

    fn advance(&mut self, kind: CudaStepKind, steps: usize) -> Result<Vec<f64>, Failure> {
        let times = self.layers.replay(kind, steps)?;
        self.len += steps;
        Ok(times)
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
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
