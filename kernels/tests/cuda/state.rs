//! What lies around a step: rings taken out and put back, cuts, audits, and requests that are refused.

use mac_attention::cuda::{CudaAttention, CudaAttentionSetup, CudaElement, CudaError, CudaStep, PlainSum};
use mac_attention::{AttentionShape, Backoff, Forced, KernelError, Paper, Pattern, Policy, RingLayout};

use crate::gpu;
use crate::layer::{DeviceLayer, Layer, Queries};
use crate::pair::Pair;

const LAYOUT: RingLayout = RingLayout { slots: 32, band: 16 };

fn all_hit(lag_tokens: usize) -> Policy {
    Policy::Forced(Forced { pattern: Pattern::All, lag_tokens, backoff: Backoff::Off })
}

fn paper() -> Policy {
    Policy::Paper(Paper { threshold: 0.7, min_context: 0, backoff: Backoff::Off })
}

#[test]
fn a_ring_put_back_into_a_new_sequence_goes_on_as_before() {
    let Some(gpu) = gpu() else { return };
    let layer = Layer::random((8, 2, 128), CudaElement::Bf16, 200, Queries::Grid, 31);
    let mut first = DeviceLayer::new(&gpu, &layer, LAYOUT);
    first.attention.set_policy(0, &paper()).unwrap();
    for pos in 0..120 {
        first.step(pos);
    }
    let mut second = DeviceLayer::new(&gpu, &layer, LAYOUT);
    second.attention.restore_ring(0, &first.attention.ring(0).unwrap()).unwrap();
    second.attention.seek(120).unwrap();
    second.attention.set_policy(0, &paper()).unwrap();
    let mut reused = 0;
    for pos in 120..200 {
        assert_eq!(first.step(pos), second.step(pos), "at {pos}");
        let heads = first.attention.report().unwrap()[0].heads.clone();
        assert_eq!(heads, second.attention.report().unwrap()[0].heads);
        reused += second.attention.report().unwrap()[0].heads_reused();
    }
    assert!(reused > 0);
}

#[test]
fn a_cut_forgets_what_lies_behind_it_in_every_layer() {
    let Some(gpu) = gpu() else { return };
    let layer = Layer::random((4, 2, 64), CudaElement::Bf16, 64, Queries::Grid, 32);
    let mut device = DeviceLayer::new(&gpu, &layer, LAYOUT);
    device.attention.set_policy(0, &all_hit(1)).unwrap();
    for pos in 0..50 {
        device.step(pos);
    }
    let setup = CudaAttentionSetup { layers: 3, ..device.attention.setup() };
    let mut three = CudaAttention::new(&gpu, setup).unwrap();
    let ring = device.attention.ring(0).unwrap();
    for i in 0..3 {
        three.restore_ring(i, &ring).unwrap();
    }
    for (len, left) in [(50, 32), (41, 23), (18, 0), (0, 0)] {
        three.truncate(len).unwrap();
        for i in 0..3 {
            let ring = three.ring(i).unwrap();
            assert_eq!(ring.positions().count(), left, "layer {i} after a cut to {len}");
            assert!(ring.positions().all(|pos| pos < len));
        }
    }
}

#[test]
fn resting_steps_keep_the_ring_fresh_and_let_pauses_stand() {
    let Some(gpu) = gpu() else { return };
    let layer = Layer::random((8, 2, 64), CudaElement::Bf16, 120, Queries::Grid, 34);
    let min_context =
        |min_context| Policy::Paper(Paper { threshold: 0.7, min_context, backoff: Backoff::On { max_pause: 4 } });
    // A search that rests below the shortest context, by either way of launching; then both search.
    let mut rested = DeviceLayer::new(&gpu, &layer, LAYOUT);
    let mut waited = DeviceLayer::new(&gpu, &layer, LAYOUT);
    for (device, shortest) in [(&mut rested, 0), (&mut waited, 60)] {
        device.attention.set_policy(0, &min_context(shortest)).unwrap();
    }
    for pos in 0..60 {
        assert_eq!(rested.step_resting(pos), waited.step(pos), "at {pos}");
        let counters = waited.attention.report().unwrap()[0].clone();
        let resting = rested.attention.report().unwrap()[0].clone();
        assert_eq!(
            (resting.heads, resting.groups, resting.kv_bytes_exact),
            (counters.heads, counters.groups, counters.kv_bytes_exact)
        );
    }
    let mut reused = 0;
    for pos in 60..120 {
        assert_eq!(rested.step(pos), waited.step(pos), "at {pos}");
        let counters = waited.attention.report().unwrap()[0].clone();
        assert_eq!(rested.attention.report().unwrap()[0].heads, counters.heads, "at {pos}");
        reused += counters.heads_reused();
    }
    assert!(reused > 0);
}

#[test]
fn an_audit_measures_what_reuse_costs_and_disturbs_nothing() {
    let Some(gpu) = gpu() else { return };
    let layer = Layer::random((12, 4, 128), CudaElement::Bf16, 400, Queries::Grid, 33);
    let mut pair = Pair::new(&gpu, &layer, LAYOUT, 300);
    for pos in 300..340 {
        pair.step(pos, &all_hit(3));
        let addresses = pair.device.addresses();
        for kv_head in 0..4 {
            // SAFETY: the addresses of the step just made.
            let audits = unsafe { pair.device.attention.audit(0, kv_head, &addresses) }.unwrap();
            let heads: Vec<usize> = audits.iter().map(|audit| audit.q_head).collect();
            assert_eq!(heads, [3 * kv_head, 3 * kv_head + 1, 3 * kv_head + 2]);
            // Queries of other positions were used, so the output is another; which one, the oracle has checked.
            assert!(audits.iter().all(|audit| audit.relative_error > 1e-3 && audit.relative_error < 10.0));
        }
    }
    pair.step(340, &Policy::Exact);
    let addresses = pair.device.addresses();
    // SAFETY: as above.
    let audits = unsafe { pair.device.attention.audit(0, 1, &addresses) }.unwrap();
    assert!(audits.iter().all(|audit| audit.relative_error < 1e-5), "{audits:?}");
    // SAFETY: refused before anything is launched.
    let refused = unsafe { pair.device.attention.audit(0, 4, &addresses) };
    assert!(matches!(refused, Err(CudaError::Kernel(KernelError::Setting { .. }))));
}

#[test]
fn what_the_kernels_do_not_check_is_refused_before_they_run() {
    let Some(gpu) = gpu() else { return };
    let setup = |heads: (usize, usize, usize), layout, layers| CudaAttentionSetup {
        shape: AttentionShape::new(heads.0, heads.1, heads.2).unwrap(),
        element: CudaElement::Bf16,
        layout,
        layers,
    };
    let refused =
        |setup| matches!(CudaAttention::new(&gpu, setup), Err(CudaError::Kernel(KernelError::Setting { .. })));
    assert!(refused(setup((129, 129, 64), LAYOUT, 1)), "too many KV heads");
    assert!(refused(setup((8, 2, 64), RingLayout { slots: 0, band: 1 }, 1)), "no slots");
    assert!(refused(setup((8, 2, 64), RingLayout { slots: 1, band: 0 }, 1)), "no band");
    assert!(refused(setup((8, 2, 64), LAYOUT, 0)), "no layers");
    assert!(refused(setup((8, 2, 64), RingLayout { slots: 1 << 30, band: 1 }, 4)), "more slots than can be counted");

    let mut attention = CudaAttention::new(&gpu, setup((8, 2, 64), LAYOUT, 2)).unwrap();
    let wrong = Policy::Paper(Paper { threshold: f32::NAN, ..Paper::default() });
    assert!(attention.set_policy(0, &wrong).is_err());
    assert!(attention.set_policy(2, &Policy::Exact).is_err(), "no such layer");
    let flags = Pattern::Heads(vec![true; 7]);
    let wrong = Policy::Forced(Forced { pattern: flags, lag_tokens: 1, backoff: Backoff::Off });
    assert!(attention.set_policy(0, &wrong).is_err());
    assert!(attention.seek(1 << 31).is_err());
    let other =
        mac_attention::Ring::new(setup((8, 2, 64), LAYOUT, 1).shape, RingLayout { slots: 31, band: 16 }).unwrap();
    assert!(attention.restore_ring(0, &other).is_err());

    let fine = CudaStep { q_pre: 256, q_rot: 512, k: 1024, v: 2048, scales: 0, capacity: 8, out: 4096 };
    let wrong = [
        CudaStep { q_rot: 520, ..fine },
        CudaStep { k: 0, ..fine },
        CudaStep { scales: 1024, ..fine },
        CudaStep { capacity: 0, ..fine },
        CudaStep { capacity: 1 << 31, ..fine },
    ];
    for step in wrong {
        // SAFETY: refused before anything is launched.
        let answer = unsafe { attention.step(0, &step) };
        assert!(matches!(answer, Err(CudaError::Kernel(KernelError::Setting { .. }))), "{step:?}");
    }
    // SAFETY: as above.
    assert!(unsafe { attention.step(2, &fine) }.is_err(), "no such layer");
}

#[test]
fn the_yardstick_adds_up_what_it_says_it_read() {
    let Some(gpu) = gpu() else { return };
    let table: Vec<u16> = (0..997u32).map(|i| (i * 7919 % 65_521) as u16).collect();
    let mut sum = PlainSum::new(&gpu).unwrap();
    for elements in [8, 4096, 1_000_000, 64 << 20] {
        let data = gpu.repeat(&table, elements).unwrap();
        let words = table.iter().cycle().take(elements).copied().collect::<Vec<u16>>();
        let want = words
            .chunks_exact(2)
            .fold(0u32, |sum, pair| sum.wrapping_add(u32::from(pair[0]) | u32::from(pair[1]) << 16));
        let times = sum.run(&data, elements, 3).unwrap();
        assert_eq!((sum.total().unwrap(), times.len()), (want, 3), "{elements}");
        assert!(times.iter().all(|time| *time > 0.0));
        assert!(sum.run(&data, elements + 1, 1).is_err());
    }
}
