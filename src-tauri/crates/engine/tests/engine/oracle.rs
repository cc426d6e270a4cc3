//! The one decoder against candle-transformers' own models, on tiny random weights of each family.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use candle_core::quantized::gguf_file::{self, Value as Meta};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Result as TensorResult, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, mistral, qwen2, qwen3};
use mac_attention::RingLayout;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reprise_engine::EngineError;
use reprise_engine::exec::{CandleExecutor, Executor};
use reprise_engine::model::{ModelSpec, spec_from_config, spec_from_gguf};
use reprise_engine::weights::{GgufFile, Precision, SafetensorsFiles, Source, load_weights};
use serde_json::{Value, json};

const LAYERS: usize = 3;
const VOCAB: usize = 300;
const PROMPT: usize = 41;
const STEPS: usize = 3;

fn config(model_type: &str) -> Value {
    json!({
        "model_type": model_type, "vocab_size": VOCAB, "hidden_size": 256, "intermediate_size": 352,
        "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
        "attention_bias": false, "max_position_embeddings": 512, "sliding_window": null, "max_window_layers": 0,
        "tie_word_embeddings": false, "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "use_sliding_window": false,
        "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "rope_scaling": null
    })
}

/// Weights as a checkpoint has them: matrices of variance 1/columns, norms near one, small biases.
fn tensors(spec: &ModelSpec) -> HashMap<String, Tensor> {
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

fn tokens() -> Vec<u32> {
    (0..(PROMPT + STEPS) as u32).map(|i| (i * 97 + 13) % VOCAB as u32).collect()
}

/// Logits after the prompt and after each further token.
fn ours(executor: &mut dyn Executor) -> Vec<Vec<f32>> {
    let (ids, go_on) = (tokens(), AtomicBool::new(false));
    assert!(executor.prefill(&ids[..PROMPT], &mut |_| ControlFlow::Continue(()), &go_on).unwrap().is_continue());
    let mut all = vec![executor.logits().to_vec()];
    for id in &ids[PROMPT..] {
        assert!(executor.decode(*id, &go_on).unwrap().is_continue());
        all.push(executor.logits().to_vec());
    }
    all
}

/// The same of a candle model, given as (tokens, position) → logits of the last.
fn theirs(mut forward: impl FnMut(&Tensor, usize) -> TensorResult<Tensor>) -> Vec<Vec<f32>> {
    let ids = tokens();
    let mut run = |span: std::ops::Range<usize>| {
        let input = Tensor::from_slice(&ids[span.clone()], (1, span.len()), &Device::Cpu).unwrap();
        forward(&input, span.start).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let mut all = vec![run(0..PROMPT)];
    all.extend((PROMPT..PROMPT + STEPS).map(|at| run(at..at + 1)));
    all
}

/// ‖got − want‖ / ‖want‖; NaN anywhere gives NaN, which no bound admits.
fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = got.iter().zip(want).map(|(g, w)| square(g - w)).sum();
    (difference / want.iter().map(|w| square(*w)).sum::<f64>()).sqrt()
}

fn write_folder(folder: &Path, config: &Value) -> ModelSpec {
    let spec = spec_from_config(config).unwrap();
    candle_core::safetensors::save(&tensors(&spec), folder.join("model.safetensors")).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    spec
}

fn load(folder: &Path, spec: &ModelSpec, precision: Precision) -> CandleExecutor {
    let files = SafetensorsFiles::open(folder).unwrap();
    let source = Source::Safetensors { files, dtype: precision.dtype(spec.parameters()) };
    let weights = load_weights(&source, spec, &mut |_| true).unwrap();
    CandleExecutor::new(spec.clone(), weights, 128, RingLayout { slots: 32, band: 16 }).unwrap()
}

type Forward = Box<dyn FnMut(&Tensor, usize) -> TensorResult<Tensor>>;

fn candle_model(config: &Value, folder: &Path) -> Forward {
    let file = folder.join("model.safetensors");
    let vb =
        VarBuilder::from_tensors(candle_core::safetensors::load(file, &Device::Cpu).unwrap(), DType::F32, &Device::Cpu);
    let read = config.clone();
    match config["model_type"].as_str().unwrap() {
        "qwen3" => {
            let mut model = qwen3::ModelForCausalLM::new(&serde_json::from_value(read).unwrap(), vb).unwrap();
            Box::new(move |ids, pos| model.forward(ids, pos))
        }
        "qwen2" => {
            let mut model = qwen2::ModelForCausalLM::new(&serde_json::from_value(read).unwrap(), vb).unwrap();
            Box::new(move |ids, pos| model.forward(ids, pos))
        }
        "mistral" => {
            let mut model = mistral::Model::new(&serde_json::from_value(read).unwrap(), vb).unwrap();
            Box::new(move |ids, pos| model.forward(ids, pos))
        }
        _ => {
            let config: llama::LlamaConfig = serde_json::from_value(read).unwrap();
            let config = config.into_config(false);
            let mut cache = llama::Cache::new(true, DType::F32, &config, &Device::Cpu).unwrap();
            let model = llama::Llama::load(vb, &config).unwrap();
            Box::new(move |ids, pos| model.forward(ids, pos, &mut cache))
        }
    }
}

/// Everything is f32 but the KV cache: bf16 rounds keys and values by up to 2⁻⁹, so the attention output by about
/// 2·10⁻³, of which a quarter (the size of values here) reaches the residual stream.
fn agrees(config: &Value) {
    let folder = tempfile::tempdir().unwrap();
    let spec = write_folder(folder.path(), config);
    let got = ours(&mut load(folder.path(), &spec, Precision::F32));
    let want = theirs(candle_model(config, folder.path()));
    for (step, (got, want)) in got.iter().zip(&want).enumerate() {
        let error = relative_error(got, want);
        assert!(error <= 1e-3, "{} step {step}: {error}", config["model_type"]);
    }
}

#[test]
fn qwen3_agrees() {
    agrees(&config("qwen3"));
    let mut tied = config("qwen3");
    tied["tie_word_embeddings"] = json!(true);
    agrees(&tied);
}

#[test]
fn qwen2_agrees() {
    let mut config = config("qwen2");
    config["sliding_window"] = json!(512);
    agrees(&config);
}

#[test]
fn mistral_agrees() {
    agrees(&config("mistral"));
}

#[test]
fn llama_agrees_with_and_without_stretched_positions() {
    agrees(&config("llama"));
    let mut scaled = config("llama");
    scaled["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    agrees(&scaled);
}

#[test]
fn other_precisions_stay_near_f32() {
    let folder = tempfile::tempdir().unwrap();
    let spec = write_folder(folder.path(), &config("qwen3"));
    let want = ours(&mut load(folder.path(), &spec, Precision::F32));
    // f16 rounds weights and activations by 2⁻¹¹ and Q8_0 by about 2⁻⁸ of a block's largest, on seven products a layer.
    for (precision, bound) in [(Precision::F16, 5e-3), (Precision::Q8_0, 5e-2)] {
        let got = ours(&mut load(folder.path(), &spec, precision));
        for (got, want) in got.iter().zip(&want) {
            let error = relative_error(got, want);
            assert!(error > 0.0 && error <= bound, "{precision:?}: {error}");
        }
    }
}

#[test]
fn shards_are_read_as_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let spec = write_folder(folder.path(), &config("qwen3"));
    let want = ours(&mut load(folder.path(), &spec, Precision::F32));

    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let (mut halves, mut map) = ([HashMap::new(), HashMap::new()], serde_json::Map::new());
    for (i, (name, tensor)) in tensors(&spec).into_iter().enumerate() {
        map.insert(name.clone(), json!(format!("model-{}.safetensors", i % 2)));
        halves[i % 2].insert(name, tensor);
    }
    for (i, half) in halves.iter().enumerate() {
        candle_core::safetensors::save(half, folder.path().join(format!("model-{i}.safetensors"))).unwrap();
    }
    let index = json!({"weight_map": map});
    std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    assert_eq!(ours(&mut load(folder.path(), &spec, Precision::F32)), want);

    let outside = json!({"weight_map": {"model.norm.weight": "../model-0.safetensors"}});
    std::fs::write(folder.path().join("model.safetensors.index.json"), outside.to_string()).unwrap();
    assert!(matches!(SafetensorsFiles::open(folder.path()), Err(EngineError::BadModelFile { .. })));
}

/// Rows of each head in the order that llama-architecture converters write: `x0`, `x_half`, `x1`, …
fn to_pairs(tensor: &Tensor, heads: usize) -> Tensor {
    let (rows, cols) = tensor.dims2().unwrap();
    let pairs = tensor.reshape((heads, 2, rows / heads / 2, cols)).unwrap().transpose(1, 2).unwrap();
    pairs.contiguous().unwrap().reshape((rows, cols)).unwrap()
}

#[test]
fn a_llama_gguf_equals_its_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config("llama");
    config["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    let spec = write_folder(folder.path(), &config);
    let want = ours(&mut load(folder.path(), &spec, Precision::F32));

    let mut quantised = Vec::new();
    for (name, tensor) in tensors(&spec) {
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
        quantised.push((name, QTensor::quantize(&tensor, GgmlDType::F32).unwrap()));
    }
    // What a converter writes for llama3 scaling: plain frequency over scaled frequency.
    let plain = reprise_engine::model::Rope::plain(spec.rope.theta).inv_freq(64);
    let divisors: Vec<f32> =
        plain.iter().zip(spec.rope.inv_freq(64)).map(|(plain, scaled)| (plain / scaled) as f32).collect();
    let divisors = Tensor::from_vec(divisors, 32, &Device::Cpu).unwrap();
    quantised.push(("rope_freqs.weight".into(), QTensor::quantize(&divisors, GgmlDType::F32).unwrap()));

    let metadata = [
        ("general.architecture", Meta::String("llama".into())),
        ("llama.block_count", Meta::U32(LAYERS as u32)),
        ("llama.context_length", Meta::U32(512)),
        ("llama.embedding_length", Meta::U32(256)),
        ("llama.feed_forward_length", Meta::U32(352)),
        ("llama.attention.head_count", Meta::U32(4)),
        ("llama.attention.head_count_kv", Meta::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
        ("llama.rope.dimension_count", Meta::U32(64)),
        ("llama.rope.freq_base", Meta::F32(10_000.0)),
    ];
    let metadata: Vec<(&str, &Meta)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let tensors: Vec<(&str, &QTensor)> = quantised.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let path = folder.path().join("tiny.gguf");
    gguf_file::write(&mut std::fs::File::create(&path).unwrap(), &metadata, &tensors).unwrap();

    let file = GgufFile::open(&path).unwrap();
    let from_gguf = spec_from_gguf(&file).unwrap();
    let weights = load_weights(&Source::Gguf(file), &from_gguf, &mut |_| true).unwrap();
    let mut executor = CandleExecutor::new(from_gguf, weights, 128, RingLayout { slots: 32, band: 16 }).unwrap();
    for (got, want) in ours(&mut executor).iter().zip(&want) {
        // The divisors are f32 in the file, so angles differ in the last bit and some keys round the other way.
        let error = relative_error(got, want);
        assert!(error <= 1e-3, "{error}");
    }
}
