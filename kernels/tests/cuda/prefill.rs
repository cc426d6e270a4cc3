//! Chunks of a prompt against the f64 oracle: outputs, ring entries, and decoding that goes on from them.

use half::{bf16, f16};
use mac_attention::cuda::{CudaAttention, CudaElement, CudaPrefillChunk, DeviceBuffer, Gpu};
use mac_attention::reference::{ReferenceRing, attend, relative_l2};
use mac_attention::{Backoff, Paper, Policy, RingLayout};

use crate::gpu;
use crate::layer::{DeviceLayer, Layer, Queries};

/// Rounding weights and output to bf16 costs about 1.2e-3 each; twice their sum.
const OUT_TOLERANCE: f64 = 5e-3;
/// States keep f32, and their weights 16 bits more.
const STATE_TOLERANCE: f64 = 1e-4;

/// Reads `tokens` tokens in chunks; outputs `[tokens, num_q_heads, head_dim]`.
struct Prompt<'a> {
    device: DeviceLayer<'a>,
    pre: DeviceBuffer<u16>,
    rot: DeviceBuffer<u16>,
    out: DeviceBuffer<u16>,
}

/// Numbers between a token's last head and the next token, to be left alone.
const SPARE: usize = 24;

impl<'a> Prompt<'a> {
    fn new(gpu: &Gpu, layer: &'a Layer, layout: RingLayout) -> Self {
        let (row, stride) = (layer.row(), layer.row() + SPARE);
        let spread = |values: &[f32], bits: &dyn Fn(f32) -> u16| -> Vec<u16> {
            let rows = values.chunks_exact(row);
            rows.flat_map(|row| row.iter().map(|x| bits(*x)).chain([0x7fff; SPARE]).collect::<Vec<_>>()).collect()
        };
        let pre = spread(&layer.q_pre, &|x| bf16::from_f32(x).to_bits());
        let rot = spread(&layer.q_rot, &|x| layer.bits(x));
        let poison = vec![0x7fffu16; layer.tokens * stride];
        Self {
            device: DeviceLayer::new(gpu, layer, layout),
            pre: gpu.upload(&pre).unwrap(),
            rot: gpu.upload(&rot).unwrap(),
            out: gpu.upload(&poison).unwrap(),
        }
    }

    /// Tokens `begin..end` as one chunk.
    fn read(&mut self, begin: usize, end: usize, seed_from: usize) {
        self.device.set_len(end);
        let stride = self.device.layer.row() + SPARE;
        let step = self.device.addresses();
        let chunk = CudaPrefillChunk {
            q_pre: self.pre.address_of(begin * stride),
            q_pre_stride: stride,
            q_rot: self.rot.address_of(begin * stride),
            q_rot_stride: stride,
            k: step.k,
            v: step.v,
            scales: step.scales,
            capacity: step.capacity,
            out: self.out.address_of(begin * stride),
            out_stride: stride,
            begin,
            n: end - begin,
            seed_from,
        };
        self.device.attention.back_reading(end, step.capacity).unwrap();
        // SAFETY: buffers of this struct, as large as the strides say; K and V are there up to `end`.
        unsafe { self.device.attention.prefill(0, &chunk).unwrap() };
    }

    /// Worst error of the outputs at `positions`, and whether anything else was written.
    fn check_out(&self, positions: impl Iterator<Item = usize>) -> f64 {
        let layer = self.device.layer;
        let (row, head_dim, stride) = (layer.row(), layer.shape.head_dim(), layer.row() + SPARE);
        let bits = self.out.to_vec().unwrap();
        let number = |bits: u16| match layer.element.queries() {
            CudaElement::Bf16 => bf16::from_bits(bits).to_f32(),
            _ => f16::from_bits(bits).to_f32(),
        };
        let mut worst = 0.0;
        for pos in positions {
            let token = &bits[pos * stride..(pos + 1) * stride];
            assert!(token[row..].iter().all(|bits| *bits == 0x7fff), "written beyond the row of {pos}");
            let rot = layer.queries(pos, pos + 1).rot;
            for q_head in 0..layer.shape.num_q_heads() {
                let span = q_head * head_dim..(q_head + 1) * head_dim;
                let got: Vec<f32> = token[span.clone()].iter().map(|bits| number(*bits)).collect();
                let want = attend(&rot[span], &layer.kv(pos + 1), q_head / layer.shape.group_size(), 0..pos + 1);
                let error = relative_l2(&got, &want.out);
                assert!(error < OUT_TOLERANCE, "head {q_head} at {pos}: {error:e}");
                worst = f64::max(worst, error);
            }
        }
        worst
    }
}

fn check(gpu: &Gpu, shape: (usize, usize, usize), element: CudaElement, layout: RingLayout, cuts: &[usize]) {
    let end = *cuts.last().unwrap();
    let layer = Layer::random(shape, element, end + 12, Queries::Grid, 40 + shape.0 as u64);
    let mut prompt = Prompt::new(gpu, &layer, layout);
    let mut begin = 0;
    for &cut in cuts {
        prompt.read(begin, cut, 0);
        begin = cut;
    }
    let step = (end / 60).max(1);
    let edges = cuts.iter().flat_map(|cut| [cut.saturating_sub(1), (*cut).min(end - 1)]);
    let worst = prompt.check_out((0..end).step_by(step).chain(edges));

    let mut oracle = ReferenceRing::new(layer.shape, layout);
    let ring = prompt.device.attention.ring(0).unwrap();
    let first = end.saturating_sub(layout.slots);
    assert_eq!(ring.positions().count(), end - first, "{shape:?}");
    let mut worst_state = 0.0;
    for pos in first..end {
        let query = layer.queries(pos, pos + 1);
        oracle.seed(query.pre, query.rot, &layer.kv(end), pos);
        for q_head in 0..layer.shape.num_q_heads() {
            let (got, want) = (ring.entry(q_head, pos).unwrap(), oracle.entry(q_head, pos).unwrap());
            assert_eq!((got.query, got.depth, got.distance), (&want.query[..], 0, 0.0), "{shape:?} at {pos}");
            if want.state.lse == f64::NEG_INFINITY {
                assert!(got.lse == f32::NEG_INFINITY && got.out.iter().all(|x| *x == 0.0), "{shape:?} at {pos}");
                continue;
            }
            let error = relative_l2(got.out, &want.state.out);
            assert!(error < STATE_TOLERANCE, "state of head {q_head} at {pos}: {error:e}");
            assert!((f64::from(got.lse) - want.state.lse).abs() < 1e-3, "log-sum-exp at {pos}");
            worst_state = f64::max(worst_state, error);
        }
    }
    println!("prefill {shape:?} {element:?} in {} chunks to {end}: {worst:.1e}, states {worst_state:.1e}", cuts.len());

    let policy = Policy::Paper(Paper { threshold: 0.7, min_context: 0, backoff: Backoff::Off });
    prompt.device.attention.seek(end).unwrap();
    prompt.device.attention.set_policy(0, &policy).unwrap();
    let head_dim = layer.shape.head_dim();
    for pos in end..end + 12 {
        let query = layer.queries(pos, pos + 1);
        let want = oracle.step(query.pre, query.rot, &layer.kv(pos + 1), &policy);
        let got = prompt.device.step(pos);
        assert_eq!(prompt.device.attention.report().unwrap()[0].heads, want.outcomes, "{shape:?} at {pos}");
        for (got, want) in got.chunks_exact(head_dim).zip(&want.out) {
            assert!(relative_l2(got, want) < 2e-3, "{shape:?} at {pos}");
        }
    }
}

#[test]
fn chunks_of_any_length_leave_what_the_oracle_leaves() {
    let Some(gpu) = gpu() else { return };
    let layout = RingLayout { slots: 48, band: 32 };
    let shapes = [(8, 2, 64), (6, 2, 96), (12, 3, 128), (28, 4, 128), (16, 8, 256), (16, 1, 64), (3, 3, 128)];
    for shape in shapes {
        for element in [CudaElement::Bf16, CudaElement::F16, CudaElement::Q8, CudaElement::Fp8] {
            check(&gpu, shape, element, layout, &[1, 2, 19, 147, 148, 340]);
        }
    }
}

#[test]
fn the_default_ring_is_seeded_after_a_longer_prompt() {
    let Some(gpu) = gpu() else { return };
    for shape in [(32, 8, 128), (8, 2, 64)] {
        check(&gpu, shape, CudaElement::Bf16, RingLayout::default(), &[700]);
    }
}

#[test]
fn few_rows_share_their_tokens_out() {
    let Some(gpu) = gpu() else { return };
    // A chunk of 5 tokens far into the text: splits join what several blocks saw.
    let cases = [
        ((8, 2, 64), CudaElement::Bf16),
        ((32, 4, 128), CudaElement::F16),
        ((16, 1, 256), CudaElement::Bf16),
        ((28, 4, 128), CudaElement::Q8),
        ((6, 2, 96), CudaElement::Fp8),
    ];
    for (shape, element) in cases {
        check(&gpu, shape, element, RingLayout { slots: 8, band: 256 }, &[2600, 5195, 5200]);
    }
}

#[test]
fn only_what_is_asked_for_is_seeded_and_nonsense_is_refused() {
    let Some(gpu) = gpu() else { return };
    let layer = Layer::random((8, 2, 64), CudaElement::Bf16, 100, Queries::Grid, 50);
    let mut prompt = Prompt::new(&gpu, &layer, RingLayout { slots: 32, band: 16 });
    for (begin, end, seed_from, entries) in [(0, 60, usize::MAX, 0), (60, 90, 85, 5), (90, 100, 0, 15)] {
        prompt.read(begin, end, seed_from);
        let ring = prompt.device.attention.ring(0).unwrap();
        assert_eq!(ring.positions().count(), entries);
        assert!(ring.positions().all(|pos| pos >= 85));
    }
    prompt.check_out(0..100);
    let step = prompt.device.addresses();
    let fine = CudaPrefillChunk {
        q_pre: 256,
        q_pre_stride: 512,
        q_rot: 256,
        q_rot_stride: 512,
        k: step.k,
        v: step.v,
        scales: 0,
        capacity: 100,
        out: 256,
        out_stride: 512,
        begin: 0,
        n: 100,
        seed_from: 0,
    };
    let wrong = [
        CudaPrefillChunk { n: 101, ..fine },
        CudaPrefillChunk { begin: usize::MAX, ..fine },
        CudaPrefillChunk { q_rot_stride: 511, ..fine },
        CudaPrefillChunk { out_stride: 516, ..fine },
        CudaPrefillChunk { q_pre: 264, ..fine },
    ];
    for chunk in wrong {
        // SAFETY: refused before anything is launched.
        assert!(unsafe { prompt.device.attention.prefill(0, &chunk) }.is_err(), "{chunk:?}");
    }
    // SAFETY: as above.
    assert!(unsafe { prompt.device.attention.prefill(1, &fine) }.is_err(), "no such layer");
}

#[test]
fn rows_of_8_bits_need_room_to_be_read_and_take_what_was_said() {
    let Some(gpu) = gpu() else { return };
    for (element, some) in [(CudaElement::Bf16, false), (CudaElement::Q8, true), (CudaElement::Fp8, true)] {
        let layer = Layer::random((8, 2, 64), element, 100, Queries::Grid, 50);
        let mut device = DeviceLayer::new(&gpu, &layer, RingLayout { slots: 32, band: 16 });
        device.set_len(100);
        let step = device.addresses();
        let out = gpu.alloc_zeroed::<u16>(100 * layer.row()).unwrap();
        let chunk = CudaPrefillChunk {
            q_pre: out.address(),
            q_pre_stride: layer.row(),
            q_rot: out.address(),
            q_rot_stride: layer.row(),
            k: step.k,
            v: step.v,
            scales: step.scales,
            capacity: 100,
            out: out.address(),
            out_stride: layer.row(),
            begin: 0,
            n: 100,
            seed_from: 0,
        };
        assert_eq!(device.attention.reading_bytes_backed(), 0);
        // SAFETY: refused, or over buffers of this test that are as large as the strides say.
        let before = unsafe { device.attention.prefill(0, &chunk) };
        assert_eq!(before.is_err(), some, "{element:?}: {before:?}");
        device.attention.back_reading(100, 100).unwrap();
        let (taken, said) =
            (device.attention.reading_bytes_backed(), CudaAttention::reading_bytes(layer.shape, element, 100));
        assert!(taken <= said && (taken > 0) == some, "{element:?}: {taken} of {said}");
        // SAFETY: as above.
        unsafe { device.attention.prefill(0, &chunk).unwrap() };
        gpu.synchronize().unwrap();
    }
}
