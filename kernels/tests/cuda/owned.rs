//! Layers that own their buffers, against launches with addresses: the same bits.

use std::sync::Arc;

use half::bf16;
use mac_attention::cuda::{CudaAttentionSetup, CudaElement, CudaError, CudaLayers, CudaStepKind, Gpu};
use mac_attention::{Backoff, Counters, Paper, Policy, RingLayout};

use crate::gpu;
use crate::layer::{DeviceLayer, Layer, Queries};

const LAYOUT: RingLayout = RingLayout { slots: 24, band: 16 };

#[test]
fn every_kind_of_step_is_what_it_is_called() {
    let Some(gpu) = gpu() else { return };
    for element in [CudaElement::Bf16, CudaElement::Q8, CudaElement::Fp8] {
        check_kinds(&gpu, element);
    }
}

fn check_kinds(gpu: &Gpu, element: CudaElement) {
    let layer = Layer::random((12, 4, 96), element, 130, Queries::Grid, 61);
    let mut eager = DeviceLayer::new(gpu, &layer, LAYOUT);
    let setup = CudaAttentionSetup { shape: layer.shape, element: layer.element, layout: LAYOUT, layers: 2 };
    let rows = 4 * layer.tokens;
    let bytes: Vec<u8> = (0..4).flat_map(|i| layer.row_bytes(i % 2, 0, rows).to_vec()).collect();
    let bits: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let mut owned = CudaLayers::new(gpu, setup, layer.tokens, Arc::new(gpu.upload(&bits).unwrap())).unwrap();
    let paper = Policy::Paper(Paper { threshold: 0.7, min_context: 0, backoff: Backoff::On { max_pause: 4 } });
    eager.attention.set_policy(0, &paper).unwrap();
    for i in 0..2 {
        owned.set_policy(i, &paper).unwrap();
        if element == CudaElement::Q8 {
            owned.write_scales(i, layer.scale_bits(0, rows)).unwrap();
        }
        assert!(owned.write_scales(i, &[0; 3]).is_err());
    }
    let kinds =
        [CudaStepKind::Policy, CudaStepKind::Policy, CudaStepKind::Rest, CudaStepKind::Policy, CudaStepKind::Exact];
    let mut reused = 0;
    for pos in 0..layer.tokens {
        let query = layer.queries(pos, pos + 1);
        let pre: Vec<bf16> = query.pre.iter().map(|x| bf16::from_f32(*x)).collect();
        let rot: Vec<u16> = query.rot.iter().map(|x| layer.bits(*x)).collect();
        for i in 0..2 {
            owned.write_queries(i, &pre, &rot).unwrap();
        }
        let kind = kinds[pos % kinds.len()];
        assert_eq!(owned.replay(kind, 1).unwrap().len(), 1);
        let want = match kind {
            CudaStepKind::Policy => eager.step(pos),
            CudaStepKind::Rest => eager.step_resting(pos),
            CudaStepKind::Exact => eager.step_exact(pos),
        };
        let counters = eager.attention.report().unwrap()[0].clone();
        let report = owned.report().unwrap().to_vec();
        for (i, got) in report.iter().enumerate() {
            // Not the bytes of K and V: what is read ahead in vain depends on when a decision is seen.
            let seen = |c: &Counters| {
                (c.heads.clone(), c.reused_mass.clone(), c.groups, c.groups_reused, c.ring_bytes, c.kv_bytes_exact)
            };
            assert_eq!(seen(got), seen(&counters), "layer {i} at {pos}, {kind:?}");
            assert_eq!(owned.out(i).unwrap(), want, "layer {i} at {pos}, {kind:?}");
        }
        reused += counters.heads_reused();
    }
    assert!(reused > 0);
    let positions = |ring: mac_attention::Ring| ring.positions().max();
    // The last step was exact and left no entry.
    assert_eq!(positions(owned.ring(1).unwrap()), Some(layer.tokens - 2));
    let beyond = owned.replay(CudaStepKind::Exact, 1);
    assert!(matches!(beyond, Err(CudaError::Range { got: 131, capacity: 130, .. })), "{beyond:?}");
    let small = Arc::new(gpu.upload(&bits[1..]).unwrap());
    assert!(matches!(CudaLayers::new(gpu, setup, layer.tokens, small), Err(CudaError::Range { .. })));
}
