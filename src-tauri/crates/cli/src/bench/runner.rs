//! A model under measurement: the engine's own executor, driven step by step without sampling or events.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use mac_attention::RingLayout;
use mac_attention::cuda::{DeviceBuffer, PlainSum};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reprise_engine::exec::{CandleExecutor, CandlePool, CudaExecutor, Executor, MadeUpWeights, request_threads};
use reprise_engine::memory::plan;
use reprise_engine::model::{ModelSpec, spec_from_gguf};
use reprise_engine::text::TextModel;
use reprise_engine::weights::{GgufFile, Precision, Source, Weights, load_weights, random_weights, weights_bytes};
use reprise_engine::{Attention, EngineError, KvFormat};

use super::prose::sentences;
use crate::args::{BenchModelArgs, DeviceChoice, WeightsChoice};
use crate::failure::Failure;
use crate::figures::median;
use crate::machine::{ReadGauge, free_memory};

/// Where the model lives.
enum Place {
    Cpu(Box<CandleExecutor>),
    Cuda(Box<CudaExecutor>),
}

/// A model with room for a context, and what one decode step of it must read at least.
pub(crate) struct Runner {
    place: Place,
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
    /// Chosen to follow.
    pub(crate) next: u32,
    /// K, V and ring bytes of all layers.
    pub(crate) attention_bytes: u64,
    pub(crate) heads_matched: usize,
    pub(crate) heads: usize,
    pub(crate) groups_reused: usize,
    pub(crate) groups: usize,
}

/// The plain read that a benchmark's bound rests on.
pub(crate) enum Gauge {
    /// On the threads that executors use.
    Cpu(ReadGauge),
    /// On the device.
    Cuda(Box<PlainSum>, DeviceBuffer<u16>),
}

impl Gauge {
    /// Bytes per second now.
    pub(crate) fn rate(&mut self) -> Result<f64, Failure> {
        /// Passes over the device's memory in one go.
        const TIMES: usize = 3;
        match self {
            Self::Cpu(gauge) => Ok(gauge.pass(&CandlePool)),
            Self::Cuda(sum, data) => {
                let micros = median(&sum.run(data, data.len(), TIMES)?);
                Ok((data.len() * size_of::<u16>()) as f64 / micros * 1e6)
            }
        }
    }
}

impl Runner {
    /// What the arguments ask for, with room for `context_tokens`.
    pub(crate) fn from_args(args: &BenchModelArgs, context_tokens: usize) -> Result<Self, Failure> {
        request_threads(args.threads);
        let format = KvFormat::from(args.kv);
        if args.device == DeviceChoice::Cpu && format.is_8_bit() {
            return Err(EngineError::KvNeedsGpu { format }.into());
        }
        match (&args.shape, args.device) {
            (Some(shape), DeviceChoice::Cpu) => Self::made_up(&shape.name, &shape.spec, args.weights, context_tokens),
            (Some(shape), DeviceChoice::Cuda) => {
                Self::made_up_on_gpu(&shape.name, &shape.spec, args.weights, context_tokens, format)
            }
            (None, device) => {
                let path = reprise_library::models::resolve(args.model.as_deref())?;
                match device {
                    DeviceChoice::Cpu => Self::from_gguf(&path, context_tokens),
                    DeviceChoice::Cuda => Self::gguf_on_gpu(&path, context_tokens, format),
                }
            }
        }
    }

    fn made_up(name: &str, spec: &ModelSpec, weights: WeightsChoice, context_tokens: usize) -> Result<Self, Failure> {
        let (precision, words) = match weights {
            WeightsChoice::Q8_0 => (Precision::Q8_0, "Q8_0"),
            WeightsChoice::F16 => (Precision::F16, "F16"),
            WeightsChoice::F32 => (Precision::F32, "F32"),
            WeightsChoice::Bf16 | WeightsChoice::Q4K => {
                return Err(Failure::Usage("--weights bf16 and q4_k need --device cuda".to_owned()));
            }
        };
        let dtype = precision.dtype(spec.parameters());
        let elements = spec.parameters() as f64 * dtype.type_size() as f64 / dtype.block_size() as f64;
        plan(spec, elements as u64, Some(context_tokens), RingLayout::default(), KvFormat::Bf16, free_memory())?;
        let made_up = random_weights(spec, dtype, 1)?;
        Self::new(spec.clone(), made_up, context_tokens, name.to_owned(), format!("{words} made up"), None)
    }

    fn made_up_on_gpu(
        name: &str,
        spec: &ModelSpec,
        weights: WeightsChoice,
        context_tokens: usize,
        format: KvFormat,
    ) -> Result<Self, Failure> {
        let (made_up, words) = match weights {
            WeightsChoice::Q8_0 => (MadeUpWeights::Q8_0, "Q8_0"),
            WeightsChoice::F16 => (MadeUpWeights::F16, "F16"),
            WeightsChoice::F32 => (MadeUpWeights::F32, "F32"),
            WeightsChoice::Bf16 => (MadeUpWeights::Bf16, "BF16"),
            WeightsChoice::Q4K => (MadeUpWeights::Q4K, "Q4_K"),
        };
        let ring = RingLayout::default();
        let executor = CudaExecutor::with_made_up_weights(spec.clone(), made_up, context_tokens, ring, format, 1)?;
        Ok(Self::on_gpu(executor, name.to_owned(), format!("{words} made up"), None))
    }

    fn on_gpu(executor: CudaExecutor, shape: String, weights: String, text: Option<TextModel>) -> Self {
        Self {
            step_weight_bytes: executor.step_weight_bytes(),
            place: Place::Cuda(Box::new(executor)),
            shape,
            weights,
            text,
            cancel: AtomicBool::new(false),
        }
    }

    fn gguf_on_gpu(path: &Path, context_tokens: usize, format: KvFormat) -> Result<Self, Failure> {
        let (name, spec, text, source) = open_gguf(path)?;
        let executor = CudaExecutor::load(&source, &spec, context_tokens, RingLayout::default(), format)?;
        Ok(Self::on_gpu(executor, name, "as in the file".to_owned(), Some(text)))
    }

    /// A GGUF file, on the processor.
    pub(crate) fn from_gguf(path: &Path, context_tokens: usize) -> Result<Self, Failure> {
        let (name, spec, text, source) = open_gguf(path)?;
        plan(
            &spec,
            weights_bytes(&source, &spec),
            Some(context_tokens),
            RingLayout::default(),
            KvFormat::Bf16,
            free_memory(),
        )?;
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
        let place = Place::Cpu(Box::new(executor));
        Ok(Self { place, shape, weights: words, step_weight_bytes, text, cancel: AtomicBool::new(false) })
    }

    fn executor(&self) -> &dyn Executor {
        match &self.place {
            Place::Cpu(executor) => executor.as_ref(),
            Place::Cuda(executor) => executor.as_ref(),
        }
    }

    fn executor_mut(&mut self) -> &mut dyn Executor {
        match &mut self.place {
            Place::Cpu(executor) => executor.as_mut(),
            Place::Cuda(executor) => executor.as_mut(),
        }
    }

    /// `CPU, 2 threads, AVX-512`
    pub(crate) fn device(&self) -> String {
        self.executor().capacity().device
    }

    /// How keys and values are held.
    pub(crate) fn kv(&self) -> &'static str {
        self.executor().capacity().kv.name()
    }

    /// A real model, whose prompts are prose.
    pub(crate) fn has_text(&self) -> bool {
        self.text.is_some()
    }

    /// What measures a plain read where the model lives.
    pub(crate) fn gauge(&self) -> Result<Gauge, Failure> {
        /// Far more than any second-level cache.
        const BYTES: usize = 2 << 30;
        match &self.place {
            Place::Cpu(_) => Ok(Gauge::Cpu(ReadGauge::new())),
            Place::Cuda(executor) => {
                let gpu = executor.gpu();
                let (free, _) = gpu.memory()?;
                let bytes = BYTES.min(free as usize / 2);
                Ok(Gauge::Cuda(Box::new(PlainSum::new(gpu)?), gpu.alloc_zeroed(bytes / size_of::<u16>())?))
            }
        }
    }

    /// Puts `context` tokens into the cache: made up where weights are and the model lives on a GPU, read otherwise.
    pub(crate) fn fill(&mut self, prompt: &[u32], context: usize, tick: &mut dyn FnMut(usize)) -> Result<(), Failure> {
        match &mut self.place {
            Place::Cuda(executor) if self.text.is_none() => Ok(executor.make_up_context(context, 1)?),
            _ => {
                // Shorter contexts are the beginning of longer ones, so each token is read once.
                let known = self.kv_len();
                self.read(&prompt[known..context], tick)?;
                Ok(())
            }
        }
    }

    /// Tokens of a prompt: prose where there is a tokenizer, any ids otherwise.
    pub(crate) fn tokens(&self, count: usize, seed: u64) -> Result<Vec<u32>, Failure> {
        let Some(text) = &self.text else {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let vocab = self.executor().spec().vocab as u32;
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
        self.executor().kv_len()
    }

    /// Forgets tokens from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.executor_mut().truncate(len);
    }

    /// How the following steps attend.
    pub(crate) fn set_attention(&mut self, attention: &Attention) -> Result<(), Failure> {
        Ok(self.executor_mut().set_attention(attention)?)
    }

    /// Reads tokens; returns the seconds it took.
    pub(crate) fn read(&mut self, tokens: &[u32], tick: &mut dyn FnMut(usize)) -> Result<f64, Failure> {
        if tokens.is_empty() {
            return Ok(0.0);
        }
        let start = Instant::now();
        let mut tick = |done| {
            tick(done);
            ControlFlow::Continue(())
        };
        let Self { place, cancel, .. } = self;
        let end = match place {
            Place::Cpu(executor) => executor.prefill(tokens, &mut tick, cancel)?,
            Place::Cuda(executor) => executor.prefill(tokens, &mut tick, cancel)?,
        };
        match end {
            ControlFlow::Continue(()) => Ok(start.elapsed().as_secs_f64()),
            ControlFlow::Break(()) => Err(EngineError::Cancelled.into()),
        }
    }

    /// Appends one token and chooses the next, greedily.
    pub(crate) fn step(&mut self, token: u32) -> Result<Step, Failure> {
        let start = Instant::now();
        let Self { place, cancel, .. } = self;
        let executor: &mut dyn Executor = match place {
            Place::Cpu(executor) => executor.as_mut(),
            Place::Cuda(executor) => executor.as_mut(),
        };
        if executor.decode(token, cancel)?.is_break() {
            return Err(EngineError::Cancelled.into());
        }
        let next = executor.choose()?;
        let seconds = start.elapsed().as_secs_f64();
        let mut step =
            Step { seconds, next, attention_bytes: 0, heads_matched: 0, heads: 0, groups_reused: 0, groups: 0 };
        for layer in executor.counters() {
            step.attention_bytes += layer.kv_bytes_read + layer.ring_bytes;
            step.heads_matched += layer.heads_matched();
            step.heads += layer.heads.len();
            step.groups_reused += layer.groups_reused;
            step.groups += layer.groups;
        }
        Ok(step)
    }
}

fn open_gguf(path: &Path) -> Result<(String, ModelSpec, TextModel, Source), Failure> {
    if path.is_dir() {
        return Err(Failure::Usage(format!("benchmarks take GGUF files; {} is a folder", path.display())));
    }
    let file = GgufFile::open(path)?;
    let spec = spec_from_gguf(&file)?;
    let text = TextModel::from_gguf(&file)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok((name, spec, text, Source::Gguf(file)))
}

/// Threads that executors of this process use.
pub(crate) fn executor_threads() -> usize {
    mac_attention::Parallel::threads(&CandlePool)
}
