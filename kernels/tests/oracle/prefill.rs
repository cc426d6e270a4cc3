//! Prefill against the oracle and against decode.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::layer::{Layer, pool};
use mac_attention::cpu::SimdLevel;
use mac_attention::reference::{ReferenceRing, attend, relative_l2};
use mac_attention::{
    AttentionShape, Backoff, Counters, DecodeAttention, Forced, KvView, Parallel, Pattern, Policy, PrefillAttention,
    Query, Ring, RingLayout, Serial,
};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn chunk(
    attention: &mut PrefillAttention,
    layer: &Layer,
    ring: &mut Ring,
    positions: Range<usize>,
    seed_from: usize,
    pool: &dyn Parallel,
) -> Vec<f32> {
    let (query, kv) = (layer.queries(positions.start, positions.end), layer.kv(positions.end));
    let mut out = vec![f32::NAN; positions.len() * layer.row()];
    let go = AtomicBool::new(false);
    assert!(attention.chunk(query, &kv, ring, seed_from, &mut out, pool, &go).unwrap());
    out
}

/// Largest relative error of the rows of `out`, which start at position `from`.
fn worst_error(layer: &Layer, from: usize, out: &[f32]) -> f64 {
    let head_dim = layer.shape.head_dim();
    let mut worst = 0.0_f64;
    for (i, got) in out.chunks_exact(head_dim).enumerate() {
        let (pos, q_head) = (from + i / layer.shape.num_q_heads(), i % layer.shape.num_q_heads());
        let q_rot = &layer.queries(pos, pos + 1).rot[q_head * head_dim..(q_head + 1) * head_dim];
        let want = attend(q_rot, &layer.kv(pos + 1), q_head / layer.shape.group_size(), 0..pos + 1);
        worst = worst.max(relative_l2(got, &want.out));
    }
    worst
}

/// Entries of the ring against exact prefix states: exactly those positions, with those numbers.
fn check_entries(layer: &Layer, ring: &Ring, seeded: std::ops::Range<usize>) {
    let mut positions: Vec<_> = ring.positions().collect();
    positions.sort_unstable();
    assert_eq!(positions, seeded.clone().collect::<Vec<_>>());
    let mut oracle = ReferenceRing::new(layer.shape, ring.layout());
    for pos in seeded {
        let query = layer.queries(pos, pos + 1);
        oracle.seed(query.pre, query.rot, &layer.kv(pos + 1), pos);
        for q_head in 0..layer.shape.num_q_heads() {
            let (got, want) = (ring.entry(q_head, pos).unwrap(), oracle.entry(q_head, pos).unwrap());
            assert_eq!(got.query, &want.query[..]);
            assert_eq!((got.depth, got.distance), (0, 0.0));
            if want.state.lse == f64::NEG_INFINITY {
                assert!(got.lse == f32::NEG_INFINITY && got.out.iter().all(|x| *x == 0.0));
            } else {
                assert!((f64::from(got.lse) - want.state.lse).abs() < 1e-5 * want.state.lse.abs().max(1.0));
                assert!(relative_l2(got.out, &want.state.out) < 1e-5);
            }
        }
    }
}

#[test]
fn every_head_dimension_and_group_size_matches_the_oracle_on_every_instruction_set() {
    for head_dim in AttentionShape::HEAD_DIMS {
        for group_size in [1, 2, 3, 4, 5, 7, 8, 16] {
            let layer = Layer::random(2 * group_size, 2, head_dim, 75, (head_dim + group_size) as u64);
            for simd in SimdLevel::available() {
                let mut attention = PrefillAttention::with_simd(layer.shape, simd);
                let mut ring = Ring::new(layer.shape, RingLayout { slots: 20, band: 9 }).unwrap();
                let out = chunk(&mut attention, &layer, &mut ring, 0..75, 0, &Serial);
                let error = worst_error(&layer, 0, &out);
                assert!(error < 1e-5, "D {head_dim}, group {group_size}, {simd:?}: {error}");
                check_entries(&layer, &ring, 55..75);
            }
        }
    }
}

#[test]
fn chunks_of_any_size_and_alignment_match_the_oracle() {
    let layer = Layer::random(4, 1, 64, 700, 31);
    for cuts in [&[1, 2, 3, 64, 65, 128, 191, 320, 577, 700][..], &[63, 64, 192, 193, 449, 700], &[700]] {
        let mut attention = PrefillAttention::new(layer.shape);
        let mut ring = Ring::new(layer.shape, RingLayout { slots: 100, band: 70 }).unwrap();
        let mut from = 0;
        for &to in cuts {
            let out = chunk(&mut attention, &layer, &mut ring, from..to, 0, &pool(2));
            let error = worst_error(&layer, from, &out);
            assert!(error < 1e-5, "{from}..{to}: {error}");
            from = to;
        }
        check_entries(&layer, &ring, 600..700);
    }
}

#[test]
fn only_positions_from_the_seed_on_are_stored() {
    let layer = Layer::random(2, 1, 64, 200, 32);
    let mut attention = PrefillAttention::new(layer.shape);
    let mut ring = Ring::new(layer.shape, RingLayout { slots: 64, band: 30 }).unwrap();
    chunk(&mut attention, &layer, &mut ring, 0..150, 140, &Serial);
    check_entries(&layer, &ring, 140..150);
    chunk(&mut attention, &layer, &mut ring, 150..200, 190, &Serial);
    assert!(ring.entry(0, 141).is_some() && ring.entry(0, 189).is_none() && ring.entry(0, 190).is_some());
    // The text was cut off at 145 and continued differently: what was stored from there on is gone.
    chunk(&mut attention, &layer, &mut ring, 145..160, usize::MAX, &Serial);
    check_entries(&layer, &ring, 140..145);
    let mut nothing = [];
    let go = AtomicBool::new(false);
    assert!(attention.chunk(layer.queries(0, 0), &layer.kv(160), &mut ring, 0, &mut nothing, &Serial, &go).unwrap());
}

#[test]
fn prefill_equals_decode_token_by_token_and_so_does_what_follows() {
    let layer = Layer::random(6, 2, 128, 420, 33);
    let layout = RingLayout { slots: 50, band: 40 };
    let mut attention = PrefillAttention::new(layer.shape);
    let mut prefilled = Ring::new(layer.shape, layout).unwrap();
    let out = chunk(&mut attention, &layer, &mut prefilled, 0..400, 0, &pool(2));

    let mut decode = DecodeAttention::new(layer.shape, layout.band);
    let mut decoded = Ring::new(layer.shape, layout).unwrap();
    let (mut one, mut counters) = (vec![0.0; layer.row()], Counters::default());
    let none = Policy::Forced(Forced { pattern: Pattern::None, lag_tokens: 1, backoff: Backoff::Off });
    for pos in 0..400 {
        decode
            .step(
                layer.queries(pos, pos + 1),
                &layer.kv(pos + 1),
                &mut decoded,
                &none,
                &mut one,
                &mut counters,
                &Serial,
            )
            .unwrap();
        let want: Vec<f64> = one.iter().copied().map(f64::from).collect();
        assert!(relative_l2(&out[pos * layer.row()..(pos + 1) * layer.row()], &want) < 1e-5, "at {pos}");
    }
    let all = Policy::Forced(Forced { pattern: Pattern::All, lag_tokens: 20, backoff: Backoff::Off });
    for pos in 400..420 {
        let (query, kv) = (layer.queries(pos, pos + 1), layer.kv(pos + 1));
        decode.step(query, &kv, &mut decoded, &all, &mut one, &mut counters, &Serial).unwrap();
        let want: Vec<f64> = one.iter().copied().map(f64::from).collect();
        assert_eq!(counters.heads_reused(), 6);
        decode.step(query, &kv, &mut prefilled, &all, &mut one, &mut counters, &Serial).unwrap();
        assert_eq!(counters.heads_reused(), 6);
        assert!(relative_l2(&one, &want) < 1e-5);
    }
}

/// Output and ring entries of `from..to` read in chunks that end at `ends`, as bits. Seeding depends on where the text ends,
/// not on the chunks.
fn bits_of_chunks(layer: &Layer, simd: SimdLevel, layout: RingLayout, ends: &[usize], from: usize) -> Vec<Vec<u32>> {
    let to = *ends.last().unwrap();
    let mut attention = PrefillAttention::with_simd(layer.shape, simd);
    let mut ring = Ring::new(layer.shape, layout).unwrap();
    let (mut begin, mut out) = (from, Vec::new());
    for &end in ends {
        out.extend(chunk(&mut attention, layer, &mut ring, begin..end, to.saturating_sub(layout.slots), &pool(2)));
        begin = end;
    }
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect();
    let mut all = vec![bits(&out)];
    for pos in from.max(to.saturating_sub(layout.slots))..to {
        for q_head in 0..layer.shape.num_q_heads() {
            let entry = ring.entry(q_head, pos).unwrap();
            all.push(bits(entry.out));
            all.push(entry.query.iter().map(|x| u32::from(x.to_bits())).chain([entry.lse.to_bits()]).collect());
        }
    }
    all
}

#[test]
fn how_a_text_is_cut_into_chunks_changes_no_bit() {
    let mut rng = ChaCha8Rng::seed_from_u64(38);
    // (query heads, KV heads, head dimension), text from and to, slots and band.
    for ((num_q_heads, num_kv_heads, head_dim), (from, to), (slots, band)) in [
        ((1, 1, 64), (0, 200), (64, 17)),
        ((6, 2, 64), (0, 449), (300, 100)),
        ((4, 1, 128), (0, 333), (333, 64)),
        ((7, 1, 96), (129, 321), (100, 63)),
        ((8, 2, 64), (37, 900), (512, 256)),
        ((16, 1, 256), (0, 130), (90, 65)),
        ((5, 1, 64), (60, 70), (20, 9)),
    ] {
        let layer = Layer::random(num_q_heads, num_kv_heads, head_dim, to, rng.random());
        for simd in SimdLevel::available() {
            let layout = RingLayout { slots, band };
            let whole = bits_of_chunks(&layer, simd, layout, &[to], from);
            for longest in [3, 70, 200, 400] {
                let mut ends = vec![from + rng.random_range(1..=longest.min(to - from))];
                while ends[ends.len() - 1] < to {
                    let end = ends[ends.len() - 1];
                    ends.push(end + rng.random_range(1..=longest.min(to - end)));
                }
                // Not `assert_eq`, which would print every row.
                assert!(
                    bits_of_chunks(&layer, simd, layout, &ends, from) == whole,
                    "{:?}, {simd:?}, {ends:?}",
                    layer.shape
                );
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let layer = Layer::random(8, 2, 64, 600, 34);
    let run = |pool: &dyn Parallel| {
        let mut ring = Ring::new(layer.shape, RingLayout { slots: 64, band: 30 }).unwrap();
        chunk(&mut PrefillAttention::new(layer.shape), &layer, &mut ring, 100..600, 0, pool)
    };
    assert!(run(&pool(1)) == run(&pool(3)));
}

#[test]
fn a_cancelled_chunk_leaves_no_entry_and_stops_soon() {
    let layer = Layer::random(4, 1, 64, 4000, 35);
    let mut attention = PrefillAttention::new(layer.shape);
    let mut ring = Ring::new(layer.shape, RingLayout { slots: 128, band: 30 }).unwrap();
    chunk(&mut attention, &layer, &mut ring, 0..100, 0, &pool(2));
    let mut out = vec![0.0; 3900 * layer.row()];
    let cancel = AtomicBool::new(true);
    assert!(
        !attention.chunk(layer.queries(100, 4000), &layer.kv(4000), &mut ring, 0, &mut out, &pool(2), &cancel).unwrap()
    );
    assert!(ring.positions().all(|pos| pos < 100));

    cancel.store(false, Ordering::Relaxed);
    let delay = Duration::from_millis(3);
    let started = Instant::now();
    let finished = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(delay);
            cancel.store(true, Ordering::Relaxed);
        });
        attention.chunk(layer.queries(100, 4000), &layer.kv(4000), &mut ring, 0, &mut out, &pool(2), &cancel).unwrap()
    });
    let took = started.elapsed();
    assert!(!finished, "4000 tokens within {delay:?}");
    assert!(took < delay + Duration::from_millis(500), "{took:?}");
    assert!(ring.positions().all(|pos| pos < 100));
}

#[test]
fn nan_stays_in_its_row() {
    let mut layer = Layer::random(2, 1, 64, 130, 36);
    let row = layer.row();
    layer.q_rot[100 * row + 5] = f32::NAN;
    for simd in SimdLevel::available() {
        let mut ring = Ring::new(layer.shape, RingLayout { slots: 64, band: 30 }).unwrap();
        let out = chunk(&mut PrefillAttention::with_simd(layer.shape, simd), &layer, &mut ring, 0..130, 0, &Serial);
        let bad: Vec<_> = out
            .chunks_exact(64)
            .enumerate()
            .filter(|(_, x)| x.iter().any(|x| !x.is_finite()))
            .map(|(i, _)| i)
            .collect();
        assert_eq!(bad, [200]);
        assert!(!ring.entry(0, 100).unwrap().lse.is_finite() && ring.entry(1, 100).unwrap().lse.is_finite());
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let layer = Layer::random(2, 1, 64, 8, 37);
    let other = Layer::random(4, 1, 64, 8, 37);
    let mut attention = PrefillAttention::new(layer.shape);
    let layout = RingLayout { slots: 4, band: 2 };
    let mut ring = Ring::new(layer.shape, layout).unwrap();
    let mut other_ring = Ring::new(other.shape, layout).unwrap();
    let mut out = vec![0.0; 8 * layer.row()];
    let go = AtomicBool::new(false);
    let mut run = |query: Query<'_>, kv: &KvView<'_>, ring: &mut Ring, out: &mut [f32]| {
        attention.chunk(query, kv, ring, 0, out, &Serial, &go)
    };
    assert!(run(layer.queries(0, 8), &layer.kv(7), &mut ring, &mut out).is_err());
    assert!(run(layer.queries(0, 8), &other.kv(8), &mut ring, &mut out).is_err());
    assert!(run(layer.queries(0, 8), &layer.kv(8), &mut other_ring, &mut out).is_err());
    assert!(run(layer.queries(0, 8), &layer.kv(8), &mut ring, &mut out[1..]).is_err());
    assert!(run(layer.queries(0, 8), &layer.kv(8), &mut ring, &mut out).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_chunk_matches_the_oracle(
        group_size in 1usize..=9, dim in 0usize..4, before in 0usize..150, n in 1usize..120,
        slots in 1usize..80, band in 1usize..150, seed: u64,
    ) {
        let layer = Layer::random(group_size, 1, AttentionShape::HEAD_DIMS[dim], before + n, seed);
        let levels = SimdLevel::available();
        let simd = levels[(seed % levels.len() as u64) as usize];
        let mut ring = Ring::new(layer.shape, RingLayout { slots, band }).unwrap();
        let out = chunk(&mut PrefillAttention::with_simd(layer.shape, simd), &layer, &mut ring, before..before + n, 0, &Serial);
        let error = worst_error(&layer, before, &out);
        prop_assert!(error < 1e-5, "{simd:?}: {error}");
        check_entries(&layer, &ring, before + n - n.min(slots)..before + n);
    }
}
