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
/// With 8 bits, weights are rounded to f16 once: by up to 2⁻¹¹, in the mean square by 2⁻¹¹ / √3 = 2.8e-4, and the output by as
/// much where values are as different as here. Three times that.
const ROUNDED_TOLERANCE: f64 = 8e-4;

#[test]
fn all_lengths_from_the_first_token() {
    let Some(gpu) = gpu() else { return };
    let shapes = [(1, 1, 64), (6, 2, 96), (14, 2, 64), (8, 2, 128), (32, 2, 128), (4, 4, 256), (130, 26, 64)];
    for shape in shapes {
        for element in [CudaElement::Bf16, CudaElement::F16, CudaElement::Q8, CudaElement::Fp8] {
            let layer = Layer::random(shape, element, 140, Queries::Grid, 3);
            let mut pair = Pair::new(&gpu, &layer, LAYOUT, 0);
            for pos in 0..140 {
                pair.step(pos, &Policy::Exact);
            }
            let most = if element.bytes() == 1 { ROUNDED_TOLERANCE } else { 1e-4 };
            println!("{shape:?} {element:?}: {:.1e}", pair.seen.worst);
            assert!(pair.seen.worst < most, "{shape:?} {element:?}: {:e}", pair.seen.worst);
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
        for element in [CudaElement::Bf16, CudaElement::Q8, CudaElement::Fp8] {
            let layer = Layer::random(shape, element, 9002, Queries::Grid, 4);
            let heads = [0, shape.0 - 1];
            for len in [255, 256, 257, 1000, 2049, 4097, 9001] {
                let error = error_at(&gpu, &layer, len, &heads);
                assert!(error < TOLERANCE, "{shape:?} {element:?} at {len}: {error:e}");
            }
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
    layer.hold();
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
        ((32, 8, 128), CudaElement::Q8, 126_976),
        ((32, 8, 128), CudaElement::Fp8, 126_976),
        ((6, 2, 96), CudaElement::Q8, 131_072),
        ((8, 2, 64), CudaElement::Q8, 262_147),
        ((16, 1, 256), CudaElement::Fp8, 100_003),
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
    device.overwrite(bytemuck::cast_slice(&k), bytemuck::cast_slice(&v), &[]);
    device.attention.seek(tokens - 1).unwrap();
    let out = device.step(tokens - 1);
    let rot = layer.queries(tokens - 1, tokens).rot;
    for (got, query) in out.chunks_exact(head_dim).zip(rot.chunks_exact(head_dim)) {
        let want =
            attend_numbers(query, k.iter().map(|x| x.to_f64()), &v.iter().map(|x| x.to_f64()).collect::<Vec<_>>());
        let error = relative_l2(got, &want);
        assert!(error < 1e-4, "{error:e}");
    }
}

/// Attention of one head in f64 over K and V as they come.
fn attend_numbers(query: &[f32], keys: impl Iterator<Item = f64>, values: &[f64]) -> Vec<f64> {
    let head_dim = query.len();
    let keys: Vec<f64> = keys.collect();
    let dot = |key: &[f64]| query.iter().zip(key).map(|(q, k)| f64::from(*q) * k).sum::<f64>();
    let scores: Vec<f64> = keys.chunks_exact(head_dim).map(|key| dot(key) / (head_dim as f64).sqrt()).collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scores.iter().map(|score| (score - top).exp()).sum();
    let mut out = vec![0.0; head_dim];
    for (value, score) in values.chunks_exact(head_dim).zip(&scores) {
        let weight = (score - top).exp() / total;
        out.iter_mut().zip(value).for_each(|(x, v)| *x += weight * v);
    }
    out
}

/// Scales as they come, of blocks from very small to large, with some of zero.
#[test]
fn integers_of_any_scale() {
    let Some(gpu) = gpu() else { return };
    let mut rng = ChaCha8Rng::seed_from_u64(14);
    for (shape, tokens) in [((4, 1, 64), 700), ((8, 1, 96), 311), ((8, 1, 128), 1025), ((16, 1, 256), 97)] {
        let (head_dim, layer) = (shape.2, Layer::random(shape, CudaElement::Q8, tokens, Queries::Grid, 15));
        let (blocks, places) = (head_dim / 32, CudaElement::Q8.scales_per_token(head_dim) / 2);
        let mut scales = vec![f16::ZERO; tokens * 2 * places];
        for place in &mut scales {
            let size = if rng.random_bool(0.05) { 0.0 } else { rng.random_range(-14.0f32..-4.0).exp2() };
            *place = f16::from_f32(size);
        }
        let mut draw = || -> Vec<u8> { (0..tokens * head_dim).map(|_| rng.random_range(1..=255)).collect() };
        let (k, v) = (draw(), draw());
        let number = |codes: &[u8], plane: usize| -> Vec<f64> {
            let scale = |i: usize| scales[(i / head_dim * 2 + plane) * places + i % head_dim / 32].to_f64();
            codes.iter().enumerate().map(|(i, code)| (f64::from(*code) - 128.0) * scale(i)).collect()
        };
        let (keys, values) = (number(&k, 0), number(&v, 1));
        let mut device = DeviceLayer::new(&gpu, &layer, LAYOUT);
        device.set_len(tokens);
        device.overwrite(&k, &v, &scales);
        device.attention.seek(tokens - 1).unwrap();
        let out = device.step(tokens - 1);
        let rot = layer.queries(tokens - 1, tokens).rot;
        let heads = out.chunks_exact(head_dim).zip(rot.chunks_exact(head_dim));
        let errors = heads.map(|(got, query)| relative_l2(got, &attend_numbers(query, keys.iter().copied(), &values)));
        let error =
            errors.fold(0.0, |worst, error| if error.is_finite() { f64::max(worst, error) } else { f64::INFINITY });
        println!("any scale, {shape:?}, {blocks} blocks a row: {error:.1e}");
        assert!(error < ROUNDED_TOLERANCE, "{shape:?}: {error:e}");
    }
}
