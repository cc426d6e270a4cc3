//! Matrices on the device: their types, layouts and sizes (`cuda/README.md`, "Weights").

use candle_core::quantized::GgmlDType;
use mac_attention::cuda::DeviceBuffer;

use super::abi::WeightType;

/// Planes begin at multiples of this many bytes.
const PLANE_ALIGN: usize = 256;

impl WeightType {
    /// All, in the order of [`Self::index`].
    pub(super) const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// The type that holds a file's type as it is; `None` if there is none on the device.
    pub(super) fn of(dtype: GgmlDType) -> Option<Self> {
        Some(match dtype {
            GgmlDType::F32 => Self::F32,
            GgmlDType::F16 => Self::F16,
            GgmlDType::BF16 => Self::Bf16,
            GgmlDType::Q8_0 => Self::Q8_0,
            GgmlDType::Q4_0 => Self::Q4_0,
            GgmlDType::Q4_1 => Self::Q4_1,
            GgmlDType::Q5_0 => Self::Q5_0,
            GgmlDType::Q5_1 => Self::Q5_1,
            GgmlDType::Q4K => Self::Q4K,
            GgmlDType::Q5K => Self::Q5K,
            GgmlDType::Q6K => Self::Q6K,
            _ => return None,
        })
    }

    /// As kernels are named.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
        }
    }

    /// Place in [`Self::ALL`].
    pub(super) fn index(self) -> usize {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Bf16 => 2,
            Self::Q8_0 => 3,
            Self::Q4_0 => 4,
            Self::Q4_1 => 5,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q4K => 8,
            Self::Q5K => 9,
            Self::Q6K => 10,
        }
    }

    /// Held row by row as in the file, not in planes.
    pub(super) fn is_dense(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// Elements that share a scale in the file; columns are a multiple of it.
    pub(super) fn block(self) -> usize {
        match self {
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
            _ => 32,
        }
    }

    /// Bytes of a row in the file.
    pub(super) fn file_row_bytes(self, cols: usize) -> usize {
        match self {
            Self::F32 => 4 * cols,
            Self::F16 | Self::Bf16 => 2 * cols,
            Self::Q8_0 => cols / 32 * 34,
            Self::Q4_0 => cols / 32 * 18,
            Self::Q4_1 => cols / 32 * 20,
            Self::Q5_0 => cols / 32 * 22,
            Self::Q5_1 => cols / 32 * 24,
            Self::Q4K => cols / 256 * 144,
            Self::Q5K => cols / 256 * 176,
            Self::Q6K => cols / 256 * 210,
        }
    }

    /// Bytes of a matrix on the device.
    pub(super) fn device_bytes(self, rows: usize, cols: usize) -> usize {
        let (s, b) = (cols / 32, cols / 256);
        let (pad4, pad8) = (|n: usize| n.next_multiple_of(4), |n: usize| n.next_multiple_of(8));
        let planes: [usize; 4] = match self {
            Self::F32 => [4 * rows * cols, 0, 0, 0],
            Self::F16 | Self::Bf16 => [2 * rows * cols, 0, 0, 0],
            Self::Q8_0 => [rows * cols, 2 * rows * pad8(s), 0, 0],
            Self::Q4_0 => [16 * rows * s, 2 * rows * pad8(s), 0, 0],
            Self::Q4_1 => [16 * rows * s, 4 * rows * pad4(s), 0, 0],
            Self::Q5_0 => [16 * rows * s, 2 * rows * pad8(s), 4 * rows * pad4(s), 0],
            Self::Q5_1 => [16 * rows * s, 4 * rows * pad4(s), 4 * rows * pad4(s), 0],
            Self::Q4K => [16 * rows * s, 16 * rows * b, 0, 0],
            Self::Q5K => [16 * rows * s, 16 * rows * b, 4 * rows * s, 0],
            Self::Q6K => [16 * rows * s, 8 * rows * s, 2 * rows * s, 2 * rows * pad8(b)],
        };
        planes.iter().map(|plane| plane.next_multiple_of(PLANE_ALIGN)).sum()
    }
}

/// A matrix `[rows, cols]`.
#[derive(Debug)]
pub(super) struct DeviceMatrix {
    pub(super) data: DeviceBuffer<u8>,
    pub(super) weight_type: WeightType,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

/// Matrices that multiply the same input, their outputs side by side; those of one type that follow each other are one.
#[derive(Debug)]
pub(super) struct DeviceProjection {
    pub(super) parts: Vec<DeviceMatrix>,
    pub(super) cols: usize,
}

impl DeviceProjection {
    /// Elements of the output.
    pub(super) fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.rows).sum()
    }

    /// Bytes on the device, all of which a decode step reads.
    pub(super) fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.data.len() as u64).sum()
    }

    /// The one type of all parts.
    pub(super) fn single_type(&self) -> Option<WeightType> {
        match self.parts.as_slice() {
            [only] => Some(only.weight_type),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_files_and_a_little_padding() {
        for weight_type in WeightType::ALL {
            assert_eq!(WeightType::ALL[weight_type.index()], weight_type);
            let (rows, cols) = (512, 4096);
            let (file, device) = (rows * weight_type.file_row_bytes(cols), weight_type.device_bytes(rows, cols));
            assert!(device >= file && device <= file + file / 100, "{weight_type:?}: {device} for {file}");
        }
        // 11 blocks a row: scales are padded to 16.
        assert_eq!(WeightType::Q8_0.device_bytes(300, 352), 105_728 + 9728);
    }
}
