//! The tensors of a decoder and what the two file formats call them.

use crate::model::{Architecture, ModelSpec};

/// A tensor outside the layers, or one of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Token embedding.
    Embedding,
    /// Norm before the output matrix.
    FinalNorm,
    /// Output matrix of untied models.
    Head,
    /// Of layer i.
    Layer(usize, LayerPart),
}

/// A tensor of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the field's own")]
pub enum LayerPart {
    AttentionNorm,
    Query,
    Key,
    Value,
    Output,
    QueryBias,
    KeyBias,
    ValueBias,
    OutputBias,
    QueryNorm,
    KeyNorm,
    MlpNorm,
    Gate,
    Up,
    Down,
}

impl Part {
    /// In `model.safetensors`.
    pub fn hf_name(self) -> String {
        match self {
            Self::Embedding => "model.embed_tokens.weight".into(),
            Self::FinalNorm => "model.norm.weight".into(),
            Self::Head => "lm_head.weight".into(),
            Self::Layer(layer, part) => {
                let suffix = match part {
                    LayerPart::AttentionNorm => "input_layernorm.weight",
                    LayerPart::Query => "self_attn.q_proj.weight",
                    LayerPart::Key => "self_attn.k_proj.weight",
                    LayerPart::Value => "self_attn.v_proj.weight",
                    LayerPart::Output => "self_attn.o_proj.weight",
                    LayerPart::QueryBias => "self_attn.q_proj.bias",
                    LayerPart::KeyBias => "self_attn.k_proj.bias",
                    LayerPart::ValueBias => "self_attn.v_proj.bias",
                    LayerPart::OutputBias => "self_attn.o_proj.bias",
                    LayerPart::QueryNorm => "self_attn.q_norm.weight",
                    LayerPart::KeyNorm => "self_attn.k_norm.weight",
                    LayerPart::MlpNorm => "post_attention_layernorm.weight",
                    LayerPart::Gate => "mlp.gate_proj.weight",
                    LayerPart::Up => "mlp.up_proj.weight",
                    LayerPart::Down => "mlp.down_proj.weight",
                };
                format!("model.layers.{layer}.{suffix}")
            }
        }
    }

    /// In a GGUF file.
    pub fn gguf_name(self) -> String {
        match self {
            Self::Embedding => "token_embd.weight".into(),
            Self::FinalNorm => "output_norm.weight".into(),
            Self::Head => "output.weight".into(),
            Self::Layer(layer, part) => {
                let suffix = match part {
                    LayerPart::AttentionNorm => "attn_norm.weight",
                    LayerPart::Query => "attn_q.weight",
                    LayerPart::Key => "attn_k.weight",
                    LayerPart::Value => "attn_v.weight",
                    LayerPart::Output => "attn_output.weight",
                    LayerPart::QueryBias => "attn_q.bias",
                    LayerPart::KeyBias => "attn_k.bias",
                    LayerPart::ValueBias => "attn_v.bias",
                    LayerPart::OutputBias => "attn_output.bias",
                    LayerPart::QueryNorm => "attn_q_norm.weight",
                    LayerPart::KeyNorm => "attn_k_norm.weight",
                    LayerPart::MlpNorm => "ffn_norm.weight",
                    LayerPart::Gate => "ffn_gate.weight",
                    LayerPart::Up => "ffn_up.weight",
                    LayerPart::Down => "ffn_down.weight",
                };
                format!("blk.{layer}.{suffix}")
            }
        }
    }

    /// Heads of a Q or K tensor whose rows a llama-architecture GGUF stores in pairs (`x0`, `x_half`, `x1`, …), for
    /// rotating neighbours; every other file stores halves.
    pub(crate) fn interleaved_heads(self, spec: &ModelSpec) -> Option<usize> {
        if spec.architecture != Architecture::Llama {
            return None;
        }
        match self {
            Self::Layer(_, LayerPart::Query | LayerPart::QueryBias) => Some(spec.num_q_heads),
            Self::Layer(_, LayerPart::Key | LayerPart::KeyBias) => Some(spec.num_kv_heads),
            _ => None,
        }
    }
}
