//! Decisions and states of the device against the CPU kernel and the oracle, over hundreds of steps.

use mac_attention::cuda::CudaElement;
use mac_attention::{Backoff, Forced, Paper, Pattern, Policy, RingLayout};

use crate::gpu;
use crate::layer::{Layer, Queries};
use crate::pair::{Pair, Seen};

const SMALL: RingLayout = RingLayout { slots: 48, band: 32 };

fn paper(threshold: f32, max_pause: u32) -> Policy {
    let backoff = if max_pause == 0 { Backoff::Off } else { Backoff::On { max_pause } };
    Policy::Paper(Paper { threshold, min_context: 0, backoff })
}

fn forced(pattern: Pattern, lag_tokens: usize) -> Policy {
    Policy::Forced(Forced { pattern, lag_tokens, backoff: Backoff::Off })
}

/// A day in the life of a chat: the policy changes, the text is cut and goes on, the ring wraps several times.
fn mixed_run(pair: &mut Pair<'_>, first: usize, threshold: f32) {
    let heads = (0..16).map(|head| head % 5 != 3).collect::<Vec<_>>();
    let heads = |count: usize| heads.iter().copied().cycle().take(count).collect::<Vec<_>>();
    let q_heads = pair.ring.shape().num_q_heads();
    let resting = Forced {
        pattern: Pattern::Random { rate: 0.8, seed: 5 },
        lag_tokens: 4,
        backoff: Backoff::On { max_pause: 4 },
    };
    let acts: [(usize, Policy); 9] = [
        (110, paper(threshold, 0)),
        (12, Policy::Exact),
        (20, paper(threshold, 4)),
        (20, forced(Pattern::Random { rate: 0.9, seed: 11 }, 7)),
        (20, Policy::Forced(resting)),
        (6, forced(Pattern::None, 1)),
        (10, forced(Pattern::Heads(heads(q_heads)), 60)),
        (10, Policy::Paper(Paper { threshold, min_context: first + 160, backoff: Backoff::On { max_pause: 16 } })),
        (60, paper(threshold, 16)),
    ];
    let mut pos = first;
    for (number, (steps, policy)) in acts.iter().enumerate() {
        for _ in 0..*steps {
            pair.step(pos, policy);
            pos += 1;
        }
        // Cuts inside the ring, by one token, by more than the band, and beyond what the ring holds.
        let cut = [5, 1, 0, 40, 0, 0, 1, 0, 0][number];
        if cut > 0 {
            pos -= cut;
            pair.truncate(pos);
        }
    }
}

fn check_mixed(shape: (usize, usize, usize), element: CudaElement, queries: Queries, prompt: usize, seed: u64) {
    let Some(gpu) = gpu() else { return };
    let layer = Layer::random(shape, element, prompt + 280, queries, seed);
    let mut pair = Pair::new(&gpu, &layer, SMALL, prompt);
    let threshold = if queries == Queries::Grid { 0.7 } else { 0.45 };
    mixed_run(&mut pair, prompt, threshold);
    let Seen { steps, missed, refreshed, reused, not_searched, excused, deepest, worst } = pair.seen;
    println!(
        "{shape:?} {element:?} {queries:?} from {prompt}: {steps} steps, heads reused {reused}, refreshed {refreshed}, missed {missed}, not searched {not_searched}, deepest {deepest}, excused {excused}, worst {worst:.1e}"
    );
    assert!(reused > 0 && missed > 0 && not_searched > 0, "not every outcome was seen");
    assert!(refreshed > 0 || layer.shape.group_size() == 1, "no group was mixed");
    assert!(deepest >= 3, "no chain of reuse");
    match queries {
        Queries::Grid => assert_eq!(excused, 0),
        Queries::Free => assert!(excused * 20 <= steps, "{excused} of {steps} steps hung on rounding"),
    }
}

macro_rules! mixed {
    ($($name:ident: $heads:expr, $element:ident, $queries:ident, $prompt:expr;)*) => {
        $(#[test]
        fn $name() {
            check_mixed($heads, CudaElement::$element, Queries::$queries, $prompt, line!().into());
        })*
    };
}

mixed! {
    groups_of_4_at_64_from_the_first_token: (8, 2, 64), Bf16, Grid, 0;
    groups_of_4_at_128_after_a_prompt: (32, 8, 128), Bf16, Grid, 333;
    groups_of_8_at_128: (32, 4, 128), Bf16, Grid, 97;
    groups_of_7_at_128: (28, 4, 128), Bf16, Grid, 64;
    groups_of_3_at_96: (6, 2, 96), Bf16, Grid, 130;
    groups_of_2_at_256: (16, 8, 256), Bf16, Grid, 40;
    groups_of_16_at_256: (16, 1, 256), Bf16, Grid, 50;
    groups_of_12_at_64: (24, 2, 64), Bf16, Grid, 70;
    groups_of_1_at_64: (40, 40, 64), Bf16, Grid, 10;
    groups_of_1_at_128_many_heads: (20, 20, 128), Bf16, Grid, 10;
    half_precision_at_128: (32, 8, 128), F16, Grid, 200;
    half_precision_at_64: (8, 2, 64), F16, Grid, 0;
    half_precision_at_256_wide: (32, 2, 256), F16, Grid, 33;
    integers_at_128: (32, 8, 128), Q8, Grid, 333;
    integers_at_128_in_groups_of_7: (28, 4, 128), Q8, Grid, 64;
    integers_at_64: (8, 2, 64), Q8, Grid, 0;
    integers_at_96: (6, 2, 96), Q8, Grid, 130;
    integers_at_256_wide: (16, 1, 256), Q8, Grid, 50;
    small_floats_at_128: (32, 4, 128), Fp8, Grid, 200;
    small_floats_at_64: (24, 2, 64), Fp8, Grid, 70;
    small_floats_at_96: (6, 2, 96), Fp8, Grid, 0;
    small_floats_at_256: (16, 8, 256), Fp8, Grid, 40;
    integers_and_distances_anywhere: (32, 8, 128), Q8, Free, 150;
    distances_anywhere_at_128: (32, 8, 128), Bf16, Free, 150;
    distances_anywhere_at_64: (8, 2, 64), Bf16, Free, 150;
}

#[test]
fn default_ring_wraps_in_a_long_run() {
    let Some(gpu) = gpu() else { return };
    let layer = Layer::random((8, 2, 128), CudaElement::Bf16, 1500, Queries::Grid, 77);
    let mut pair = Pair::new(&gpu, &layer, RingLayout::default(), 600);
    for pos in 600..1400 {
        pair.step(pos, &paper(0.7, 16));
    }
    println!("{:?}", pair.seen);
    assert!(pair.seen.reused > 1000 && pair.seen.deepest >= 5);
}

#[test]
fn chains_of_hundreds_of_dictated_hits_stay_close() {
    let Some(gpu) = gpu() else { return };
    let cases = [
        ((32, 8, 128), CudaElement::Bf16, 1),
        ((16, 2, 64), CudaElement::Bf16, 64),
        ((32, 8, 128), CudaElement::Q8, 1),
        ((16, 2, 64), CudaElement::Fp8, 1),
    ];
    for (shape, element, lag) in cases {
        let layer = Layer::random(shape, element, 1100, Queries::Grid, 5);
        let mut pair = Pair::new(&gpu, &layer, RingLayout { slots: 128, band: 64 }, 500);
        let hits = forced(Pattern::All, lag);
        for pos in 500..1050 {
            pair.step(pos, &hits);
        }
        let Seen { reused, missed, deepest, worst, .. } = pair.seen;
        println!("{shape:?} {element:?}, lag {lag}: depth {deepest}, worst {worst:.1e}");
        assert_eq!((reused, missed), (550 * shape.0, 0));
        assert!(deepest as usize >= 550 / lag);
    }
}

#[test]
fn a_threshold_of_1_never_hits_and_0_does() {
    let Some(gpu) = gpu() else { return };
    let layer = Layer::random((8, 2, 64), CudaElement::Bf16, 200, Queries::Grid, 9);
    for (threshold, hits) in [(1.0, false), (0.0, true)] {
        let mut pair = Pair::new(&gpu, &layer, SMALL, 100);
        for pos in 100..160 {
            pair.step(pos, &paper(threshold, 0));
        }
        assert_eq!(pair.seen.reused > 0, hits);
    }
}
