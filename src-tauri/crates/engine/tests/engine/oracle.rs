//! The one decoder against candle-transformers' own models, on tiny random weights of each family.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Result as TensorResult, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, mistral, qwen2, qwen3};
use mac_attention::RingLayout;
use reprise_engine::EngineError;
use reprise_engine::exec::CandleExecutor;
use reprise_engine::model::{ModelSpec, spec_from_gguf};
use reprise_engine::weights::{GgufFile, Precision, SafetensorsFiles, Source, load_weights};
use serde_json::{Value, json};

use crate::tiny::{PROMPT, STEPS, config, ours, relative_error, tensors, tokens, write_folder, write_gguf};

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

#[test]
fn a_llama_gguf_equals_its_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config("llama");
    config["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    let spec = write_folder(folder.path(), &config);
    let want = ours(&mut load(folder.path(), &spec, Precision::F32));

    let path = write_gguf(folder.path(), &spec, &|_| GgmlDType::F32);
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
