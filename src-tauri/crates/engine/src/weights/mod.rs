//! Model files to tensors. Every size is checked here before a byte goes to candle.

mod assemble;
mod gguf;
mod header;
mod matrix;
mod names;
mod random;
#[cfg(feature = "cuda")]
mod reader;
mod safetensors;

pub use assemble::{LayerWeights, Weights, load_weights, weights_bytes};
pub use gguf::{GgufFile, TensorRecord};
pub use matrix::{Projection, RawMatrix};
pub use names::{LayerPart, Part};
pub use random::random_weights;
#[cfg(feature = "cuda")]
pub(crate) use reader::MatrixReader;
pub use safetensors::SafetensorsFiles;

use std::path::Path;

use candle_core::quantized::GgmlDType;

use crate::EngineError;
use crate::model::ModelSpec;

/// How safetensors weights are held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// f32 for small models, `Q8_0` otherwise.
    #[default]
    Auto,
    /// As they are, widened.
    F32,
    /// Half precision.
    F16,
    /// Quantised at load.
    Q8_0,
}

/// Up to this many parameters, `Auto` keeps f32: 256 MB, and nothing is lost.
const SMALL_MODEL_PARAMETERS: u64 = 64 << 20;

impl Precision {
    /// The tensor type that safetensors matrices are held in.
    pub fn dtype(self, parameters: u64) -> GgmlDType {
        match self {
            Self::F32 => GgmlDType::F32,
            Self::F16 => GgmlDType::F16,
            Self::Auto if parameters <= SMALL_MODEL_PARAMETERS => GgmlDType::F32,
            Self::Auto | Self::Q8_0 => GgmlDType::Q8_0,
        }
    }
}

/// Where weights come from.
#[derive(Debug)]
pub enum Source {
    /// One GGUF file; tensors keep their types.
    Gguf(GgufFile),
    /// One or more safetensors files, held as this type.
    Safetensors {
        /// The files.
        files: SafetensorsFiles,
        /// Type of the matrices in memory.
        dtype: GgmlDType,
    },
}

/// Called with the bytes read since the last call, every few megabytes; `false` cancels.
pub type ReadTick<'a> = dyn FnMut(u64) -> bool + 'a;

/// Bytes between two looks at cancellation: well under 250 ms even on a slow disk.
pub(crate) const READ_STEP: usize = 8 << 20;

impl Source {
    /// A matrix with its rows in the order the decoder expects.
    pub fn matrix(
        &self,
        part: Part,
        rows: usize,
        cols: usize,
        spec: &ModelSpec,
        tick: &mut ReadTick<'_>,
    ) -> Result<RawMatrix, EngineError> {
        match self {
            Self::Gguf(file) => {
                let mut matrix = file.read_matrix(&part.gguf_name(), rows, cols, tick)?;
                if let Some(heads) = part.interleaved_heads(spec) {
                    matrix.unpermute_heads(heads)?;
                }
                Ok(matrix)
            }
            Self::Safetensors { files, dtype } => files.read_matrix(&part.hf_name(), rows, cols, *dtype, tick),
        }
    }

    /// A matrix to be read in steps, as the file holds it: rows of heads may stand in pairs, see
    /// [`Part::interleaved_heads`].
    #[cfg(feature = "cuda")]
    pub(crate) fn open_matrix(&self, part: Part, rows: usize, cols: usize) -> Result<MatrixReader<'_>, EngineError> {
        match self {
            Self::Gguf(file) => file.open_matrix(&part.gguf_name(), rows, cols),
            Self::Safetensors { files, .. } => files.open_matrix(&part.hf_name(), rows, cols),
        }
    }

    /// A matrix in the file's type with its rows in the order the decoder expects.
    #[cfg(feature = "cuda")]
    pub(crate) fn raw_matrix(
        &self,
        part: Part,
        rows: usize,
        cols: usize,
        spec: &ModelSpec,
        tick: &mut ReadTick<'_>,
    ) -> Result<RawMatrix, EngineError> {
        let mut matrix = self.open_matrix(part, rows, cols)?.read_whole(tick)?;
        if let (Self::Gguf(_), Some(heads)) = (self, part.interleaved_heads(spec)) {
            matrix.unpermute_heads(heads)?;
        }
        Ok(matrix)
    }

    /// A vector in f32.
    pub fn vector(
        &self,
        part: Part,
        len: usize,
        spec: &ModelSpec,
        tick: &mut ReadTick<'_>,
    ) -> Result<Vec<f32>, EngineError> {
        match self {
            Self::Gguf(file) => {
                let vector = file.read_vector(&part.gguf_name(), len, tick)?;
                Ok(match part.interleaved_heads(spec) {
                    Some(heads) => matrix::unpermute_vector(&vector, heads),
                    None => vector,
                })
            }
            Self::Safetensors { files, .. } => files.read_vector(&part.hf_name(), len, tick),
        }
    }

    /// Bytes of all tensors in the file, for progress.
    pub fn tensor_bytes(&self) -> u64 {
        match self {
            Self::Gguf(file) => file.tensor_bytes(),
            Self::Safetensors { files, .. } => files.tensor_bytes(),
        }
    }

    /// For messages.
    pub fn path(&self) -> &Path {
        match self {
            Self::Gguf(file) => file.path(),
            Self::Safetensors { files, .. } => files.path(),
        }
    }
}

/// A type as model files are named by it.
pub(crate) fn type_name(dtype: GgmlDType) -> String {
    match dtype {
        GgmlDType::Q2K => "Q2_K".into(),
        GgmlDType::Q3K => "Q3_K".into(),
        GgmlDType::Q4K => "Q4_K".into(),
        GgmlDType::Q5K => "Q5_K".into(),
        GgmlDType::Q6K => "Q6_K".into(),
        other => format!("{other:?}"),
    }
}

/// A refusal of a damaged file.
pub(crate) fn bad_file<T>(path: &Path, why: impl Into<String>) -> Result<T, EngineError> {
    Err(EngineError::BadModelFile { path: path.to_path_buf(), why: why.into() })
}

/// A system error with its file.
pub(crate) fn io_error(path: &Path, source: std::io::Error) -> EngineError {
    EngineError::Io { path: path.to_path_buf(), source }
}
