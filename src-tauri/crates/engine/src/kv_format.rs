//! How keys and values are held.

use std::fmt;
use std::str::FromStr;

use crate::EngineError;

/// Type of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KvFormat {
    /// bfloat16, on every device.
    #[default]
    Bf16,
    /// 8-bit integers in blocks of 32 along a head, each with an f16 scale: 53 % of the memory. On a GPU.
    Q8_0,
    /// 8-bit floats (e4m3): half the memory, and coarser than `q8_0`. On a GPU.
    Fp8,
}

/// Elements that share a scale.
const BLOCK: usize = 32;

impl KvFormat {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bf16, Self::Q8_0, Self::Fp8];

    /// As it is written: `bf16`, `q8_0` or `fp8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Fp8 => "fp8",
        }
    }

    /// Whether an element takes one byte. Only GPUs hold such a cache.
    pub fn is_8_bit(self) -> bool {
        self != Self::Bf16
    }

    /// Bytes of one token in one head's K, or in its V. Places of scales are a power of two.
    pub fn row_bytes(self, head_dim: usize) -> usize {
        match self {
            Self::Bf16 => head_dim * size_of::<half::bf16>(),
            Self::Q8_0 => head_dim + head_dim.div_ceil(BLOCK).next_power_of_two() * size_of::<half::f16>(),
            Self::Fp8 => head_dim,
        }
    }
}

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for KvFormat {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        let named = Self::ALL.into_iter().find(|format| format.name() == text);
        named
            .ok_or_else(|| EngineError::InvalidRequest(format!("a KV cache of {text:?}; there are bf16, q8_0 and fp8")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for format in KvFormat::ALL {
            assert_eq!(format.to_string().parse::<KvFormat>().unwrap(), format);
        }
        assert!("Q8".parse::<KvFormat>().is_err());
    }

    #[test]
    fn rows_count_their_scales() {
        assert_eq!([64, 96, 128, 256].map(|dim| KvFormat::Bf16.row_bytes(dim)), [128, 192, 256, 512]);
        assert_eq!([64, 96, 128, 256].map(|dim| KvFormat::Q8_0.row_bytes(dim)), [68, 104, 136, 272]);
        assert_eq!([64, 96, 128, 256].map(|dim| KvFormat::Fp8.row_bytes(dim)), [64, 96, 128, 256]);
    }
}
