//! K and V on the device: address space for the whole context, memory as far as it has grown.

use mac_attention::AttentionShape;
use mac_attention::cuda::{CudaElement, CudaError, Gpu, ReservedBuffer};

use crate::model::ModelSpec;
use crate::{EngineError, KvFormat};

/// Kernels read whole tiles of up to this many tokens: planes are a multiple of it, and memory reaches one tile further
/// than the tokens do.
const TILE_TOKENS: usize = 256;

impl KvFormat {
    /// As the attention kernels name it.
    pub fn element(self) -> CudaElement {
        match self {
            Self::Bf16 => CudaElement::Bf16,
            Self::Q8_0 => CudaElement::Q8,
            Self::Fp8 => CudaElement::Fp8,
        }
    }
}

/// Where one layer's keys and values lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KvAddresses {
    /// `[kv_head, stride, head_dim]`.
    pub(super) k: u64,
    /// Likewise.
    pub(super) v: u64,
    /// Of [`KvFormat::Q8_0`], f16 `[kv_head, stride, 2, slots]`; else 0.
    pub(super) scales: u64,
}

/// Memory of one kind, of one layer.
#[derive(Debug)]
struct Plane {
    buffer: ReservedBuffer,
    /// Bytes of a token in one head.
    row: usize,
}

/// Of all layers. Addresses never change.
#[derive(Debug)]
pub(super) struct DeviceKv {
    /// K, V and, where the format has them, scales.
    layers: Vec<Vec<Plane>>,
    shape: AttentionShape,
    format: KvFormat,
    capacity: usize,
    /// Tokens from one head's plane to the next.
    stride: usize,
    /// Tokens that have memory, in every head of every layer.
    backed_tokens: usize,
}

impl DeviceKv {
    /// Reserves addresses; no memory yet.
    pub(super) fn new(
        gpu: &Gpu,
        shape: AttentionShape,
        layers: usize,
        capacity: usize,
        format: KvFormat,
    ) -> Result<Self, EngineError> {
        let stride = capacity.next_multiple_of(TILE_TOKENS);
        let plane = |row: usize| -> Result<Plane, EngineError> {
            Ok(Plane { buffer: gpu.reserve(shape.num_kv_heads() * stride * row)?, row })
        };
        let rows = rows(format, shape.head_dim());
        let layers = (0..layers).map(|_| rows.iter().map(|row| plane(*row)).collect()).collect::<Result<_, _>>()?;
        Ok(Self { layers, shape, format, capacity, stride, backed_tokens: 0 })
    }

    /// Bytes that rounding up to tiles and pages may add to what the tokens need.
    pub(super) fn slack(spec: &ModelSpec, format: KvFormat) -> u64 {
        let pages = rows(format, spec.head_dim).len() * ReservedBuffer::USUAL_PAGE_BYTES;
        (spec.layers * pages) as u64 + TILE_TOKENS as u64 * spec.kv_bytes_per_token(format)
    }

    /// How it is held.
    pub(super) fn format(&self) -> KvFormat {
        self.format
    }

    /// Tokens reserved.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Tokens from one head's plane to the next.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Of a layer.
    pub(super) fn addresses(&self, layer: usize) -> KvAddresses {
        let at = |plane: usize| self.layers[layer].get(plane).map_or(0, |plane| plane.buffer.address());
        KvAddresses { k: at(0), v: at(1), scales: at(2) }
    }

    /// Of one head of a layer.
    pub(super) fn head_addresses(&self, layer: usize, head: usize) -> KvAddresses {
        let KvAddresses { k, v, scales } = self.addresses(layer);
        let beyond =
            |plane: usize| self.layers[layer].get(plane).map_or(0, |plane| (head * self.stride * plane.row) as u64);
        KvAddresses { k: k + beyond(0), v: v + beyond(1), scales: scales + beyond(2) }
    }

    /// Bytes that have memory.
    pub(super) fn backed_bytes(&self) -> u64 {
        self.layers.iter().flatten().map(|plane| plane.buffer.backed_bytes() as u64).sum()
    }

    /// Gives memory to the first `tokens` of every head, and to as many more as the pages reach anyway.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`] with the context that has memory: weights and all, that much fits.
    pub(super) fn back(&mut self, tokens: usize) -> Result<(), EngineError> {
        if tokens <= self.backed_tokens {
            return Ok(());
        }
        let first = self.layers.first().and_then(|planes| planes.first());
        let page_tokens = first.map_or(1, |plane| plane.buffer.page_bytes() / plane.row).max(1);
        let wanted = (tokens + TILE_TOKENS).next_multiple_of(page_tokens).min(self.stride);
        let full = grown_full(self.backed_tokens);
        for Plane { buffer, row } in self.layers.iter_mut().flatten() {
            for head in 0..self.shape.num_kv_heads() {
                let begin = head * self.stride * *row;
                buffer.back(begin, begin + wanted * *row).map_err(&full)?;
            }
        }
        self.backed_tokens = if wanted == self.stride { self.capacity } else { wanted - TILE_TOKENS };
        Ok(())
    }
}

/// What a failure to grow beyond so many tokens is told as.
pub(super) fn grown_full(context_that_fits: usize) -> impl Fn(CudaError) -> EngineError {
    move |error| match error {
        CudaError::OutOfMemory { need_bytes, free_bytes } => {
            EngineError::OutOfMemory { need_bytes, free_bytes, context_that_fits }
        }
        other => other.into(),
    }
}

/// Bytes of one token in one head's K, V and scales, if any.
fn rows(format: KvFormat, head_dim: usize) -> Vec<usize> {
    let row = head_dim * format.element().bytes();
    match format.element().scales_per_token(head_dim) {
        0 => vec![row; 2],
        scales => vec![row, row, scales * size_of::<half::f16>()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_cannot_grow_says_how_far_it_came() {
        let full = grown_full(7936);
        match full(CudaError::OutOfMemory { need_bytes: 2 << 20, free_bytes: 1 << 20 }) {
            EngineError::OutOfMemory { need_bytes, free_bytes, context_that_fits } => {
                assert_eq!([need_bytes, free_bytes, context_that_fits as u64], [2 << 20, 1 << 20, 7936]);
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(full(CudaError::NoDriver), EngineError::NoGpu { .. }));
    }

    #[test]
    fn plans_count_what_the_kernels_count() {
        for dim in AttentionShape::HEAD_DIMS {
            let shape = AttentionShape::new(12, 3, dim).unwrap();
            for format in KvFormat::ALL {
                assert_eq!(3 * 2 * format.row_bytes(dim), format.element().token_bytes(shape));
                assert_eq!(rows(format, dim).iter().sum::<usize>(), 2 * format.row_bytes(dim));
            }
        }
    }
}
