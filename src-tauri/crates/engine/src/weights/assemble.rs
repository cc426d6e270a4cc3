//! Tensors of a file to the weights of the decoder.

use candle_core::CpuStorage;

use super::matrix::held_bytes;
use super::names::LayerPart as L;
use super::{Part, Projection, ReadTick, Source};
use crate::EngineError;
use crate::model::ModelSpec;

/// Weights of one decoder layer.
#[derive(Debug)]
pub struct LayerWeights {
    /// `[d_model]`.
    pub attention_norm: Vec<f32>,
    /// Q, K and V side by side, `[q_width + 2 kv_width, d_model]`.
    pub qkv: Projection,
    /// `[q_width + 2 kv_width]`.
    pub qkv_bias: Option<Vec<f32>>,
    /// Query head norm, `[head_dim]`.
    pub q_norm: Option<Vec<f32>>,
    /// Key head norm, `[head_dim]`.
    pub k_norm: Option<Vec<f32>>,
    /// `[d_model, q_width]`.
    pub output: Projection,
    /// `[d_model]`.
    pub output_bias: Option<Vec<f32>>,
    /// `[d_model]`.
    pub mlp_norm: Vec<f32>,
    /// Gate and up side by side, `[2 d_ff, d_model]`.
    pub gate_up: Projection,
    /// `[d_model, d_ff]`.
    pub down: Projection,
}

/// All weights.
#[derive(Debug)]
pub struct Weights {
    /// `[vocab, d_model]`; the output matrix too where tied.
    pub embedding: Projection,
    /// The layers in order.
    pub layers: Vec<LayerWeights>,
    /// `[d_model]`.
    pub final_norm: Vec<f32>,
    /// `[vocab, d_model]`, of untied models.
    pub head: Option<Projection>,
}

impl Weights {
    /// Embedding rows of `tokens`, `[tokens, d_model]`.
    pub fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        self.embedding.rows(tokens)
    }

    /// Logits of one row, `[vocab]`.
    pub fn logits(&self, x: &CpuStorage) -> Result<Vec<f32>, EngineError> {
        self.head.as_ref().unwrap_or(&self.embedding).forward(x, 1)
    }

    /// Bytes as held.
    pub fn bytes(&self) -> u64 {
        let layer = |l: &LayerWeights| l.qkv.bytes() + l.output.bytes() + l.gate_up.bytes() + l.down.bytes();
        self.embedding.bytes()
            + self.head.as_ref().map_or(0, Projection::bytes)
            + self.layers.iter().map(layer).sum::<u64>()
    }
}

/// Bytes that the weights of a source will take in memory, from its header alone.
pub fn weights_bytes(source: &Source, spec: &ModelSpec) -> u64 {
    match source {
        Source::Gguf(file) => file.tensors().map(|(_, t)| held_bytes(t.dtype(), t.rows() * t.cols())).sum(),
        Source::Safetensors { dtype, .. } => held_bytes(*dtype, spec.parameters() as usize),
    }
}

/// Reads all tensors; `tick` is called with the bytes read and cancels by `false`.
pub fn load_weights(source: &Source, spec: &ModelSpec, tick: &mut ReadTick<'_>) -> Result<Weights, EngineError> {
    let (q, kv, d, ff) = (spec.q_width(), spec.kv_width(), spec.d_model, spec.d_ff);
    let embedding = Projection::new(vec![source.matrix(Part::Embedding, spec.vocab, d, spec, tick)?])?;
    let mut layers = Vec::with_capacity(spec.layers);
    for index in 0..spec.layers {
        let mut matrices = |parts: &[(L, usize)], cols: usize| {
            let read = |(part, rows): &(L, usize)| source.matrix(Part::Layer(index, *part), *rows, cols, spec, tick);
            Projection::new(parts.iter().map(read).collect::<Result<_, _>>()?)
        };
        let qkv = matrices(&[(L::Query, q), (L::Key, kv), (L::Value, kv)], d)?;
        let output = matrices(&[(L::Output, d)], q)?;
        let gate_up = matrices(&[(L::Gate, ff), (L::Up, ff)], d)?;
        let down = matrices(&[(L::Down, d)], ff)?;
        let mut vector = |part, len| source.vector(Part::Layer(index, part), len, spec, tick);
        let qkv_bias = if spec.qkv_bias {
            Some([vector(L::QueryBias, q)?, vector(L::KeyBias, kv)?, vector(L::ValueBias, kv)?].concat())
        } else {
            None
        };
        let (q_norm, k_norm) = if spec.qk_norm {
            (Some(vector(L::QueryNorm, spec.head_dim)?), Some(vector(L::KeyNorm, spec.head_dim)?))
        } else {
            (None, None)
        };
        layers.push(LayerWeights {
            attention_norm: vector(L::AttentionNorm, d)?,
            qkv,
            qkv_bias,
            q_norm,
            k_norm,
            output,
            output_bias: if spec.o_bias { Some(vector(L::OutputBias, d)?) } else { None },
            mlp_norm: vector(L::MlpNorm, d)?,
            gate_up,
            down,
        });
    }
    let final_norm = source.vector(Part::FinalNorm, d, spec, tick)?;
    let head = if spec.tied_embeddings {
        None
    } else {
        Some(Projection::new(vec![source.matrix(Part::Head, spec.vocab, d, spec, tick)?])?)
    };
    Ok(Weights { embedding, layers, final_norm, head })
}
