//! The CUDA kernels against the f64 oracle on this GPU, on inputs that nobody has seen before.

use std::sync::Arc;

use half::{bf16, f16};
use mac_attention::cuda::{CudaAttentionSetup, CudaElement, CudaError, CudaLayers, CudaStepKind, Gpu};
use mac_attention::reference::relative_l2;
use mac_attention::{AttentionShape, Policy};

use super::self_check::{CAPACITY, Check, Inputs, LAYOUT, PROMPT, STEPS, each_shape, fresh_seed, policies, worse};
use crate::failure::Failure;

/// Tensor cores sum in f32 and the weights keep 16 bits more than one number holds, so errors are those of f32, a few
/// 1e-6. A single forgotten token of these 650 gives more than 1e-2.
const DECODE_BOUND: f64 = 1e-4;
/// With K and V of 8 bits weights are rounded to f16 once, by 2.8e-4 in the mean square; the worst head of hundreds had 4e-4.
const DECODE_BOUND_8_BITS: f64 = 8e-4;
/// Reading a prompt rounds weights and outputs to bf16: about 1.5e-3 each, in the worst head of thousands 4e-3 together.
const PREFILL_BOUND: f64 = 8e-3;

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Exact attention and one way of reuse.
    Quick,
    /// Every policy.
    Full,
}

/// Every shape that this GPU can run, under every policy.
pub(super) fn run(gpu: &Gpu) -> Result<Vec<Check>, Failure> {
    let formats = [(CudaElement::Bf16, Depth::Full), (CudaElement::Q8, Depth::Quick), (CudaElement::Fp8, Depth::Quick)];
    each_shape(|shape| {
        let mut checks = Vec::new();
        for (element, depth) in formats {
            match check_shape(gpu, shape, element, depth) {
                // Small GPUs have no room for the largest head dimension; such a model is refused in the same words.
                Err(Failure::Cuda(CudaError::DeviceLimit { .. })) => {}
                found => checks.extend(found?),
            }
        }
        Ok(checks)
    })
}

/// One shape: the prompt, and steps after it.
pub(crate) fn check_shape(
    gpu: &Gpu,
    shape: AttentionShape,
    element: CudaElement,
    depth: Depth,
) -> Result<Vec<Check>, Failure> {
    let mut inputs = Inputs::new(shape, fresh_seed());
    let held = inputs.round_for(element);
    let setup = CudaAttentionSetup { shape, element, layout: LAYOUT, layers: 1 };
    let bytes = held.k.chunks_exact(2).chain(held.v.chunks_exact(2));
    let words: Vec<u16> = bytes.map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let mut layers = CudaLayers::new(gpu, setup, CAPACITY, Arc::new(gpu.upload(&words)?))?;
    if !held.scales.is_empty() {
        layers.write_scales(0, &held.scales)?;
    }
    let mut checks = Vec::new();
    for (name, policy) in policies() {
        if depth == Depth::Quick && !matches!(policy, Policy::Exact | Policy::Paper(_)) {
            continue;
        }
        layers.truncate(0)?;
        let prompt = read_prompt(&mut layers, &inputs)?;
        // The same prompt every time, and the oracle is slow.
        if checks.is_empty() {
            checks.push(check_prompt(&mut inputs, &prompt)?);
        }
        checks.push(check_decode(&mut layers, &mut inputs, name, &policy)?);
    }
    Ok(checks)
}

fn rounded(rows: &[f32]) -> Vec<bf16> {
    rows.iter().map(|x| bf16::from_f32(*x)).collect()
}

/// Bits of rotated queries, for K and V of `element`.
pub(crate) fn rotated(rows: &[f32], element: CudaElement) -> Vec<u16> {
    match element.queries() {
        CudaElement::Bf16 => rows.iter().map(|x| bf16::from_f32(*x).to_bits()).collect(),
        _ => rows.iter().map(|x| f16::from_f32(*x).to_bits()).collect(),
    }
}

/// The two chunks in which the prompt is read.
const CHUNKS: [std::ops::Range<usize>; 2] = [0..200, 200..PROMPT];

/// Reads the prompt and leaves its ring; the outputs of each chunk.
fn read_prompt(layers: &mut CudaLayers, inputs: &Inputs) -> Result<Vec<Vec<f32>>, Failure> {
    let element = layers.setup().element;
    let mut outputs = Vec::new();
    for span in CHUNKS {
        let query = inputs.query(span.clone());
        let out = layers.prefill(0, &rounded(query.pre), &rotated(query.rot, element), span.start)?;
        let number = |bits: u16| match element.queries() {
            CudaElement::Bf16 => bf16::from_bits(bits).to_f32(),
            _ => f16::from_bits(bits).to_f32(),
        };
        outputs.push(out.into_iter().map(number).collect());
    }
    layers.seek(PROMPT)?;
    Ok(outputs)
}

fn check_prompt(inputs: &mut Inputs, outputs: &[Vec<f32>]) -> Result<Check, Failure> {
    inputs.bound = PREFILL_BOUND;
    let mut worst = 0.0;
    for (span, out) in CHUNKS.into_iter().zip(outputs) {
        worst = worse(worst, inputs.worst_of_prompt(out, span)?);
    }
    Ok(inputs.verdict("prefill", 0, worst, true, 0.0))
}

/// Steps after the prompt.
fn check_decode(
    layers: &mut CudaLayers,
    inputs: &mut Inputs,
    name: &'static str,
    policy: &Policy,
) -> Result<Check, Failure> {
    let (setup, shape) = (layers.setup(), inputs.shape);
    inputs.bound = if setup.element.bytes() == 1 { DECODE_BOUND_8_BITS } else { DECODE_BOUND };
    layers.set_policy(0, policy)?;
    let mut oracle = inputs.oracle()?;
    let (mut worst, mut same_decisions, mut reused) = (0.0, true, 0);
    for pos in PROMPT..CAPACITY {
        let query = inputs.query(pos..pos + 1);
        layers.write_queries(0, &rounded(query.pre), &rotated(query.rot, setup.element))?;
        layers.replay(CudaStepKind::Policy, 1)?;
        let want = oracle.step(query.pre, query.rot, &inputs.kv(pos + 1)?, policy);
        let out = layers.out(0)?;
        let counters = &layers.report()?[0];
        same_decisions &= counters.heads == want.outcomes;
        reused += counters.heads_reused();
        for (got, want) in out.chunks(shape.head_dim()).zip(&want.out) {
            worst = worse(worst, relative_l2(got, want));
        }
    }
    let reused = reused as f64 / (STEPS * shape.num_q_heads()) as f64;
    Ok(inputs.verdict(name, STEPS, worst, same_decisions, reused))
}
