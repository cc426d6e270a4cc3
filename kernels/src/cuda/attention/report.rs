//! Counters and outcomes of all layers: one device buffer, so that a step needs one copy.

use super::super::{CudaError, DeviceBuffer, Gpu, PinnedBuffer};
use super::abi::Totals;
use crate::{AttentionShape, Counters, HeadOutcome};

const WORDS: usize = size_of::<Totals>() / size_of::<u64>();

#[derive(Debug)]
pub(super) struct Report {
    shape: AttentionShape,
    layers: usize,
    /// `[layers]` [`Totals`], then `[layers, num_q_heads]` f32 of reused mass, then as many bytes of outcomes.
    device: DeviceBuffer<u64>,
    host: PinnedBuffer<u64>,
    /// `[layers]`, of the report before.
    before: Vec<Totals>,
    counters: Vec<Counters>,
}

impl Report {
    pub(super) fn new(gpu: &Gpu, shape: AttentionShape, layers: usize) -> Result<Self, CudaError> {
        let per_head = size_of::<f32>() + size_of::<u8>();
        let words = layers * WORDS + (layers * shape.num_q_heads() * per_head).div_ceil(size_of::<u64>());
        Ok(Self {
            shape,
            layers,
            device: gpu.alloc_zeroed(words)?,
            host: gpu.pinned(words)?,
            before: vec![Totals::default(); layers],
            counters: vec![Counters::default(); layers],
        })
    }

    pub(super) fn totals(&self, layer: usize) -> u64 {
        self.device.address_of(layer * WORDS)
    }

    pub(super) fn reused_mass(&self, layer: usize) -> u64 {
        self.device.address_of(self.layers * WORDS) + (layer * self.shape.num_q_heads() * size_of::<f32>()) as u64
    }

    pub(super) fn outcomes(&self, layer: usize) -> u64 {
        self.reused_mass(self.layers) + (layer * self.shape.num_q_heads()) as u64
    }

    /// Nothing was searched or reused in any layer, as far as the next report knows.
    pub(super) fn clear_outcomes(&mut self) -> Result<(), CudaError> {
        self.device.fill_bytes(self.layers * WORDS..self.device.len(), 0)
    }

    /// # Safety
    /// See [`DeviceBuffer::read_to_pinned`].
    pub(super) unsafe fn queue(&self) -> Result<(), CudaError> {
        // SAFETY: passed on.
        unsafe { self.device.read_to_pinned(&self.host) }
    }

    /// What happened between the last copy and the one read before it.
    pub(super) fn read(&mut self) -> &[Counters] {
        let (totals, per_head) = self.host.split_at(self.layers * WORDS);
        let totals: &[Totals] = bytemuck::cast_slice(totals);
        let heads = self.shape.num_q_heads();
        let (masses, outcomes) =
            bytemuck::cast_slice::<_, u8>(per_head).split_at(self.layers * heads * size_of::<f32>());
        let masses: &[f32] = bytemuck::cast_slice(masses);
        let layers = self.counters.iter_mut().zip(&mut self.before).zip(totals);
        let layers = layers.zip(outcomes.chunks_exact(heads)).zip(masses.chunks_exact(heads));
        for ((((counters, before), now), outcomes), masses) in layers {
            let since = |get: fn(&Totals) -> u64| get(now).wrapping_sub(get(before));
            counters.heads.clear();
            counters.heads.extend(outcomes.iter().map(|code| outcome(*code)));
            counters.reused_mass.clear();
            counters.reused_mass.extend_from_slice(masses);
            counters.groups = self.shape.num_kv_heads();
            counters.groups_reused = since(|t| t.groups_reused) as usize;
            counters.kv_bytes_read = since(|t| t.kv_bytes_read);
            counters.ring_bytes = since(|t| t.ring_bytes);
            counters.kv_bytes_exact = since(|t| t.kv_bytes_exact);
            *before = *now;
        }
        &self.counters
    }
}

fn outcome(code: u8) -> HeadOutcome {
    match code {
        1 => HeadOutcome::Missed,
        2 => HeadOutcome::Refreshed,
        3 => HeadOutcome::Reused,
        _ => HeadOutcome::NotSearched,
    }
}
