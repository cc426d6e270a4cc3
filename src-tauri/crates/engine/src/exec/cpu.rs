//! The CPU executor: candle multiplies, mac-attention attends, plain loops do the rest.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use mac_attention::{Audit, Counters, DecodeAttention, Parallel, Policy, PrefillAttention, Query, Ring, RingLayout};

use super::layer::{Rows, Scratch, finish_layer, norm_rows, output, split_heads};
use super::pace::Pace;
use super::pool::CandlePool;
use super::{Capacity, Executor, KvCache, check_group, check_tokens, layer_policy, ops};
use crate::model::{ModelSpec, RopeAngles};
use crate::sample::{Sampler, Sampling};
use crate::weights::{Precision, Projection, Weights, random_weights};
use crate::{Attention, EngineError, KvFormat};

/// A decoder on the CPU.
#[derive(Debug)]
pub struct CandleExecutor {
    spec: ModelSpec,
    weights: Weights,
    kv: KvCache,
    kv_len: usize,
    rings: Vec<Ring>,
    ring: RingLayout,
    policies: Vec<Policy>,
    decode: DecodeAttention,
    prefill: PrefillAttention,
    angles: RopeAngles,
    pace: Pace,
    scratch: Scratch,
    /// Rotated queries and attention outputs of the last decode step, kept per layer for audits.
    step_queries: Vec<Vec<f32>>,
    step_outputs: Vec<Vec<f32>>,
    counters: Vec<Counters>,
    logits: Vec<f32>,
    /// Tokens in the cache.
    tokens: Vec<u32>,
    sampler: Sampler,
}

impl CandleExecutor {
    /// Reserves the KV cache and the rings for a set of weights.
    pub fn new(
        spec: ModelSpec,
        weights: Weights,
        context_tokens: usize,
        ring: RingLayout,
    ) -> Result<Self, EngineError> {
        let shape = spec.attention_shape()?;
        Ok(Self {
            kv: KvCache::new(shape, spec.layers, context_tokens)?,
            kv_len: 0,
            rings: (0..spec.layers).map(|_| Ring::new(shape, ring)).collect::<Result<_, _>>()?,
            ring,
            policies: vec![Policy::Exact; spec.layers],
            decode: DecodeAttention::new(shape, ring.band),
            prefill: PrefillAttention::new(shape),
            angles: RopeAngles::new(&spec.rope, spec.head_dim),
            pace: Pace::default(),
            scratch: Scratch { input: Rows::new(), q_pre: Vec::new(), q_rot: Vec::new() },
            step_queries: vec![vec![0.0; spec.q_width()]; spec.layers],
            step_outputs: vec![vec![0.0; spec.q_width()]; spec.layers],
            counters: vec![Counters::default(); spec.layers],
            logits: Vec::new(),
            tokens: Vec::new(),
            sampler: Sampler::new(Sampling::default())?,
            weights,
            spec,
        })
    }

    /// Made-up weights of a named shape, for benchmarks ([`crate::model::named_shape`]).
    pub fn with_random_weights(
        spec: ModelSpec,
        precision: Precision,
        context_tokens: usize,
        ring: RingLayout,
        seed: u64,
    ) -> Result<Self, EngineError> {
        let weights = random_weights(&spec, precision.dtype(spec.parameters()), seed)?;
        let mut executor = Self::new(spec, weights, context_tokens, ring)?;
        executor.warm_up(&mut |_| true)?;
        Ok(executor)
    }

    /// Multiplies once by every matrix, so that candle packs them now and not during the first answer. `tick` gets the
    /// share done; `false` cancels.
    pub fn warm_up(&mut self, tick: &mut dyn FnMut(f32) -> bool) -> Result<(), EngineError> {
        // Two rows: some types are packed for more than one row only.
        const WARM_ROWS: usize = 2;
        let Self { weights, scratch, spec, .. } = self;
        let widest = spec.d_model.max(spec.d_ff).max(spec.q_width());
        scratch.input.get(WARM_ROWS * widest).fill(0.0);
        let mut all: Vec<&Projection> = vec![&weights.embedding];
        all.extend(&weights.head);
        for layer in &weights.layers {
            all.extend([&layer.qkv, &layer.output, &layer.gate_up, &layer.down]);
        }
        for (done, projection) in all.iter().enumerate() {
            projection.forward(scratch.input.storage(), WARM_ROWS)?;
            if !tick((done + 1) as f32 / all.len() as f32) {
                return Err(EngineError::Cancelled);
            }
        }
        Ok(())
    }

    fn check_tokens(&self, tokens: &[u32]) -> Result<(), EngineError> {
        check_tokens(tokens, self.kv.capacity() - self.kv_len, self.spec.vocab)
    }

    /// Counts the tokens of a chunk or step that was finished; after any other the cache is as before.
    pub(super) fn settle(&mut self, finished: Result<bool, EngineError>, tokens: &[u32]) -> Result<bool, EngineError> {
        if let Ok(true) = finished {
            self.kv_len += tokens.len();
            self.tokens.extend_from_slice(tokens);
        } else {
            self.drop_unfinished();
        }
        finished
    }

    /// Keys, values and ring entries behind those of the cache, and the logits if it is the last chunk. Whether it was
    /// finished; see [`Self::settle`].
    pub(super) fn chunk(
        &mut self,
        tokens: &[u32],
        seed_from: usize,
        last: bool,
        cancel: &AtomicBool,
    ) -> Result<bool, EngineError> {
        let Self { spec, weights, kv, scratch, .. } = self;
        let (n, begin) = (tokens.len(), self.kv_len);
        let (d, q_width) = (spec.d_model, spec.q_width());
        self.angles.set_span(begin, n);
        let mut x = weights.embed(tokens)?;
        // Rows that only pad: no bit of a token's row may depend on how many are read with it, as the clock decides that.
        let mut rows = n.next_multiple_of(Projection::ROW_GROUP);
        x.resize(rows * d, 0.0);
        scratch.q_pre.resize(n * q_width, 0.0);
        scratch.q_rot.resize(n * q_width, 0.0);
        for (index, layer) in weights.layers.iter().enumerate() {
            if cancel.load(Ordering::Relaxed) {
                return Ok(false);
            }
            norm_rows(&x, &layer.attention_norm, spec.norm_eps, scratch.input.get(rows * d));
            let mut qkv = layer.qkv.forward(scratch.input.storage(), rows)?;
            qkv.truncate(n * layer.qkv.out_width());
            split_heads(&mut qkv, layer, spec, &self.angles, begin, scratch, kv, index);

            // Of the last layer, later tokens see keys and values alone.
            let final_layer = index + 1 == spec.layers;
            if final_layer && !last && begin + n <= seed_from {
                break;
            }
            let finished = self.prefill.chunk(
                Query { pre: &scratch.q_pre, rot: &scratch.q_rot },
                &kv.view(index, begin + n)?,
                &mut self.rings[index],
                seed_from,
                scratch.input.get(n * q_width),
                &CandlePool,
                cancel,
            )?;
            if !finished {
                return Ok(false);
            }
            if final_layer {
                if !last {
                    break;
                }
                // Only the last token's logits are wanted.
                scratch.input.get(n * q_width).copy_within((n - 1) * q_width.., 0);
                x.copy_within((n - 1) * d..n * d, 0);
                x.truncate(d);
                rows = 1;
            } else {
                scratch.input.get(rows * q_width)[n * q_width..].fill(0.0);
            }
            finish_layer(layer, spec, rows, scratch, &mut x)?;
        }
        if last {
            self.logits = output(weights, spec, scratch, &x)?;
        }
        Ok(true)
    }

    fn step(&mut self, token: u32, cancel: &AtomicBool) -> Result<bool, EngineError> {
        let Self { spec, weights, kv, scratch, .. } = self;
        let q_width = spec.q_width();
        self.angles.set_span(self.kv_len, 1);
        let mut x = weights.embed(&[token])?;
        scratch.q_pre.resize(q_width, 0.0);
        scratch.q_rot.resize(q_width, 0.0);
        for (index, layer) in weights.layers.iter().enumerate() {
            if cancel.load(Ordering::Relaxed) {
                return Ok(false);
            }
            ops::rms_norm(&x, &layer.attention_norm, spec.norm_eps, scratch.input.get(spec.d_model));
            let mut qkv = layer.qkv.forward(scratch.input.storage(), 1)?;
            split_heads(&mut qkv, layer, spec, &self.angles, self.kv_len, scratch, kv, index);
            let out = &mut self.step_outputs[index];
            self.decode.step(
                Query { pre: &scratch.q_pre, rot: &scratch.q_rot },
                &kv.view(index, self.kv_len + 1)?,
                &mut self.rings[index],
                &self.policies[index],
                out,
                &mut self.counters[index],
                &CandlePool,
            )?;
            self.step_queries[index].copy_from_slice(&scratch.q_rot);
            scratch.input.get(q_width).copy_from_slice(out);
            finish_layer(layer, spec, 1, scratch, &mut x)?;
        }
        self.logits = output(weights, spec, scratch, &x)?;
        Ok(true)
    }

    /// Where ring entries begin if `new_tokens` follow: the last ones of the whole text, however it is cut into chunks.
    pub(super) fn seed_from(&self, new_tokens: usize) -> usize {
        (self.kv_len + new_tokens).saturating_sub(self.ring.slots)
    }

    /// Ring entries of an unfinished chunk or step.
    fn drop_unfinished(&mut self) {
        for ring in &mut self.rings {
            ring.truncate(self.kv_len);
        }
    }
}

impl Executor for CandleExecutor {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn capacity(&self) -> Capacity {
        let threads = CandlePool.threads();
        let plural = if threads == 1 { "" } else { "s" };
        Capacity {
            kv: KvFormat::Bf16,
            context_tokens: self.kv.capacity(),
            device: format!("CPU, {threads} thread{plural}, {}", instruction_set()),
            device_memory: None,
        }
    }

    fn kv_len(&self) -> usize {
        self.kv_len
    }

    fn truncate(&mut self, len: usize) {
        if len < self.kv_len {
            self.kv_len = len;
            self.tokens.truncate(len);
            self.drop_unfinished();
        }
    }

    fn set_attention(&mut self, attention: &Attention) -> Result<(), EngineError> {
        for (index, slot) in self.policies.iter_mut().enumerate() {
            let policy = layer_policy(attention, index);
            policy.check(self.spec.num_q_heads)?;
            *slot = policy;
        }
        Ok(())
    }

    fn set_sampling(&mut self, sampling: &Sampling) -> Result<(), EngineError> {
        self.sampler = Sampler::new(sampling.clone())?;
        Ok(())
    }

    fn prefill(
        &mut self,
        tokens: &[u32],
        tick: &mut dyn FnMut(usize) -> ControlFlow<()>,
        cancel: &AtomicBool,
    ) -> Result<ControlFlow<()>, EngineError> {
        self.check_tokens(tokens)?;
        let seed_from = self.seed_from(tokens.len());
        let mut left = tokens;
        while !left.is_empty() {
            let (chunk, rest) = left.split_at(self.pace.next(left.len()));
            let began = Instant::now();
            let finished = self.chunk(chunk, seed_from, rest.is_empty(), cancel);
            if !self.settle(finished, chunk)? {
                return Ok(ControlFlow::Break(()));
            }
            self.pace.measured(chunk.len(), began.elapsed());
            if tick(self.kv_len).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            left = rest;
        }
        Ok(ControlFlow::Continue(()))
    }

    fn decode(&mut self, token: u32, cancel: &AtomicBool) -> Result<ControlFlow<()>, EngineError> {
        self.check_tokens(&[token])?;
        let finished = self.step(token, cancel);
        Ok(if self.settle(finished, &[token])? { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    }

    fn choose(&mut self) -> Result<u32, EngineError> {
        self.sampler.choose(&self.logits, &self.tokens)
    }

    fn logits(&mut self) -> Result<&[f32], EngineError> {
        Ok(&self.logits)
    }

    fn counters(&self) -> &[Counters] {
        &self.counters
    }

    fn audit(&mut self, layer: usize, kv_head: usize) -> Result<Vec<Audit>, EngineError> {
        check_group(&self.spec, layer, kv_head)?;
        let view = self.kv.view(layer, self.kv_len)?;
        Ok(self.decode.audit(&self.step_queries[layer], &view, kv_head, &self.step_outputs[layer], &CandlePool)?)
    }
}

/// The widest instructions in use, in words.
fn instruction_set() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("avx512vnni") {
            return "AVX-512";
        }
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            return "AVX2";
        }
        "SSE2"
    }
    #[cfg(target_arch = "aarch64")]
    {
        "NEON"
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        "portable"
    }
}
