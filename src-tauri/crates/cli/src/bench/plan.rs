//! What a benchmark on a GPU takes into memory, and how long it runs.

use half::bf16;
use mac_attention::cuda::{CudaAttentionSetup, CudaElement, CudaError, CudaLayers, Gpu};
use mac_attention::{AttentionShape, Ring, RingLayout};

use crate::failure::Failure;

/// Steps that are timed per case unless a plan says otherwise; each is one replay of a graph over all layers.
const STEPS: usize = 34;
/// Steps before a case is timed.
pub(super) const WARM_UP: usize = 2;
/// Share of the free device memory that a benchmark may take.
const MEMORY_SHARE: f64 = 0.85;
/// Layers beyond this only cost memory.
const MAX_LAYERS: usize = 512;
/// Layers must hold this many times the second-level cache, both whole and in what a hit touches.
const CACHES: usize = 2;

/// A shape at a context, before any memory is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Plan {
    pub(crate) setup: CudaAttentionSetup,
    pub(crate) context: usize,
    /// Distance to the reused entry, in tokens.
    pub(crate) lag: usize,
    /// Longest pause of a search in `no_hit`.
    pub(crate) max_pause: u32,
    /// Steps that are timed per case.
    pub(crate) steps: usize,
    /// Steps of all cases together, and some more.
    pub(crate) room: usize,
}

/// Shortest context: cases need room around it.
pub(crate) const MIN_CONTEXT: usize = 1024;

impl Plan {
    /// A plan for one layer; see [`Self::fill`].
    pub(crate) fn new(shape: AttentionShape, context: usize, lag: usize, max_pause: u32, cases: usize) -> Self {
        let layout = RingLayout::default();
        let setup = CudaAttentionSetup { shape, element: CudaElement::Bf16, layout, layers: 1 };
        let room = cases * (WARM_UP + STEPS) + settling(max_pause);
        Self { setup, context, lag, max_pause, steps: STEPS, room }
    }

    /// `cases` cases of few steps each, and `more` steps beside them.
    pub(crate) fn with_steps(self, steps: usize, cases: usize, more: usize) -> Self {
        Self { steps, room: cases * (WARM_UP + steps) + more, ..self }
    }

    /// K and V of another type than bf16.
    pub(crate) fn with_element(mut self, element: CudaElement) -> Self {
        self.setup.element = element;
        self
    }

    /// Some layers, for a quick look.
    pub(crate) fn with_layers(mut self, layers: usize) -> Self {
        self.setup.layers = layers;
        self
    }

    /// As many layers as keep caches from helping, or as fit.
    pub(crate) fn fill(mut self, gpu: &Gpu) -> Result<Self, Failure> {
        let Self { setup: CudaAttentionSetup { shape, element, layout, .. }, context, lag, .. } = self;
        let token = element.token_bytes(shape);
        let queries = shape.num_q_heads() * shape.head_dim() * layout.slots * size_of::<bf16>();
        let hit = (layout.band + lag).min(context) * token + queries;
        let cache = CACHES * gpu.info().l2_bytes;
        let wanted = cache.div_ceil(hit.min(context * token)).clamp(8, MAX_LAYERS);
        let each = self.capacity() * token + Ring::bytes(shape, layout);
        let (free, _) = gpu.memory()?;
        let fits = (free as f64 * MEMORY_SHARE / each as f64) as usize;
        if fits < 2 {
            return Err(CudaError::OutOfMemory { need_bytes: 2 * each as u64, free_bytes: free }.into());
        }
        self.setup.layers = wanted.min(fits);
        Ok(self)
    }

    /// 16-bit words of K and V of all layers, scales apart.
    pub(crate) fn kv_words(&self) -> usize {
        CudaLayers::kv_words(self.setup, self.capacity())
    }

    /// Tokens that each layer has room for.
    pub(super) fn capacity(&self) -> usize {
        self.context + self.room
    }
}

/// Steps until pauses are as long as they get: tolerated misses, then pauses of 1, 2, 4 … up to the longest.
pub(super) fn settling(max_pause: u32) -> usize {
    9 + 4 * max_pause as usize
}
