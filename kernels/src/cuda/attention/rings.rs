//! The rings of all layers of one sequence on the device, and what steps say about themselves.

use bytemuck::cast_slice_mut;

use super::super::{CudaError, DeviceBuffer, Gpu};
use super::abi::{PauseArgs, RingArgs, RingMeta};
use crate::{AttentionShape, KernelError, Ring, RingEntry, RingLayout};
use half::bf16;

/// One allocation per kind, layer after layer: forgetting and copying take one launch or copy for all.
#[derive(Debug)]
pub(super) struct Rings {
    shape: AttentionShape,
    layout: RingLayout,
    layers: usize,
    /// bf16 bits, `[layers, num_q_heads, slots, head_dim]`.
    query: DeviceBuffer<u16>,
    /// `[layers, num_q_heads, slots, head_dim]`.
    out: DeviceBuffer<f32>,
    /// `[layers, num_q_heads, slots]`.
    meta: DeviceBuffer<RingMeta>,
    /// `[layers, num_kv_heads]`.
    pauses: DeviceBuffer<PauseArgs>,
    /// `[layers, num_kv_heads]`.
    decisions: DeviceBuffer<u32>,
}

impl Rings {
    /// Empty rings.
    pub(super) fn new(gpu: &Gpu, shape: AttentionShape, layout: RingLayout, layers: usize) -> Result<Self, CudaError> {
        for (what, value) in [("ring slots", layout.slots), ("ring band", layout.band), ("layers", layers)] {
            if value == 0 || i32::try_from(value).is_err() {
                return Err(KernelError::Setting { what, why: format!("{value} is not in 1..2^31") }.into());
            }
        }
        let states = [layers, shape.num_q_heads(), layout.slots].iter().try_fold(1usize, |n, x| n.checked_mul(*x));
        let Some(states) = states.filter(|n| i32::try_from(*n).is_ok()) else {
            let why = format!("{} slots for {layers} layers are too many", layout.slots);
            return Err(KernelError::Setting { what: "ring slots", why }.into());
        };
        let mut rings = Self {
            shape,
            layout,
            layers,
            query: gpu.alloc(states * shape.head_dim())?,
            out: gpu.alloc(states * shape.head_dim())?,
            meta: gpu.alloc(states)?,
            pauses: gpu.alloc_zeroed(layers * shape.num_kv_heads())?,
            decisions: gpu.alloc_zeroed(layers * shape.num_kv_heads())?,
        };
        rings.meta.write(0, &vec![RingMeta::EMPTY; states])?;
        Ok(rings)
    }

    /// Heads and slots of one layer.
    fn states(&self) -> usize {
        self.shape.num_q_heads() * self.layout.slots
    }

    pub(super) fn args(&self, layer: usize) -> RingArgs {
        let state = layer * self.states();
        RingArgs {
            query: self.query.address_of(state * self.shape.head_dim()),
            out: self.out.address_of(state * self.shape.head_dim()),
            meta: self.meta.address_of(state),
            slots: self.layout.slots as i32,
            band: self.layout.band as i32,
        }
    }

    pub(super) fn pauses(&self, layer: usize) -> u64 {
        self.pauses.address_of(layer * self.shape.num_kv_heads())
    }

    pub(super) fn decisions(&self, layer: usize) -> u64 {
        self.decisions.address_of(layer * self.shape.num_kv_heads())
    }

    /// Query heads of all layers.
    pub(super) fn all_q_heads(&self) -> i32 {
        (self.layers * self.shape.num_q_heads()) as i32
    }

    /// KV heads of all layers.
    pub(super) fn all_kv_heads(&self) -> i32 {
        (self.layers * self.shape.num_kv_heads()) as i32
    }

    /// Bytes of device memory.
    pub(super) fn bytes(&self) -> usize {
        let row = self.shape.head_dim() * (size_of::<u16>() + size_of::<f32>()) + size_of::<RingMeta>();
        let groups = self.layers * self.shape.num_kv_heads() * (size_of::<PauseArgs>() + size_of::<u32>());
        self.layers * self.states() * row + groups
    }

    /// One layer's entries. A position that some head lacks is left out; back-off is not part of it.
    pub(super) fn download(&self, layer: usize) -> Result<Ring, CudaError> {
        let (states, head_dim, slots) = (self.states(), self.shape.head_dim(), self.layout.slots);
        let mut query = vec![bf16::ZERO; states * head_dim];
        let mut out = vec![0.0f32; states * head_dim];
        let mut meta = vec![RingMeta::EMPTY; states];
        self.query.read(layer * states * head_dim, cast_slice_mut(&mut query))?;
        self.out.read(layer * states * head_dim, &mut out)?;
        self.meta.read(layer * states, &mut meta)?;
        let mut ring = Ring::new(self.shape, self.layout)?;
        for slot in 0..slots {
            let Ok(pos) = usize::try_from(meta[slot].position) else { continue };
            let entries = (0..self.shape.num_q_heads()).map(|q_head| {
                let at = q_head * slots + slot;
                let RingMeta { lse, depth, distance, .. } = meta[at];
                let row = at * head_dim..(at + 1) * head_dim;
                let entry = RingEntry { pos, query: &query[row.clone()], out: &out[row], lse, depth, distance };
                (meta[at].position == meta[slot].position).then_some(entry)
            });
            if let Some(entries) = entries.collect::<Option<Vec<_>>>() {
                ring.restore(pos, &entries)?;
            }
        }
        Ok(ring)
    }

    /// Replaces one layer's entries.
    pub(super) fn upload(&mut self, layer: usize, ring: &Ring) -> Result<(), CudaError> {
        if ring.shape() != self.shape || ring.layout() != self.layout {
            let why = format!("{:?} {:?}, expected {:?} {:?}", ring.shape(), ring.layout(), self.shape, self.layout);
            return Err(KernelError::Setting { what: "ring", why }.into());
        }
        let (states, head_dim) = (self.states(), self.shape.head_dim());
        let mut query = vec![0u16; states * head_dim];
        let mut out = vec![0.0f32; states * head_dim];
        let mut meta = vec![RingMeta::EMPTY; states];
        for pos in ring.positions() {
            let Ok(position) = i32::try_from(pos) else { continue };
            for q_head in 0..self.shape.num_q_heads() {
                let Some(entry) = ring.entry(q_head, pos) else { continue };
                let at = q_head * self.layout.slots + pos % self.layout.slots;
                let row = at * head_dim..(at + 1) * head_dim;
                query[row.clone()].copy_from_slice(bytemuck::cast_slice(entry.query));
                out[row].copy_from_slice(entry.out);
                let RingEntry { lse, depth, distance, .. } = entry;
                meta[at] = RingMeta { position, lse, depth, distance };
            }
        }
        self.query.write(layer * states * head_dim, &query)?;
        self.out.write(layer * states * head_dim, &out)?;
        self.meta.write(layer * states, &meta)
    }
}
