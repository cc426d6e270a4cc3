//! What the engine's errors mean to people.

use reprise_engine::{DeviceKind, EngineError, KvFormat as Held};

use super::{CHATS_STAY, SAVED_STAYS, grouped, size};
use crate::ipc::{Advice, DeviceChoice, KvFormat, UserError};

/// Where the model that failed was or was to be is not known.
impl From<EngineError> for UserError {
    fn from(error: EngineError) -> Self {
        Self::from_engine(error, DeviceKind::Cpu, Held::Bf16)
    }
}

impl UserError {
    /// A failure of a model on that device with its context held like that, loading or answering.
    pub(crate) fn from_engine(error: EngineError, on: DeviceKind, kv: Held) -> Self {
        let told = match &error {
            EngineError::Io { path, .. } | EngineError::BadModelFile { path, .. } => {
                let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
                of_file(&name, &error)
            }
            EngineError::UnsupportedModel { why } => {
                Self::new(format!("This model cannot be used: {why}.")).kept(CHATS_STAY).advise(Advice::ChooseModel)
            }
            EngineError::Tokenizer(_) => Self::new("The model's tokenizer cannot be used.")
                .kept(CHATS_STAY)
                .hint("The model file may be incomplete; fetch it again or choose another.")
                .advise(Advice::ChooseModel),
            EngineError::Template(_) => Self::new("The model's chat template cannot write this chat.")
                .kept(CHATS_STAY)
                .hint("Remove the standing instructions in the settings if the model takes none, or choose another model.")
                .advise(Advice::ChooseModel),
            EngineError::OutOfMemory { need_bytes, free_bytes, context_that_fits } => {
                out_of_memory(on, kv, [*need_bytes, *free_bytes], *context_that_fits)
            }
            EngineError::PromptTooLong { prompt_tokens, context_tokens } => too_long(*prompt_tokens, *context_tokens),
            EngineError::InvalidRequest(why) => Self::new(format!("This is not possible: {why}."))
                .kept(SAVED_STAYS)
                .hint("Change the settings and try again."),
            EngineError::Busy => Self::new("Another answer is still being written.")
                .kept("Your text is still in the box.")
                .hint("Wait until it is done, or stop it."),
            EngineError::Stopped => Self::new("The model has stopped working.")
                .kept("What was written is saved.")
                .advise(Advice::Reload)
                .advise(Advice::ChooseModel),
            EngineError::Cancelled => Self::new("Loading was cancelled.").kept(CHATS_STAY).advise(Advice::ChooseModel),
            EngineError::NoGpu { why } => Self::new(format!("No GPU can be used: {why}."))
                .kept(CHATS_STAY)
                .advise(Advice::SetDevice { device: DeviceChoice::Cpu })
                .advise(Advice::Reload),
            EngineError::KvNeedsGpu { .. } => Self::new("An 8-bit context memory needs a GPU.")
                .kept(CHATS_STAY)
                .advise(Advice::SetKv { kv: KvFormat::Bf16 })
                .advise(Advice::SetDevice { device: DeviceChoice::Auto }),
            // After a fault on a GPU every later call fails as well, so the model must be loaded anew.
            EngineError::Gpu { .. } => Self::new("The GPU failed while computing.")
                .kept("What was written is saved.")
                .advise(Advice::Reload)
                .advise(Advice::SetDevice { device: DeviceChoice::Cpu }),
            _ => Self::new("The model failed while computing.").kept("What was written is saved.").advise(Advice::Retry),
        };
        told.because(&error)
    }
}

fn of_file(name: &str, error: &EngineError) -> UserError {
    let told = match error {
        EngineError::BadModelFile { .. } => {
            UserError::new(format!("{name} is not a sound model file; it may have been cut short."))
                .hint("Fetch the file again and compare its checksum.")
        }
        _ => UserError::new(format!("The model file {name} cannot be read.")),
    };
    told.kept(CHATS_STAY).advise(Advice::ChooseModel)
}

/// `bytes`: needed, free.
fn out_of_memory(on: DeviceKind, kv: Held, bytes: [u64; 2], context_that_fits: usize) -> UserError {
    let [need, free] = bytes.map(size);
    let memory = match on {
        DeviceKind::Cpu => "memory",
        DeviceKind::Cuda => "GPU memory",
    };
    let told = UserError::new(format!("There is not enough {memory}: {need} are needed and {free} are free."));
    let told = told.kept(CHATS_STAY);
    let told = match u32::try_from(context_that_fits) {
        Ok(tokens) if tokens > 0 => {
            let told = told.advise(Advice::SetContext { tokens });
            let halved = on == DeviceKind::Cuda && !kv.is_8_bit();
            if halved { told.advise(Advice::SetKv { kv: KvFormat::Q8_0 }) } else { told }
        }
        _ => told.hint("Close other programs, or choose a smaller model.").advise(Advice::ChooseModel),
    };
    match on {
        DeviceKind::Cpu => told,
        DeviceKind::Cuda => told.advise(Advice::SetDevice { device: DeviceChoice::Cpu }),
    }
}

fn too_long(prompt_tokens: usize, context_tokens: usize) -> UserError {
    // One token must be left for the answer.
    let excess = (prompt_tokens + 1).saturating_sub(context_tokens);
    UserError::new(format!(
        "The question and its documents have {} tokens; the context holds {}.",
        grouped(prompt_tokens),
        grouped(context_tokens)
    ))
    .kept("Nothing was cut, read or sent; your text is still in the box.")
    .advise(Advice::Shorten { excess_tokens: u32::try_from(excess).unwrap_or(u32::MAX) })
    .advise(Advice::NewChat)
}
