//! The thread that owns the model, and the handle its clients hold.

mod generate;
mod load;
mod progress;
mod thread;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use mac_attention::RingLayout;

use crate::text::TextModel;
use crate::{Attention, EngineError, Event, KvFormat, Message, Request};
use thread::{Command, Shared};

/// Where a model is to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// An NVIDIA GPU where one is usable and the model fits, else the processor; [`ModelInfo::fallback`] says why.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU or an error.
    Cuda,
}

/// Where a model lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// The processor and the machine's memory.
    Cpu,
    /// An NVIDIA GPU and its memory.
    Cuda,
}

/// What to load and how.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadOptions {
    /// A `.gguf` file, or a folder with `config.json`, `tokenizer.json` and `*.safetensors`.
    pub model: PathBuf,
    /// Context to reserve, in tokens; `None` takes the model's limit or what fits, whichever is less.
    pub context_tokens: Option<usize>,
    /// Threads; `None` takes the machine's. The first model of a process decides, as the threads are shared; what it
    /// became stands in [`ModelInfo::device`].
    pub threads: Option<usize>,
    /// Ring size.
    pub ring: RingLayout,
    /// How safetensors weights are held; GGUF keeps the file's types.
    pub precision: crate::weights::Precision,
    /// Where the model is to live.
    pub device: Device,
    /// How keys and values are held. The processor has [`KvFormat::Bf16`] alone: any other with [`Device::Cpu`] is refused,
    /// and [`ModelInfo::kv`] tells what [`Device::Auto`] came to.
    pub kv: KvFormat,
}

/// What was loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// From the file's metadata, else its file name.
    pub name: String,
    /// For example `qwen3`.
    pub architecture: String,
    /// Weights type in words, for example `Q8_0`.
    pub weights: String,
    /// Parameters.
    pub parameters: u64,
    /// Device in words, for example `CPU, 2 threads, AVX-512` or `NVIDIA H200, CUDA, sm_90a kernels`.
    pub device: String,
    /// Where the model lives.
    pub device_kind: DeviceKind,
    /// Why the processor serves although a GPU would have been taken ([`Device::Auto`]), and that keys and values are not held
    /// as asked, if so; `None` otherwise.
    pub fallback: Option<String>,
    /// How keys and values are held.
    pub kv: KvFormat,
    /// Memory of the GPU as it was when the model was ready; `None` on the processor.
    pub device_memory: Option<crate::exec::DeviceMemory>,
    /// Context reserved, in tokens.
    pub context_tokens: usize,
    /// The model's own limit.
    pub max_context_tokens: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads per layer.
    pub num_q_heads: usize,
    /// KV heads per layer.
    pub num_kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Memory taken: weights, KV cache, rings, scratch, in bytes.
    pub memory: crate::memory::MemoryPlan,
    /// What other contexts would take, by device and format: all that there are.
    pub context_costs: Vec<crate::memory::ContextCost>,
}

/// A tokenised prompt, with the text each token came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The rendered template.
    pub text: String,
    /// Byte span of each token in `text`.
    pub spans: Vec<(usize, usize)>,
    /// Byte offset in `text` at which each message's content begins.
    pub message_starts: Vec<usize>,
}

/// A handle to the engine thread; clones share it. The thread ends, and the model is dropped, with the last handle.
#[derive(Debug, Clone)]
pub struct Engine {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    info: Arc<ModelInfo>,
    text: Arc<TextModel>,
}

/// Asks a running generation to stop, from any thread.
#[derive(Debug, Clone, Default)]
pub struct StopHandle {
    flag: Arc<AtomicBool>,
}

impl StopHandle {
    /// Takes effect within a chunk, a layer or a step; what was written so far is kept.
    pub fn stop(&self) {
        self.flag.store(true, Ordering::Relaxed);
    }

    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.flag
    }
}

/// A running generation. Dropping its events stops it.
#[derive(Debug)]
pub struct Generation {
    /// Its events; closed after the last.
    pub events: Receiver<Event>,
    /// To stop it.
    pub stop: StopHandle,
}

impl Engine {
    /// Loads a model on a new engine thread and returns when it is ready. `progress` gets the share loaded, 0..=1;
    /// returning `false` cancels, with [`EngineError::Cancelled`].
    pub fn load(options: LoadOptions, progress: impl FnMut(f32) -> bool + Send + 'static) -> Result<Self, EngineError> {
        let (commands, inbox) = mpsc::channel();
        let (ready, loaded) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("reprise-engine".into())
            .spawn(move || thread::run(&options, progress, &ready, &inbox, &of_thread))
            .map_err(|e| EngineError::Internal(format!("no engine thread: {e}")))?;
        match loaded.recv() {
            Ok(Ok((info, text))) => Ok(Self { commands, shared, info, text }),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(EngineError::Internal("the engine thread ended while loading".into())),
        }
    }

    /// Gives the handle back and waits, at most `within`, until the model's memory is free, so that another fits. `false`
    /// if it is not by then, as while other handles or a generation live.
    pub fn close(self, within: Duration) -> bool {
        /// Unloading takes longer than this, and nobody sees so short a wait.
        const LOOK_EVERY: Duration = Duration::from_millis(2);
        let Self { commands, shared, .. } = self;
        drop(commands);
        let until = Instant::now() + within;
        while !shared.freed.load(Ordering::Acquire) {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        true
    }

    /// What was loaded.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Renders and tokenises on the calling thread, never waiting for a running generation.
    pub fn prepare(&self, messages: &[Message], continue_reply: bool) -> Result<Prompt, EngineError> {
        self.text.prepare(messages, continue_reply)
    }

    /// Exact tokens of a text alone, on the calling thread.
    pub fn count_text(&self, text: &str) -> Result<usize, EngineError> {
        self.text.count(text)
    }

    /// Leading tokens of `ids` that the KV cache holds now, so that reading them costs nothing. At least one token of
    /// a prompt is always read, for its logits.
    pub fn cached_prefix(&self, ids: &[u32]) -> usize {
        let live = self.shared.live.lock().unwrap_or_else(PoisonError::into_inner);
        common_prefix(&live, ids).min(ids.len().saturating_sub(1))
    }

    /// Starts a generation. One at a time: [`EngineError::Busy`] while another runs. The request is checked, rendered
    /// and tokenised on the calling thread: [`EngineError::PromptTooLong`], [`EngineError::InvalidRequest`] and
    /// template errors come from here, before anything is read.
    pub fn generate(&self, request: Request) -> Result<Generation, EngineError> {
        let asked = Instant::now();
        request.sampling.check()?;
        check_attention(&request.attention, self.info.num_q_heads)?;
        if self.shared.ended.load(Ordering::Acquire) {
            return Err(EngineError::Stopped);
        }
        if self.shared.busy.swap(true, Ordering::AcqRel) {
            return Err(EngineError::Busy);
        }
        self.start(request, asked).inspect_err(|_| self.shared.busy.store(false, Ordering::Release))
    }

    fn start(&self, request: Request, asked: Instant) -> Result<Generation, EngineError> {
        let prompt = self.prepare(&request.messages, request.continue_reply)?;
        // Room for at least one new token.
        if prompt.ids.len() >= self.info.context_tokens {
            return Err(EngineError::PromptTooLong {
                prompt_tokens: prompt.ids.len(),
                context_tokens: self.info.context_tokens,
            });
        }
        if prompt.ids.is_empty() {
            return Err(EngineError::InvalidRequest("the prompt is empty".into()));
        }
        let (sender, events) = mpsc::channel();
        let stop = StopHandle::default();
        let command = Command { request, ids: prompt.ids, asked, events: sender, stop: stop.clone() };
        self.commands.send(command).map_err(|_| EngineError::Stopped)?;
        Ok(Generation { events, stop })
    }
}

fn check_attention(attention: &Attention, num_q_heads: usize) -> Result<(), EngineError> {
    use mac_attention::Policy;
    let policy = match attention {
        Attention::Exact => return Ok(()),
        Attention::Mac(paper) => Policy::Paper(paper.clone()),
        Attention::Forced(forced) => Policy::Forced(forced.clone()),
    };
    policy.check(num_q_heads).map_err(|e| EngineError::InvalidRequest(e.to_string()))
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
