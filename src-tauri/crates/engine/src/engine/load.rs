//! From a path to a model that answers.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::GgmlDType;

use super::{Device, DeviceKind, LoadOptions, ModelInfo};
use crate::exec::{CandleExecutor, Executor, context_costs_on_gpu, load_cuda, request_threads};
use crate::memory::{MemoryPlan, available_bytes, cost_on_cpu, plan};
use crate::model::{ModelSpec, spec_from_config, spec_from_gguf};
use crate::text::TextModel;
use crate::weights::{GgufFile, SafetensorsFiles, Source, load_weights, type_name, weights_bytes};
use crate::{EngineError, KvFormat};

pub(super) struct Loaded {
    pub(super) executor: Box<dyn Executor>,
    pub(super) text: TextModel,
    pub(super) info: ModelInfo,
}

/// A `config.json` of a served model has under 4 KB.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// Share of the progress that reading takes; the rest is packing.
const READING_SHARE: f32 = 0.7;

pub(super) fn load(options: &LoadOptions, progress: &mut dyn FnMut(f32) -> bool) -> Result<Loaded, EngineError> {
    request_threads(options.threads);
    if options.ring.slots == 0 || options.ring.band == 0 {
        return Err(EngineError::InvalidRequest("a ring without slots or band".into()));
    }
    if options.device == Device::Cpu && options.kv.is_8_bit() {
        return Err(EngineError::KvNeedsGpu { format: options.kv });
    }
    let Opened { mut source, spec, text, name } = open(&options.model, options)?;
    if !progress(0.0) {
        return Err(EngineError::Cancelled);
    }
    let (executor, memory, fallback) = place(&mut source, &spec, options, progress)?;
    let capacity = executor.capacity();
    let mut context_costs = vec![cost_on_cpu(&spec, KvFormat::Bf16)];
    context_costs.extend(context_costs_on_gpu(&spec)?);
    let on_gpu = capacity.device_memory.is_some();
    let info = ModelInfo {
        name,
        architecture: spec.architecture.name().into(),
        weights: weights_in_words(&source),
        parameters: spec.parameters(),
        device: capacity.device,
        device_kind: if on_gpu { DeviceKind::Cuda } else { DeviceKind::Cpu },
        fallback,
        kv: capacity.kv,
        device_memory: capacity.device_memory,
        context_tokens: capacity.context_tokens,
        max_context_tokens: spec.max_context_tokens,
        layers: spec.layers,
        num_q_heads: spec.num_q_heads,
        num_kv_heads: spec.num_kv_heads,
        head_dim: spec.head_dim,
        memory,
        context_costs,
    };
    Ok(Loaded { executor, text, info })
}

type Placed = (Box<dyn Executor>, MemoryPlan, Option<String>);

/// Reads the weights to the device that was asked for; with [`Device::Auto`] to the GPU if one serves. The last of the
/// result is why it does not.
fn place(
    source: &mut Source,
    spec: &ModelSpec,
    options: &LoadOptions,
    progress: &mut dyn FnMut(f32) -> bool,
) -> Result<Placed, EngineError> {
    let fallback =
        match options.device {
            Device::Cpu => None,
            Device::Cuda | Device::Auto => match load_cuda(source, spec, options, progress) {
                Ok((executor, memory)) => return Ok((executor, memory, None)),
                Err(
                    error @ (EngineError::NoGpu { .. } | EngineError::OutOfMemory { .. } | EngineError::Gpu { .. }),
                ) if options.device == Device::Auto => Some(why_not_there(&error, options.kv)),
                Err(error) => return Err(error),
            },
        };
    let (executor, memory) = load_cpu(source, spec, options, progress)?;
    Ok((Box::new(executor), memory, fallback))
}

/// Why the GPU does not serve, and what that means for the KV cache.
fn why_not_there(error: &EngineError, asked: KvFormat) -> String {
    if asked.is_8_bit() { format!("{error}; the KV cache is bf16, as {asked} needs a GPU") } else { error.to_string() }
}

fn load_cpu(
    source: &Source,
    spec: &ModelSpec,
    options: &LoadOptions,
    progress: &mut dyn FnMut(f32) -> bool,
) -> Result<(CandleExecutor, MemoryPlan), EngineError> {
    let weights = weights_bytes(source, spec);
    let free = available_bytes();
    let (context_tokens, memory) = plan(spec, weights, options.context_tokens, options.ring, KvFormat::Bf16, free)?;
    let total = source.tensor_bytes().max(1) as f32;
    let mut read = 0u64;
    let weights = load_weights(source, spec, &mut |bytes| {
        read += bytes;
        progress((read as f32 / total).min(1.0) * READING_SHARE)
    })?;
    let memory = MemoryPlan { weights_bytes: weights.bytes(), ..memory };
    let mut executor = CandleExecutor::new(spec.clone(), weights, context_tokens, options.ring)?;
    executor.warm_up(&mut |share| progress(READING_SHARE + share * (1.0 - READING_SHARE)))?;
    Ok((executor, memory))
}

struct Opened {
    source: Source,
    spec: ModelSpec,
    text: TextModel,
    name: String,
}

fn open(path: &Path, options: &LoadOptions) -> Result<Opened, EngineError> {
    if path.is_dir() {
        return open_folder(path, options);
    }
    if path.extension().is_some_and(|e| e == "safetensors" || e == "json")
        && let Some(folder) = path.parent()
    {
        return open_folder(folder, options);
    }
    let file = GgufFile::open(path)?;
    let spec = spec_from_gguf(&file)?;
    let text = TextModel::from_gguf(&file)?;
    let name = match file.text("general.name") {
        Some(name) if !name.trim().is_empty() => name.trim().to_string(),
        _ => path.file_stem().map_or_else(|| "model".into(), |s| s.to_string_lossy().into_owned()),
    };
    Ok(Opened { source: Source::Gguf(file), spec, text, name })
}

fn open_folder(folder: &Path, options: &LoadOptions) -> Result<Opened, EngineError> {
    let config = folder.join("config.json");
    let io = |source| EngineError::Io { path: config.clone(), source };
    let bad = |why| EngineError::BadModelFile { path: config.clone(), why };
    let bytes = std::fs::metadata(&config).map_err(io)?.len();
    if bytes > MAX_CONFIG_BYTES {
        return Err(bad(format!("{bytes} B long")));
    }
    let json = serde_json::from_slice(&std::fs::read(&config).map_err(io)?).map_err(|e| bad(e.to_string()))?;
    let spec = spec_from_config(&json)?;
    let text = TextModel::from_folder(folder)?;
    let dtype = options.precision.dtype(spec.parameters());
    let source = Source::Safetensors { files: SafetensorsFiles::open(folder)?, dtype };
    let name = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    let name = name.file_name().map_or_else(|| "model".into(), |s| s.to_string_lossy().into_owned());
    Ok(Opened { source, spec, text, name })
}

/// The type that most bytes have.
fn weights_in_words(source: &Source) -> String {
    let dtype = match source {
        Source::Safetensors { dtype, .. } => Some(*dtype),
        Source::Gguf(file) => {
            let mut bytes: HashMap<GgmlDType, usize> = HashMap::new();
            for (_, tensor) in file.tensors() {
                *bytes.entry(tensor.dtype()).or_default() += tensor.bytes();
            }
            bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map(|(dtype, _)| dtype)
        }
    };
    dtype.map_or_else(|| "none".into(), type_name)
}
