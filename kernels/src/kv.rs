//! A borrowed view of one layer's KV cache.

use half::bf16;

use crate::{AttentionShape, KernelError};

/// K (already rotated) and V of one layer, bf16, each `[num_kv_heads, capacity, head_dim]`: contiguous per head, of
/// which the first `len` tokens of every head are valid.
#[derive(Debug, Clone, Copy)]
pub struct KvView<'a> {
    k: &'a [bf16],
    v: &'a [bf16],
    shape: AttentionShape,
    head_stride: usize,
    len: usize,
}

impl<'a> KvView<'a> {
    /// # Errors
    /// [`KernelError::Length`] if a slice is not `num_kv_heads * capacity * head_dim` long or `len > capacity`.
    pub fn new(
        shape: AttentionShape,
        k: &'a [bf16],
        v: &'a [bf16],
        capacity: usize,
        len: usize,
    ) -> Result<Self, KernelError> {
        let head_stride = capacity * shape.head_dim();
        let expected = shape.num_kv_heads() * head_stride;
        for (what, slice) in [("keys", k), ("values", v)] {
            if slice.len() != expected {
                return Err(KernelError::Length { what, expected, got: slice.len() });
            }
        }
        if len > capacity {
            return Err(KernelError::Length { what: "valid tokens", expected: capacity, got: len });
        }
        Ok(Self { k, v, shape, head_stride, len })
    }

    /// Whose heads these are.
    pub fn shape(&self) -> AttentionShape {
        self.shape
    }

    /// Valid tokens.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No valid token.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keys of one KV head, `[len, head_dim]`.
    pub fn keys(&self, kv_head: usize) -> &'a [bf16] {
        &self.k[kv_head * self.head_stride..][..self.len * self.shape.head_dim()]
    }

    /// Values of one KV head, `[len, head_dim]`.
    pub fn values(&self, kv_head: usize) -> &'a [bf16] {
        &self.v[kv_head * self.head_stride..][..self.len * self.shape.head_dim()]
    }
}
