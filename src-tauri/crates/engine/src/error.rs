//! Facts about what failed; advice is given at the window's border.

use std::path::PathBuf;

use crate::KvFormat;

/// Any failure of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A model file is damaged: wrong magic, cut short, sizes that do not fit.
    #[error("{path} is not a sound model file: {why}")]
    BadModelFile {
        /// Which file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// A model of a kind that the decoder does not serve.
    #[error("unsupported model: {why}")]
    UnsupportedModel {
        /// What is not supported, and what is.
        why: String,
    },
    /// The tokenizer or its file.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template failed or is missing.
    #[error("chat template: {0}")]
    Template(String),
    /// Weights, KV cache, rings and scratch do not fit.
    #[error("not enough memory: {} needed, {} free", amount(*need_bytes), amount(*free_bytes))]
    OutOfMemory {
        /// Bytes needed in all.
        need_bytes: u64,
        /// Bytes available.
        free_bytes: u64,
        /// Largest context, in tokens, that would fit; 0 if not even the weights do.
        context_that_fits: usize,
    },
    /// The prompt is longer than the context. Nothing was cut and nothing was read.
    #[error("the prompt has {prompt_tokens} tokens and the context holds {context_tokens}")]
    PromptTooLong {
        /// Exact prompt tokens.
        prompt_tokens: usize,
        /// Context capacity.
        context_tokens: usize,
    },
    /// A request that makes no sense (no message, a setting out of range).
    #[error("invalid request: {0}")]
    InvalidRequest(String),
    /// The engine thread is busy with another generation.
    #[error("the engine is busy")]
    Busy,
    /// The engine thread is gone.
    #[error("the engine has stopped")]
    Stopped,
    /// Loading was cancelled by its progress callback.
    #[error("cancelled")]
    Cancelled,
    /// A fault in the engine itself; the engine thread has ended.
    #[error("internal fault: {0}")]
    Internal(String),
    /// No GPU that could serve was found, or none was built in; the reason in words.
    #[error("no usable GPU: {why}")]
    NoGpu {
        /// What was looked for and not found.
        why: String,
    },
    /// An 8-bit KV cache was asked for on the processor.
    #[error("a {format} KV cache needs an NVIDIA GPU; the processor holds bf16")]
    KvNeedsGpu {
        /// What was asked for.
        format: KvFormat,
    },
    /// The GPU failed while it worked.
    #[error("GPU: {why}")]
    Gpu {
        /// The driver's or the wrapper's words.
        why: String,
    },
    /// Attention kernels.
    #[error("attention: {0}")]
    Kernel(#[from] mac_attention::KernelError),
    /// Tensor library.
    #[error("tensors: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// Bytes in words, as `17.2 GB`.
fn amount(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match UNITS.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(feature = "cuda")]
impl From<mac_attention::cuda::CudaError> for EngineError {
    fn from(error: mac_attention::cuda::CudaError) -> Self {
        use mac_attention::cuda::CudaError as E;
        match error {
            E::OutOfMemory { need_bytes, free_bytes } => {
                Self::OutOfMemory { need_bytes, free_bytes, context_that_fits: 0 }
            }
            E::NoDriver
            | E::OldDriver { .. }
            | E::Unusable { .. }
            | E::NoDevice { .. }
            | E::OldDevice { .. }
            | E::NoKernels
            | E::DeviceLimit { .. } => Self::NoGpu { why: error.to_string() },
            E::Kernel(error) => Self::Kernel(error),
            other => Self::Gpu { why: other.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_in_words() {
        let full = |need_bytes, free_bytes| {
            EngineError::OutOfMemory { need_bytes, free_bytes, context_that_fits: 0 }.to_string()
        };
        assert_eq!(full(17_179_869_184, 999_999_999), "not enough memory: 17.2 GB needed, 1000.0 MB free");
        assert_eq!(full(1_500, 999), "not enough memory: 1.5 kB needed, 999 B free");
    }
}
