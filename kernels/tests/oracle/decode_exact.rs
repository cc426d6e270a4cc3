//! Exact decode against the f64 oracle, and everything that must not change its bits.

use crate::layer::{Layer, pool};
use half::bf16;
use mac_attention::cpu::SimdLevel;
use mac_attention::reference::{attend, relative_l2};
use mac_attention::{
    AttentionShape, Backoff, Counters, DecodeAttention, HeadOutcome, KernelError, KvView, Paper, Parallel, Policy,
    Query, Ring, RingLayout, Serial,
};
use proptest::prelude::*;

const LAYOUT: RingLayout = RingLayout { slots: 16, band: 48 };

fn step(layer: &Layer, len: usize, simd: SimdLevel, policy: &Policy, pool: &dyn Parallel) -> (Vec<f32>, Counters) {
    let mut attention = DecodeAttention::with_simd(layer.shape, LAYOUT.band, simd);
    let mut ring = Ring::new(layer.shape, LAYOUT).unwrap();
    let mut out = vec![f32::NAN; layer.row()];
    let mut counters = Counters::default();
    let query = layer.queries(layer.capacity - 1, layer.capacity);
    attention.step(query, &layer.kv(len), &mut ring, policy, &mut out, &mut counters, pool).unwrap();
    (out, counters)
}

fn worst_error(layer: &Layer, len: usize, out: &[f32]) -> f64 {
    let (head_dim, query) = (layer.shape.head_dim(), layer.queries(layer.capacity - 1, layer.capacity));
    (0..layer.shape.num_q_heads())
        .map(|q_head| {
            let span = q_head * head_dim..(q_head + 1) * head_dim;
            let want = attend(&query.rot[span.clone()], &layer.kv(len), q_head / layer.shape.group_size(), 0..len);
            relative_l2(&out[span], &want.out)
        })
        .fold(0.0, f64::max)
}

#[test]
fn every_head_dimension_and_group_size_matches_the_oracle_on_every_instruction_set() {
    for head_dim in AttentionShape::HEAD_DIMS {
        for group_size in (1..=8).chain([11, 16]) {
            let layer = Layer::random(2 * group_size, 2, head_dim, 150, (head_dim + group_size) as u64);
            for simd in SimdLevel::available() {
                let (out, _) = step(&layer, 150, simd, &Policy::Exact, &Serial);
                let error = worst_error(&layer, 150, &out);
                assert!(error < 1e-5, "D {head_dim}, group {group_size}, {simd:?}: {error}");
            }
        }
    }
}

#[test]
fn lengths_around_every_cut_match_the_oracle() {
    let layer = Layer::random(6, 2, 64, 1100, 5);
    for len in [
        1, 2, 3, 15, 16, 17, 47, 48, 49, 63, 64, 65, 127, 128, 129, 511, 512, 513, 559, 560, 561, 1023, 1024, 1025,
        1100,
    ] {
        for simd in SimdLevel::available() {
            let (out, counters) = step(&layer, len, simd, &Policy::Exact, &Serial);
            let error = worst_error(&layer, len, &out);
            assert!(error < 1e-5, "{len} tokens, {simd:?}: {error}");
            assert_eq!(counters.kv_bytes_read, (len * layer.shape.kv_bytes_per_token()) as u64);
            assert_eq!(counters.kv_bytes_exact, counters.kv_bytes_read);
            assert_eq!(counters.ring_bytes, 0);
            assert!(counters.heads.iter().all(|head| *head == HeadOutcome::NotSearched));
            assert_eq!(counters.reused_mass, [0.0; 6]);
        }
    }
}

#[test]
fn a_hundred_thousand_tokens_match_the_oracle() {
    let layer = {
        let mut layer = Layer::random(4, 1, 64, 100_000, 6);
        // One large score far back, so that the running maximum jumps late and early parts have to shrink.
        for d in 0..64 {
            layer.k[70_000 * 64 + d] = bf16::from_f32(layer.q_rot[layer.q_rot.len() - 64 + d]);
        }
        layer
    };
    let (out, _) = step(&layer, 100_000, SimdLevel::best(), &Policy::Exact, &pool(2));
    let error = worst_error(&layer, 100_000, &out);
    assert!(error < 1e-5, "{error}");
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let layer = Layer::random(14, 2, 128, 1700, 7);
    let one = step(&layer, 1700, SimdLevel::best(), &Policy::Exact, &Serial);
    for threads in [1, 2, 3, 5] {
        assert_eq!(step(&layer, 1700, SimdLevel::best(), &Policy::Exact, &pool(threads)), one);
    }
}

#[test]
fn a_threshold_that_never_matches_equals_exact_bit_for_bit() {
    let never = Policy::Paper(Paper { threshold: 1.0, min_context: 0, backoff: Backoff::Off });
    for (group_size, head_dim) in [(1, 64), (4, 128), (7, 96)] {
        let layer = Layer::random(2 * group_size, 2, head_dim, 900, 8);
        for len in [1, 30, 48, 49, 513, 900] {
            let (exact, _) = step(&layer, len, SimdLevel::best(), &Policy::Exact, &Serial);
            let (paper, counters) = step(&layer, len, SimdLevel::best(), &never, &pool(3));
            assert_eq!(exact, paper);
            assert!(counters.heads.iter().all(|head| *head == HeadOutcome::Missed));
            assert!(counters.ring_bytes > 0, "the entry was written");
        }
    }
}

#[test]
fn nan_stays_in_its_head() {
    let mut layer = Layer::random(4, 2, 64, 300, 9);
    let at = layer.q_rot.len() - layer.row() + 64;
    layer.q_rot[at + 3] = f32::NAN;
    layer.q_pre[at + 3] = f32::NAN;
    for simd in SimdLevel::available() {
        let (out, _) = step(&layer, 300, simd, &Policy::Exact, &Serial);
        assert!(out[64..128].iter().all(|x| x.is_nan()));
        assert!(out[..64].iter().chain(&out[128..]).all(|x| x.is_finite()));
    }
}

#[test]
fn audit_measures_the_difference_to_exact() {
    let layer = Layer::random(8, 2, 64, 700, 10);
    let (mut out, _) = step(&layer, 700, SimdLevel::best(), &Policy::Exact, &Serial);
    let mut attention = DecodeAttention::new(layer.shape, LAYOUT.band);
    let query = layer.queries(699, 700);
    let audit = attention.audit(query.rot, &layer.kv(700), 1, &out, &pool(2)).unwrap();
    assert_eq!(audit.iter().map(|a| a.q_head).collect::<Vec<_>>(), [4, 5, 6, 7]);
    assert!(audit.iter().all(|a| a.relative_error == 0.0), "the same cuts give the same bits");
    for x in &mut out[5 * 64..6 * 64] {
        *x *= 1.5;
    }
    let audit = attention.audit(query.rot, &layer.kv(700), 1, &out, &Serial).unwrap();
    assert!((audit[1].relative_error - 0.5).abs() < 1e-6 && audit[0].relative_error == 0.0);
    out[4 * 64] = f32::NAN;
    let audit = attention.audit(query.rot, &layer.kv(700), 1, &out, &Serial).unwrap();
    assert_eq!(audit[0].relative_error, f32::INFINITY);
    assert!(attention.audit(query.rot, &layer.kv(700), 2, &out, &Serial).is_err());
}

#[test]
fn what_does_not_fit_is_refused() {
    for (q, kv, d) in [(0, 1, 64), (1, 0, 64), (3, 2, 64), (17, 1, 64), (4, 1, 80), (0, 0, 64)] {
        assert!(matches!(AttentionShape::new(q, kv, d), Err(KernelError::UnsupportedShape { .. })));
    }
    let layer = Layer::random(2, 1, 64, 4, 11);
    assert!(KvView::new(layer.shape, &layer.k, &layer.v, 5, 4).is_err());
    assert!(KvView::new(layer.shape, &layer.k, &layer.v, 4, 5).is_err());
    let mut attention = DecodeAttention::new(layer.shape, LAYOUT.band);
    let (mut out, mut counters) = (vec![0.0; layer.row()], Counters::default());
    let mut ring = Ring::new(layer.shape, LAYOUT).unwrap();
    let mut other_band = Ring::new(layer.shape, RingLayout { band: 3, ..LAYOUT }).unwrap();
    let query = layer.queries(3, 4);
    let short = Query { pre: &query.pre[1..], rot: query.rot };
    let bad = Policy::Paper(Paper { threshold: f32::NAN, ..Paper::default() });
    let exact = Policy::Exact;
    assert!(attention.step(short, &layer.kv(4), &mut ring, &exact, &mut out, &mut counters, &Serial).is_err());
    assert!(attention.step(query, &layer.kv(0), &mut ring, &exact, &mut out, &mut counters, &Serial).is_err());
    assert!(attention.step(query, &layer.kv(4), &mut other_band, &exact, &mut out, &mut counters, &Serial).is_err());
    assert!(attention.step(query, &layer.kv(4), &mut ring, &exact, &mut out[1..], &mut counters, &Serial).is_err());
    assert!(attention.step(query, &layer.kv(4), &mut ring, &bad, &mut out, &mut counters, &Serial).is_err());
    attention.step(query, &layer.kv(4), &mut ring, &exact, &mut out, &mut counters, &Serial).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_shape_and_length_matches_the_oracle(
        group_size in 1usize..=16, kv_heads in 1usize..=3, dim in 0usize..4, len in 1usize..=700, seed: u64,
    ) {
        let layer = Layer::random(group_size * kv_heads, kv_heads, AttentionShape::HEAD_DIMS[dim], len, seed);
        for simd in SimdLevel::available() {
            let (out, _) = step(&layer, len, simd, &Policy::Exact, &Serial);
            let error = worst_error(&layer, len, &out);
            prop_assert!(error < 1e-5, "{simd:?}: {error}");
        }
    }
}
