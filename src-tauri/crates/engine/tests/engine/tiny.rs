//! Tiny random models of every family, as checkpoints and as GGUF files.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use candle_core::quantized::gguf_file::{self, Value as Meta};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reprise_engine::exec::Executor;
use reprise_engine::model::{ModelSpec, spec_from_config};
use serde_json::{Value, json};

pub(crate) const LAYERS: usize = 3;
pub(crate) const VOCAB: usize = 300;
pub(crate) const PROMPT: usize = 41;
pub(crate) const STEPS: usize = 3;

pub(crate) fn config(model_type: &str) -> Value {
    json!({
        "model_type": model_type, "vocab_size": VOCAB, "hidden_size": 256, "intermediate_size": 352,
        "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
        "attention_bias": false, "max_position_embeddings": 512, "sliding_window": null, "max_window_layers": 0,
        "tie_word_embeddings": false, "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "use_sliding_window": false,
        "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "rope_scaling": null
    })
}

/// Weights as a checkpoint has them: matrices of variance 1/columns, norms near one, small biases.
pub(crate) fn tensors(spec: &ModelSpec) -> HashMap<String, Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut all = HashMap::new();
    let mut add = |name: String, shape: &[usize], centre: f32, spread: f32| {
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|_| centre + rng.random_range(-spread..spread)).collect();
        all.insert(name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    };
    let matrix = |cols: usize| (3.0 / cols as f32).sqrt();
    let (d, ff, q, kv, hd) = (spec.d_model, spec.d_ff, spec.q_width(), spec.kv_width(), spec.head_dim);
    add("model.embed_tokens.weight".into(), &[VOCAB, d], 0.0, 1.0);
    add("model.norm.weight".into(), &[d], 1.0, 0.2);
    if !spec.tied_embeddings {
        add("lm_head.weight".into(), &[VOCAB, d], 0.0, matrix(d));
    }
    for layer in 0..spec.layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        add(name("input_layernorm.weight"), &[d], 1.0, 0.2);
        add(name("post_attention_layernorm.weight"), &[d], 1.0, 0.2);
        for (part, rows) in [("q", q), ("k", kv), ("v", kv)] {
            // Values at a quarter, so that the rounding of the KV cache stays below what is tested here.
            let scale = if part == "v" { 0.25 } else { 1.0 };
            add(name(&format!("self_attn.{part}_proj.weight")), &[rows, d], 0.0, scale * matrix(d));
            if spec.qkv_bias {
                add(name(&format!("self_attn.{part}_proj.bias")), &[rows], 0.0, 0.3);
            }
        }
        add(name("self_attn.o_proj.weight"), &[d, q], 0.0, matrix(q));
        if spec.qk_norm {
            add(name("self_attn.q_norm.weight"), &[hd], 1.0, 0.2);
            add(name("self_attn.k_norm.weight"), &[hd], 1.0, 0.2);
        }
        add(name("mlp.gate_proj.weight"), &[ff, d], 0.0, matrix(d));
        add(name("mlp.up_proj.weight"), &[ff, d], 0.0, matrix(d));
        add(name("mlp.down_proj.weight"), &[d, ff], 0.0, matrix(ff));
    }
    all
}

pub(crate) fn tokens() -> Vec<u32> {
    (0..(PROMPT + STEPS) as u32).map(|i| (i * 97 + 13) % VOCAB as u32).collect()
}

/// Logits after the prompt and after each further token.
pub(crate) fn ours(executor: &mut dyn Executor) -> Vec<Vec<f32>> {
    let (ids, go_on) = (tokens(), AtomicBool::new(false));
    assert!(executor.prefill(&ids[..PROMPT], &mut |_| ControlFlow::Continue(()), &go_on).unwrap().is_continue());
    let mut all = vec![executor.logits().unwrap().to_vec()];
    for id in &ids[PROMPT..] {
        assert!(executor.decode(*id, &go_on).unwrap().is_continue());
        all.push(executor.logits().unwrap().to_vec());
    }
    all
}

/// ‖got − want‖ / ‖want‖; NaN anywhere gives NaN, which no bound admits.
pub(crate) fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = got.iter().zip(want).map(|(g, w)| square(g - w)).sum();
    (difference / want.iter().map(|w| square(*w)).sum::<f64>()).sqrt()
}

pub(crate) fn write_folder(folder: &Path, config: &Value) -> ModelSpec {
    let spec = spec_from_config(config).unwrap();
    candle_core::safetensors::save(&tensors(&spec), folder.join("model.safetensors")).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    spec
}

/// Rows of each head in the order that llama-architecture converters write: `x0`, `x_half`, `x1`, …
pub(crate) fn to_pairs(tensor: &Tensor, heads: usize) -> Tensor {
    let (rows, cols) = tensor.dims2().unwrap();
    let pairs = tensor.reshape((heads, 2, rows / heads / 2, cols)).unwrap().transpose(1, 2).unwrap();
    pairs.contiguous().unwrap().reshape((rows, cols)).unwrap()
}

/// The model of [`write_folder`] as a llama-architecture GGUF file, every tensor in the type that `dtype` gives its name.
pub(crate) fn write_gguf(folder: &Path, spec: &ModelSpec, dtype: &dyn Fn(&str) -> GgmlDType) -> PathBuf {
    let mut quantised = Vec::new();
    for (name, tensor) in tensors(spec) {
        let name = name
            .replace("model.embed_tokens", "token_embd")
            .replace("lm_head", "output")
            .replace("model.norm", "output_norm")
            .replace("model.layers.", "blk.")
            .replace("input_layernorm", "attn_norm")
            .replace("post_attention_layernorm", "ffn_norm")
            .replace("self_attn.q_proj", "attn_q")
            .replace("self_attn.k_proj", "attn_k")
            .replace("self_attn.v_proj", "attn_v")
            .replace("self_attn.o_proj", "attn_output")
            .replace("mlp.gate_proj", "ffn_gate")
            .replace("mlp.up_proj", "ffn_up")
            .replace("mlp.down_proj", "ffn_down");
        let tensor = if name.contains("attn_q") {
            to_pairs(&tensor, spec.num_q_heads)
        } else if name.contains("attn_k") {
            to_pairs(&tensor, spec.num_kv_heads)
        } else {
            tensor
        };
        let quantise = QTensor::quantize(&tensor, dtype(&name)).unwrap();
        quantised.push((name, quantise));
    }
    // What a converter writes for llama3 scaling: plain frequency over scaled frequency.
    let plain = reprise_engine::model::Rope::plain(spec.rope.theta).inv_freq(64);
    let divisors: Vec<f32> =
        plain.iter().zip(spec.rope.inv_freq(64)).map(|(plain, scaled)| (plain / scaled) as f32).collect();
    let divisors = Tensor::from_vec(divisors, 32, &Device::Cpu).unwrap();
    quantised.push(("rope_freqs.weight".into(), QTensor::quantize(&divisors, GgmlDType::F32).unwrap()));

    let metadata = [
        ("general.architecture", Meta::String("llama".into())),
        ("llama.block_count", Meta::U32(spec.layers as u32)),
        ("llama.context_length", Meta::U32(512)),
        ("llama.embedding_length", Meta::U32(256)),
        ("llama.feed_forward_length", Meta::U32(spec.d_ff as u32)),
        ("llama.attention.head_count", Meta::U32(4)),
        ("llama.attention.head_count_kv", Meta::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
        ("llama.rope.dimension_count", Meta::U32(64)),
        ("llama.rope.freq_base", Meta::F32(10_000.0)),
    ];
    let metadata: Vec<(&str, &Meta)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let tensors: Vec<(&str, &QTensor)> = quantised.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let path = folder.join("tiny.gguf");
    gguf_file::write(&mut std::fs::File::create(&path).unwrap(), &metadata, &tensors).unwrap();
    path
}
