//! Made-up weights for benchmarks: right in shape, size and scale, meaningless otherwise.

use candle_core::quantized::GgmlDType;
use half::f16;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::matrix::AlignedBytes;
use super::{LayerWeights, Projection, RawMatrix, Weights};
use crate::EngineError;
use crate::model::ModelSpec;

/// Weights of a spec, of one type (F32, F16 or `Q8_0`), the same for the same seed.
pub fn random_weights(spec: &ModelSpec, dtype: GgmlDType, seed: u64) -> Result<Weights, EngineError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut one = |rows: usize, cols: usize| Projection::new(vec![random_matrix(&mut rng, dtype, rows, cols)?]);
    let (q, kv, d, ff) = (spec.q_width(), spec.kv_width(), spec.d_model, spec.d_ff);
    let embedding = one(spec.vocab, d)?;
    let head = if spec.tied_embeddings { None } else { Some(one(spec.vocab, d)?) };
    let mut layers = Vec::with_capacity(spec.layers);
    for _ in 0..spec.layers {
        let head_norm = || spec.qk_norm.then(|| vec![1.0; spec.head_dim]);
        layers.push(LayerWeights {
            attention_norm: vec![1.0; d],
            qkv: one(q + 2 * kv, d)?,
            qkv_bias: spec.qkv_bias.then(|| vec![0.01; q + 2 * kv]),
            q_norm: head_norm(),
            k_norm: head_norm(),
            output: one(d, q)?,
            output_bias: spec.o_bias.then(|| vec![0.01; d]),
            mlp_norm: vec![1.0; d],
            gate_up: one(2 * ff, d)?,
            down: one(d, ff)?,
        });
    }
    Ok(Weights { embedding, layers, final_norm: vec![1.0; d], head })
}

/// Uniform with variance 1 / cols, so that activations keep their size through the layers.
fn random_matrix(rng: &mut ChaCha8Rng, dtype: GgmlDType, rows: usize, cols: usize) -> Result<RawMatrix, EngineError> {
    let unsupported = |why| Err(EngineError::UnsupportedModel { why });
    if !cols.is_multiple_of(dtype.block_size()) {
        return unsupported(format!("rows of {cols} elements in {dtype:?}"));
    }
    let elements = rows * cols;
    let mut bytes = AlignedBytes::zeroed(elements / dtype.block_size() * dtype.type_size());
    let limit = (3.0 / cols as f32).sqrt();
    let unit = |bits: u16| (f32::from(bits) / f32::from(u16::MAX) * 2.0 - 1.0) * limit;
    match dtype {
        GgmlDType::F32 => {
            for x in bytemuck::cast_slice_mut::<u8, f32>(bytes.as_mut_slice()) {
                *x = unit(rng.next_u32() as u16);
            }
        }
        GgmlDType::F16 => {
            for x in bytemuck::cast_slice_mut::<u8, f16>(bytes.as_mut_slice()) {
                *x = f16::from_f32(unit(rng.next_u32() as u16));
            }
        }
        GgmlDType::Q8_0 => {
            // A block is an f16 scale and 32 signed bytes; every byte pattern is a valid quant.
            rng.fill_bytes(bytes.as_mut_slice());
            let scale = f16::from_f32(limit / 128.0).to_le_bytes();
            for block in bytes.as_mut_slice().chunks_exact_mut(dtype.type_size()) {
                block[..2].copy_from_slice(&scale);
            }
        }
        other => return unsupported(format!("made-up weights in {other:?} (supported: F32, F16, Q8_0)")),
    }
    Ok(RawMatrix::new(dtype, rows, cols, bytes))
}
