//! The KV cache: one stretch of address space, contiguous per head, committed by the system as tokens arrive.

use half::bf16;
use mac_attention::{AttentionShape, KernelError, KvView};
use memmap2::{MmapMut, MmapOptions};

use crate::EngineError;

/// K and V of all layers, bf16, `[layer][K|V][kv_head][capacity][head_dim]`; K already rotated.
#[derive(Debug)]
pub struct KvCache {
    memory: MmapMut,
    shape: AttentionShape,
    layers: usize,
    capacity: usize,
}

/// From this many bytes per head on, huge pages pay: fewer page walks while attention streams. Below, the first token
/// of every head would commit 2 MB.
const HUGE_PAGE_HEAD_BYTES: usize = 8 << 20;

impl KvCache {
    /// Reserves address space for `capacity` tokens.
    pub fn new(shape: AttentionShape, layers: usize, capacity: usize) -> Result<Self, EngineError> {
        let head_bytes = capacity * shape.head_dim() * size_of::<bf16>();
        let bytes = layers * 2 * shape.num_kv_heads() * head_bytes;
        let memory = MmapOptions::new().len(bytes.max(1)).no_reserve_swap().map_anon().map_err(|_| {
            EngineError::OutOfMemory {
                need_bytes: bytes as u64,
                free_bytes: crate::memory::available_bytes(),
                context_that_fits: 0,
            }
        })?;
        #[cfg(target_os = "linux")]
        if head_bytes >= HUGE_PAGE_HEAD_BYTES {
            // A wish: without it pages are small and everything still works.
            let _ = memory.advise(memmap2::Advice::HugePage);
        }
        Ok(Self { memory, shape, layers, capacity })
    }

    /// Tokens reserved.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    fn plane(&self) -> usize {
        self.shape.num_kv_heads() * self.capacity * self.shape.head_dim()
    }

    /// One layer with its first `len` tokens valid.
    pub fn view(&self, layer: usize, len: usize) -> Result<KvView<'_>, KernelError> {
        debug_assert!(layer < self.layers);
        let plane = self.plane();
        let all: &[bf16] = bytemuck::cast_slice(&self.memory);
        let (k, v) = all[layer * 2 * plane..][..2 * plane].split_at(plane);
        KvView::new(self.shape, k, v, self.capacity, len)
    }

    /// K and V of one layer for writing, each `[kv_head][capacity][head_dim]`.
    pub fn planes_mut(&mut self, layer: usize) -> (&mut [bf16], &mut [bf16]) {
        let plane = self.plane();
        let all: &mut [bf16] = bytemuck::cast_slice_mut(&mut self.memory);
        all[layer * 2 * plane..][..2 * plane].split_at_mut(plane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_planes_do_not_overlap() {
        let shape = AttentionShape::new(2, 1, 64).unwrap();
        let mut kv = KvCache::new(shape, 3, 10).unwrap();
        for layer in 0..3 {
            let (k, v) = kv.planes_mut(layer);
            k.fill(bf16::from_f32(layer as f32 + 1.0));
            v.fill(bf16::from_f32(-(layer as f32) - 1.0));
        }
        for layer in 0..3 {
            let view = kv.view(layer, 10).unwrap();
            assert!(view.keys(0).iter().all(|x| x.to_f32() == layer as f32 + 1.0));
            assert!(view.values(0).iter().all(|x| x.to_f32() == -(layer as f32) - 1.0));
        }
        assert!(kv.view(0, 11).is_err());
    }

    #[test]
    fn reserving_commits_nothing() {
        // 64 GB of address space; committing it would fail on most machines.
        let shape = AttentionShape::new(8, 8, 128).unwrap();
        let kv = KvCache::new(shape, 32, 1 << 19).unwrap();
        assert_eq!(kv.view(31, 0).unwrap().len(), 0);
    }
}
