//! The stages of one decoder layer, for one token or a chunk of them.

use candle_core::CpuStorage;
use half::bf16;

use super::pool::for_each;
use super::{KvCache, ops};
use crate::EngineError;
use crate::model::{ModelSpec, RopeAngles};
use crate::weights::{LayerWeights, Weights};

/// Tokens of a row task between products: enough work to hand over, few enough to balance.
const TASK_ROWS: usize = 16;

/// A buffer that goes into products without being copied.
#[derive(Debug)]
pub(super) struct Rows(CpuStorage);

impl Rows {
    pub(super) fn new() -> Self {
        Self(CpuStorage::F32(Vec::new()))
    }

    /// The first `len` elements, whatever they held.
    pub(super) fn get(&mut self, len: usize) -> &mut [f32] {
        if !matches!(self.0, CpuStorage::F32(_)) {
            self.0 = CpuStorage::F32(Vec::new());
        }
        match &mut self.0 {
            CpuStorage::F32(values) => {
                if values.len() < len {
                    values.resize(len, 0.0);
                }
                &mut values[..len]
            }
            _ => &mut [],
        }
    }

    /// As the input of a product.
    pub(super) fn storage(&self) -> &CpuStorage {
        &self.0
    }
}

/// Activations, kept between chunks and steps.
#[derive(Debug)]
pub(super) struct Scratch {
    /// Input of a product, `[tokens, width]`.
    pub(super) input: Rows,
    /// Queries before and after `RoPE`, `[tokens, q_width]`.
    pub(super) q_pre: Vec<f32>,
    pub(super) q_rot: Vec<f32>,
}

/// Bias, head norm and `RoPE`: `qkv` is `[tokens, q_width + 2 kv_width]`; queries go to the scratch, keys and values to
/// the cache at `begin`.
#[expect(clippy::too_many_arguments, reason = "a step between two buffers of one struct, borrowed apart")]
pub(super) fn split_heads(
    qkv: &mut [f32],
    layer: &LayerWeights,
    spec: &ModelSpec,
    angles: &RopeAngles,
    begin: usize,
    scratch: &mut Scratch,
    kv: &mut KvCache,
    index: usize,
) {
    let (hd, q_width, kv_width) = (spec.head_dim, spec.q_width(), spec.kv_width());
    let width = q_width + 2 * kv_width;
    let eps = spec.norm_eps;
    let prepare = |row: &mut [f32]| {
        if let Some(bias) = &layer.qkv_bias {
            ops::add(row, bias);
        }
        let (q, rest) = row.split_at_mut(q_width);
        if let Some(weight) = &layer.q_norm {
            ops::rms_norm_in_place(q, weight, eps);
        }
        if let Some(weight) = &layer.k_norm {
            ops::rms_norm_in_place(&mut rest[..kv_width], weight, eps);
        }
    };
    let stretches = qkv
        .chunks_mut(TASK_ROWS * width)
        .zip(scratch.q_pre.chunks_mut(TASK_ROWS * q_width))
        .zip(scratch.q_rot.chunks_mut(TASK_ROWS * q_width));
    for_each(stretches, &|i, ((qkv, pre), rot)| {
        let rows = qkv.chunks_exact_mut(width).zip(pre.chunks_exact_mut(q_width)).zip(rot.chunks_exact_mut(q_width));
        for (j, ((row, pre), rot)) in rows.enumerate() {
            prepare(row);
            pre.copy_from_slice(&row[..q_width]);
            let (cos, sin) = angles.row(i * TASK_ROWS + j);
            for (head, rot) in pre.chunks_exact(hd).zip(rot.chunks_exact_mut(hd)) {
                ops::rotate(head, cos, sin, rot);
            }
        }
    });

    let plane = kv.capacity() * hd;
    let (keys, values) = kv.planes_mut(index);
    let heads = keys.chunks_exact_mut(plane).zip(values.chunks_exact_mut(plane));
    let qkv = &*qkv;
    let rows = qkv.len() / width;
    let append = |head: usize, (keys, values): &mut (&mut [bf16], &mut [bf16])| {
        let mut rotated = [0f32; 256];
        let rotated = &mut rotated[..hd];
        for (i, row) in qkv.chunks_exact(width).enumerate() {
            let (cos, sin) = angles.row(i);
            ops::rotate(&row[q_width + head * hd..][..hd], cos, sin, rotated);
            let at = (begin + i) * hd;
            round(rotated, &mut keys[at..at + hd]);
            round(&row[q_width + kv_width + head * hd..][..hd], &mut values[at..at + hd]);
        }
    };
    if rows <= TASK_ROWS {
        // A hand-over costs more than this work.
        heads.enumerate().for_each(|(head, mut planes)| append(head, &mut planes));
    } else {
        for_each(heads, &append);
    }
}

fn round(from: &[f32], to: &mut [bf16]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = bf16::from_f32(*from);
    }
}

pub(super) fn norm_rows(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let stretch = TASK_ROWS * weight.len();
    for_each(x.chunks(stretch).zip(out.chunks_mut(stretch)), &|_, (x, out)| ops::rms_norm(x, weight, eps, out));
}

/// Output projection and MLP; the attention output stands in `scratch.input`.
pub(super) fn finish_layer(
    layer: &LayerWeights,
    spec: &ModelSpec,
    rows: usize,
    scratch: &mut Scratch,
    x: &mut [f32],
) -> Result<(), EngineError> {
    let (d, d_ff) = (spec.d_model, spec.d_ff);
    let attended = layer.output.forward(scratch.input.storage(), rows)?;
    ops::add(x, &attended);
    if let Some(bias) = &layer.output_bias {
        x.chunks_exact_mut(d).for_each(|row| ops::add(row, bias));
    }
    norm_rows(x, &layer.mlp_norm, spec.norm_eps, scratch.input.get(rows * d));
    let gate_up = layer.gate_up.forward(scratch.input.storage(), rows)?;
    let input = scratch.input.get(rows * d_ff);
    let stretches = gate_up.chunks(TASK_ROWS * 2 * d_ff).zip(input.chunks_mut(TASK_ROWS * d_ff));
    for_each(stretches, &|_, (gate_up, out)| ops::gated_silu(gate_up, d_ff, out));
    let written = layer.down.forward(scratch.input.storage(), rows)?;
    ops::add(x, &written);
    Ok(())
}

/// Logits of the one row in `x`.
pub(super) fn output(
    weights: &Weights,
    spec: &ModelSpec,
    scratch: &mut Scratch,
    x: &[f32],
) -> Result<Vec<f32>, EngineError> {
    ops::rms_norm(x, &weights.final_norm, spec.norm_eps, scratch.input.get(spec.d_model));
    weights.logits(scratch.input.storage())
}
