//! Safetensors: one file or the shards of an index.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata};

#[cfg(feature = "cuda")]
use super::MatrixReader;
use super::matrix::AlignedBytes;
use super::{READ_STEP, RawMatrix, ReadTick, bad_file, io_error};
use crate::EngineError;

/// The format's own limit is 100 MB; the largest real headers have under 1 MB.
const MAX_HEADER_BYTES: u64 = 16 << 20;
const MAX_INDEX_BYTES: u64 = 16 << 20;
const MAX_SHARDS: usize = 1024;

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: File,
}

#[derive(Debug, Clone)]
struct Record {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    begin: u64,
    bytes: usize,
}

/// Open files with checked headers.
#[derive(Debug)]
pub struct SafetensorsFiles {
    folder: PathBuf,
    shards: Vec<Shard>,
    tensors: HashMap<String, Record>,
}

impl SafetensorsFiles {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub fn open(folder: &Path) -> Result<Self, EngineError> {
        let index = folder.join("model.safetensors.index.json");
        let names = if index.is_file() { shard_names(&index)? } else { vec!["model.safetensors".to_string()] };
        let mut files = Self { folder: folder.to_path_buf(), shards: Vec::new(), tensors: HashMap::new() };
        for name in names {
            files.add(folder.join(name))?;
        }
        Ok(files)
    }

    fn add(&mut self, path: PathBuf) -> Result<(), EngineError> {
        let mut file = File::open(&path).map_err(|e| io_error(&path, e))?;
        let file_len = file.metadata().map_err(|e| io_error(&path, e))?.len();
        if file_len < 8 {
            return bad_file(&path, "too short for a safetensors header");
        }
        let mut size = [0; 8];
        file.read_exact(&mut size).map_err(|e| io_error(&path, e))?;
        let header_bytes = u64::from_le_bytes(size);
        if header_bytes > MAX_HEADER_BYTES || header_bytes > file_len - 8 {
            return bad_file(&path, format!("a header of {header_bytes} B in a file of {file_len} B"));
        }
        let mut header = vec![0; header_bytes as usize];
        file.read_exact(&mut header).map_err(|e| io_error(&path, e))?;
        let metadata: Metadata = match serde_json::from_slice(&header) {
            Ok(metadata) => metadata,
            Err(e) => return bad_file(&path, format!("its header does not parse: {e}")),
        };
        let data_begin = 8 + header_bytes;
        let shard = self.shards.len();
        for (name, info) in metadata.tensors() {
            let (begin, end) = info.data_offsets;
            let elements = info.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
            let bytes = match (element_bytes(info.dtype), elements) {
                (_, None) => return bad_file(&path, format!("tensor {name} has an impossible shape {:?}", info.shape)),
                (Some(size), Some(elements)) => elements.checked_mul(size),
                // Types that no weight has; their sizes are not looked at, as they are never read.
                (None, Some(_)) => end.checked_sub(begin),
            };
            let inside = data_begin.checked_add(end as u64).is_some_and(|end| end <= file_len);
            if begin > end || bytes != Some(end - begin) || !inside {
                return bad_file(
                    &path,
                    format!("tensor {name} claims bytes {begin}..{end}, which its shape or the file does not have"),
                );
            }
            let record = Record {
                shard,
                dtype: info.dtype,
                shape: info.shape.clone(),
                begin: data_begin + begin as u64,
                bytes: end - begin,
            };
            if self.tensors.insert(name.clone(), record).is_some() {
                return bad_file(&path, format!("two tensors named {name}"));
            }
        }
        self.shards.push(Shard { path, file });
        Ok(())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Whether a tensor stands in the files.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Bytes of all tensors.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.values().map(|t| t.bytes as u64).sum()
    }

    fn need(&self, name: &str, shape: &[usize]) -> Result<&Record, EngineError> {
        let Some(record) = self.tensors.get(name) else {
            return bad_file(&self.folder, format!("there is no tensor {name}"));
        };
        if record.shape != shape {
            let path = &self.shards[record.shard].path;
            return bad_file(
                path,
                format!("tensor {name} is {:?}, the configuration asks for {shape:?}", record.shape),
            );
        }
        match record.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(record),
            other => Err(EngineError::UnsupportedModel {
                why: format!("tensor {name} is of type {other:?} (supported: F32, F16, BF16)"),
            }),
        }
    }

    /// Hands a tensor to `take` as f32 in steps of whole rows, so that a large one is never held in f32.
    fn stream(
        &self,
        record: &Record,
        row_elements: usize,
        take: &mut dyn FnMut(Vec<f32>) -> Result<(), EngineError>,
        tick: &mut ReadTick<'_>,
    ) -> Result<(), EngineError> {
        let Shard { path, file } = &self.shards[record.shard];
        let mut file = file;
        file.seek(SeekFrom::Start(record.begin)).map_err(|e| io_error(path, e))?;
        let row_bytes = row_elements * element_bytes(record.dtype).unwrap_or(1);
        let step_bytes = (READ_STEP / row_bytes.max(1)).max(1) * row_bytes;
        let mut step = AlignedBytes::zeroed(step_bytes.min(record.bytes));
        let mut left = record.bytes;
        while left > 0 {
            let bytes = &mut step.as_mut_slice()[..left.min(step_bytes)];
            file.read_exact(bytes).map_err(|e| io_error(path, e))?;
            left -= bytes.len();
            take(match record.dtype {
                Dtype::F16 => bytemuck::cast_slice::<u8, f16>(bytes).iter().map(|x| x.to_f32()).collect(),
                Dtype::BF16 => bytemuck::cast_slice::<u8, bf16>(bytes).iter().map(|x| x.to_f32()).collect(),
                _ => bytemuck::cast_slice(bytes).to_vec(),
            })?;
            if !tick(bytes.len() as u64) {
                return Err(EngineError::Cancelled);
            }
        }
        Ok(())
    }

    /// A vector widened to f32.
    pub fn read_vector(&self, name: &str, len: usize, tick: &mut ReadTick<'_>) -> Result<Vec<f32>, EngineError> {
        let record = self.need(name, &[len])?;
        let mut vector = Vec::with_capacity(len);
        let mut take = |values: Vec<f32>| {
            vector.extend(values);
            Ok(())
        };
        self.stream(record, len, &mut take, tick)?;
        Ok(vector)
    }

    /// A matrix in the type it is to be held in. Rows that do not fill whole blocks stay f32.
    pub fn read_matrix(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        dtype: GgmlDType,
        tick: &mut ReadTick<'_>,
    ) -> Result<RawMatrix, EngineError> {
        let record = self.need(name, &[rows, cols])?;
        let dtype = if cols.is_multiple_of(dtype.block_size()) { dtype } else { GgmlDType::F32 };
        let mut bytes = AlignedBytes::zeroed(rows * cols / dtype.block_size() * dtype.type_size());
        let mut filled = 0;
        let mut take = |values: Vec<f32>| {
            let step = quantised(values, cols, dtype)?;
            bytes.as_mut_slice()[filled..filled + step.len()].copy_from_slice(&step);
            filled += step.len();
            Ok(())
        };
        self.stream(record, cols, &mut take, tick)?;
        Ok(RawMatrix::new(dtype, rows, cols, bytes))
    }
}

#[cfg(feature = "cuda")]
impl SafetensorsFiles {
    /// A matrix to be read in steps, in the file's type and order.
    pub(crate) fn open_matrix(&self, name: &str, rows: usize, cols: usize) -> Result<MatrixReader<'_>, EngineError> {
        let record = self.need(name, &[rows, cols])?;
        let dtype = match record.dtype {
            Dtype::F16 => GgmlDType::F16,
            Dtype::BF16 => GgmlDType::BF16,
            _ => GgmlDType::F32,
        };
        let Shard { path, file } = &self.shards[record.shard];
        MatrixReader::new(path, file, record.begin, dtype, rows, cols)
    }

    /// The type that most matrix bytes of the files have, of those that are served.
    pub(crate) fn main_dtype(&self) -> GgmlDType {
        let bytes = |wanted| self.tensors.values().filter(|t| t.dtype == wanted).map(|t| t.bytes).sum::<usize>();
        let (bf16, f16, f32) = (bytes(Dtype::BF16), bytes(Dtype::F16), bytes(Dtype::F32));
        if bf16 >= f16.max(f32) {
            GgmlDType::BF16
        } else if f16 >= f32 {
            GgmlDType::F16
        } else {
            GgmlDType::F32
        }
    }
}

fn quantised(values: Vec<f32>, cols: usize, dtype: GgmlDType) -> Result<Vec<u8>, EngineError> {
    if dtype == GgmlDType::F32 {
        return Ok(bytemuck::cast_slice(&values).to_vec());
    }
    let rows = values.len() / cols.max(1);
    let tensor = Tensor::from_vec(values, (rows, cols), &Device::Cpu)?;
    Ok(QTensor::quantize(&tensor, dtype)?.data()?.into_owned())
}

fn element_bytes(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F32 => Some(4),
        Dtype::F16 | Dtype::BF16 => Some(2),
        _ => None,
    }
}

/// Shard file names, each once. A name that leaves the folder is refused.
fn shard_names(index: &Path) -> Result<Vec<String>, EngineError> {
    let len = std::fs::metadata(index).map_err(|e| io_error(index, e))?.len();
    if len > MAX_INDEX_BYTES {
        return bad_file(index, format!("an index of {len} B"));
    }
    let text = std::fs::read(index).map_err(|e| io_error(index, e))?;
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(&text) else {
        return bad_file(index, "it is not JSON");
    };
    let Some(map) = json.get("weight_map").and_then(serde_json::Value::as_object) else {
        return bad_file(index, "it has no weight_map");
    };
    let mut names: Vec<String> = Vec::new();
    for value in map.values() {
        let Some(name) = value.as_str() else {
            return bad_file(index, format!("a shard named {value}"));
        };
        if !is_plain_file_name(name) {
            return bad_file(index, format!("shard {name:?} is not a plain file name"));
        }
        if !names.iter().any(|n| n == name) {
            names.push(name.to_string());
        }
        if names.len() > MAX_SHARDS {
            return bad_file(index, format!("more than {MAX_SHARDS} shards"));
        }
    }
    names.sort();
    Ok(names)
}

fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name)
        && !name.contains(['/', '\\', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_shards() {
        assert!(is_plain_file_name("model-00001-of-00002.safetensors"));
        for name in ["../x", "/etc/passwd", "a/b", "..", ".", "", "c:\\x", "a\\b"] {
            assert!(!is_plain_file_name(name), "{name}");
        }
    }
}
