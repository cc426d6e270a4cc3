//! Made-up K and V that the device holds as any type and the host as bf16, number for number: for tests and self-checks, in
//! which CPU kernels, oracle and device must see the same cache.

use half::{bf16, f16};

use super::CudaElement;
use super::element::BLOCK;

/// Rows of K and V as the device holds them, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeldKv {
    /// `[rows, head_dim]`.
    pub k: Vec<u8>,
    /// Likewise.
    pub v: Vec<u8>,
    /// Bits of f16 `[rows, 2, slots]`, K's before V's; empty where the type has none. Places that no block has are NaN.
    pub scales: Vec<u16>,
}

impl CudaElement {
    /// Rounds rows of K and V to numbers that both this type and bf16 hold. Scales are powers of two for that, so that a
    /// number of 7 bits times its scale is exact.
    pub fn hold(self, head_dim: usize, k: &mut [bf16], v: &mut [bf16]) -> HeldKv {
        match self {
            Self::Bf16 => HeldKv { k: bytes(k, bf16::to_bits), v: bytes(v, bf16::to_bits), scales: Vec::new() },
            Self::F16 => {
                let round = |rows: &mut [bf16]| {
                    for x in rows.iter_mut() {
                        *x = bf16::from_f32(f16::from_f32(x.to_f32()).to_f32());
                    }
                    bytes(rows, |x| f16::from_f32(x.to_f32()).to_bits())
                };
                HeldKv { k: round(k), v: round(v), scales: Vec::new() }
            }
            Self::Fp8 => {
                let round = |rows: &mut [bf16]| -> Vec<u8> {
                    let code = |x: &mut bf16| {
                        let code = to_e4m3(x.to_f32());
                        *x = bf16::from_f32(from_e4m3(code));
                        code
                    };
                    rows.iter_mut().map(code).collect()
                };
                HeldKv { k: round(k), v: round(v), scales: Vec::new() }
            }
            Self::Q8 => {
                let slots = self.scales_per_token(head_dim) / 2;
                let mut scales = vec![f16::NAN.to_bits(); 2 * slots * (k.len() / head_dim)];
                let mut round = |rows: &mut [bf16], plane: usize| -> Vec<u8> {
                    let mut codes = Vec::with_capacity(rows.len());
                    for (i, row) in rows.chunks_exact_mut(head_dim).enumerate() {
                        for (block, place) in row.chunks_exact_mut(BLOCK).zip(&mut scales[(2 * i + plane) * slots..]) {
                            let unit = unit(block);
                            *place = f16::from_f32(unit).to_bits();
                            codes.extend(block.iter_mut().map(|x| q8_code(x, unit)));
                        }
                    }
                    codes
                };
                let (k, v) = (round(k, 0), round(v, 1));
                HeldKv { k, v, scales }
            }
        }
    }
}

fn bytes(rows: &[bf16], bits: impl Fn(bf16) -> u16) -> Vec<u8> {
    rows.iter().flat_map(|x| bits(*x).to_le_bytes()).collect()
}

/// The smallest power of two of which no number of the block has more than 127; 0 for zeros.
fn unit(block: &[bf16]) -> f32 {
    let largest = block.iter().map(|x| x.to_f32().abs()).fold(0.0, f32::max);
    if largest == 0.0 { 0.0 } else { (largest / 127.0).log2().ceil().exp2() }
}

/// Rounds to a whole number of units; that number plus 128, as stored.
fn q8_code(x: &mut bf16, unit: f32) -> u8 {
    let q = if unit == 0.0 { 0.0 } else { (x.to_f32() / unit).round_ties_even() };
    *x = bf16::from_f32(q * unit);
    (q + 128.0) as u8
}

/// Value of a code of e4m3: 4 bits of exponent with a bias of 7, 3 of mantissa, no infinities.
fn from_e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The nearest code, to even where two are as near; beyond the range its end.
fn to_e4m3(x: f32) -> u8 {
    const LARGEST: f32 = 448.0;
    let sign = u8::from(x.is_sign_negative()) << 7;
    let magnitude = x.abs().min(LARGEST);
    // Subnormal below 2^-6.
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).max(-6);
    let steps = (magnitude / 2f32.powi(exponent - 3)).round_ties_even() as i32;
    // 16 steps are the first of the next exponent, and carry into it.
    sign | ((exponent + 6) * 8 + steps) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_e4m3_are_there_and_back() {
        for code in (0..=255u8).filter(|code| code & 0x7f != 0x7f) {
            assert_eq!(to_e4m3(from_e4m3(code)), code, "{code:#x}");
        }
        assert!(from_e4m3(0x7f).is_nan() && from_e4m3(0xff).is_nan());
        assert_eq!([to_e4m3(1.0625), to_e4m3(1.1875), to_e4m3(1e9), to_e4m3(-1e9)], [0x38, 0x3a, 0x7e, 0xfe]);
    }

    #[test]
    fn what_is_held_is_what_the_rows_say() {
        let rows = || -> Vec<bf16> {
            (0..192).map(|i| bf16::from_f32((i as f32 * 0.7).sin() * (1 + i / 32) as f32)).collect()
        };
        for element in [CudaElement::Bf16, CudaElement::F16, CudaElement::Q8, CudaElement::Fp8] {
            let (mut k, mut v) = (rows(), rows());
            v.reverse();
            let held = element.hold(96, &mut k, &mut v);
            assert_eq!([held.k.len(), held.v.len()], [192 * element.bytes(); 2]);
            let value = |codes: &[u8], plane: usize, i: usize| match element {
                CudaElement::Bf16 => bf16::from_le_bytes([codes[2 * i], codes[2 * i + 1]]).to_f32(),
                CudaElement::F16 => f16::from_le_bytes([codes[2 * i], codes[2 * i + 1]]).to_f32(),
                CudaElement::Fp8 => from_e4m3(codes[i]),
                CudaElement::Q8 => {
                    let scale = f16::from_bits(held.scales[(i / 96 * 2 + plane) * 4 + i % 96 / 32]).to_f32();
                    (f32::from(codes[i]) - 128.0) * scale
                }
            };
            let exact = rows();
            for i in 0..192 {
                assert_eq!(value(&held.k, 0, i), k[i].to_f32(), "{element:?} {i}");
                assert_eq!(value(&held.v, 1, i), v[i].to_f32(), "{element:?} {i}");
                assert!(
                    (k[i].to_f32() - exact[i].to_f32()).abs() <= 0.07 * exact[i].to_f32().abs() + 0.05,
                    "{element:?} {i}"
                );
            }
            // Two rows of three blocks: a place of each row's K and V is nobody's.
            let unused = held.scales.iter().filter(|bits| f16::from_bits(**bits).is_nan()).count();
            assert_eq!(unused, if element == CudaElement::Q8 { 4 } else { 0 });
        }
    }
}
