//! The only statement of what is supported.

use crate::KernelError;

/// Head layout of one attention layer, checked once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    num_q_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
}

impl AttentionShape {
    /// Head dimensions with a kernel.
    pub const HEAD_DIMS: [usize; 4] = [64, 96, 128, 256];
    /// Most query heads that may share a KV head.
    pub const MAX_GROUP: usize = 16;

    /// # Errors
    /// [`KernelError::UnsupportedShape`] if no kernel serves this layout.
    pub fn new(num_q_heads: usize, num_kv_heads: usize, head_dim: usize) -> Result<Self, KernelError> {
        let fits = num_kv_heads > 0
            && num_q_heads.is_multiple_of(num_kv_heads)
            && (1..=Self::MAX_GROUP).contains(&(num_q_heads / num_kv_heads.max(1)))
            && Self::HEAD_DIMS.contains(&head_dim);
        if fits {
            Ok(Self { num_q_heads, num_kv_heads, head_dim })
        } else {
            Err(KernelError::UnsupportedShape { num_q_heads, num_kv_heads, head_dim })
        }
    }

    /// Query heads.
    pub fn num_q_heads(&self) -> usize {
        self.num_q_heads
    }

    /// KV heads.
    pub fn num_kv_heads(&self) -> usize {
        self.num_kv_heads
    }

    /// Elements per head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Query heads per KV head (the GQA group).
    pub fn group_size(&self) -> usize {
        self.num_q_heads / self.num_kv_heads
    }

    /// 1/√D.
    pub fn softmax_scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Bytes of K and V of one token in this layer (16-bit elements).
    pub fn kv_bytes_per_token(&self) -> usize {
        2 * self.num_kv_heads * self.head_dim * size_of::<half::bf16>()
    }
}
