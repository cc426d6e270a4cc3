//! GGUF, parsed and checked by ourselves.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;

#[cfg(feature = "cuda")]
use super::MatrixReader;
use super::header::HeaderReader;
use super::matrix::AlignedBytes;
use super::{READ_STEP, RawMatrix, ReadTick, bad_file, io_error};
use crate::EngineError;

/// Far above any real file (a 126-layer model has 1,137 tensors and 40 metadata keys).
const MAX_ENTRIES: u64 = 1 << 16;
const DEFAULT_ALIGNMENT: u64 = 32;

/// One tensor, its place checked to lie inside the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorRecord {
    dtype: GgmlDType,
    rows: usize,
    cols: usize,
    offset: u64,
    bytes: usize,
}

impl TensorRecord {
    /// Block type.
    pub fn dtype(&self) -> GgmlDType {
        self.dtype
    }

    /// Product of all dimensions but the innermost; 1 for a vector.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Innermost dimension.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// An open GGUF file with a checked header.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    file: File,
    metadata: HashMap<String, Value>,
    tensors: HashMap<String, TensorRecord>,
}

impl GgufFile {
    /// Opens a file and checks everything its header says against its length.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        let file = File::open(path).map_err(|e| io_error(path, e))?;
        let file_len = file.metadata().map_err(|e| io_error(path, e))?.len();
        let mut header = HeaderReader::new(&file, path, file_len);

        if file_len < 24 || header.u32()? != u32::from_le_bytes(*b"GGUF") {
            return bad_file(path, "it does not begin as a GGUF file does");
        }
        match header.u32()? {
            2 | 3 => {}
            1 => return bad_file(path, "GGUF version 1 is no longer read (supported: 2 and 3)"),
            v if v.swap_bytes() <= 3 => return bad_file(path, "a big-endian GGUF file"),
            v => return bad_file(path, format!("GGUF version {v} (supported: 2 and 3)")),
        }
        let tensor_count = header.u64()?;
        let metadata_count = header.u64()?;
        if tensor_count > MAX_ENTRIES || metadata_count > MAX_ENTRIES {
            return bad_file(path, format!("{tensor_count} tensors and {metadata_count} metadata entries"));
        }
        let mut metadata = HashMap::new();
        for _ in 0..metadata_count {
            let key = header.text()?;
            let value = header.value()?;
            metadata.insert(key, value);
        }
        let mut tensors = HashMap::new();
        for _ in 0..tensor_count {
            let (name, record) = tensor_record(&mut header, path)?;
            if tensors.insert(name.clone(), record).is_some() {
                return bad_file(path, format!("two tensors named {name}"));
            }
        }
        let alignment = alignment(&metadata, path)?;
        let Some(data_begin) = header.pos().checked_next_multiple_of(alignment) else {
            return bad_file(path, "the alignment exceeds the file");
        };
        for (name, record) in &mut tensors {
            if !record.offset.is_multiple_of(alignment) {
                return bad_file(path, format!("tensor {name} is not aligned to {alignment} B"));
            }
            let begin = data_begin.checked_add(record.offset);
            match begin.and_then(|begin| begin.checked_add(record.bytes as u64)) {
                Some(end) if end <= file_len => record.offset += data_begin,
                _ => {
                    return bad_file(
                        path,
                        format!("tensor {name} needs {} B that the file does not have: it is cut short", record.bytes),
                    );
                }
            }
        }
        Ok(Self { path: path.to_path_buf(), file, metadata, tensors })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One metadata value.
    pub fn metadata(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// A metadata text.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// A tensor's record.
    pub fn tensor(&self, name: &str) -> Option<&TensorRecord> {
        self.tensors.get(name)
    }

    /// All tensors.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorRecord)> {
        self.tensors.iter().map(|(name, record)| (name.as_str(), record))
    }

    /// Bytes of all tensors.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.values().map(|t| t.bytes as u64).sum()
    }

    fn need(&self, name: &str, rows: usize, cols: usize) -> Result<&TensorRecord, EngineError> {
        match self.tensors.get(name) {
            Some(record) if (record.rows, record.cols) == (rows, cols) => Ok(record),
            Some(record) => bad_file(
                &self.path,
                format!("tensor {name} is {} × {}, the metadata ask for {rows} × {cols}", record.rows, record.cols),
            ),
            None => bad_file(&self.path, format!("there is no tensor {name}")),
        }
    }

    fn read(&self, record: &TensorRecord, tick: &mut ReadTick<'_>) -> Result<AlignedBytes, EngineError> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(record.offset)).map_err(|e| io_error(&self.path, e))?;
        let mut bytes = AlignedBytes::zeroed(record.bytes);
        for step in bytes.as_mut_slice().chunks_mut(READ_STEP) {
            file.read_exact(step).map_err(|e| io_error(&self.path, e))?;
            if !tick(step.len() as u64) {
                return Err(EngineError::Cancelled);
            }
        }
        Ok(bytes)
    }

    /// A matrix in the file's type.
    pub fn read_matrix(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        tick: &mut ReadTick<'_>,
    ) -> Result<RawMatrix, EngineError> {
        let record = self.need(name, rows, cols)?;
        let bytes = self.read(record, tick)?;
        Ok(RawMatrix::new(record.dtype, rows, cols, bytes).narrow_bf16())
    }

    /// A matrix to be read in steps, in the file's type and order.
    #[cfg(feature = "cuda")]
    pub(crate) fn open_matrix(&self, name: &str, rows: usize, cols: usize) -> Result<MatrixReader<'_>, EngineError> {
        let record = self.need(name, rows, cols)?;
        MatrixReader::new(&self.path, &self.file, record.offset, record.dtype, rows, cols)
    }

    /// A vector in f32.
    pub fn read_vector(&self, name: &str, len: usize, tick: &mut ReadTick<'_>) -> Result<Vec<f32>, EngineError> {
        let record = self.need(name, 1, len)?;
        RawMatrix::new(record.dtype, 1, len, self.read(record, tick)?).to_f32()
    }

    /// A vector that need not be there.
    pub fn read_optional_vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>, EngineError> {
        if self.tensors.contains_key(name) { self.read_vector(name, len, &mut |_| true).map(Some) } else { Ok(None) }
    }
}

fn tensor_record(header: &mut HeaderReader<'_>, path: &Path) -> Result<(String, TensorRecord), EngineError> {
    let name = header.text()?;
    let dimensions = header.u32()?;
    if !(1..=4).contains(&dimensions) {
        return bad_file(path, format!("tensor {name} has {dimensions} dimensions"));
    }
    // Innermost first.
    let mut dims = [1u64; 4];
    for dim in &mut dims[..dimensions as usize] {
        *dim = header.u64()?;
    }
    let type_number = header.u32()?;
    let offset = header.u64()?;
    let dtype = match block_type(type_number) {
        Ok(dtype) => dtype,
        Err(type_name) => {
            return Err(EngineError::UnsupportedModel {
                why: format!(
                    "tensor {name} is of type {type_name} (supported: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, \
                     Q2_K, Q3_K, Q4_K, Q5_K, Q6_K)"
                ),
            });
        }
    };
    let shape = || {
        let cols = usize::try_from(dims[0]).ok()?;
        let rows = dims[1..].iter().try_fold(1usize, |n, d| n.checked_mul(usize::try_from(*d).ok()?))?;
        let elements = rows.checked_mul(cols)?;
        if elements == 0 || !cols.is_multiple_of(dtype.block_size()) {
            return None;
        }
        let bytes = (elements / dtype.block_size()).checked_mul(dtype.type_size())?;
        // Slices hold at most isize::MAX bytes, and dequantising needs four bytes an element.
        isize::try_from(elements.checked_mul(4)?).ok()?;
        Some((rows, cols, bytes))
    };
    match shape() {
        Some((rows, cols, bytes)) => Ok((name, TensorRecord { dtype, rows, cols, offset, bytes })),
        None => bad_file(path, format!("tensor {name} has an impossible shape {:?}", &dims[..dimensions as usize])),
    }
}

fn alignment(metadata: &HashMap<String, Value>, path: &Path) -> Result<u64, EngineError> {
    let alignment = match metadata.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(Value::U32(n)) => u64::from(*n),
        Some(Value::U64(n)) => *n,
        Some(other) => return bad_file(path, format!("an alignment of type {:?}", other.value_type())),
    };
    if alignment.is_power_of_two() {
        Ok(alignment)
    } else {
        bad_file(path, format!("alignment {alignment} is not a power of two"))
    }
}

/// The type of a number in the file, or the name of one that has no kernel here.
fn block_type(number: u32) -> Result<GgmlDType, String> {
    Ok(match number {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        other => {
            return Err(match other {
                9 => "Q8_1",
                15 => "Q8_K",
                16 => "IQ2_XXS",
                17 => "IQ2_XS",
                18 => "IQ3_XXS",
                19 => "IQ1_S",
                20 => "IQ4_NL",
                21 => "IQ3_S",
                22 => "IQ2_S",
                23 => "IQ4_XS",
                24 => "I8",
                25 => "I16",
                26 => "I32",
                27 => "I64",
                28 => "F64",
                29 => "IQ1_M",
                34 => "TQ1_0",
                35 => "TQ2_0",
                39 => "MXFP4",
                _ => return Err(format!("number {other}")),
            }
            .to_string());
        }
    })
}
