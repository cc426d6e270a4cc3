//! A tokenizer from GGUF metadata.

use std::collections::{BTreeSet, HashMap};

use candle_core::quantized::gguf_file::Value;
use serde_json::json;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

use crate::EngineError;
use crate::weights::GgufFile;

fn refused<T>(why: impl Into<String>) -> Result<T, EngineError> {
    Err(EngineError::Tokenizer(why.into()))
}

/// Token types of the format.
const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;
const BYTE: i64 = 6;

pub(super) fn tokenizer(file: &GgufFile) -> Result<Tokenizer, EngineError> {
    let tokens = texts(file, "tokenizer.ggml.tokens")?;
    let types = numbers(file, "tokenizer.ggml.token_type")?;
    if !types.is_empty() && types.len() != tokens.len() {
        return refused(format!("{} tokens with {} types", tokens.len(), types.len()));
    }
    let mut tokenizer = match file.text("tokenizer.ggml.model") {
        Some("gpt2") => byte_level(file, &tokens)?,
        Some("llama") => sentence_piece(file, &tokens, &types)?,
        Some(other) => return refused(format!("kind `{other}` (supported: gpt2, llama)")),
        None => return refused("the file has none"),
    };
    let added = types.iter().zip(&tokens).filter_map(|(kind, token)| match *kind {
        CONTROL | UNUSED => Some(AddedToken::from(token.clone(), true)),
        UNKNOWN if !token.is_empty() => Some(AddedToken::from(token.clone(), true)),
        // Matched before the merges like a control token, but a part of ordinary text.
        USER_DEFINED => Some(AddedToken::from(token.clone(), false).normalized(false)),
        _ => None,
    });
    tokenizer.add_tokens(added.collect::<Vec<_>>()).map_err(|e| EngineError::Tokenizer(e.to_string()))?;
    Ok(tokenizer)
}

/// The text of a token that a metadata key names by id.
pub(super) fn token_text(file: &GgufFile, key: &str) -> Option<String> {
    let id = usize::try_from(integer(file.metadata(key)?)?).ok()?;
    match file.metadata("tokenizer.ggml.tokens")? {
        Value::Array(tokens) => match tokens.get(id)? {
            Value::String(text) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// Ids that the metadata name as ends.
pub(super) fn stop_ids(file: &GgufFile) -> BTreeSet<u32> {
    ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"]
        .iter()
        .filter_map(|key| u32::try_from(integer(file.metadata(key)?)?).ok())
        .collect()
}

/// How text is cut before the merges, by the name that converters write.
struct PreRule {
    regex: Option<&'static str>,
    /// A piece that is a token as it stands skips the merges.
    ignore_merges: bool,
    nfc: bool,
}

const CONTRACTIONS_LETTERS: &str =
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+";
const PUNCTUATION_BLANKS: &str = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn pre_rule(name: &str) -> Option<PreRule> {
    Some(match name {
        "qwen2" | "deepseek-r1-qwen" => PreRule { regex: Some("qwen"), ignore_merges: false, nfc: true },
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" => {
            PreRule { regex: Some("llama3"), ignore_merges: true, nfc: false }
        }
        "smaug-bpe" => PreRule { regex: Some("llama3"), ignore_merges: false, nfc: false },
        "tekken" => PreRule { regex: Some("tekken"), ignore_merges: true, nfc: false },
        "gpt-2" | "gpt2" => PreRule { regex: None, ignore_merges: false, nfc: false },
        _ => return None,
    })
}

fn regex(name: &str) -> String {
    match name {
        // Digits one by one.
        "qwen" => format!(r"{CONTRACTIONS_LETTERS}|\p{{N}}|{PUNCTUATION_BLANKS}"),
        // Digits by up to three.
        "llama3" => format!(r"{CONTRACTIONS_LETTERS}|\p{{N}}{{1,3}}|{PUNCTUATION_BLANKS}"),
        // Words also break where a capital follows a small letter.
        _ => {
            let (upper, lower) = (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]");
            let lead = r"[^\r\n\p{L}\p{N}]?";
            format!(
                r"{lead}{upper}*{lower}+|{lead}{upper}+{lower}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            )
        }
    }
}

fn byte_level(file: &GgufFile, tokens: &[String]) -> Result<Tokenizer, EngineError> {
    let name = file.text("tokenizer.ggml.pre").unwrap_or("gpt2");
    let Some(rule) = pre_rule(name) else {
        return refused(format!("pre-tokenizer `{name}` (supported: qwen2, llama-bpe, smaug-bpe, tekken, gpt-2)"));
    };
    let mut merges = Vec::new();
    for merge in texts(file, "tokenizer.ggml.merges")? {
        // A blank never stands inside a byte-level token, except as the first character of neither half.
        match merge.split_once(' ') {
            Some((left, right)) if !left.is_empty() && !right.is_empty() => {
                merges.push((left.to_string(), right.to_string()));
            }
            _ => return refused(format!("a merge that is not a pair: {merge:?}")),
        }
    }
    let model = BPE::builder().vocab_and_merges(vocabulary(tokens), merges).ignore_merges(rule.ignore_merges);
    let model = model.build().map_err(|e| EngineError::Tokenizer(e.to_string()))?;
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": rule.regex.is_none()});
    let cut = match rule.regex {
        Some(name) => {
            let split =
                json!({"type": "Split", "pattern": {"Regex": regex(name)}, "behavior": "Isolated", "invert": false});
            json!({"type": "Sequence", "pretokenizers": [split, bytes]})
        }
        None => bytes.clone(),
    };
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(part::<PreTokenizerWrapper>(cut)?));
    tokenizer.with_decoder(Some(part::<DecoderWrapper>(bytes)?));
    if rule.nfc {
        tokenizer
            .with_normalizer(Some(part::<NormalizerWrapper>(json!({"type": "NFC"}))?))
            .map_err(|e| EngineError::Tokenizer(e.to_string()))?;
    }
    Ok(tokenizer)
}

/// Far above any real piece (blanks by the dozen): every split of one is looked up, which takes its length squared.
const MAX_PIECE_BYTES: usize = 1 << 10;

/// `SentencePiece` BPE: the merges follow from the scores, best first.
fn sentence_piece(file: &GgufFile, tokens: &[String], types: &[i64]) -> Result<Tokenizer, EngineError> {
    let scores = floats(file, "tokenizer.ggml.scores")?;
    if scores.len() != tokens.len() || types.len() != tokens.len() {
        return refused("a vocabulary without scores and types");
    }
    if let Some(longest) = tokens.iter().map(String::len).max().filter(|len| *len > MAX_PIECE_BYTES) {
        return refused(format!("a token of {longest} B"));
    }
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(i, t)| (t.as_str(), i)).collect();
    let mergeable = |piece: &str| ids.get(piece).copied().filter(|i| matches!(types[*i], NORMAL | USER_DEFINED));
    let mut merges = Vec::new();
    for (index, token) in tokens.iter().enumerate().filter(|(i, _)| types[*i] == NORMAL) {
        let mut pairs: Vec<(usize, usize)> = token
            .char_indices()
            .skip(1)
            .filter_map(|(at, _)| Some((mergeable(&token[..at])?, mergeable(&token[at..])?)))
            .collect();
        pairs.sort_unstable();
        merges.extend(pairs.into_iter().map(|pair| (scores[index], pair)));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    let merges = merges.into_iter().map(|(_, (l, r))| (tokens[l].clone(), tokens[r].clone())).collect::<Vec<_>>();
    let mut model =
        BPE::builder().vocab_and_merges(vocabulary(tokens), merges).fuse_unk(true).byte_fallback(types.contains(&BYTE));
    if let Some(unknown) = types.iter().position(|t| *t == UNKNOWN) {
        model = model.unk_token(tokens[unknown].clone());
    }
    let mut tokenizer = Tokenizer::new(model.build().map_err(|e| EngineError::Tokenizer(e.to_string()))?);
    let prefixed = !matches!(file.metadata("tokenizer.ggml.add_space_prefix"), Some(Value::Bool(false)));
    let blank = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let normalizer = if prefixed {
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, blank]})
    } else {
        blank
    };
    tokenizer
        .with_normalizer(Some(part::<NormalizerWrapper>(normalizer)?))
        .map_err(|e| EngineError::Tokenizer(e.to_string()))?;
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefixed {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    tokenizer.with_decoder(Some(part::<DecoderWrapper>(json!({"type": "Sequence", "decoders": decoders}))?));
    Ok(tokenizer)
}

fn part<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T, EngineError> {
    serde_json::from_value(value).map_err(|e| EngineError::Tokenizer(e.to_string()))
}

fn vocabulary(tokens: &[String]) -> Vocab {
    tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect()
}

fn array<'a>(file: &'a GgufFile, key: &str) -> Result<&'a [Value], EngineError> {
    match file.metadata(key) {
        None => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => refused(format!("metadata {key} is not a list")),
    }
}

/// By its type: a value may be a list as long as the file.
fn refused_value<T>(key: &str, value: &Value) -> Result<T, EngineError> {
    refused(format!("metadata {key} holds a value of type {:?}", value.value_type()))
}

fn texts(file: &GgufFile, key: &str) -> Result<Vec<String>, EngineError> {
    let text = |v: &Value| match v {
        Value::String(text) => Ok(text.clone()),
        other => refused_value(key, other),
    };
    array(file, key)?.iter().map(text).collect()
}

fn numbers(file: &GgufFile, key: &str) -> Result<Vec<i64>, EngineError> {
    let number = |v: &Value| match integer(v) {
        Some(n) => Ok(n),
        None => refused_value(key, v),
    };
    array(file, key)?.iter().map(number).collect()
}

fn floats(file: &GgufFile, key: &str) -> Result<Vec<f32>, EngineError> {
    let float = |v: &Value| match v {
        Value::F32(x) => Ok(*x),
        other => refused_value(key, other),
    };
    array(file, key)?.iter().map(float).collect()
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::U8(n) => Some(i64::from(*n)),
        Value::I8(n) => Some(i64::from(*n)),
        Value::U16(n) => Some(i64::from(*n)),
        Value::I16(n) => Some(i64::from(*n)),
        Value::U32(n) => Some(i64::from(*n)),
        Value::I32(n) => Some(i64::from(*n)),
        Value::U64(n) => i64::try_from(*n).ok(),
        Value::I64(n) => Some(*n),
        _ => None,
    }
}
