//! Every token of every group, short, odd and very long.

use half::{bf16, f16};
use mac_attention::cuda::{CudaElement, Gpu};
use mac_attention::reference::{attend, relative_l2};
use mac_attention::{Policy, RingLayout};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::gpu;
use crate::layer::{DeviceLayer, Layer, Queries, normal};
use crate::pair::Pair;

const LAYOUT: RingLayout = RingLayout { slots: 16, band: 8 };
/// As in `pair`.
const TOLERANCE: f64 = 2e-3;

#[test]
fn all_lengths_from_the_first_token() {
    let Some(gpu) = gpu() else { return };
    let shapes = [(1, 1, 64), (6, 2, 96), (14, 2, 64), (8, 2, 128), (32, 2, 128), (4, 4, 256), (130, 26, 64)];
    for shape in shapes {
        for element in [CudaElement::Bf16, CudaElement::F16] {
            let layer = Layer::random(shape, element, 140, Queries::Grid, 3);
            let mut pair = Pair::new(&gpu, &layer, LAYOUT, 0);
            for pos in 0..140 {
                pair.step(pos, &Policy::Exact);
            }
            assert!(pair.seen.worst < 1e-4, "{shape:?} {element:?}: {:e}", pair.seen.worst);
        }
    }
}

/// Worst error of some heads at a length.
fn error_at(gpu: &Gpu, layer: &Layer, len: usize, heads: &[usize]) -> f64 {
    let mut device = DeviceLayer::new(gpu, layer, LAYOUT);
    device.set_len(len);
    device.attention.seek(len - 1).unwrap();
    let out = device.step(len - 1);
    let head_dim = layer.shape.head_dim();
    let rot = layer.queries(len - 1, len).rot;
    let errors = heads.iter().map(|head| {
        let span = head * head_dim..(head + 1) * head_dim;
        let want = attend(&rot[span.clone()], &layer.kv(len), head / layer.shape.group_size(), 0..len);
        relative_l2(&out[span], &want.out)
    });
    errors.fold(0.0, f64::max)
}

#[test]
fn odd_lengths_around_tiles_and_blocks() {
    let Some(gpu) = gpu() else { return };
    for shape in [(32, 8, 128), (28, 4, 128), (8, 2, 64), (12, 4, 96), (16, 8, 256), (16, 1, 256)] {
        let layer = Layer::random(shape, CudaElement::Bf16, 9002, Queries::Grid, 4);
        let heads = [0, shape.0 - 1];
        for len in [255, 256, 257, 1000, 2049, 4097, 9001] {
            let error = error_at(&gpu, &layer, len, &heads);
            assert!(error < TOLERANCE, "{shape:?} at {len}: {error:e}");
        }
    }
}

/// A layer of one query, at the last of `tokens` positions, whose K and V repeat a table: made quickly.
fn long_layer(shape: (usize, usize, usize), element: CudaElement, tokens: usize) -> Layer {
    /// Prime, so that rows do not repeat before the table is used up.
    const TABLE: usize = 65_521;
    let mut layer = Layer::random(shape, element, 1, Queries::Grid, 6);
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let table: Vec<bf16> = (0..TABLE).map(|_| bf16::from_f32(rng.random_range(-4..=4) as f32 * 0.375)).collect();
    let elements = shape.1 * tokens * shape.2;
    layer.k = table.iter().copied().cycle().take(elements).collect();
    layer.v = table.iter().copied().cycle().skip(31).take(elements).collect();
    layer.tokens = tokens;
    layer.first_query = tokens - 1;
    layer
}

#[test]
fn very_long_contexts() {
    let Some(gpu) = gpu() else { return };
    let cases = [
        ((32, 8, 128), CudaElement::Bf16, 126_976),
        ((32, 4, 128), CudaElement::F16, 100_001),
        ((8, 2, 64), CudaElement::Bf16, 524_288),
        ((16, 8, 256), CudaElement::Bf16, 32_771),
    ];
    for (shape, element, len) in cases {
        let layer = long_layer(shape, element, len);
        let error = error_at(&gpu, &layer, len, &[0, shape.0 / 2, shape.0 - 1]);
        println!("{shape:?} {element:?} at {len}: {error:.1e}");
        assert!(error < TOLERANCE, "{shape:?} {element:?} at {len}: {error:e}");
    }
}

#[test]
fn half_precision_keeps_its_extra_bits() {
    let Some(gpu) = gpu() else { return };
    // Numbers that bf16 would round: a kernel that went through bf16 would be off by about 4e-3.
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    let (tokens, head_dim) = (700, 128);
    let layer = Layer::random((4, 1, 128), CudaElement::F16, tokens, Queries::Grid, 13);
    let mut device = DeviceLayer::new(&gpu, &layer, LAYOUT);
    let mut draw = |count: usize| -> Vec<f16> { (0..count).map(|_| f16::from_f32(normal(&mut rng))).collect() };
    let (k, v) = (draw(tokens * head_dim), draw(tokens * head_dim));
    device.set_len(tokens);
    device.overwrite(&k, &v);
    device.attention.seek(tokens - 1).unwrap();
    let out = device.step(tokens - 1);
    let rot = layer.queries(tokens - 1, tokens).rot;
    for (got, query) in out.chunks_exact(head_dim).zip(rot.chunks_exact(head_dim)) {
        let scores: Vec<f64> = k
            .chunks_exact(head_dim)
            .map(|key| query.iter().zip(key).map(|(q, k)| f64::from(*q) * k.to_f64()).sum::<f64>() / 128f64.sqrt())
            .collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|score| (score - top).exp()).sum();
        let mut want = vec![0.0; head_dim];
        for (value, score) in v.chunks_exact(head_dim).zip(&scores) {
            let weight = (score - top).exp() / total;
            want.iter_mut().zip(value).for_each(|(x, v)| *x += weight * v.to_f64());
        }
        let error = relative_l2(got, &want);
        assert!(error < 1e-4, "{error:e}");
    }
}
