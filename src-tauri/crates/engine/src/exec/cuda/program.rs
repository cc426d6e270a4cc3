//! The step program: every launch of a decode step, planned once over buffers that never move.

use mac_attention::cuda::{CudaAttention, CudaStep, DeviceBuffer, Gpu};

use super::abi::{HeadsArgs, decode_state};
use super::kernels::{Kernels, RopeArgs};
use super::kv::{DeviceKv, KvAddresses};
use super::matrix::DeviceProjection;
use super::matvec::{Around, MatvecLaunch};
use super::sampler::DeviceSampler;
use super::weights::{DeviceLayer, DeviceWeights};
use crate::model::ModelSpec;
use crate::{EngineError, KvFormat};

/// Activations of one token.
#[derive(Debug)]
pub(super) struct StepBuffers {
    /// Residual stream, `[d_model]`: the token as embedded; behind a layer's output projection; behind a layer.
    embedded: DeviceBuffer<f32>,
    middle: DeviceBuffer<f32>,
    x: DeviceBuffer<f32>,
    /// `[q_width + 2 kv_width]`.
    qkv: DeviceBuffer<f32>,
    /// bf16 `[q_width]`.
    q_pre: DeviceBuffer<u16>,
    /// `[layers, q_width]`, bf16, or f16 where the cache has 8 bits: kept for audits.
    q_rot: DeviceBuffer<u16>,
    /// `[layers, q_width]`: kept for audits.
    attended: DeviceBuffer<f32>,
    /// `[2 d_ff]`, where gate and up cannot be one product.
    gate_up: DeviceBuffer<f32>,
    /// `[d_ff]`.
    activated: DeviceBuffer<f32>,
    /// `[vocab]`.
    pub(super) logits: DeviceBuffer<f32>,
    /// `[head_dim / 2]`.
    cos: DeviceBuffer<f32>,
    sin: DeviceBuffer<f32>,
    /// `[head_dim / 2]`.
    pub(super) inv_freq: DeviceBuffer<f64>,
}

impl StepBuffers {
    pub(super) fn new(gpu: &Gpu, spec: &ModelSpec) -> Result<Self, EngineError> {
        let (q, kv, half) = (spec.q_width(), spec.kv_width(), spec.head_dim / 2);
        Ok(Self {
            embedded: gpu.alloc_zeroed(spec.d_model)?,
            middle: gpu.alloc_zeroed(spec.d_model)?,
            x: gpu.alloc_zeroed(spec.d_model)?,
            qkv: gpu.alloc_zeroed(q + 2 * kv)?,
            q_pre: gpu.alloc_zeroed(q)?,
            q_rot: gpu.alloc_zeroed(spec.layers * q)?,
            attended: gpu.alloc_zeroed(spec.layers * q)?,
            gate_up: gpu.alloc_zeroed(2 * spec.d_ff)?,
            activated: gpu.alloc_zeroed(spec.d_ff)?,
            logits: gpu.alloc_zeroed(spec.vocab)?,
            cos: gpu.alloc_zeroed(half)?,
            sin: gpu.alloc_zeroed(half)?,
            inv_freq: gpu.upload(&spec.rope.inv_freq(spec.head_dim))?,
        })
    }
}

/// What a layer launches around its attention.
#[derive(Debug)]
struct LayerProgram {
    heads: HeadsArgs,
    attention: CudaStep,
    /// The output projection, gate and up, down, and what follows the layer: Q, K and V of the next one, or the logits.
    before_silu: Vec<MatvecLaunch>,
    /// Gate and up come out apart, and down begins `after_silu`.
    gated_apart: bool,
    after_silu: Vec<MatvecLaunch>,
}

/// A decode step.
#[derive(Debug)]
pub(super) struct Program {
    /// Q, K and V of the first layer.
    begin: Vec<MatvecLaunch>,
    layers: Vec<LayerProgram>,
    kv: KvFormat,
    angles: RopeArgs,
    width: usize,
}

/// How a step attends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StepKind {
    /// By each layer's policy.
    Policy,
    /// Exact, with ring entries kept for later.
    Rest,
    /// Exact, and nothing else.
    Exact,
}

/// What a step runs over beside its program.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepParts<'a> {
    pub(super) kernels: &'a Kernels,
    pub(super) weights: &'a DeviceWeights,
    pub(super) attention: &'a CudaAttention,
    pub(super) sampler: &'a DeviceSampler,
    pub(super) buffers: &'a StepBuffers,
}

impl Program {
    pub(super) fn new(
        kernels: &Kernels,
        spec: &ModelSpec,
        weights: &DeviceWeights,
        kv: &DeviceKv,
        buffers: &StepBuffers,
        state: &DeviceBuffer<u32>,
    ) -> Result<Self, EngineError> {
        let position = state.address_of(decode_state::POSITION);
        let tagged = weights.layers.len() > 1 && !weights.layers.iter().any(gated_apart);
        let planner = Planner { kernels, spec, kv, buffers, position, tagged };
        let norm = Around { norm: weights.final_norm.address(), eps: spec.norm_eps, ..Around::default() };
        let head = kernels.plan_matvec(weights.head(), buffers.x.address(), buffers.logits.address(), norm)?;
        // Each layer ends with what comes after it, so from the last one to the first.
        let mut layers = Vec::with_capacity(weights.layers.len());
        let mut after = head;
        for (index, layer) in weights.layers.iter().enumerate().rev() {
            layers.push(planner.layer(index, layer, after)?);
            after = planner.qkv(index, layer)?;
        }
        layers.reverse();
        Ok(Self {
            begin: after,
            layers,
            kv: kv.format(),
            angles: RopeArgs {
                inv_freq: buffers.inv_freq.address(),
                factor: spec.rope.attention_factor(),
                half: spec.head_dim / 2,
                position: planner.position,
                begin: 0,
                cos: buffers.cos.address(),
                sin: buffers.sin.address(),
                count: 1,
            },
            width: spec.d_ff,
        })
    }

    /// Puts one step into the stream, or into the graph that is being captured.
    ///
    /// # Safety
    /// The parts are those it was planned for, K and V have memory for the token at the cursor, and nothing else of this
    /// model is under way outside the stream.
    pub(super) unsafe fn enqueue(&self, parts: StepParts<'_>, kind: StepKind) -> Result<(), EngineError> {
        let StepParts { kernels, weights, attention, sampler, buffers } = parts;
        // SAFETY: all addresses are of buffers that the executor owns as long as its graph; sizes were taken from the
        // same spec when they were allocated.
        unsafe {
            attention.advance()?;
            for table in &weights.embedding.parts {
                let sizes = [table.rows, table.cols, 1];
                let token = sampler.state.address_of(decode_state::TOKEN);
                kernels.embed(table.weight_type, table.data.address(), sizes, token, buffers.embedded.address())?;
            }
            kernels.rope_angles(self.angles)?;
            self.begin.iter().try_for_each(|launch| kernels.matvec(launch))?;
            for (index, layer) in self.layers.iter().enumerate() {
                kernels.split_heads(layer.heads, self.kv)?;
                match kind {
                    StepKind::Policy => attention.step(index, &layer.attention)?,
                    StepKind::Rest => attention.step_resting(index, &layer.attention)?,
                    StepKind::Exact => attention.step_exact(index, &layer.attention)?,
                }
                layer.before_silu.iter().try_for_each(|launch| kernels.matvec(launch))?;
                if layer.gated_apart {
                    kernels.silu_row(buffers.gate_up.address(), buffers.activated.address(), self.width)?;
                }
                layer.after_silu.iter().try_for_each(|launch| kernels.matvec(launch))?;
            }
            sampler.enqueue(kernels, buffers.logits.address())?;
            attention.queue_report()?;
        }
        Ok(())
    }

    /// Where a layer's queries and output stand, for audits.
    pub(super) fn attention_step(&self, layer: usize) -> CudaStep {
        self.layers[layer].attention
    }
}

/// Whether gate and up cannot be one product.
fn gated_apart(layer: &DeviceLayer) -> bool {
    layer.gate_up.single_type().is_none()
}

struct Planner<'a> {
    kernels: &'a Kernels,
    spec: &'a ModelSpec,
    kv: &'a DeviceKv,
    buffers: &'a StepBuffers,
    position: u64,
    /// Layers tag what they write of the residual stream and the activations, so that their products fit into one launch.
    tagged: bool,
}

impl Planner<'_> {
    /// Each layer's differs from the one before, the first layer's from the last one's too.
    fn tag(&self, index: usize) -> i32 {
        let last = index + 1 == self.spec.layers;
        match (self.tagged, index % 2) {
            (false, _) => 0,
            (true, 0) if last => 3,
            (true, 0) => 1,
            (true, _) => 2,
        }
    }

    /// The residual stream that a layer begins with.
    fn stream(&self, index: usize) -> u64 {
        if index == 0 { self.buffers.embedded.address() } else { self.buffers.x.address() }
    }

    fn qkv(&self, index: usize, layer: &DeviceLayer) -> Result<Vec<MatvecLaunch>, EngineError> {
        let Self { kernels, spec, buffers, .. } = self;
        let norm = Around { norm: layer.attention_norm.address(), eps: spec.norm_eps, ..Around::default() };
        kernels.plan_matvec(&layer.qkv, self.stream(index), buffers.qkv.address(), norm)
    }

    /// `after` are the products that follow it.
    fn layer(&self, index: usize, layer: &DeviceLayer, after: Vec<MatvecLaunch>) -> Result<LayerProgram, EngineError> {
        let Self { kernels, spec, buffers, .. } = self;
        let (stream, middle, end) = (self.stream(index), buffers.middle.address(), buffers.x.address());
        let (eps, tag) = (spec.norm_eps, self.tag(index));
        let row = index * spec.q_width();
        let attended = buffers.attended.address_of(row);
        let bias = layer.output_bias.as_ref().map_or(0, DeviceBuffer::address);
        let gated_apart = gated_apart(layer);
        let gate_up = Around { norm: layer.mlp_norm.address(), eps, gated: !gated_apart, tag, ..Around::default() };
        let gate_up_out = if gated_apart { &buffers.gate_up } else { &buffers.activated };
        let add = |add, bias| Around { bias, add, tag, ..Around::default() };
        let plan = |projection: &DeviceProjection, x, out, around| kernels.plan_matvec(projection, x, out, around);
        let mut first = plan(&layer.output, attended, middle, add(stream, bias))?;
        first.extend(plan(&layer.gate_up, middle, gate_up_out.address(), gate_up)?);
        let mut second = plan(&layer.down, buffers.activated.address(), end, add(middle, 0))?;
        second.extend(after);
        if !gated_apart {
            first.append(&mut second);
        }
        let KvAddresses { k, v, scales } = self.kv.addresses(index);
        Ok(LayerProgram {
            heads: self.heads(index, layer),
            attention: CudaStep {
                q_pre: buffers.q_pre.address(),
                q_rot: buffers.q_rot.address_of(row),
                k,
                v,
                scales,
                capacity: self.kv.stride(),
                out: attended,
            },
            before_silu: kernels.chain(first),
            gated_apart,
            after_silu: kernels.chain(second),
        })
    }

    fn heads(&self, index: usize, layer: &DeviceLayer) -> HeadsArgs {
        let Self { spec, kv, buffers, .. } = self;
        let KvAddresses { k, v, scales } = kv.addresses(index);
        let or_null = |buffer: &Option<DeviceBuffer<f32>>| buffer.as_ref().map_or(0, DeviceBuffer::address);
        HeadsArgs {
            qkv: buffers.qkv.address(),
            bias: or_null(&layer.qkv_bias),
            q_norm: or_null(&layer.q_norm),
            k_norm: or_null(&layer.k_norm),
            cos: buffers.cos.address(),
            sin: buffers.sin.address(),
            position: self.position,
            q_pre: buffers.q_pre.address(),
            q_rot: buffers.q_rot.address_of(index * spec.q_width()),
            k,
            v,
            scales,
            eps: spec.norm_eps,
            begin: 0,
            capacity: kv.stride() as i32,
            num_q_heads: spec.num_q_heads as i32,
            num_kv_heads: spec.num_kv_heads as i32,
            head_dim: spec.head_dim as i32,
            tokens: 1,
            unused: 0,
        }
    }
}
