//! A model under measurement: the engine's own executor, driven step by step without sampling or events.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use mac_attention::RingLayout;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reprise_engine::exec::{CandleExecutor, CandlePool, Executor, request_threads};
use reprise_engine::memory::plan;
use reprise_engine::model::{ModelSpec, spec_from_gguf};
use reprise_engine::text::TextModel;
use reprise_engine::weights::{GgufFile, Precision, Source, Weights, load_weights, random_weights, weights_bytes};
use reprise_engine::{Attention, EngineError};

use super::prose::sentences;
use crate::args::{BenchModelArgs, WeightsChoice};
use crate::failure::Failure;
use crate::machine::{ReadGauge, free_memory};

/// A model with room for a context, and what one decode step of it must read at least.
pub(crate) struct Runner {
    executor: CandleExecutor,
    /// Shape name or file name.
    pub(crate) shape: String,
    /// Type of the weights in words.
    pub(crate) weights: String,
    /// Bytes of weights that every decode step reads.
    pub(crate) step_weight_bytes: u64,
    /// Of a real model.
    text: Option<TextModel>,
    cancel: AtomicBool,
}

/// One decode step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Step {
    pub(crate) seconds: f64,
    /// K, V and ring bytes of all layers.
    pub(crate) attention_bytes: u64,
    pub(crate) heads_matched: usize,
    pub(crate) heads: usize,
    pub(crate) groups_reused: usize,
    pub(crate) groups: usize,
}

impl Runner {
    /// What the arguments ask for, with room for `context_tokens`.
    pub(crate) fn from_args(args: &BenchModelArgs, context_tokens: usize) -> Result<Self, Failure> {
        super::require(args.device)?;
        request_threads(args.threads);
        match &args.shape {
            Some(shape) => Self::made_up(&shape.name, &shape.spec, args.weights, context_tokens),
            None => Self::from_gguf(&reprise_library::models::resolve(args.model.as_deref())?, context_tokens),
        }
    }

    fn made_up(name: &str, spec: &ModelSpec, weights: WeightsChoice, context_tokens: usize) -> Result<Self, Failure> {
        let (precision, words) = match weights {
            WeightsChoice::Q8_0 => (Precision::Q8_0, "Q8_0"),
            WeightsChoice::F16 => (Precision::F16, "F16"),
            WeightsChoice::F32 => (Precision::F32, "F32"),
        };
        let dtype = precision.dtype(spec.parameters());
        let elements = spec.parameters() as f64 * dtype.type_size() as f64 / dtype.block_size() as f64;
        plan(spec, elements as u64, Some(context_tokens), RingLayout::default(), free_memory())?;
        let made_up = random_weights(spec, dtype, 1)?;
        Self::new(spec.clone(), made_up, context_tokens, name.to_owned(), format!("{words} made up"), None)
    }

    /// A GGUF file.
    pub(crate) fn from_gguf(path: &Path, context_tokens: usize) -> Result<Self, Failure> {
        if path.is_dir() {
            return Err(Failure::Usage(format!("benchmarks take GGUF files; {} is a folder", path.display())));
        }
        let file = GgufFile::open(path)?;
        let spec = spec_from_gguf(&file)?;
        let text = TextModel::from_gguf(&file)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let source = Source::Gguf(file);
        plan(&spec, weights_bytes(&source, &spec), Some(context_tokens), RingLayout::default(), free_memory())?;
        let weights = load_weights(&source, &spec, &mut |_| true)?;
        Self::new(spec, weights, context_tokens, name, "as in the file".to_owned(), Some(text))
    }

    fn new(
        spec: ModelSpec,
        weights: Weights,
        context_tokens: usize,
        shape: String,
        words: String,
        text: Option<TextModel>,
    ) -> Result<Self, Failure> {
        // Of an embedding that is not the output matrix, a step reads one row.
        let unread = if weights.head.is_some() { weights.embedding.bytes() } else { 0 };
        let step_weight_bytes = weights.bytes() - unread;
        let mut executor = CandleExecutor::new(spec, weights, context_tokens, RingLayout::default())?;
        executor.warm_up(&mut |_| true)?;
        Ok(Self { executor, shape, weights: words, step_weight_bytes, text, cancel: AtomicBool::new(false) })
    }

    /// `CPU, 2 threads, AVX-512`
    pub(crate) fn device(&self) -> String {
        self.executor.capacity().device
    }

    /// Tokens of a prompt: prose where there is a tokenizer, any ids otherwise.
    pub(crate) fn tokens(&self, count: usize, seed: u64) -> Result<Vec<u32>, Failure> {
        let Some(text) = &self.text else {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let vocab = self.executor.spec().vocab as u32;
            return Ok((0..count).map(|_| rng.random_range(0..vocab)).collect());
        };
        let mut bytes = count * 5;
        loop {
            let mut ids = text.codec().encode_text(&sentences(bytes, seed))?.ids;
            if ids.len() >= count {
                ids.truncate(count);
                return Ok(ids);
            }
            bytes *= 2;
        }
    }

    /// Tokens in the KV cache.
    pub(crate) fn kv_len(&self) -> usize {
        self.executor.kv_len()
    }

    /// Forgets tokens from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.executor.truncate(len);
    }

    /// How the following steps attend.
    pub(crate) fn set_attention(&mut self, attention: &Attention) -> Result<(), Failure> {
        Ok(self.executor.set_attention(attention)?)
    }

    /// Reads tokens; returns the seconds it took.
    pub(crate) fn read(&mut self, tokens: &[u32], tick: &mut dyn FnMut(usize)) -> Result<f64, Failure> {
        let start = Instant::now();
        let mut tick = |done| {
            tick(done);
            ControlFlow::Continue(())
        };
        match self.executor.prefill(tokens, &mut tick, &self.cancel)? {
            ControlFlow::Continue(()) => Ok(start.elapsed().as_secs_f64()),
            ControlFlow::Break(()) => Err(EngineError::Cancelled.into()),
        }
    }

    /// Appends one token.
    pub(crate) fn step(&mut self, token: u32) -> Result<Step, Failure> {
        let start = Instant::now();
        if self.executor.decode(token, &self.cancel)?.is_break() {
            return Err(EngineError::Cancelled.into());
        }
        // What sampling at temperature 0 would look at.
        std::hint::black_box(largest(self.executor.logits()));
        let seconds = start.elapsed().as_secs_f64();
        let mut step = Step { seconds, attention_bytes: 0, heads_matched: 0, heads: 0, groups_reused: 0, groups: 0 };
        for layer in self.executor.counters() {
            step.attention_bytes += layer.kv_bytes_read + layer.ring_bytes;
            step.heads_matched += layer.heads_matched();
            step.heads += layer.heads.len();
            step.groups_reused += layer.groups_reused;
            step.groups += layer.groups;
        }
        Ok(step)
    }
}

/// Bytes per second of one plain read on the threads that executors use.
pub(crate) fn executor_read(gauge: &ReadGauge) -> f64 {
    gauge.pass(&CandlePool)
}

/// Threads that executors of this process use.
pub(crate) fn executor_threads() -> usize {
    mac_attention::Parallel::threads(&CandlePool)
}

fn largest(logits: &[f32]) -> usize {
    logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i)
}
