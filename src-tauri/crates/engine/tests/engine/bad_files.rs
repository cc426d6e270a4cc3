//! Damaged and hostile model files: a plain reason, never a panic, never a huge allocation.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value as Meta};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use mac_attention::RingLayout;
use proptest::prelude::*;
use reprise_engine::weights::{GgufFile, Precision, SafetensorsFiles};
use reprise_engine::{Engine, EngineError, LoadOptions};
use tempfile::TempDir;

fn why(error: &EngineError) -> String {
    match error {
        EngineError::BadModelFile { why, .. } | EngineError::UnsupportedModel { why } => why.clone(),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn good_gguf() -> Vec<u8> {
    let tensor = |shape: (usize, usize)| {
        let values: Vec<f32> = (0..shape.0 * shape.1).map(|i| i as f32 / 64.0).collect();
        QTensor::quantize(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap(), GgmlDType::Q8_0).unwrap()
    };
    let (a, b) = (tensor((4, 64)), tensor((2, 32)));
    let tokens = Meta::Array(vec![Meta::String("a".into()), Meta::String("b".into())]);
    let metadata = [("general.architecture", Meta::String("qwen3".into())), ("tokenizer.ggml.tokens", tokens)];
    let metadata: Vec<(&str, &Meta)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let mut bytes = std::io::Cursor::new(Vec::new());
    gguf_file::write(&mut bytes, &metadata, &[("first", &a), ("second", &b)]).unwrap();
    bytes.into_inner()
}

fn open_gguf(bytes: &[u8]) -> Result<GgufFile, EngineError> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    GgufFile::open(&path)
}

/// Replaces `find`, which must stand in the file once.
fn patched(find: &[u8], replace: &[u8]) -> Vec<u8> {
    let mut bytes = good_gguf();
    let places: Vec<usize> = (0..bytes.len() - find.len()).filter(|at| bytes[*at..].starts_with(find)).collect();
    assert_eq!(places.len(), 1, "{find:?}");
    bytes[places[0]..places[0] + replace.len()].copy_from_slice(replace);
    bytes
}

#[test]
fn the_good_file_opens() {
    let file = open_gguf(&good_gguf()).unwrap();
    let tensor = file.tensor("first").unwrap();
    assert_eq!((tensor.rows(), tensor.cols(), tensor.dtype()), (4, 64, GgmlDType::Q8_0));
    let values = file.read_matrix("first", 4, 64, &mut |_| true).unwrap().to_f32().unwrap();
    assert!((values[255] - 255.0 / 64.0).abs() < 0.02);
}

#[test]
fn a_gguf_cut_anywhere_is_refused() {
    let bytes = good_gguf();
    // The last tensor may be followed by padding that nobody needs.
    let needed = bytes.len() - 31;
    for len in 0..needed {
        let error = open_gguf(&bytes[..len]).expect_err("cut short");
        assert!(!why(&error).is_empty());
    }
}

#[test]
fn header_fields_out_of_range_are_refused_by_name() {
    let name = |text: &[u8], then: &[u8]| [&(text.len() as u64).to_le_bytes()[..], text, then].concat();
    // The record of `first`: 2 dimensions, 64 × 4, type 8, offset 0.
    let record = |dims: [u64; 2], kind: u32, offset: u64| {
        let mut tail = 2u32.to_le_bytes().to_vec();
        for d in dims {
            tail.extend(d.to_le_bytes());
        }
        tail.extend(kind.to_le_bytes());
        tail.extend(offset.to_le_bytes());
        name(b"first", &tail)
    };
    let change = |dims, kind, offset| patched(&record([64, 4], 8, 0), &record(dims, kind, offset));
    let mut counts = good_gguf();
    counts[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut version = good_gguf();
    version[4] = 9;
    let mut big_endian = good_gguf();
    big_endian[4..8].copy_from_slice(&3u32.to_be_bytes());
    let architecture = name(b"general.architecture", &8u32.to_le_bytes());
    let mut huge_text = architecture.clone();
    huge_text[0..8].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
    let strings = |count: u64| [&9u32.to_le_bytes()[..], &8u32.to_le_bytes(), &count.to_le_bytes()].concat();
    for (bytes, word) in [
        (b"GGML\0\0\0\0".repeat(8), "begin"),
        (b"GGUF".to_vec(), "begin"),
        (version, "version 9"),
        (big_endian, "big-endian"),
        (counts, "tensors"),
        (patched(&architecture, &huge_text), "text of"),
        (patched(&strings(2), &strings(1 << 60)), "array of"),
        (change([1 << 63, 1 << 63], 8, 0), "impossible shape"),
        (change([0, 4], 8, 0), "impossible shape"),
        (change([63, 4], 8, 0), "impossible shape"),
        (change([64, 1 << 40], 8, 0), "cut short"),
        (change([64, 4], 8, u64::MAX - 31), "cut short"),
        (change([64, 4], 8, 7), "not aligned"),
        (change([64, 4], 23, 0), "IQ4_XS"),
        (change([64, 4], 39, 0), "MXFP4"),
        (change([64, 4], 999, 0), "999"),
        (patched(b"second", b"first\0"), "two tensors"),
    ] {
        let error = open_gguf(&bytes).expect_err(word);
        assert!(why(&error).contains(word), "{word}: {error}");
    }
}

#[test]
fn an_alignment_that_is_no_power_of_two_is_refused() {
    let tensor = Tensor::zeros((1, 32), candle_core::DType::F32, &Device::Cpu).unwrap();
    let tensor = QTensor::quantize(&tensor, GgmlDType::F32).unwrap();
    for alignment in [0u32, 3, 48] {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let value = Meta::U32(alignment);
        // The writer itself aligns to 32, whatever the metadata claim.
        gguf_file::write(&mut bytes, &[("general.alignment", &value)], &[("t", &tensor)]).unwrap();
        let error = open_gguf(&bytes.into_inner()).expect_err("refused");
        assert!(why(&error).contains("power of two"), "{error}");
    }
}

#[test]
fn missing_metadata_are_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, good_gguf()).unwrap();
    let options = |model: &Path| LoadOptions {
        model: model.to_path_buf(),
        context_tokens: None,
        threads: None,
        ring: RingLayout::default(),
        precision: Precision::Auto,
        device: reprise_engine::Device::Cpu,
        kv: reprise_engine::KvFormat::Bf16,
    };
    let error = Engine::load(options(&path), |_| true).expect_err("no sizes");
    assert!(why(&error).contains("qwen3.context_length"), "{error}");
    assert!(matches!(Engine::load(options(&folder.path().join("none.gguf")), |_| true), Err(EngineError::Io { .. })));
    assert!(matches!(Engine::load(options(folder.path()), |_| true), Err(EngineError::Io { .. })));
    std::fs::write(folder.path().join("config.json"), "{").unwrap();
    assert!(matches!(Engine::load(options(folder.path()), |_| true), Err(EngineError::BadModelFile { .. })));
}

/// A header that is sound and a file of a terabyte, of which nothing is on the disk.
fn huge_model(path: &Path) {
    const LAYERS: u32 = 32;
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    let tensors = [("token_embd.weight".to_string(), 64u64, 1u64 << 22), ("output.weight".into(), 4096, 1 << 26)];
    bytes.extend((tensors.len() as u64).to_le_bytes());
    let numbers = [
        ("qwen2.block_count", LAYERS),
        ("qwen2.context_length", 4096),
        ("qwen2.embedding_length", 64),
        ("qwen2.feed_forward_length", 128),
        ("qwen2.attention.head_count", 1),
    ];
    let texts = [("general.architecture", "qwen2"), ("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "gpt-2")];
    bytes.extend((numbers.len() as u64 + texts.len() as u64 + 1).to_le_bytes());
    for (key, value) in texts {
        text(&mut bytes, key);
        bytes.extend(8u32.to_le_bytes());
        text(&mut bytes, value);
    }
    for (key, value) in numbers {
        text(&mut bytes, key);
        bytes.extend(4u32.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    text(&mut bytes, "tokenizer.ggml.tokens");
    bytes.extend(9u32.to_le_bytes());
    bytes.extend(8u32.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    text(&mut bytes, "a");
    let mut offset = 0u64;
    for (name, cols, rows) in &tensors {
        text(&mut bytes, name);
        bytes.extend(2u32.to_le_bytes());
        bytes.extend(cols.to_le_bytes());
        bytes.extend(rows.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += cols * rows * 4;
    }
    std::fs::write(path, &bytes).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(bytes.len() as u64 + 32 + offset).unwrap();
}

#[test]
fn a_model_larger_than_the_memory_is_refused_before_it_is_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("huge.gguf");
    huge_model(&path);
    let began = std::time::Instant::now();
    let options = LoadOptions {
        model: path,
        context_tokens: Some(1024),
        threads: None,
        ring: RingLayout::default(),
        precision: Precision::Auto,
        device: reprise_engine::Device::Cpu,
        kv: reprise_engine::KvFormat::Bf16,
    };
    match Engine::load(options, |_| true) {
        Err(EngineError::OutOfMemory { need_bytes, free_bytes, context_that_fits: 0 }) => {
            assert!(need_bytes > 1 << 40 && free_bytes < need_bytes);
        }
        other => panic!("{other:?}"),
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever a byte becomes, opening returns.
    #[test]
    fn no_flipped_byte_panics(at in 0usize..400, value: u8) {
        let mut bytes = good_gguf();
        let at = at % bytes.len();
        bytes[at] = value;
        if let Ok(file) = open_gguf(&bytes) {
            for (name, tensor) in file.tensors() {
                let _ = file.read_matrix(name, tensor.rows(), tensor.cols(), &mut |_| true);
            }
        }
    }
}

fn good_safetensors(folder: &Path) -> Vec<u8> {
    let tensor = Tensor::arange(0f32, 12.0, &Device::Cpu).unwrap().reshape((3, 4)).unwrap();
    let path = folder.join("model.safetensors");
    candle_core::safetensors::save(&HashMap::from([("t", tensor)]), &path).unwrap();
    std::fs::read(path).unwrap()
}

fn with_header(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn a_safetensors_file_cut_anywhere_is_refused() {
    let folder = TempDir::new().unwrap();
    let bytes = good_safetensors(folder.path());
    let files = SafetensorsFiles::open(folder.path()).unwrap();
    assert_eq!(files.read_matrix("t", 3, 4, GgmlDType::F32, &mut |_| true).unwrap().to_f32().unwrap()[11], 11.0);
    let shaped = files.read_matrix("t", 4, 3, GgmlDType::F32, &mut |_| true);
    assert!(matches!(shaped, Err(EngineError::BadModelFile { .. })));
    assert!(matches!(files.read_vector("t", 12, &mut |_| true), Err(EngineError::BadModelFile { .. })));
    assert!(matches!(files.read_vector("u", 12, &mut |_| true), Err(EngineError::BadModelFile { .. })));
    for len in 0..bytes.len() {
        std::fs::write(folder.path().join("model.safetensors"), &bytes[..len]).unwrap();
        assert!(matches!(SafetensorsFiles::open(folder.path()), Err(EngineError::BadModelFile { .. })), "{len}");
    }
}

#[test]
fn safetensors_headers_that_lie_are_refused() {
    let folder = TempDir::new().unwrap();
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    for bytes in [
        u64::MAX.to_le_bytes().repeat(4),
        with_header("not json", 8),
        with_header("[]", 8),
        with_header(&tensor("F32", "[2]", "[0,4]"), 4),
        with_header(&tensor("F32", "[2]", "[0,8]"), 4),
        with_header(&tensor("F32", "[4611686018427387904,4611686018427387904]", "[0,8]"), 8),
        with_header(&tensor("F32", "[4611686018427387904]", "[0,0]"), 8),
        with_header(&tensor("F32", "[2]", "[8,0]"), 8),
        with_header(&tensor("F32", "[2]", "[18446744073709551608,18446744073709551615]"), 8),
        with_header(&tensor("F9", "[2]", "[0,8]"), 8),
    ] {
        std::fs::write(folder.path().join("model.safetensors"), &bytes).unwrap();
        let error = SafetensorsFiles::open(folder.path()).expect_err("refused");
        assert!(!why(&error).is_empty());
    }
    // A type without a kernel is refused when it is read, by name.
    std::fs::write(folder.path().join("model.safetensors"), with_header(&tensor("I64", "[1]", "[0,8]"), 8)).unwrap();
    let files = SafetensorsFiles::open(folder.path()).unwrap();
    let error = files.read_vector("t", 1, &mut |_| true).expect_err("refused");
    assert!(why(&error).contains("I64"), "{error}");
}
