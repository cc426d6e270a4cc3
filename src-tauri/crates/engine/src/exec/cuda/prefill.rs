//! Reading: the prompt in chunks of many rows.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use mac_attention::RingLayout;
use mac_attention::cuda::{CudaPrefillChunk, DeviceBuffer, Event, Gpu};

use super::CudaExecutor;
use super::abi::HeadsArgs;
use super::gemm::{Epilogue, Gemm, GemmSizes, Product};
use super::kernels::RopeArgs;
use super::kv::{KvAddresses, grown_full};
use super::matvec::Around;
use super::weights::{DeviceLayer, DeviceWeights};
use crate::EngineError;
use crate::model::ModelSpec;

/// Tokens of a chunk: long enough that products run at full rate, short enough that progress moves.
const CHUNK_TOKENS: usize = 2048;
/// Layers that are queued ahead of the device; Stop takes effect within them.
const LAYERS_AHEAD: usize = 2;

/// Activations of a chunk. 16-bit buffers are bf16; rotated queries are f16 where the cache has 8 bits, and so is what
/// attention writes, until it is converted.
#[derive(Debug)]
pub(super) struct Prefill {
    rows: usize,
    ring: RingLayout,
    pub(super) gemm: Gemm,
    /// Residual stream, `[rows, d_model]`.
    x: DeviceBuffer<f32>,
    /// `[rows, d_model]`.
    normed: DeviceBuffer<u16>,
    /// `[rows, q_width + 2 kv_width]`.
    qkv: DeviceBuffer<f32>,
    /// `[rows, q_width]`.
    q_pre: DeviceBuffer<u16>,
    q_rot: DeviceBuffer<u16>,
    attended: DeviceBuffer<u16>,
    /// `[rows, d_ff]`.
    activated: DeviceBuffer<u16>,
    /// `[rows, head_dim / 2]`.
    cos: DeviceBuffer<f32>,
    sin: DeviceBuffer<f32>,
    /// Where the device has come.
    marks: [Event; LAYERS_AHEAD],
}

/// A chunk longer than the context would never be filled.
fn chunk_rows(context_tokens: usize) -> usize {
    CHUNK_TOKENS.min(context_tokens.next_multiple_of(64))
}

fn unpacked_elements(spec: &ModelSpec) -> usize {
    let (q, kv, d, ff) = (spec.q_width(), spec.kv_width(), spec.d_model, spec.d_ff);
    [(q + 2 * kv) * d, d * q, 2 * ff * d].into_iter().max().unwrap_or(0)
}

/// `all_16_bit`: see [`DeviceWeights::all_16_bit`].
fn gemm_sizes(spec: &ModelSpec, context_tokens: usize, all_16_bit: bool) -> GemmSizes {
    GemmSizes {
        unpacked_elements: if all_16_bit { 0 } else { unpacked_elements(spec) },
        rows: chunk_rows(context_tokens),
        d_model: spec.d_model,
        d_ff: spec.d_ff,
    }
}

impl Prefill {
    /// Bytes that [`Self::new`] takes. `all_16_bit`: see [`DeviceWeights::all_16_bit`].
    pub(super) fn bytes(gpu: &Gpu, spec: &ModelSpec, context_tokens: usize, all_16_bit: bool) -> u64 {
        let (q, kv, d) = (spec.q_width(), spec.kv_width(), spec.d_model);
        let row = 4 * d + 2 * d + 4 * (q + 2 * kv) + 3 * 2 * q + 2 * spec.d_ff + 4 * spec.head_dim;
        (chunk_rows(context_tokens) * row) as u64 + Gemm::bytes(gpu, gemm_sizes(spec, context_tokens, all_16_bit))
    }

    pub(super) fn new(
        gpu: &Gpu,
        spec: &ModelSpec,
        weights: &DeviceWeights,
        context_tokens: usize,
        ring: RingLayout,
    ) -> Result<Self, EngineError> {
        let (q, kv, d, half) = (spec.q_width(), spec.kv_width(), spec.d_model, spec.head_dim / 2);
        let rows = chunk_rows(context_tokens);
        Ok(Self {
            rows,
            ring,
            gemm: Gemm::new(gpu, gemm_sizes(spec, context_tokens, weights.all_16_bit()))?,
            x: gpu.alloc_zeroed(rows * d)?,
            normed: gpu.alloc_zeroed(rows * d)?,
            qkv: gpu.alloc_zeroed(rows * (q + 2 * kv))?,
            q_pre: gpu.alloc_zeroed(rows * q)?,
            q_rot: gpu.alloc_zeroed(rows * q)?,
            attended: gpu.alloc_zeroed(rows * q)?,
            activated: gpu.alloc_zeroed(rows * spec.d_ff)?,
            cos: gpu.alloc_zeroed(rows * half)?,
            sin: gpu.alloc_zeroed(rows * half)?,
            marks: [gpu.event()?, gpu.event()?],
        })
    }
}

/// Place of a chunk in the text.
#[derive(Debug, Clone, Copy)]
struct Span {
    begin: usize,
    tokens: usize,
    /// First position that gets a ring entry.
    seed_from: usize,
    /// No chunk follows: the logits of its last token are wanted.
    last: bool,
}

impl CudaExecutor {
    pub(super) fn read(
        &mut self,
        tokens: &[u32],
        tick: &mut dyn FnMut(usize) -> ControlFlow<()>,
        cancel: &AtomicBool,
    ) -> Result<ControlFlow<()>, EngineError> {
        self.chosen = None;
        self.has_logits = false;
        let end = self.kv_len + tokens.len();
        let seed_from = end.saturating_sub(self.prefill.ring.slots);
        let mut left = tokens;
        while !left.is_empty() {
            let (chunk, rest) = left.split_at(self.prefill.rows.min(left.len()));
            let span = Span { begin: self.kv_len, tokens: chunk.len(), seed_from, last: rest.is_empty() };
            match self.read_chunk(chunk, span, cancel) {
                Ok(true) => {}
                Ok(false) => {
                    // Entries of the unfinished chunk go.
                    self.attention.truncate(self.kv_len)?;
                    return Ok(ControlFlow::Break(()));
                }
                Err(error) => {
                    self.fault = self.attention.truncate(self.kv_len).err().map(EngineError::from);
                    return Err(error);
                }
            }
            self.kv_len += chunk.len();
            self.attention.seek(self.kv_len)?;
            if tick(self.kv_len).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            left = rest;
        }
        self.has_logits = true;
        Ok(ControlFlow::Continue(()))
    }

    /// Whether the chunk was finished. Waits for the device.
    fn read_chunk(&mut self, tokens: &[u32], span: Span, cancel: &AtomicBool) -> Result<bool, EngineError> {
        let end = span.begin + span.tokens;
        self.kv.back(end)?;
        self.attention.back_reading(end, self.kv.capacity()).map_err(grown_full(span.begin))?;
        self.sampler.remember(span.begin, tokens)?;
        // SAFETY: the buffers hold a chunk's rows, K and V have memory for its tokens, and everything stays until the
        // wait at the end.
        unsafe { self.embed_chunk(span)? };
        for layer in 0..self.spec.layers {
            let mark = &self.prefill.marks[layer % LAYERS_AHEAD];
            mark.synchronize()?;
            if cancel.load(Ordering::Relaxed) {
                self.gpu.synchronize()?;
                return Ok(false);
            }
            // SAFETY: as above.
            unsafe { self.read_layer(layer, span)? };
            mark.record()?;
        }
        if span.last {
            // SAFETY: as above.
            unsafe { self.chunk_logits(span.tokens)? };
        }
        self.gpu.synchronize()?;
        Ok(true)
    }

    /// Rows of the embedding, and the angles of the chunk's positions.
    unsafe fn embed_chunk(&self, span: Span) -> Result<(), EngineError> {
        let Self { spec, prefill, kernels, .. } = self;
        for table in &self.weights.embedding.parts {
            let sizes = [table.rows, table.cols, span.tokens];
            let tokens = self.sampler.tokens(span.begin);
            // SAFETY: passed on.
            unsafe {
                kernels.embed(table.weight_type, table.data.address(), sizes, tokens, prefill.x.address())?;
            }
        }
        let angles = RopeArgs {
            inv_freq: self.buffers.inv_freq.address(),
            factor: spec.rope.attention_factor(),
            half: spec.head_dim / 2,
            position: 0,
            begin: span.begin,
            cos: prefill.cos.address(),
            sin: prefill.sin.address(),
            count: span.tokens,
        };
        // SAFETY: passed on.
        unsafe { kernels.rope_angles(angles)? };
        Ok(())
    }

    unsafe fn read_layer(&self, index: usize, span: Span) -> Result<(), EngineError> {
        let Self { spec, prefill, kernels, .. } = self;
        let layer = &self.weights.layers[index];
        let (n, d) = (span.tokens, spec.d_model);
        let final_layer = index + 1 == spec.layers;
        // SAFETY: passed on.
        unsafe {
            let (x, normed) = (prefill.x.address(), prefill.normed.address());
            kernels.rms_norm_rows(x, layer.attention_norm.address(), spec.norm_eps, normed, [n, d])?;
            let qkv = Product { a: normed, m: n, c: prefill.qkv.address(), bias: 0, epilogue: Epilogue::StoreF32 };
            prefill.gemm.multiply(kernels, &layer.qkv, qkv)?;
            kernels.split_heads(self.chunk_heads(index, layer, span), self.kv.format())?;
            // Of the last layer, later tokens see keys and values alone.
            if final_layer && !span.last && span.begin + n <= span.seed_from {
                return Ok(());
            }
            self.chunk_attention(index, span)?;
            if final_layer && !span.last {
                return Ok(());
            }
            // Of the last layer, only the last token's logits are wanted.
            let first = if final_layer { n - 1 } else { 0 };
            self.finish_rows(layer, first, n - first)
        }
    }

    unsafe fn chunk_attention(&self, index: usize, span: Span) -> Result<(), EngineError> {
        let prefill = &self.prefill;
        let KvAddresses { k, v, scales } = self.kv.addresses(index);
        let row = self.spec.q_width();
        let chunk = CudaPrefillChunk {
            q_pre: prefill.q_pre.address(),
            q_pre_stride: row,
            q_rot: prefill.q_rot.address(),
            q_rot_stride: row,
            k,
            v,
            scales,
            capacity: self.kv.stride(),
            out: prefill.attended.address(),
            out_stride: row,
            begin: span.begin,
            n: span.tokens,
            seed_from: span.seed_from,
        };
        // SAFETY: passed on.
        unsafe { self.attention.prefill(index, &chunk)? };
        if self.kv.format().is_8_bit() {
            // SAFETY: as above.
            unsafe { self.kernels.f16_to_bf16(prefill.attended.address(), span.tokens * row)? };
        }
        Ok(())
    }

    /// Output projection and MLP of `rows` rows from `first` on.
    unsafe fn finish_rows(&self, layer: &DeviceLayer, first: usize, rows: usize) -> Result<(), EngineError> {
        let Self { spec, prefill, kernels, .. } = self;
        let (d, q) = (spec.d_model, spec.q_width());
        let x = prefill.x.address_of(first * d);
        let bias = layer.output_bias.as_ref().map_or(0, DeviceBuffer::address);
        let (normed, activated) = (prefill.normed.address(), prefill.activated.address());
        let add = |a, bias| Product { a, m: rows, c: x, bias, epilogue: Epilogue::AddF32 };
        // SAFETY: passed on.
        unsafe {
            prefill.gemm.multiply(kernels, &layer.output, add(prefill.attended.address_of(first * q), bias))?;
            kernels.rms_norm_rows(x, layer.mlp_norm.address(), spec.norm_eps, normed, [rows, d])?;
            let gated = Product { a: normed, m: rows, c: activated, bias: 0, epilogue: Epilogue::SiluBf16 };
            prefill.gemm.multiply(kernels, &layer.gate_up, gated)?;
            prefill.gemm.multiply(kernels, &layer.down, add(activated, 0))?;
        }
        Ok(())
    }

    /// Logits of the chunk's last row.
    unsafe fn chunk_logits(&self, tokens: usize) -> Result<(), EngineError> {
        let Self { spec, prefill, kernels, weights, .. } = self;
        let row = prefill.x.address_of((tokens - 1) * spec.d_model);
        let norm = Around { norm: weights.final_norm.address(), eps: spec.norm_eps, ..Around::default() };
        for launch in kernels.plan_matvec(weights.head(), row, self.buffers.logits.address(), norm)? {
            // SAFETY: passed on.
            unsafe { kernels.matvec(&launch)? };
        }
        Ok(())
    }

    fn chunk_heads(&self, index: usize, layer: &DeviceLayer, span: Span) -> HeadsArgs {
        let Self { spec, prefill, kv, .. } = self;
        let KvAddresses { k, v, scales } = kv.addresses(index);
        let or_null = |buffer: &Option<DeviceBuffer<f32>>| buffer.as_ref().map_or(0, DeviceBuffer::address);
        HeadsArgs {
            qkv: prefill.qkv.address(),
            bias: or_null(&layer.qkv_bias),
            q_norm: or_null(&layer.q_norm),
            k_norm: or_null(&layer.k_norm),
            cos: prefill.cos.address(),
            sin: prefill.sin.address(),
            position: 0,
            q_pre: prefill.q_pre.address(),
            q_rot: prefill.q_rot.address(),
            k,
            v,
            scales,
            eps: spec.norm_eps,
            begin: span.begin as i32,
            capacity: kv.stride() as i32,
            num_q_heads: spec.num_q_heads as i32,
            num_kv_heads: spec.num_kv_heads as i32,
            head_dim: spec.head_dim as i32,
            tokens: span.tokens as i32,
            unused: 0,
        }
    }
}
