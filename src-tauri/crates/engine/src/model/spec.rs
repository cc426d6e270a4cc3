//! Sizes and rules of one decoder.

use mac_attention::AttentionShape;

use super::Rope;
use crate::{EngineError, KvFormat};

/// Families that the one decoder serves by configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2 and 3, and everything that copies them.
    Llama,
    /// Mistral without an active sliding window.
    Mistral,
    /// Qwen2 and Qwen2.5: biases on Q, K and V.
    Qwen2,
    /// Qwen3: RMS norm over every query and key head.
    Qwen3,
}

impl Architecture {
    /// For refusals.
    pub const SUPPORTED: &'static str = "llama, mistral, qwen2, qwen3";

    /// As written in configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }
}

/// A checked description; inner code never meets a bad value.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "four independent facts of a checkpoint, named where they are read")]
pub struct ModelSpec {
    /// Family.
    pub architecture: Architecture,
    /// Decoder layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Query heads per layer.
    pub num_q_heads: usize,
    /// KV heads per layer.
    pub num_kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Width of the gated MLP.
    pub d_ff: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Added to the mean square in every RMS norm.
    pub norm_eps: f32,
    /// Biases on Q, K and V.
    pub qkv_bias: bool,
    /// Bias on the attention output projection.
    pub o_bias: bool,
    /// RMS norm over each query and key head, before `RoPE`.
    pub qk_norm: bool,
    /// The output matrix is the embedding.
    pub tied_embeddings: bool,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Longest context the model claims, in tokens.
    pub max_context_tokens: usize,
}

/// Bounds that no served model comes near; they keep every product of sizes far from overflow.
const MAX_LAYERS: usize = 1024;
const MAX_WIDTH: usize = 1 << 18;
const MAX_VOCAB: usize = 1 << 22;

impl ModelSpec {
    /// Checks sizes against each other and against what the kernels serve.
    pub fn check(self) -> Result<Self, EngineError> {
        let unsupported = |why: String| Err(EngineError::UnsupportedModel { why });
        for (what, value, limit) in [
            ("layers", self.layers, MAX_LAYERS),
            ("hidden size", self.d_model, MAX_WIDTH),
            ("intermediate size", self.d_ff, MAX_WIDTH),
            ("attention width", self.num_q_heads.saturating_mul(self.head_dim), MAX_WIDTH),
            ("vocabulary", self.vocab, MAX_VOCAB),
            ("context", self.max_context_tokens, 1 << 26),
        ] {
            if value == 0 || value > limit {
                return unsupported(format!("{what} is {value}, supported is 1..={limit}"));
            }
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return unsupported(format!("norm epsilon {} is not a small number", self.norm_eps));
        }
        self.attention_shape().map_err(|e| EngineError::UnsupportedModel { why: e.to_string() })?;
        self.rope.check(self.head_dim)?;
        Ok(self)
    }

    /// Head layout for the attention kernels.
    pub fn attention_shape(&self) -> Result<AttentionShape, mac_attention::KernelError> {
        AttentionShape::new(self.num_q_heads, self.num_kv_heads, self.head_dim)
    }

    /// Width of all query heads.
    pub fn q_width(&self) -> usize {
        self.num_q_heads * self.head_dim
    }

    /// Width of all KV heads.
    pub fn kv_width(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// Matrix elements of all layers, the embedding and an untied head.
    pub fn parameters(&self) -> u64 {
        let attention = self.d_model * (2 * self.q_width() + 2 * self.kv_width());
        let layer = attention + 3 * self.d_model * self.d_ff + 2 * self.d_model;
        let tables = if self.tied_embeddings { 1 } else { 2 };
        (self.layers * layer + tables * self.vocab * self.d_model + self.d_model) as u64
    }

    /// K and V bytes of one token over all layers.
    pub fn kv_bytes_per_token(&self, format: KvFormat) -> u64 {
        (self.layers * 2 * self.num_kv_heads * format.row_bytes(self.head_dim)) as u64
    }
}
