//! Choosing tokens on the device: settings, history and cursor there, one record a step back.

use mac_attention::cuda::{CudaError, DeviceBuffer, Gpu, PinnedBuffer};

use super::abi::{SAMPLE_NOT_FINITE, SAMPLE_SCRATCH_BYTES, SampleArgs, SampleSettings, TokenRecord, decode_state};
use super::kernels::Kernels;
use crate::model::ModelSpec;
use crate::sample::not_finite;
use crate::{EngineError, Sampling};

/// Steps that may be under way before the oldest record is overwritten.
const RECORDS: usize = 8;

/// The device's cursor with the token that it stands at, and everything that the choice of the next one needs.
#[derive(Debug)]
pub(super) struct DeviceSampler {
    /// See [`decode_state`].
    pub(super) state: DeviceBuffer<u32>,
    settings: DeviceBuffer<SampleSettings>,
    /// Token of every position; one more than the context, for the token that no longer fits.
    history: DeviceBuffer<u32>,
    scratch: DeviceBuffer<u8>,
    records: PinnedBuffer<TokenRecord>,
    vocab: usize,
    /// What the device's state holds.
    at: Option<(usize, u32)>,
    /// Steps that the device has counted.
    steps: u32,
}

impl DeviceSampler {
    pub(super) fn new(gpu: &Gpu, spec: &ModelSpec, capacity: usize) -> Result<Self, EngineError> {
        let mut sampler = Self {
            state: gpu.alloc_zeroed(decode_state::WORDS)?,
            settings: gpu.alloc_zeroed(1)?,
            history: gpu.alloc_zeroed(capacity + 1)?,
            scratch: gpu.alloc_zeroed(SAMPLE_SCRATCH_BYTES)?,
            records: gpu.pinned(RECORDS)?,
            vocab: spec.vocab,
            at: None,
            steps: 0,
        };
        // No step reports this.
        sampler.records.fill(TokenRecord { token: 0, flags: 0, step: u32::MAX, position: -1 });
        sampler.set(&Sampling::default())?;
        Ok(sampler)
    }

    /// New settings; draws begin anew.
    pub(super) fn set(&mut self, sampling: &Sampling) -> Result<(), EngineError> {
        sampling.check()?;
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let settings = SampleSettings {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repeat_penalty: sampling.repeat_penalty,
            top_k: count(sampling.top_k),
            repeat_last_n: count(sampling.repeat_last_n),
            seed: sampling.seed,
        };
        self.settings.write(0, &[settings])?;
        Ok(self.state.write(decode_state::DRAWS, &[0])?)
    }

    /// Puts the cursor on `position` with `token` there.
    pub(super) fn seek(&mut self, position: usize, token: u32) -> Result<(), CudaError> {
        if self.at == Some((position, token)) {
            return Ok(());
        }
        let stands_there = self.at.is_some_and(|(at, _)| at == position);
        self.at = None;
        self.history.write(position, &[token])?;
        if !stands_there {
            self.state.write(decode_state::POSITION, &[position as u32])?;
        }
        self.state.write(decode_state::TOKEN, &[token])?;
        self.at = Some((position, token));
        Ok(())
    }

    /// Enters tokens that were read.
    pub(super) fn remember(&mut self, begin: usize, tokens: &[u32]) -> Result<(), CudaError> {
        self.at = None;
        self.history.write(begin, tokens)
    }

    /// Tokens in the cache from `begin` on.
    pub(super) fn read_tokens(&self, begin: usize, tokens: &mut [u32]) -> Result<(), CudaError> {
        self.history.read(begin, tokens)
    }

    /// Address of the tokens from `begin` on.
    pub(super) fn tokens(&self, begin: usize) -> u64 {
        self.history.address_of(begin)
    }

    /// Chooses from `logits` and moves the cursor; may be captured.
    ///
    /// # Safety
    /// `logits` holds `[vocab]` f32 and stays; a graph must not outlive `self`.
    pub(super) unsafe fn enqueue(&self, kernels: &Kernels, logits: u64) -> Result<(), CudaError> {
        let args = SampleArgs {
            logits,
            settings: self.settings.address(),
            state: self.state.address(),
            history: self.history.address(),
            records: self.records.address(),
            scratch: self.scratch.address(),
            vocab: self.vocab as i32,
            history_len: self.history.len() as i32,
            num_records: RECORDS as i32,
            unused: 0,
        };
        // SAFETY: the buffers are our own and as large as the arguments say.
        unsafe { kernels.sample(args) }
    }

    /// The record of the one choice queued since the last call. The stream must have been waited for.
    pub(super) fn chosen(&mut self, position: usize) -> Result<u32, EngineError> {
        let record = self.records[self.steps as usize % RECORDS];
        if record.step != self.steps || record.position != position as i32 {
            self.at = None;
            return Err(EngineError::Internal(format!(
                "the device reports step {} at {}, expected {} at {position}",
                record.step, record.position, self.steps
            )));
        }
        self.steps = self.steps.wrapping_add(1);
        if record.flags != 0 {
            self.at = None;
            return Err(if record.flags == SAMPLE_NOT_FINITE {
                not_finite()
            } else {
                EngineError::Internal(format!("the choice of a token was refused with {:#x}", record.flags))
            });
        }
        self.at = Some((position + 1, record.token));
        Ok(record.token)
    }

    /// Bytes of device memory.
    pub(super) fn bytes(&self) -> u64 {
        (self.history.len() * size_of::<u32>() + SAMPLE_SCRATCH_BYTES) as u64
    }
}
