//! `tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja` and `generation_config.json`.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::EngineError;

/// The largest known tokenizer.json has 35 MB.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;
const MAX_SETTINGS_BYTES: u64 = 16 << 20;

pub(super) fn tokenizer(folder: &Path) -> Result<Tokenizer, EngineError> {
    let path = folder.join("tokenizer.json");
    let bytes = read_bounded(&path, MAX_TOKENIZER_BYTES)?
        .ok_or_else(|| EngineError::Tokenizer(format!("there is no {}", path.display())))?;
    Tokenizer::from_bytes(bytes).map_err(|e| EngineError::Tokenizer(e.to_string()))
}

/// What stands beside the tokenizer.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) template: Option<String>,
    pub(super) bos_token: String,
    pub(super) eos_token: String,
    pub(super) stop_ids: BTreeSet<u32>,
}

impl Settings {
    pub(super) fn read(folder: &Path) -> Result<Self, EngineError> {
        let config = json(&folder.join("tokenizer_config.json"))?;
        let mut stop_ids = BTreeSet::new();
        for file in ["generation_config.json", "config.json"] {
            match &json(&folder.join(file))?["eos_token_id"] {
                Value::Array(ids) => stop_ids.extend(ids.iter().filter_map(id)),
                one => stop_ids.extend(id(one)),
            }
        }
        let template = match read_bounded(&folder.join("chat_template.jinja"), MAX_SETTINGS_BYTES)? {
            Some(bytes) => {
                Some(String::from_utf8(bytes).map_err(|_| EngineError::Template("its file is not UTF-8".into()))?)
            }
            None => template(&config["chat_template"]),
        };
        Ok(Self { template, bos_token: token(&config["bos_token"]), eos_token: token(&config["eos_token"]), stop_ids })
    }
}

/// One template, or a list of named ones.
fn template(value: &Value) -> Option<String> {
    match value {
        Value::String(source) => Some(source.clone()),
        Value::Array(named) => {
            let chosen = named.iter().find(|t| t["name"] == "default").or_else(|| named.first())?;
            chosen["template"].as_str().map(str::to_string)
        }
        _ => None,
    }
}

/// Plain text, or an object with the text in `content`.
fn token(value: &Value) -> String {
    value.as_str().or_else(|| value["content"].as_str()).unwrap_or_default().to_string()
}

fn id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok())
}

fn json(path: &Path) -> Result<Value, EngineError> {
    match read_bounded(path, MAX_SETTINGS_BYTES)? {
        Some(bytes) => serde_json::from_slice(&bytes)
            .map_err(|e| EngineError::BadModelFile { path: path.to_path_buf(), why: e.to_string() }),
        None => Ok(Value::Null),
    }
}

fn read_bounded(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, EngineError> {
    let io = |source| EngineError::Io { path: path.to_path_buf(), source };
    match std::fs::metadata(path) {
        Ok(m) if m.len() > limit => {
            Err(EngineError::BadModelFile { path: path.to_path_buf(), why: format!("{} B long", m.len()) })
        }
        Ok(_) => std::fs::read(path).map(Some).map_err(io),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io(e)),
    }
}
