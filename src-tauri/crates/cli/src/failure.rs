//! Facts from below become a sentence, advice and an exit code here, and nowhere else.

use std::io::Write;
use std::path::PathBuf;

use mac_attention::KernelError;
use mac_attention::cuda::CudaError;
use reprise_engine::EngineError;
use reprise_library::documents::DocumentError;
use reprise_library::models::ModelError;

use crate::figures::{bytes, grouped};
use crate::output::printable;

/// Why the command ends before its natural end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Flags that are fine alone and make no sense together.
    #[error("{0}")]
    Usage(String),
    /// The engine.
    #[error("{0}")]
    Engine(#[from] EngineError),
    /// A prompt that the context cannot hold, with what is needed to name the ways out.
    #[error("the prompt has {} tokens and the context holds {}; nothing was cut and nothing was read", grouped(.0.prompt_tokens as u64), grouped(.0.context_tokens as u64))]
    TooLong(TooLong),
    /// An attachment.
    #[error("{0}")]
    Document(DocumentError),
    /// A folder without anything to attach.
    #[error("{} holds no text that can be attached", .0.display())]
    EmptyFolder(PathBuf),
    /// A model name that leads nowhere.
    #[error("{0}")]
    Model(#[from] ModelError),
    /// The kernels refused a benchmark or a check.
    #[error("{0}")]
    Kernel(#[from] KernelError),
    /// The GPU, its driver or its kernels.
    #[error("{0}")]
    Cuda(#[from] CudaError),
    /// A benchmark that would time something else than it says.
    #[error("the benchmark refused to report: {0}")]
    Bench(String),
    /// The Python side of a comparison.
    #[error("{what}")]
    Python {
        /// What happened.
        what: String,
        /// What to do.
        advice: String,
    },
    /// The kernels disagree with the oracle.
    #[error("the attention kernels disagree with the oracle on this machine")]
    SelfCheck,
    /// Standard output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(std::io::Error),
    /// The reader of our output went away; nobody is left to tell.
    #[error("the output was closed")]
    PipeClosed,
    /// Ctrl-C before there was anything to keep.
    #[error("interrupted")]
    Interrupted,
    /// Already told, line by line; only the exit code is left.
    #[error("some questions failed")]
    Reported(u8),
}

/// What is known when a prompt does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong {
    pub(crate) prompt_tokens: usize,
    pub(crate) context_tokens: usize,
    /// The model's own limit.
    pub(crate) max_context_tokens: usize,
    /// K and V bytes of one token over all layers.
    pub(crate) kv_bytes_per_token: u64,
    /// Memory that could still be taken.
    pub(crate) free_bytes: u64,
}

/// Room for an answer that is added when a context is proposed, in tokens.
const ANSWER_ROOM: usize = 1024;

impl TooLong {
    fn advice(&self) -> String {
        let wanted = (self.prompt_tokens + ANSWER_ROOM).next_multiple_of(1024).min(self.max_context_tokens);
        let more = wanted.saturating_sub(self.context_tokens) as u64 * self.kv_bytes_per_token;
        if self.prompt_tokens >= self.max_context_tokens {
            let over = self.prompt_tokens + 1 - self.max_context_tokens;
            return format!(
                "attach fewer documents (at least {} tokens less), or use a model with a longer context: this one ends at {} tokens",
                grouped(over as u64),
                grouped(self.max_context_tokens as u64)
            );
        }
        let limit = grouped(self.max_context_tokens as u64);
        if more > self.free_bytes {
            let fits = self.context_tokens + (self.free_bytes / self.kv_bytes_per_token.max(1)) as usize;
            return format!(
                "attach fewer documents, or free memory: --context {wanted} would hold it (the model allows {limit}) but takes {} more and {} is free, enough for about {} tokens",
                bytes(more),
                bytes(self.free_bytes),
                grouped(fits as u64)
            );
        }
        format!(
            "use --context {wanted} ({} more memory; the model allows up to {limit}), or attach fewer documents",
            bytes(more)
        )
    }
}

impl Failure {
    /// 0, 1 or 2 as `reprise --help` says; 130 is the shells' code for an interrupt.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::PipeClosed => 0,
            Self::Usage(_) => 2,
            Self::Interrupted => 130,
            Self::Reported(code) => *code,
            _ => 1,
        }
    }

    /// What the user can do about it.
    pub(crate) fn advice(&self) -> Option<String> {
        let words = match self {
            Self::Usage(_) => "see `reprise --help`".to_owned(),
            Self::Engine(error) => return engine_advice(error),
            Self::TooLong(facts) => facts.advice(),
            Self::Document(error) => return document_advice(error).map(str::to_owned),
            Self::EmptyFolder(_) => "name the files themselves with --attach; the lines above say what was left out and why".to_owned(),
            Self::Model(_) => "see `reprise models list` for what is here, or give the path of a .gguf file".to_owned(),
            Self::Bench(_) => "please report this with the command you ran".to_owned(),
            Self::Cuda(error) => return cuda_advice(error).map(str::to_owned),
            Self::Python { advice, .. } => advice.clone(),
            Self::SelfCheck => "do not trust answers from this build on this machine; please report the output of `reprise doctor --json`".to_owned(),
            Self::Output(_) => "check the space left where the output goes".to_owned(),
            Self::Kernel(_) | Self::PipeClosed | Self::Interrupted | Self::Reported(_) => return None,
        };
        Some(words)
    }

    /// Says it on standard error and, where standard output belongs to JSON, as an `error` event too.
    pub(crate) fn report(&self, json: bool) {
        if matches!(self, Self::PipeClosed | Self::Reported(_)) {
            return;
        }
        let advice = self.advice();
        let mut stderr = std::io::stderr().lock();
        // Nothing is left to tell if standard error is gone as well.
        let _ = match &advice {
            Some(advice) => writeln!(stderr, "{}", printable(&format!("reprise: {self}; {advice}"))),
            None => writeln!(stderr, "{}", printable(&format!("reprise: {self}"))),
        };
        if json {
            let event = serde_json::json!({ "event": "error", "message": self.to_string(), "advice": advice });
            let _ = writeln!(std::io::stdout().lock(), "{event}");
        }
    }
}

fn engine_advice(error: &EngineError) -> Option<String> {
    let words = match error {
        EngineError::Io { .. } => "check the path and its permissions",
        EngineError::BadModelFile { .. } => "the download may be incomplete: fetch the file again and compare its size",
        EngineError::UnsupportedModel { .. } => {
            "use a Llama 3, Qwen 2.5, Qwen 3 or Mistral model as GGUF or safetensors"
        }
        EngineError::OutOfMemory { context_that_fits, .. } if *context_that_fits > 0 => {
            return Some(format!("use --context {context_that_fits} or less, or close other programs"));
        }
        EngineError::OutOfMemory { .. } => "use a smaller model or smaller weights, or close other programs",
        EngineError::PromptTooLong { .. } => "use a longer --context or attach fewer documents",
        EngineError::NoGpu { .. } => "use --device cpu; `reprise doctor` shows what was found",
        EngineError::KvNeedsGpu { .. } => "use --kv bf16, or --device cuda where there is an NVIDIA GPU",
        EngineError::Gpu { .. } => {
            "run `reprise doctor` to see whether the GPU computes right; --device cpu does without it"
        }
        EngineError::Tokenizer(_) | EngineError::Template(_) => {
            "the model's files do not fit together: fetch them again, all from the same place"
        }
        _ => return None,
    };
    Some(words.to_owned())
}

fn cuda_advice(error: &CudaError) -> Option<&'static str> {
    match error {
        CudaError::NoDriver => Some("install NVIDIA's driver, or use --device cpu"),
        CudaError::OldDriver { .. } => Some("install a newer NVIDIA driver, or use --device cpu"),
        CudaError::Unusable { .. } | CudaError::Driver { .. } => {
            Some("`nvidia-smi` shows whether the GPU works at all; a restart may help; or use --device cpu")
        }
        CudaError::NoDevice { .. } | CudaError::OldDevice { .. } | CudaError::DeviceLimit { .. } => {
            Some("use --device cpu")
        }
        CudaError::NoKernels | CudaError::MissingKernel { .. } => {
            Some("use a released program, or build it where CUDA's nvcc 13 is in PATH; or use --device cpu")
        }
        CudaError::OutOfMemory { .. } => Some("use a shorter --context, or close other programs that use the GPU"),
        _ => None,
    }
}

fn document_advice(error: &DocumentError) -> Option<&'static str> {
    match error {
        DocumentError::Io { .. } => Some("check the path and its permissions"),
        DocumentError::TooLarge { .. } => Some("split the file and attach the parts you need"),
        DocumentError::Encrypted { .. } => Some("save a copy without a password and attach that"),
        DocumentError::Damaged { .. } => Some("fetch the file again, or print it to a new PDF"),
        DocumentError::NoText { .. } => Some("it is probably a scan: run text recognition (OCR) on it first"),
        DocumentError::NotText { .. } => Some("attach a PDF, text or source file"),
        DocumentError::GaveUp { .. } => Some("print it to a new PDF, or attach the part you need"),
        _ => None,
    }
}

impl From<DocumentError> for Failure {
    fn from(error: DocumentError) -> Self {
        if matches!(error, DocumentError::Cancelled) { Self::Interrupted } else { Self::Document(error) }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe { Self::PipeClosed } else { Self::Output(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: TooLong = TooLong {
        prompt_tokens: 9000,
        context_tokens: 4096,
        max_context_tokens: 131_072,
        kv_bytes_per_token: 4096,
        free_bytes: 1 << 30,
    };

    #[test]
    fn a_long_prompt_is_told_the_context_that_holds_it() {
        let failure = Failure::TooLong(FACTS);
        assert!(failure.to_string().contains("9,000 tokens") && failure.to_string().contains("4,096"));
        let advice = failure.advice().unwrap_or_default();
        // 9,000 + 1,024 rounded up to 1,024s.
        assert!(advice.contains("--context 10240") && advice.contains("131,072"), "{advice}");
    }

    #[test]
    fn a_prompt_beyond_the_model_is_told_how_much_too_long_it_is() {
        let advice = TooLong { prompt_tokens: 140_000, ..FACTS }.advice();
        assert!(advice.contains("8,929 tokens less") && !advice.contains("--context"), "{advice}");
    }

    #[test]
    fn short_memory_is_named() {
        let advice = TooLong { free_bytes: 1 << 20, ..FACTS }.advice();
        assert!(advice.contains("free memory") && advice.contains("4,352 tokens"), "{advice}");
    }

    #[test]
    fn every_way_to_lack_a_gpu_has_its_own_way_out() {
        let advice = |error: CudaError| Failure::from(error).advice().unwrap_or_default();
        let old = CudaError::OldDriver { have: 12_040, need: 13_000 };
        assert_eq!(old.to_string(), "the NVIDIA driver speaks CUDA 12.4, the kernels need 13.0");
        assert!(advice(old).contains("newer NVIDIA driver"));
        assert!(advice(CudaError::NoDriver).contains("install NVIDIA's driver"));
        assert!(advice(CudaError::NoKernels).contains("nvcc"));
        let full = CudaError::OutOfMemory { need_bytes: 2, free_bytes: 1 };
        assert!(advice(full).contains("shorter --context"));
        assert!(advice(CudaError::NoDevice { ordinal: 0, count: 0 }).contains("--device cpu"));
    }

    #[test]
    fn exit_codes_are_those_of_the_help() {
        assert_eq!(Failure::Usage(String::new()).exit_code(), 2);
        assert_eq!(Failure::PipeClosed.exit_code(), 0);
        assert_eq!(Failure::from(EngineError::Busy).exit_code(), 1);
    }
}
