//! Shapes of well-known models, for benchmarks with made-up weights.

use super::{Architecture, ModelSpec, Rope, RopeScaling};

/// Names that [`named_shape`] knows.
pub const SHAPES: [&str; 5] = ["demo", "llama-3.2-1b", "llama-3.1-8b", "qwen3-4b", "qwen3-8b"];

fn llama3(factor: f64) -> Rope {
    Rope {
        theta: 500_000.0,
        scaling: RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context_tokens: 8192,
        },
    }
}

/// The shape of a well-known model.
pub fn named_shape(name: &str) -> Option<ModelSpec> {
    let qwen3 = ModelSpec {
        architecture: Architecture::Qwen3,
        layers: 8,
        d_model: 512,
        num_q_heads: 8,
        num_kv_heads: 2,
        head_dim: 64,
        d_ff: 1536,
        vocab: 8192,
        norm_eps: 1e-6,
        qkv_bias: false,
        o_bias: false,
        qk_norm: true,
        tied_embeddings: true,
        rope: Rope::plain(1e6),
        max_context_tokens: 131_072,
    };
    Some(match name {
        "demo" => qwen3,
        "qwen3-4b" => ModelSpec {
            layers: 36,
            d_model: 2560,
            num_q_heads: 32,
            num_kv_heads: 8,
            head_dim: 128,
            d_ff: 9728,
            vocab: 151_936,
            ..qwen3
        },
        "qwen3-8b" => ModelSpec {
            layers: 36,
            d_model: 4096,
            num_q_heads: 32,
            num_kv_heads: 8,
            head_dim: 128,
            d_ff: 12_288,
            vocab: 151_936,
            tied_embeddings: false,
            ..qwen3
        },
        "llama-3.2-1b" => ModelSpec {
            architecture: Architecture::Llama,
            layers: 16,
            d_model: 2048,
            num_q_heads: 32,
            num_kv_heads: 8,
            head_dim: 64,
            d_ff: 8192,
            vocab: 128_256,
            norm_eps: 1e-5,
            qk_norm: false,
            rope: llama3(32.0),
            ..qwen3
        },
        "llama-3.1-8b" => ModelSpec {
            architecture: Architecture::Llama,
            layers: 32,
            d_model: 4096,
            num_q_heads: 32,
            num_kv_heads: 8,
            head_dim: 128,
            d_ff: 14_336,
            vocab: 128_256,
            norm_eps: 1e-5,
            qk_norm: false,
            tied_embeddings: false,
            rope: llama3(8.0),
            ..qwen3
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_sound_shape_of_about_its_size() {
        let billions: Vec<f64> =
            SHAPES.iter().map(|n| named_shape(n).unwrap().check().unwrap().parameters() as f64 / 1e9).collect();
        for (got, want) in billions.iter().zip([0.028, 1.24, 8.03, 4.02, 8.19]) {
            assert!((got / want - 1.0).abs() < 0.02, "{got} against {want}");
        }
        assert!(named_shape("gpt-5").is_none());
    }
}
