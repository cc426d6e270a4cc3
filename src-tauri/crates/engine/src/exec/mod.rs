//! Executors: one decoder, several devices.

mod cpu;
#[cfg_attr(feature = "cuda", path = "cuda/mod.rs")]
#[cfg_attr(not(feature = "cuda"), path = "no_cuda.rs")]
mod cuda;
mod kv;
mod layer;
mod ops;
mod pace;
mod pool;

pub use cpu::CandleExecutor;
#[cfg(feature = "cuda")]
pub use cuda::{
    CUBLASLT_VARIABLE, CublasLtAttempt, CublasLtError, CublasLtInfo, CublasLtRefusal, CudaExecutor, CudaSetup,
    MadeUpWeights, probe_cublaslt,
};
pub(crate) use cuda::{context_costs as context_costs_on_gpu, load_cuda};
pub use kv::KvCache;
pub use pace::{MAX_CHUNK_TOKENS, MIN_CHUNK_TOKENS};
pub use pool::{CandlePool, request_threads};

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use mac_attention::{Audit, Counters, Pattern, Policy};

use crate::model::ModelSpec;
use crate::{Attention, EngineError, KvFormat, Sampling};

/// What an executor holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    /// Tokens of context reserved.
    pub context_tokens: usize,
    /// Device in words, for example `CPU, 2 threads, AVX-512` or `NVIDIA H200, CUDA, sm_90a kernels`.
    pub device: String,
    /// How keys and values are held.
    pub kv: KvFormat,
    /// Memory of a device of its own; `None` where the model lives in the machine's memory.
    pub device_memory: Option<DeviceMemory>,
}

/// Memory of a GPU, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Taken by this model now. The KV cache takes more as the context grows, up to what was planned.
    pub used_bytes: u64,
    /// Free at this moment.
    pub free_bytes: u64,
    /// In all.
    pub total_bytes: u64,
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

    /// How the following tokens are chosen; the draws begin anew.
    fn set_sampling(&mut self, sampling: &Sampling) -> Result<(), EngineError>;

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
    /// ended it before the step or between two layers: nothing was appended.
    fn decode(&mut self, token: u32, cancel: &AtomicBool) -> Result<ControlFlow<()>, EngineError>;

    /// Starts the step that [`Self::decode`] of the same token will finish, where a device can work on its own meanwhile;
    /// elsewhere nothing happens. Until then logits and audits of the step before are gone. Anything but that call drops
    /// the started step.
    fn begin(&mut self, _token: u32) -> Result<(), EngineError> {
        Ok(())
    }

    /// The token that follows those in the cache, by the settings of [`Self::set_sampling`]. Once after each
    /// [`Self::prefill`] and [`Self::decode`]: every call draws anew. Penalties look at the tokens in the cache.
    fn choose(&mut self) -> Result<u32, EngineError>;

    /// Logits after the last token, `[vocab]`. Costs a copy where the model lives on a device of its own.
    fn logits(&mut self) -> Result<&[f32], EngineError>;

    /// Counters of the last decode step, one per layer.
    fn counters(&self) -> &[Counters];

    /// Exact against used output of one KV group in the last decode step.
    fn audit(&mut self, layer: usize, kv_head: usize) -> Result<Vec<Audit>, EngineError>;
}

/// The policy of one layer; layers draw apart from each other.
fn layer_policy(attention: &Attention, layer: usize) -> Policy {
    match attention {
        Attention::Exact => Policy::Exact,
        Attention::Mac(paper) => Policy::Paper(paper.clone()),
        Attention::Forced(forced) => {
            let mut forced = forced.clone();
            if let Pattern::Random { seed, .. } = &mut forced.pattern {
                *seed = seed.wrapping_add((layer as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            }
            Policy::Forced(forced)
        }
    }
}

/// A KV group that the model has.
fn check_group(spec: &ModelSpec, layer: usize, kv_head: usize) -> Result<(), EngineError> {
    if layer < spec.layers && kv_head < spec.num_kv_heads {
        Ok(())
    } else {
        Err(EngineError::InvalidRequest(format!("no KV head {kv_head} in layer {layer}")))
    }
}

/// Tokens that fit and that the model knows.
fn check_tokens(tokens: &[u32], room: usize, vocab: usize) -> Result<(), EngineError> {
    if tokens.is_empty() || tokens.len() > room {
        return Err(EngineError::InvalidRequest(format!("{} tokens into room for {room}", tokens.len())));
    }
    match tokens.iter().find(|id| **id as usize >= vocab) {
        Some(id) => Err(EngineError::InvalidRequest(format!("token {id} of a vocabulary of {vocab}"))),
        None => Ok(()),
    }
}
