//! Captured once, replayed with other queries and positions: the same bits as launches one by one.

use mac_attention::cuda::{CudaAttention, CudaAttentionSetup, CudaElement, CudaStep, DeviceBuffer};
use mac_attention::{Backoff, Counters, Forced, Paper, Pattern, Policy, Ring, RingLayout};

use crate::gpu;
use crate::layer::{DeviceLayer, Layer, Queries};

const LAYOUT: RingLayout = RingLayout { slots: 40, band: 24 };

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Everything of a ring, bit for bit.
fn contents(ring: &Ring) -> Vec<(usize, Vec<u32>)> {
    let mut positions: Vec<usize> = ring.positions().collect();
    positions.sort_unstable();
    let entry = |head: usize, pos: usize| {
        let entry = ring.entry(head, pos).unwrap();
        let mut words = bits(entry.out);
        words.extend(entry.query.iter().map(|x| u32::from(x.to_bits())));
        words.extend([entry.lse.to_bits(), entry.depth, entry.distance.to_bits()]);
        words
    };
    let heads = ring.shape().num_q_heads();
    positions.iter().map(|pos| (*pos, (0..heads).flat_map(|head| entry(head, *pos)).collect())).collect()
}

fn policies() -> [Policy; 3] {
    [
        Policy::Exact,
        Policy::Paper(Paper { threshold: 0.7, min_context: 0, backoff: Backoff::On { max_pause: 8 } }),
        Policy::Forced(Forced {
            pattern: Pattern::Random { rate: 0.9, seed: 3 },
            lag_tokens: 9,
            backoff: Backoff::Off,
        }),
    ]
}

#[test]
fn a_replayed_step_equals_an_eager_one_bit_for_bit() {
    let Some(gpu) = gpu() else { return };
    let cases = [
        ((32, 8, 128), CudaElement::Bf16),
        ((8, 2, 64), CudaElement::F16),
        ((16, 1, 256), CudaElement::Bf16),
        ((32, 8, 128), CudaElement::Q8),
        ((32, 4, 128), CudaElement::Fp8),
    ];
    for (shape, element) in cases {
        // One graph of three layers under three policies, against three attentions of one layer each.
        let layers: Vec<Layer> = (0..3).map(|i| Layer::random(shape, element, 260, Queries::Grid, 20 + i)).collect();
        let mut eager: Vec<DeviceLayer<'_>> =
            layers.iter().map(|layer| DeviceLayer::new(&gpu, layer, LAYOUT)).collect();
        let setup = CudaAttentionSetup { shape: layers[0].shape, element, layout: LAYOUT, layers: 3 };
        let mut replayed = CudaAttention::new(&gpu, setup).unwrap();
        let outs: Vec<DeviceBuffer<f32>> = (0..3).map(|_| gpu.alloc(layers[0].row()).unwrap()).collect();
        for (i, policy) in policies().iter().enumerate() {
            eager[i].attention.set_policy(0, policy).unwrap();
            replayed.set_policy(i, policy).unwrap();
        }
        for overlap in [true, false] {
            replayed.set_overlap(overlap);
            let steps: Vec<CudaStep> = eager
                .iter()
                .zip(&outs)
                .map(|(layer, out)| CudaStep { out: out.address(), ..layer.addresses() })
                .collect();
            // SAFETY: buffers of this test, which live to its end; K and V are there by the time of the replay.
            let graph = gpu
                .capture(|| unsafe {
                    replayed.advance()?;
                    steps.iter().enumerate().try_for_each(|(i, step)| replayed.step(i, step))?;
                    replayed.queue_report()
                })
                .unwrap();
            let half = 125;
            let span = if overlap { 0..half } else { half..2 * half };
            for pos in span {
                let outputs: Vec<Vec<f32>> = eager.iter_mut().map(|layer| layer.step(pos)).collect();
                // SAFETY: as above.
                unsafe { graph.launch().unwrap() };
                let counters: Vec<Counters> = replayed.report().unwrap().to_vec();
                for (i, layer) in eager.iter_mut().enumerate() {
                    let got = outs[i].to_vec().unwrap();
                    assert_eq!(bits(&got), bits(&outputs[i]), "{shape:?} layer {i} at {pos}");
                    let want = &layer.attention.report().unwrap()[0];
                    assert_eq!(counters[i].heads, want.heads, "layer {i} at {pos}");
                    assert_eq!(counters[i].reused_mass, want.reused_mass, "layer {i} at {pos}");
                    assert!(got.iter().all(|x| x.is_finite()));
                }
            }
        }
        for (i, layer) in eager.iter().enumerate() {
            let (got, want) = (replayed.ring(i).unwrap(), layer.attention.ring(0).unwrap());
            assert_eq!(contents(&got), contents(&want), "ring of layer {i}");
            assert_eq!(got.positions().count(), if i == 0 { 0 } else { LAYOUT.slots });
        }
    }
}
