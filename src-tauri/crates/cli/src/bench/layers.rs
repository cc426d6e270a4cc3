//! Layers of made-up KV and rings, more of them than the caches hold, so that a step meets memory as it does in a model.

use std::time::Instant;

use half::bf16;
use mac_attention::cpu::SimdLevel;
use mac_attention::reference::{attend, relative_l2};
use mac_attention::{
    AttentionShape, Backoff, Counters, DecodeAttention, Forced, KvView, Parallel, Pattern, Policy, Query, Ring,
    RingLayout,
};
use memmap2::MmapMut;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reprise_engine::EngineError;

use crate::failure::Failure;
use crate::machine::{free_memory, last_level_cache_bytes};

/// Length of the noise table in elements. Prime, so that rows of a power of two never repeat before the table is used up.
const NOISE: usize = 65_521;
/// Layers beyond this only cost memory.
pub(crate) const MAX_LAYERS: usize = 512;
/// Share of the free memory that a benchmark may take.
const MEMORY_SHARE: f64 = 0.5;

/// One layer.
struct Layer {
    /// `[num_kv_heads, context, head_dim]` bf16, in huge pages where the system has them, as the engine keeps it.
    k: MmapMut,
    v: MmapMut,
    ring: Ring,
    /// The ring of `no_hit`: its back-off stands as after a long run of misses, which hits of other cases would end.
    missed: Ring,
    /// Offset of its queries in the noise.
    offset: usize,
}

/// All layers of one context length, with what one step needs.
pub(crate) struct Layers {
    shape: AttentionShape,
    context: usize,
    stack: Vec<Layer>,
    attention: DecodeAttention,
    noise: Vec<f32>,
    out: Vec<f32>,
    counters: Counters,
}

/// What one pass over all layers took and touched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pass {
    /// Per layer.
    pub(crate) seconds: f64,
    /// KV and ring bytes, per layer.
    pub(crate) bytes: f64,
    pub(crate) heads_reused: usize,
    pub(crate) heads: usize,
    pub(crate) groups_reused: usize,
    pub(crate) groups: usize,
}

impl Layers {
    /// Builds layers, at most so many, and fills their rings. `lag_tokens` only sizes the working set of a hit.
    pub(crate) fn build(
        shape: AttentionShape,
        context: usize,
        lag_tokens: usize,
        most_layers: usize,
        pool: &dyn Parallel,
    ) -> Result<Self, Failure> {
        let layout = RingLayout::default();
        let count = layer_count(shape, layout, context, lag_tokens)?.min(most_layers);
        let noise = noise();
        let table: Vec<bf16> = noise.iter().map(|x| bf16::from_f32(*x)).collect();
        let elements = shape.num_kv_heads() * context * shape.head_dim();
        let stack = (0..count).map(|i| {
            let k = filled(&table, elements, i * 7919);
            let v = filled(&table, elements, i * 6007 + 31);
            Ok(Layer {
                k: k?,
                v: v?,
                ring: Ring::new(shape, layout)?,
                missed: Ring::new(shape, layout)?,
                offset: i * 4099,
            })
        });
        let stack = stack.collect::<Result<Vec<_>, Failure>>()?;
        let out = vec![0.0; shape.num_q_heads() * shape.head_dim()];
        let attention = DecodeAttention::new(shape, layout.band);
        let mut built = Self { shape, context, stack, attention, noise, out, counters: Counters::default() };
        built.seed_rings(layout, pool)?;
        Ok(built)
    }

    /// One exact step and then chained hits fill the first ring at the cost of its own length, where exact states would
    /// read the whole context once per slot; the other layers get copies. Times depend on what is there, not on its values.
    fn seed_rings(&mut self, layout: RingLayout, pool: &dyn Parallel) -> Result<(), Failure> {
        let first = self.context.saturating_sub(layout.slots).max(1);
        for len in first..self.context {
            let pattern = if len == first { Pattern::None } else { Pattern::All };
            let policy = Policy::Forced(Forced { pattern, lag_tokens: 1, backoff: Backoff::Off });
            self.step(0, len, &policy, pool)?;
        }
        if let Some((seeded, others)) = self.stack.split_first_mut() {
            seeded.missed.clone_from(&seeded.ring);
            for layer in others {
                layer.ring.clone_from(&seeded.ring);
                layer.missed.clone_from(&seeded.ring);
            }
        }
        Ok(())
    }

    /// Lets every layer miss until its pauses are as long as they get. Each layer stops at another place of the cycle,
    /// so that every later pass pays for searches in proportion.
    pub(crate) fn settle_misses(
        &mut self,
        policy: &Policy,
        max_pause: u32,
        pool: &dyn Parallel,
    ) -> Result<(), Failure> {
        let cycle = max_pause as usize + 1;
        // A few tolerated misses, then pauses of 1, 2, 4 … up to the longest.
        let growing = 8 + 3 * max_pause as usize;
        let layers = self.stack.len();
        for layer in 0..layers {
            for _ in 0..growing + layer * cycle / layers {
                self.step(layer, self.context, policy, pool)?;
            }
        }
        Ok(())
    }

    fn step(&mut self, layer: usize, len: usize, policy: &Policy, pool: &dyn Parallel) -> Result<(), Failure> {
        let Layer { k, v, ring, missed, offset } = &mut self.stack[layer];
        let never =
            matches!(policy, Policy::Forced(Forced { pattern: Pattern::None, backoff: Backoff::On { .. }, .. }));
        let ring = if never { missed } else { ring };
        let kv = KvView::new(self.shape, bytemuck::cast_slice(k), bytemuck::cast_slice(v), self.context, len)?;
        let query = queries(&self.noise, self.shape, *offset, len);
        self.attention.step(query, &kv, ring, policy, &mut self.out, &mut self.counters, pool)?;
        Ok(())
    }

    /// The newest token of every layer, one layer after the other as a model does.
    pub(crate) fn pass(&mut self, policy: impl Fn(usize) -> Policy, pool: &dyn Parallel) -> Result<Pass, Failure> {
        let policies: Vec<Policy> = (0..self.stack.len()).map(policy).collect();
        let mut total = Pass { seconds: 0.0, bytes: 0.0, heads_reused: 0, heads: 0, groups_reused: 0, groups: 0 };
        let start = Instant::now();
        for (layer, policy) in policies.iter().enumerate() {
            self.step(layer, self.context, policy, pool)?;
            total.bytes += (self.counters.kv_bytes_read + self.counters.ring_bytes) as f64;
            total.heads_reused += self.counters.heads_reused();
            total.heads += self.counters.heads.len();
            total.groups_reused += self.counters.groups_reused;
            total.groups += self.counters.groups;
        }
        let layers = self.stack.len() as f64;
        total.seconds = start.elapsed().as_secs_f64() / layers;
        total.bytes /= layers;
        Ok(total)
    }

    /// What is wrong must not be timed: one exact step, with and without a search beside it, against the oracle.
    pub(crate) fn verify(&mut self, pool: &dyn Parallel) -> Result<(), Failure> {
        /// Far above f32 rounding, far below what a single forgotten token of 100,000 does (about 3e-3).
        const WRONG: f64 = 1e-4;
        let no_hit = Forced { pattern: Pattern::None, lag_tokens: 1, backoff: Backoff::Off };
        for (name, policy) in [("exact", Policy::Exact), ("no_hit", Policy::Forced(no_hit))] {
            self.step(0, self.context, &policy, pool)?;
            let Layer { k, v, offset, .. } = &self.stack[0];
            let kv =
                KvView::new(self.shape, bytemuck::cast_slice(k), bytemuck::cast_slice(v), self.context, self.context)?;
            let rot = queries(&self.noise, self.shape, *offset, self.context).rot;
            let head_dim = self.shape.head_dim();
            for q_head in [0, self.shape.num_q_heads() - 1] {
                let span = q_head * head_dim..(q_head + 1) * head_dim;
                let want = attend(&rot[span.clone()], &kv, q_head / self.shape.group_size(), 0..self.context);
                let error = relative_l2(&self.out[span], &want.out);
                if error > WRONG {
                    return Err(Failure::Bench(format!("{name}: query head {q_head} is off by {error:.1e}")));
                }
            }
        }
        Ok(())
    }

    /// Bytes per second of a plain sum over all K and V, on the same threads.
    pub(crate) fn read_bandwidth(&self, pool: &dyn Parallel) -> f64 {
        let level = SimdLevel::best();
        let start = Instant::now();
        let sums = self.stack.iter().flat_map(|l| [&l.k, &l.v]).map(|map| level.sum(bytemuck::cast_slice(map), pool));
        std::hint::black_box(sums.fold(0, u64::wrapping_add));
        self.kv_bytes() as f64 / start.elapsed().as_secs_f64()
    }

    /// Layers.
    pub(crate) fn count(&self) -> usize {
        self.stack.len()
    }

    /// K and V of all layers.
    pub(crate) fn kv_bytes(&self) -> usize {
        self.stack.len() * self.context * self.shape.kv_bytes_per_token()
    }
}

/// Enough layers that neither exact reads nor the far smaller working set of hits stay in the last-level cache, within
/// the memory that is free.
fn layer_count(shape: AttentionShape, layout: RingLayout, context: usize, lag_tokens: usize) -> Result<usize, Failure> {
    let kv = context * shape.kv_bytes_per_token();
    let each = kv + 2 * Ring::bytes(shape, layout);
    let queries = shape.num_q_heads() * shape.head_dim() * layout.slots * size_of::<bf16>();
    let hit = (layout.band + lag_tokens).min(context) * shape.kv_bytes_per_token() + queries;
    let cache = last_level_cache_bytes();
    let wanted = (4 * cache).div_ceil(kv.max(1)).max((2 * cache).div_ceil(hit.max(1))).clamp(2, MAX_LAYERS);
    let free = free_memory();
    let fits = (free as f64 * MEMORY_SHARE / each.max(1) as f64) as usize;
    if fits < 2 {
        let per_token = (2 * shape.kv_bytes_per_token()) as f64;
        let context_that_fits = (free as f64 * MEMORY_SHARE / per_token) as usize;
        return Err(
            EngineError::OutOfMemory { need_bytes: 2 * each as u64, free_bytes: free, context_that_fits }.into()
        );
    }
    Ok(wanted.min(fits))
}

/// Queries of one token, of different noise before and after `RoPE`: the kernel must not profit from equal inputs.
fn queries(noise: &[f32], shape: AttentionShape, offset: usize, len: usize) -> Query<'_> {
    let width = shape.num_q_heads() * shape.head_dim();
    let at = |stride: usize| (offset + len * stride) % (noise.len() - width);
    Query { pre: &noise[at(977)..][..width], rot: &noise[at(1409)..][..width] }
}

/// About normal, variance 1: sums of four uniform draws.
fn noise() -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(0x5eed);
    // Var of one draw in −1..1 is 1/3, of four 4/3.
    let scale = (3.0f32 / 4.0).sqrt();
    (0..NOISE).map(|_| (0..4).map(|_| rng.random_range(-1.0f32..1.0)).sum::<f32>() * scale).collect()
}

/// `elements` values of the table, beginning at `offset` and going round.
fn filled(table: &[bf16], elements: usize, offset: usize) -> Result<MmapMut, Failure> {
    let bytes = elements * size_of::<bf16>();
    let no_memory =
        |_| EngineError::OutOfMemory { need_bytes: bytes as u64, free_bytes: free_memory(), context_that_fits: 0 };
    let mut map = MmapMut::map_anon(bytes).map_err(no_memory)?;
    #[cfg(target_os = "linux")]
    // Only advice: without it the pages are small.
    drop(map.advise(memmap2::Advice::HugePage));
    let mut from = offset % table.len();
    let mut rest: &mut [bf16] = bytemuck::cast_slice_mut(&mut map);
    while !rest.is_empty() {
        let n = (table.len() - from).min(rest.len());
        let (now, later) = rest.split_at_mut(n);
        now.copy_from_slice(&table[from..from + n]);
        from = 0;
        rest = later;
    }
    Ok(map)
}
