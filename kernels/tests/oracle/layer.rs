//! Made-up layers for the tests.

use std::num::NonZeroUsize;

use half::bf16;
use mac_attention::{AttentionShape, KvView, Query, ThreadPool};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// K, V and queries of one layer for a whole text.
pub(crate) struct Layer {
    pub(crate) shape: AttentionShape,
    pub(crate) k: Vec<bf16>,
    pub(crate) v: Vec<bf16>,
    /// `[tokens, num_q_heads, head_dim]`.
    pub(crate) q_pre: Vec<f32>,
    pub(crate) q_rot: Vec<f32>,
    pub(crate) capacity: usize,
}

impl Layer {
    /// Normal keys and queries, scaled so that scores spread over a few nats; values with a mean that drifts with the
    /// position, so that forgetting any part of the text shows.
    pub(crate) fn random(num_q_heads: usize, num_kv_heads: usize, head_dim: usize, tokens: usize, seed: u64) -> Self {
        let shape = AttentionShape::new(num_q_heads, num_kv_heads, head_dim).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut v = Vec::with_capacity(num_kv_heads * tokens * head_dim);
        for _ in 0..num_kv_heads {
            for token in 0..tokens {
                let mean = (token as f32 / 50.0).sin();
                v.extend((0..head_dim).map(|_| bf16::from_f32(mean + normal(&mut rng))));
            }
        }
        let k = (0..num_kv_heads * tokens * head_dim).map(|_| bf16::from_f32(normal(&mut rng))).collect();
        let q_rot: Vec<f32> = (0..tokens * num_q_heads * head_dim).map(|_| 1.5 * normal(&mut rng)).collect();
        let q_pre = q_rot.iter().map(|x| x + 0.05 * normal(&mut rng)).collect();
        Self { shape, k, v, q_pre, q_rot, capacity: tokens }
    }

    pub(crate) fn kv(&self, len: usize) -> KvView<'_> {
        KvView::new(self.shape, &self.k, &self.v, self.capacity, len).unwrap()
    }

    pub(crate) fn row(&self) -> usize {
        self.shape.num_q_heads() * self.shape.head_dim()
    }

    /// Queries of positions `from..to`.
    pub(crate) fn queries(&self, from: usize, to: usize) -> Query<'_> {
        Query {
            pre: &self.q_pre[from * self.row()..to * self.row()],
            rot: &self.q_rot[from * self.row()..to * self.row()],
        }
    }

    /// Queries before rotation on a coarse grid around a slowly changing centre: many near, equal and distant pairs, and
    /// every squared distance exact in f32, so that decisions cannot depend on rounding.
    pub(crate) fn with_gridded_queries(mut self, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let row = self.row();
        for (i, x) in self.q_pre.iter_mut().enumerate() {
            let (token, column) = (i / row, i % row);
            let centre = f32::from(u8::from((token / 7 + column) % 5 == 0));
            *x = centre + 0.25 * f32::from(rng.random_range(-1_i8..=1));
        }
        self
    }
}

/// A standard normal number (Box and Muller).
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let (u, angle): (f32, f32) = (rng.random_range(f32::EPSILON..1.0), rng.random_range(0.0..std::f32::consts::TAU));
    (-2.0 * u.ln()).sqrt() * angle.cos()
}

pub(crate) fn pool(threads: usize) -> ThreadPool {
    ThreadPool::new(NonZeroUsize::new(threads).unwrap())
}
