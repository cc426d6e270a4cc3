//! `reprise chat`: one question, or a conversation.
//!
//! [`session`] keeps the messages and asks the engine, [`reply`] follows one generation, [`wire`] is its JSON form,
//! [`summary`] its statistics line, [`interactive`] reads a conversation line by line.

mod interactive;
mod reply;
mod session;
mod summary;
mod wire;

use std::sync::{Arc, Mutex};

use mac_attention::{CudaProbe, Paper, RingLayout, probe_cuda};
use reprise_engine::weights::Precision;
use reprise_engine::{Attention, Device, Engine, EngineError, KvFormat, LoadOptions, Sampling};

use crate::args::{AttentionMode, ChatArgs, ChatDevice, SamplingArgs};
use crate::attach;
use crate::failure::Failure;
use crate::figures::percent;
use crate::interrupt::Interrupt;
use crate::output::{StatusLine, remark};
use session::Session;

/// Runs the command.
pub(crate) fn run(args: ChatArgs) -> Result<(), Failure> {
    let attention = Reuse::from_args(&args)?;
    if args.question.as_deref().is_some_and(|q| q.trim().is_empty()) {
        return Err(Failure::Usage("the question is empty".to_owned()));
    }
    let interrupt = Interrupt::install();
    // Documents first: a wrong path is told before a large model is loaded.
    let mut documents = Vec::new();
    for path in &args.attach {
        documents.extend(attach::read(path, interrupt.flag())?);
    }
    let engine = load(&args, &interrupt)?;
    tell_device(&engine, args.kv.into());
    let mut session = Session::new(engine, interrupt, documents, &args, attention);
    match &args.question {
        Some(question) => {
            session.ask(question)?;
            // A script must not take nothing for an answer.
            if session.was_stopped_while_reading() { Err(Failure::Reported(130)) } else { Ok(()) }
        }
        None => interactive::run(&mut session),
    }
}

/// Loads a model, with its share on a terminal; Ctrl-C gives up.
fn load(args: &ChatArgs, interrupt: &Interrupt) -> Result<Engine, Failure> {
    let options = LoadOptions {
        model: reprise_library::models::resolve(args.model.as_deref())?,
        context_tokens: args.context,
        threads: args.threads,
        ring: RingLayout::default(),
        precision: Precision::Auto,
        device: match args.device {
            ChatDevice::Auto => Device::Auto,
            ChatDevice::Cpu => Device::Cpu,
            ChatDevice::Cuda => Device::Cuda,
        },
        kv: args.kv.into(),
    };
    let status = Arc::new(Mutex::new(StatusLine::new()));
    let (watch, shown) = (interrupt.clone(), Arc::clone(&status));
    let loaded = Engine::load(options, move |share| {
        if let Ok(mut status) = shown.lock() {
            status.show(&format!("loading the model: {}", percent(f64::from(share))));
        }
        !watch.pressed()
    });
    // The engine thread may keep the callback, and with it the line, for longer than the load.
    if let Ok(mut status) = status.lock() {
        status.clear();
    }
    match loaded {
        Err(_) if interrupt.pressed() => Err(Failure::Interrupted),
        other => Ok(other?),
    }
}

/// A GPU that cannot serve is named with its reason; a machine without one is not told so at every question, unless more
/// was asked for than the processor does.
fn tell_device(engine: &Engine, asked: KvFormat) {
    let info = engine.info();
    let expected = info.kv != asked || matches!(probe_cuda(), CudaProbe::Found { .. });
    if let (Some(why), true) = (&info.fallback, expected) {
        remark(&format!("running on {}: {why}", info.device));
    }
}

/// Reuse settings that stay while the mode is switched back and forth.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reuse {
    /// Mode in use.
    pub(crate) mode: AttentionMode,
    paper: Paper,
}

impl Reuse {
    fn from_args(args: &ChatArgs) -> Result<Self, Failure> {
        if args.attention == AttentionMode::Exact && (args.threshold.is_some() || args.min_context.is_some()) {
            return Err(Failure::Usage(
                "--threshold and --min-context mean something only with --attention mac".to_owned(),
            ));
        }
        let default = Paper::default();
        let paper = Paper {
            threshold: args.threshold.unwrap_or(default.threshold),
            min_context: args.min_context.unwrap_or(default.min_context),
            backoff: default.backoff,
        };
        Ok(Self { mode: args.attention, paper })
    }

    /// For the engine.
    pub(crate) fn attention(&self) -> Attention {
        match self.mode {
            AttentionMode::Mac => Attention::Mac(self.paper.clone()),
            AttentionMode::Exact => Attention::Exact,
        }
    }

    /// Shortest context at which matching is tried.
    pub(crate) fn min_context(&self) -> usize {
        self.paper.min_context
    }
}

impl From<&SamplingArgs> for Sampling {
    fn from(args: &SamplingArgs) -> Self {
        Self {
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
            min_p: args.min_p,
            repeat_penalty: args.repeat_penalty,
            seed: args.seed,
            ..Self::default()
        }
    }
}

/// A failed request as the user meets it: a prompt that is too long carries the ways out.
fn explain(error: EngineError, engine: &Engine) -> Failure {
    match error {
        EngineError::PromptTooLong { prompt_tokens, context_tokens } => {
            let info = engine.info();
            Failure::TooLong(crate::failure::TooLong {
                prompt_tokens,
                context_tokens,
                max_context_tokens: info.max_context_tokens,
                kv_bytes_per_token: info.memory.kv_bytes / (info.context_tokens.max(1) as u64),
                free_bytes: reprise_engine::memory::available_bytes(),
            })
        }
        other => other.into(),
    }
}
