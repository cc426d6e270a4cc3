//! Executors: one decoder, several devices.

mod cpu;
mod kv;
mod layer;
mod ops;
mod pace;
mod pool;

pub use cpu::CandleExecutor;
pub use kv::KvCache;
pub use pace::{MAX_CHUNK_TOKENS, MIN_CHUNK_TOKENS};
pub use pool::{CandlePool, request_threads};

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use mac_attention::{Audit, Counters};

use crate::model::ModelSpec;
use crate::{Attention, EngineError};

/// What an executor holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    /// Tokens of context reserved.
    pub context_tokens: usize,
    /// Device in words, for example `CPU, 2 threads, AVX-512`.
    pub device: String,
}

/// A loaded model on some device: its weights, KV cache and rings. Owned by one thread.
pub trait Executor: Send {
    /// What the model is.
    fn spec(&self) -> &ModelSpec;

    /// What was reserved.
    fn capacity(&self) -> Capacity;

    /// Tokens in the KV cache.
    fn kv_len(&self) -> usize;

    /// Forgets tokens from `len` on, ring entries included. A `len` beyond the cache changes nothing.
    fn truncate(&mut self, len: usize);

    /// How the following decode steps attend.
    fn set_attention(&mut self, attention: &Attention) -> Result<(), EngineError>;

    /// Reads tokens after those in the cache, in chunks, and leaves the logits that follow the last. `tick` is called
    /// with the new [`Self::kv_len`] after each chunk. `Break` means that `tick` or `cancel` ended it: the cache then
    /// holds whole chunks and there are no logits.
    fn prefill(
        &mut self,
        tokens: &[u32],
        tick: &mut dyn FnMut(usize) -> ControlFlow<()>,
        cancel: &AtomicBool,
    ) -> Result<ControlFlow<()>, EngineError>;

    /// Appends one token and leaves the logits that follow it and the step's counters. `Break` means that `cancel`
    /// ended it between two layers: nothing was appended.
    fn decode(&mut self, token: u32, cancel: &AtomicBool) -> Result<ControlFlow<()>, EngineError>;

    /// Logits after the last token, `[vocab]`.
    fn logits(&self) -> &[f32];

    /// Counters of the last decode step, one per layer.
    fn counters(&self) -> &[Counters];

    /// Exact against used output of one KV group in the last decode step.
    fn audit(&mut self, layer: usize, kv_head: usize) -> Result<Vec<Audit>, EngineError>;
}
