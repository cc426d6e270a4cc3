//! GGUF metadata to a checked [`ModelSpec`].

use candle_core::quantized::gguf_file::Value;

use super::{Architecture, ModelSpec, Rope, RopeScaling};
use crate::EngineError;
use crate::weights::GgufFile;

fn unsupported<T>(why: impl Into<String>) -> Result<T, EngineError> {
    Err(EngineError::UnsupportedModel { why: why.into() })
}

/// Typed reads of `{architecture}.{key}`.
struct Fields<'a> {
    file: &'a GgufFile,
    architecture: &'a str,
}

impl Fields<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.file.metadata(&format!("{}.{key}", self.architecture))
    }

    fn count(&self, key: &str) -> Result<Option<usize>, EngineError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        // Some writers give one number per layer; one number stands for all only if they agree.
        let scalar = match value {
            Value::Array(items) => match items.split_first() {
                Some((first, rest)) if rest.iter().all(|v| unsigned(v) == unsigned(first)) => unsigned(first),
                _ => return unsupported(format!("layers that differ in {key}")),
            },
            other => unsigned(other),
        };
        match scalar.and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => unsupported(format!("metadata {key} is not a count")),
        }
    }

    fn need(&self, key: &str) -> Result<usize, EngineError> {
        match self.count(key)? {
            Some(n) => Ok(n),
            None => unsupported(format!("metadata lacks {}.{key}", self.architecture)),
        }
    }

    fn number(&self, key: &str) -> Option<f64> {
        match self.get(key)? {
            Value::F32(x) => Some(f64::from(*x)),
            Value::F64(x) => Some(*x),
            other => unsigned(other).map(|n| n as f64),
        }
    }
}

fn unsigned(value: &Value) -> Option<u64> {
    match value {
        Value::U8(n) => Some(u64::from(*n)),
        Value::U16(n) => Some(u64::from(*n)),
        Value::U32(n) => Some(u64::from(*n)),
        Value::U64(n) => Some(*n),
        Value::I8(n) => u64::try_from(*n).ok(),
        Value::I16(n) => u64::try_from(*n).ok(),
        Value::I32(n) => u64::try_from(*n).ok(),
        Value::I64(n) => u64::try_from(*n).ok(),
        _ => None,
    }
}

/// Reads the metadata of a GGUF file. Which optional tensors stand in it decides biases and tying.
pub fn spec_from_gguf(file: &GgufFile) -> Result<ModelSpec, EngineError> {
    // Before all else: parts but the first have no other metadata.
    if let Some(parts) = file.metadata("split.count").and_then(unsigned)
        && parts > 1
    {
        return unsupported(format!("this file is one of {parts} parts of a model; join them into one file first"));
    }
    let Some(Value::String(name)) = file.metadata("general.architecture") else {
        return unsupported("metadata lacks general.architecture");
    };
    let architecture = match name.as_str() {
        // Mistral is written as `llama`.
        "llama" => Architecture::Llama,
        "qwen2" => Architecture::Qwen2,
        "qwen3" => Architecture::Qwen3,
        other => return unsupported(format!("architecture `{other}` (supported: {})", Architecture::SUPPORTED)),
    };
    let fields = Fields { file, architecture: name };
    if fields.count("expert_count")?.unwrap_or(0) > 0 {
        return unsupported("a mixture of experts");
    }
    let max_context_tokens = fields.need("context_length")?;
    if let Some(window) = fields.count("attention.sliding_window")?
        && window > 0
        && window < max_context_tokens
    {
        return unsupported(format!("an active sliding window of {window} tokens"));
    }

    let d_model = fields.need("embedding_length")?;
    let num_q_heads = fields.need("attention.head_count")?;
    let head_dim = match fields.count("attention.key_length")? {
        Some(head_dim) => head_dim,
        None => d_model / num_q_heads.max(1),
    };
    if let Some(v) = fields.count("attention.value_length")?
        && v != head_dim
    {
        return unsupported(format!("values of {v} elements beside keys of {head_dim}"));
    }
    if let Some(rotated) = fields.count("rope.dimension_count")?
        && rotated != head_dim
    {
        return unsupported(format!("RoPE over {rotated} of {head_dim} elements"));
    }
    let Some(embedding) = file.tensor("token_embd.weight") else {
        return unsupported("the file has no token_embd.weight");
    };

    ModelSpec {
        architecture,
        layers: fields.need("block_count")?,
        d_model,
        num_q_heads,
        num_kv_heads: fields.count("attention.head_count_kv")?.unwrap_or(num_q_heads),
        head_dim,
        d_ff: fields.need("feed_forward_length")?,
        vocab: embedding.rows(),
        norm_eps: fields.number("attention.layer_norm_rms_epsilon").unwrap_or(1e-6) as f32,
        qkv_bias: file.tensor("blk.0.attn_q.bias").is_some(),
        o_bias: file.tensor("blk.0.attn_output.bias").is_some(),
        qk_norm: architecture == Architecture::Qwen3,
        tied_embeddings: file.tensor("output.weight").is_none(),
        rope: rope(&fields, head_dim)?,
        max_context_tokens,
    }
    .check()
}

fn rope(fields: &Fields<'_>, head_dim: usize) -> Result<Rope, EngineError> {
    let theta = fields.number("rope.freq_base").unwrap_or(10_000.0);
    if let Some(divisors) = fields.file.read_optional_vector("rope_freqs.weight", head_dim / 2)? {
        return Ok(Rope { theta, scaling: RopeScaling::Divisors(divisors) });
    }
    let factor = fields.number("rope.scaling.factor").or_else(|| fields.number("rope.scale_linear")).unwrap_or(1.0);
    let kind = match fields.get("rope.scaling.type") {
        Some(Value::String(kind)) => kind.as_str(),
        Some(_) => return unsupported("metadata rope.scaling.type is not text"),
        None if factor == 1.0 => "none",
        None => "linear",
    };
    let scaling = match kind {
        "none" => RopeScaling::None,
        "linear" if factor == 1.0 => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor },
        "yarn" => {
            let Some(original_context_tokens) = fields.count("rope.scaling.original_context_length")? else {
                return unsupported("RoPE scaling `yarn` without rope.scaling.original_context_length");
            };
            let stretch = if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 };
            RopeScaling::Yarn {
                factor,
                attention_factor: fields.number("rope.scaling.attn_factor").unwrap_or(1.0) * stretch,
                beta_fast: fields.number("rope.scaling.yarn_beta_fast").unwrap_or(32.0),
                beta_slow: fields.number("rope.scaling.yarn_beta_slow").unwrap_or(1.0),
                original_context_tokens,
                truncate: true,
            }
        }
        other => return unsupported(format!("RoPE scaling `{other}` (supported: linear, yarn)")),
    };
    Ok(Rope { theta, scaling })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Large models come in parts: the first has all metadata, the others next to none.
    #[test]
    fn a_part_of_a_split_model_is_named_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m-00001-of-00003.gguf");
        let (architecture, count) = (Value::String("llama".into()), Value::U16(3));
        let all: [(&str, &Value); 2] = [("split.count", &count), ("general.architecture", &architecture)];
        for metadata in [&all[..], &all[..1]] {
            let mut file = std::fs::File::create(&path).unwrap();
            candle_core::quantized::gguf_file::write(&mut file, metadata, &[]).unwrap();
            match spec_from_gguf(&GgufFile::open(&path).unwrap()) {
                Err(EngineError::UnsupportedModel { why }) => assert!(why.contains("3 parts"), "{why}"),
                other => panic!("{other:?}"),
            }
        }
    }
}
