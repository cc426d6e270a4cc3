//! Made-up layers, on the host for the oracles and on the device for the kernels.

use half::{bf16, f16};
use mac_attention::cuda::{
    CudaAttention, CudaAttentionSetup, CudaElement, CudaError, CudaStep, DeviceBuffer, Gpu, HeldKv,
};
use mac_attention::{AttentionShape, KvView, Query, RingLayout};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// K, V and queries of one layer for a whole text. K and V are bf16 numbers that the element type holds exactly too.
pub(crate) struct Layer {
    pub(crate) shape: AttentionShape,
    pub(crate) element: CudaElement,
    pub(crate) tokens: usize,
    /// `[num_kv_heads, tokens, head_dim]`.
    pub(crate) k: Vec<bf16>,
    pub(crate) v: Vec<bf16>,
    /// K and V as the device holds them.
    held: HeldKv,
    /// `[tokens, num_q_heads, head_dim]`; after rotation as the device is given them, so rounded to 16 bits.
    pub(crate) q_pre: Vec<f32>,
    pub(crate) q_rot: Vec<f32>,
    /// Position of the first query.
    pub(crate) first_query: usize,
}

/// Queries before rotation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Queries {
    /// On a grid of quarters: every squared distance is exact in f32, so that no decision depends on rounding.
    Grid,
    /// Anything, with distances on both sides of the radius.
    Free,
}

impl Layer {
    pub(crate) fn random(
        (num_q_heads, num_kv_heads, head_dim): (usize, usize, usize),
        element: CudaElement,
        tokens: usize,
        queries: Queries,
        seed: u64,
    ) -> Self {
        let shape = AttentionShape::new(num_q_heads, num_kv_heads, head_dim).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut v = Vec::with_capacity(num_kv_heads * tokens * head_dim);
        for _ in 0..num_kv_heads {
            for token in 0..tokens {
                // A mean that drifts with the position, so that forgetting any part of the text shows.
                let mean = (token as f32 / 50.0).sin();
                v.extend((0..head_dim).map(|_| in_both(mean + normal(&mut rng))));
            }
        }
        let k = (0..num_kv_heads * tokens * head_dim).map(|_| in_both(normal(&mut rng))).collect();
        let rounded = |x: f32| match element.queries() {
            CudaElement::Bf16 => bf16::from_f32(x).to_f32(),
            _ => f16::from_f32(x).to_f32(),
        };
        let q_rot = (0..tokens * shape.num_q_heads() * head_dim).map(|_| rounded(1.5 * normal(&mut rng))).collect();
        let q_pre = match queries {
            Queries::Grid => wandering(shape, tokens, &mut rng, |rng, density| {
                if rng.random_bool(density) { 0.25 * f32::from(rng.random_range(-2_i8..=2)) } else { 0.0 }
            }),
            Queries::Free => wandering(shape, tokens, &mut rng, |rng, density| density as f32 * normal(rng)),
        };
        let mut layer = Self { shape, element, tokens, k, v, held: HeldKv::default(), q_pre, q_rot, first_query: 0 };
        layer.hold();
        layer
    }

    /// Rounds K and V to what the element type holds.
    pub(crate) fn hold(&mut self) {
        self.held = self.element.hold(self.shape.head_dim(), &mut self.k, &mut self.v);
    }

    /// Rows `from..to` (over all heads) of K (0) or V (1) as the device holds them.
    pub(crate) fn row_bytes(&self, plane: usize, from: usize, to: usize) -> &[u8] {
        let row = self.shape.head_dim() * self.element.bytes();
        &[&self.held.k, &self.held.v][plane][from * row..to * row]
    }

    /// Scales of rows `from..to` as the device holds them.
    pub(crate) fn scale_bits(&self, from: usize, to: usize) -> &[u16] {
        let row = self.element.scales_per_token(self.shape.head_dim());
        &self.held.scales[from * row..to * row]
    }

    pub(crate) fn row(&self) -> usize {
        self.shape.num_q_heads() * self.shape.head_dim()
    }

    pub(crate) fn kv(&self, len: usize) -> KvView<'_> {
        KvView::new(self.shape, &self.k, &self.v, self.tokens, len).unwrap()
    }

    /// Queries of positions `from..to`.
    pub(crate) fn queries(&self, from: usize, to: usize) -> Query<'_> {
        let span = (from - self.first_query) * self.row()..(to - self.first_query) * self.row();
        Query { pre: &self.q_pre[span.clone()], rot: &self.q_rot[span] }
    }

    /// In the 16 bits of queries.
    pub(crate) fn bits(&self, x: f32) -> u16 {
        match self.element.queries() {
            CudaElement::Bf16 => bf16::from_f32(x).to_bits(),
            _ => f16::from_f32(x).to_bits(),
        }
    }
}

/// Queries that return to one of a few places per head, more or less closely, and now and then go somewhere new.
fn wandering(
    shape: AttentionShape,
    tokens: usize,
    rng: &mut ChaCha8Rng,
    noise: impl Fn(&mut ChaCha8Rng, f64) -> f32,
) -> Vec<f32> {
    const PLACES: usize = 3;
    let (heads, head_dim) = (shape.num_q_heads(), shape.head_dim());
    let place = |rng: &mut ChaCha8Rng| -> Vec<f32> {
        (0..head_dim).map(|_| 0.25 * f32::from(rng.random_range(-7_i8..=7))).collect()
    };
    let places: Vec<Vec<f32>> = (0..PLACES * heads).map(|_| place(rng)).collect();
    let mut queries = Vec::with_capacity(tokens * heads * head_dim);
    for token in 0..tokens {
        // Every so often all heads go somewhere new for a while, so that searches begin to rest.
        let lost = token % 97 > 82;
        for head in 0..heads {
            if lost || rng.random_bool(0.05) {
                queries.extend(place(rng));
                continue;
            }
            let home = &places[rng.random_range(0..PLACES) * heads + head];
            let density = rng.random_range(0.05..0.9);
            queries.extend(home.iter().map(|x| x + noise(rng, density)));
        }
    }
    queries
}

/// The bf16 number nearest to `x` that f16 holds too.
fn in_both(x: f32) -> bf16 {
    bf16::from_f32(if x.abs() < 1e-3 { 0.0 } else { x })
}

/// A standard normal number (Box and Muller).
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let (u, angle): (f32, f32) = (rng.random_range(f32::EPSILON..1.0), rng.random_range(0.0..std::f32::consts::TAU));
    (-2.0 * u.ln()).sqrt() * angle.cos()
}

/// The layer on the device. K and V of tokens that have not come yet are NaN.
pub(crate) struct DeviceLayer<'a> {
    pub(crate) layer: &'a Layer,
    pub(crate) attention: CudaAttention,
    k: DeviceBuffer<u8>,
    v: DeviceBuffer<u8>,
    /// Of the format, or one that is not looked at.
    scales: DeviceBuffer<u16>,
    q_pre: DeviceBuffer<u16>,
    q_rot: DeviceBuffer<u16>,
    pub(crate) out: DeviceBuffer<f32>,
    /// Tokens whose K and V are there.
    len: usize,
}

/// NaN in bf16 and f16; its upper byte in e4m3.
const NAN_BITS: u16 = 0x7fff;

impl<'a> DeviceLayer<'a> {
    pub(crate) fn new(gpu: &Gpu, layer: &'a Layer, layout: RingLayout) -> Self {
        let setup = CudaAttentionSetup { shape: layer.shape, element: layer.element, layout, layers: 1 };
        let poison = |bytes: usize| bytemuck::cast_slice(&vec![NAN_BITS; bytes / 2]).to_vec();
        let bytes = layer.k.len() * layer.element.bytes();
        let scales = layer.shape.num_kv_heads() * layer.tokens * layer.element.scales_per_token(layer.shape.head_dim());
        Self {
            layer,
            attention: CudaAttention::new(gpu, setup).unwrap(),
            k: gpu.upload::<u8>(&poison(bytes)).unwrap(),
            v: gpu.upload::<u8>(&poison(bytes)).unwrap(),
            scales: gpu.upload(&vec![NAN_BITS; scales.max(8)]).unwrap(),
            q_pre: gpu.alloc(layer.row()).unwrap(),
            q_rot: gpu.alloc(layer.row()).unwrap(),
            out: gpu.alloc(layer.row()).unwrap(),
            len: 0,
        }
    }

    /// Makes K and V valid for exactly `len` tokens.
    pub(crate) fn set_len(&mut self, len: usize) {
        let (layer, dim) = (self.layer, self.layer.shape.head_dim());
        let (row, places) = (dim * layer.element.bytes(), layer.element.scales_per_token(dim));
        for kv_head in 0..layer.shape.num_kv_heads() {
            let at = |token: usize| kv_head * layer.tokens + token;
            let (old, new) = (at(self.len), at(len));
            for (plane, device) in [&mut self.k, &mut self.v].into_iter().enumerate() {
                if new > old {
                    device.write(old * row, layer.row_bytes(plane, old, new)).unwrap();
                } else {
                    let poison = vec![NAN_BITS; (old - new) * row / 2];
                    device.write(new * row, bytemuck::cast_slice(&poison)).unwrap();
                }
            }
            if places > 0 && new > old {
                self.scales.write(old * places, layer.scale_bits(old, new)).unwrap();
            } else if places > 0 {
                self.scales.write(new * places, &vec![NAN_BITS; (old - new) * places]).unwrap();
            }
        }
        self.len = len;
    }

    /// Puts other numbers into K and V, all of them, and scales where there are any.
    pub(crate) fn overwrite(&mut self, k: &[u8], v: &[u8], scales: &[f16]) {
        self.k.write(0, k).unwrap();
        self.v.write(0, v).unwrap();
        self.scales.write(0, bytemuck::cast_slice(scales)).unwrap();
    }

    pub(crate) fn addresses(&self) -> CudaStep {
        CudaStep {
            q_pre: self.q_pre.address(),
            q_rot: self.q_rot.address(),
            k: self.k.address(),
            v: self.v.address(),
            scales: if self.layer.element == CudaElement::Q8 { self.scales.address() } else { 0 },
            capacity: self.layer.tokens,
            out: self.out.address(),
        }
    }

    /// Everything that the step at `pos` reads, and a poisoned output.
    pub(crate) fn prepare(&mut self, pos: usize) {
        self.set_len(pos + 1);
        let query = self.layer.queries(pos, pos + 1);
        let pre: Vec<u16> = query.pre.iter().map(|x| bf16::from_f32(*x).to_bits()).collect();
        let rot: Vec<u16> = query.rot.iter().map(|x| self.layer.bits(*x)).collect();
        self.q_pre.write(0, &pre).unwrap();
        self.q_rot.write(0, &rot).unwrap();
        self.out.fill_bytes(0..self.out.len(), 0xff).unwrap();
    }

    /// As [`Self::step`], with the search left out.
    pub(crate) fn step_resting(&mut self, pos: usize) -> Vec<f32> {
        // SAFETY: as promised to the closure.
        self.launch(pos, |attention, step| unsafe { attention.step_resting(0, step) })
    }

    /// As [`Self::step`], exact whatever the policy.
    pub(crate) fn step_exact(&mut self, pos: usize) -> Vec<f32> {
        // SAFETY: as promised to the closure.
        self.launch(pos, |attention, step| unsafe { attention.step_exact(0, step) })
    }

    /// One step at the position after the cursor, launched one by one.
    pub(crate) fn step(&mut self, pos: usize) -> Vec<f32> {
        // SAFETY: as promised to the closure.
        self.launch(pos, |attention, step| unsafe { attention.step(0, step) })
    }

    /// `step` is given buffers of this struct, as large as the shape says; K and V are there up to `pos`.
    fn launch(
        &mut self,
        pos: usize,
        step: impl FnOnce(&CudaAttention, &CudaStep) -> Result<(), CudaError>,
    ) -> Vec<f32> {
        self.prepare(pos);
        let addresses = self.addresses();
        // SAFETY: K and V have room for `pos`.
        unsafe { self.attention.advance().unwrap() };
        step(&self.attention, &addresses).unwrap();
        // SAFETY: waited for below.
        unsafe { self.attention.queue_report().unwrap() };
        self.out.to_vec().unwrap()
    }
}
