//! K and V on the device: address space for the whole context, memory as far as it has grown.

use mac_attention::AttentionShape;
use mac_attention::cuda::{Gpu, ReservedBuffer};

use crate::EngineError;
use crate::model::ModelSpec;

/// Kernels read whole tiles of up to this many tokens: planes are a multiple of it, and memory reaches one tile further
/// than the tokens do.
const TILE_TOKENS: usize = 256;

/// Of all layers. Addresses never change.
#[derive(Debug)]
pub(super) struct DeviceKv {
    layers: Vec<[ReservedBuffer; 2]>,
    shape: AttentionShape,
    capacity: usize,
    /// Tokens from one head's plane to the next.
    stride: usize,
    /// Tokens that have memory, in every head of every layer.
    backed_tokens: usize,
}

impl DeviceKv {
    /// Reserves addresses; no memory yet.
    pub(super) fn new(gpu: &Gpu, shape: AttentionShape, layers: usize, capacity: usize) -> Result<Self, EngineError> {
        let stride = capacity.next_multiple_of(TILE_TOKENS);
        let bytes = shape.num_kv_heads() * stride * head_row_bytes(shape);
        let layers =
            (0..layers).map(|_| Ok([gpu.reserve(bytes)?, gpu.reserve(bytes)?])).collect::<Result<_, EngineError>>()?;
        Ok(Self { layers, shape, capacity, stride, backed_tokens: 0 })
    }

    /// Bytes that rounding up to tiles and pages may add to what the tokens need.
    pub(super) fn slack(spec: &ModelSpec) -> u64 {
        /// Of every device so far.
        const PAGE_BYTES: usize = 2 << 20;
        (spec.layers * 2 * (PAGE_BYTES + TILE_TOKENS * 2 * spec.kv_width())) as u64
    }

    /// Tokens reserved.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Tokens from one head's plane to the next.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Addresses of K and V of a layer, each `[kv_head, stride, head_dim]` bf16.
    pub(super) fn addresses(&self, layer: usize) -> (u64, u64) {
        let [k, v] = &self.layers[layer];
        (k.address(), v.address())
    }

    /// Bytes that have memory.
    pub(super) fn backed_bytes(&self) -> u64 {
        self.layers.iter().flatten().map(|buffer| buffer.backed_bytes() as u64).sum()
    }

    /// Gives memory to the first `tokens` of every head, and to as many more as the pages reach anyway.
    pub(super) fn back(&mut self, tokens: usize) -> Result<(), EngineError> {
        if tokens <= self.backed_tokens {
            return Ok(());
        }
        let row = head_row_bytes(self.shape);
        let page_tokens = self.layers.first().map_or(1, |[k, _]| k.page_bytes() / row).max(1);
        let wanted = (tokens + TILE_TOKENS).next_multiple_of(page_tokens).min(self.stride);
        for buffer in self.layers.iter_mut().flatten() {
            for head in 0..self.shape.num_kv_heads() {
                let begin = head * self.stride * row;
                buffer.back(begin, begin + wanted * row)?;
            }
        }
        self.backed_tokens = if wanted == self.stride { self.capacity } else { wanted - TILE_TOKENS };
        Ok(())
    }
}

/// Bytes of one token in one head's K or V.
fn head_row_bytes(shape: AttentionShape) -> usize {
    shape.head_dim() * size_of::<half::bf16>()
}
