//! `config.json` of a Hugging Face model to a checked [`ModelSpec`].

use serde_json::Value;

use super::{Architecture, ModelSpec, Rope, RopeScaling};
use crate::EngineError;

fn unsupported<T>(why: impl Into<String>) -> Result<T, EngineError> {
    Err(EngineError::UnsupportedModel { why: why.into() })
}

/// Typed reads of one JSON object.
struct Fields<'a>(&'a Value);

impl Fields<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    fn count(&self, key: &str) -> Result<Option<usize>, EngineError> {
        match self.get(key) {
            None => Ok(None),
            Some(v) => match v.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(n) => Ok(Some(n)),
                None => unsupported(format!("config.json: {key} is {v}, not a count")),
            },
        }
    }

    fn need(&self, key: &str) -> Result<usize, EngineError> {
        match self.count(key)? {
            Some(n) => Ok(n),
            None => unsupported(format!("config.json lacks {key}")),
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>, EngineError> {
        match self.get(key) {
            None => Ok(None),
            Some(v) => match v.as_f64() {
                Some(x) => Ok(Some(x)),
                None => unsupported(format!("config.json: {key} is {v}, not a number")),
            },
        }
    }

    fn flag(&self, key: &str, default: bool) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(default)
    }
}

/// Reads a parsed `config.json`. Anything that would change the arithmetic and is not known is refused.
pub fn spec_from_config(config: &Value) -> Result<ModelSpec, EngineError> {
    if !config.is_object() {
        return unsupported("config.json is not an object");
    }
    let fields = Fields(config);
    let architecture = match fields.get("model_type").and_then(Value::as_str) {
        Some("llama") => Architecture::Llama,
        Some("mistral") => Architecture::Mistral,
        Some("qwen2") => Architecture::Qwen2,
        Some("qwen3") => Architecture::Qwen3,
        Some(other) => {
            return unsupported(format!("model type `{other}` (supported: {})", Architecture::SUPPORTED));
        }
        None => return unsupported("config.json lacks model_type"),
    };
    refuse_unknown_arithmetic(&fields)?;

    let d_model = fields.need("hidden_size")?;
    let num_q_heads = fields.need("num_attention_heads")?;
    let max_position = fields.need("max_position_embeddings")?;
    refuse_sliding_window(&fields, architecture, max_position)?;
    let (rope, max_context_tokens) = rope(&fields, max_position)?;
    let attention_bias = fields.flag("attention_bias", false);

    ModelSpec {
        architecture,
        layers: fields.need("num_hidden_layers")?,
        d_model,
        num_q_heads,
        num_kv_heads: fields.count("num_key_value_heads")?.unwrap_or(num_q_heads),
        head_dim: match fields.count("head_dim")? {
            Some(head_dim) => head_dim,
            None => d_model / num_q_heads.max(1),
        },
        d_ff: fields.need("intermediate_size")?,
        vocab: fields.need("vocab_size")?,
        norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        qkv_bias: match architecture {
            Architecture::Qwen2 => true,
            Architecture::Llama | Architecture::Qwen3 => attention_bias,
            Architecture::Mistral => false,
        },
        o_bias: matches!(architecture, Architecture::Llama | Architecture::Qwen3) && attention_bias,
        qk_norm: architecture == Architecture::Qwen3,
        tied_embeddings: fields.flag("tie_word_embeddings", false),
        rope,
        max_context_tokens,
    }
    .check()
}

fn refuse_unknown_arithmetic(fields: &Fields<'_>) -> Result<(), EngineError> {
    if let Some(act) = fields.get("hidden_act").and_then(Value::as_str)
        && act != "silu"
        && act != "swish"
    {
        return unsupported(format!("activation `{act}` (supported: silu)"));
    }
    if fields.get("quantization_config").is_some() {
        return unsupported("weights quantised by another tool (quantization_config); take the original or a GGUF");
    }
    if fields.flag("mlp_bias", false) {
        return unsupported("biases in the MLP");
    }
    if let Some(share) = fields.number("partial_rotary_factor")?
        && share != 1.0
    {
        return unsupported(format!("RoPE over a part of the head (partial_rotary_factor {share})"));
    }
    if let Some(experts) = fields.count("num_local_experts")?.or(fields.count("num_experts")?)
        && experts > 0
    {
        return unsupported("a mixture of experts");
    }
    Ok(())
}

fn refuse_sliding_window(
    fields: &Fields<'_>,
    architecture: Architecture,
    max_position: usize,
) -> Result<(), EngineError> {
    if let Some(types) = fields.get("layer_types").and_then(Value::as_array)
        && let Some(other) = types.iter().find(|t| t.as_str() != Some("full_attention"))
    {
        return unsupported(format!("layers of type {other} (supported: full attention)"));
    }
    let switched_on = match architecture {
        // Qwen carries a window that is off unless this flag says otherwise.
        Architecture::Qwen2 | Architecture::Qwen3 => fields.flag("use_sliding_window", false),
        Architecture::Llama | Architecture::Mistral => true,
    };
    match fields.count("sliding_window")? {
        Some(window) if switched_on && window < max_position => {
            unsupported(format!("an active sliding window of {window} tokens"))
        }
        _ => Ok(()),
    }
}

/// The rule and the context it gives. Both the older `rope_theta` + `rope_scaling` and the newer `rope_parameters`.
fn rope(fields: &Fields<'_>, max_position: usize) -> Result<(Rope, usize), EngineError> {
    let parameters = fields.get("rope_parameters").or_else(|| fields.get("rope_scaling"));
    let empty = Value::Null;
    let scaling = Fields(parameters.unwrap_or(&empty));
    let theta = match scaling.number("rope_theta")? {
        Some(theta) => theta,
        None => fields.number("rope_theta")?.unwrap_or(10_000.0),
    };
    let kind = scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(Value::as_str).unwrap_or("default");
    let factor = |key: &str| -> Result<f64, EngineError> {
        match scaling.number(key)? {
            Some(x) => Ok(x),
            None => unsupported(format!("RoPE scaling `{kind}` without {key}")),
        }
    };
    let original = scaling.count("original_max_position_embeddings")?;
    let (rule, context) = match kind {
        "default" => (RopeScaling::None, max_position),
        "linear" => (RopeScaling::Linear { factor: factor("factor")? }, max_position),
        "llama3" => (
            RopeScaling::Llama3 {
                factor: factor("factor")?,
                low_freq_factor: factor("low_freq_factor")?,
                high_freq_factor: factor("high_freq_factor")?,
                original_context_tokens: match original {
                    Some(n) => n,
                    None => return unsupported("RoPE scaling `llama3` without original_max_position_embeddings"),
                },
            },
            max_position,
        ),
        "yarn" => {
            let stretch = factor("factor")?;
            let original_context_tokens = original.unwrap_or(max_position);
            let reach = (original_context_tokens as f64 * stretch) as usize;
            let rule = RopeScaling::Yarn {
                factor: stretch,
                attention_factor: yarn_attention_factor(&scaling, stretch)?,
                beta_fast: scaling.number("beta_fast")?.unwrap_or(32.0),
                beta_slow: scaling.number("beta_slow")?.unwrap_or(1.0),
                original_context_tokens,
                truncate: scaling.flag("truncate", true),
            };
            (rule, max_position.max(reach))
        }
        other => return unsupported(format!("RoPE scaling `{other}` (supported: linear, llama3, yarn)")),
    };
    Ok((Rope { theta, scaling: rule }, context))
}

fn yarn_attention_factor(scaling: &Fields<'_>, factor: f64) -> Result<f64, EngineError> {
    if let Some(given) = scaling.number("attention_factor")? {
        return Ok(given);
    }
    let scale = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
    Ok(match (scaling.number("mscale")?, scaling.number("mscale_all_dim")?) {
        (Some(a), Some(b)) if a != 0.0 && b != 0.0 => scale(a) / scale(b),
        _ => scale(1.0),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn qwen3() -> Value {
        json!({
            "model_type": "qwen3", "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8,
            "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 1536, "vocab_size": 8192,
            "rms_norm_eps": 1e-6, "max_position_embeddings": 131_072, "rope_theta": 1e6, "tie_word_embeddings": true,
            "use_sliding_window": false, "sliding_window": null, "rope_scaling": null, "hidden_act": "silu"
        })
    }

    fn refusal(config: &Value) -> String {
        match spec_from_config(config) {
            Err(EngineError::UnsupportedModel { why }) => why,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn reads_the_demo_model() {
        let spec = spec_from_config(&qwen3()).unwrap();
        assert!(spec.qk_norm && spec.tied_embeddings && !spec.qkv_bias);
        assert_eq!((spec.q_width(), spec.kv_width()), (512, 128));
        assert_eq!(spec.rope, Rope::plain(1e6));
    }

    #[test]
    fn reads_both_spellings_of_rope() {
        let mut config = qwen3();
        config["rope_parameters"] = json!({"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0,
            "original_max_position_embeddings": 32768});
        config["max_position_embeddings"] = json!(32768);
        let spec = spec_from_config(&config).unwrap();
        assert_eq!(spec.rope.theta, 5e5);
        assert_eq!(spec.max_context_tokens, 131_072);
        assert!((spec.rope.attention_factor() - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-12);

        let mut config = qwen3();
        config["rope_scaling"] = json!({"type": "linear", "factor": 2.0});
        assert_eq!(spec_from_config(&config).unwrap().rope.scaling, RopeScaling::Linear { factor: 2.0 });
    }

    #[test]
    fn refuses_what_would_change_the_arithmetic() {
        for (key, value, word) in [
            ("model_type", json!("gemma2"), "gemma2"),
            ("hidden_act", json!("gelu"), "gelu"),
            ("quantization_config", json!({"quant_method": "gptq"}), "quantis"),
            ("rope_scaling", json!({"rope_type": "dynamic", "factor": 2.0}), "dynamic"),
            ("layer_types", json!(["full_attention", "sliding_attention"]), "sliding_attention"),
            ("head_dim", json!(80), "80"),
            ("num_hidden_layers", json!(-1), "num_hidden_layers"),
            ("num_hidden_layers", json!(0), "layers"),
            ("vocab_size", json!(4_000_000_000_u64), "vocabulary"),
            ("rms_norm_eps", json!("small"), "rms_norm_eps"),
        ] {
            let mut config = qwen3();
            config[key] = value;
            let why = refusal(&config);
            assert!(why.contains(word), "{key}: {why}");
        }
        let mut mistral = qwen3();
        mistral["model_type"] = json!("mistral");
        mistral["sliding_window"] = json!(4096);
        assert!(refusal(&mistral).contains("4096"));
        assert!(refusal(&json!([1])).contains("object"));
    }
}
