//! Types of K and V.

use half::f16;

use crate::AttentionShape;

/// Elements of a row that share a scale.
pub(super) const BLOCK: usize = 32;

/// How K and V are held. Queries after rotation have 16 bits whatever K and V have: see [`Self::queries`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CudaElement {
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
    /// Integers of −127 to 127, stored plus 128, times the f16 scale of their block of 32.
    Q8,
    /// 8-bit floats, e4m3: up to ±448, no infinities.
    Fp8,
}

impl CudaElement {
    /// As kernels are named.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Q8 => "q8",
            Self::Fp8 => "fp8",
        }
    }

    /// Bytes of an element of K or V, scales apart.
    pub fn bytes(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::Q8 | Self::Fp8 => 1,
        }
    }

    /// f16 scales of one token in one head: those of K, then those of V, each as many as a power of two holds.
    pub fn scales_per_token(self, head_dim: usize) -> usize {
        match self {
            Self::Q8 => 2 * head_dim.div_ceil(BLOCK).next_power_of_two(),
            _ => 0,
        }
    }

    /// Bytes of K, V and scales of one token in all heads.
    pub fn token_bytes(self, shape: AttentionShape) -> usize {
        let dim = shape.head_dim();
        shape.num_kv_heads() * (2 * dim * self.bytes() + self.scales_per_token(dim) * size_of::<f16>())
    }

    /// The 16-bit type of rotated queries, and of what a prompt's attention writes.
    #[must_use]
    pub fn queries(self) -> Self {
        match self {
            Self::Bf16 => Self::Bf16,
            Self::F16 | Self::Q8 | Self::Fp8 => Self::F16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_half_as_large_with_8_bits_and_a_little_more_with_scales() {
        let shape = AttentionShape::new(32, 8, 128).unwrap();
        let bytes = [CudaElement::Bf16, CudaElement::F16, CudaElement::Q8, CudaElement::Fp8];
        assert_eq!(bytes.map(|element| element.token_bytes(shape)), [4096, 4096, 2176, 2048]);
        assert_eq!([64, 96, 128, 256].map(|dim| CudaElement::Q8.scales_per_token(dim)), [4, 8, 8, 16]);
    }
}
