//! Sixteen lanes: AVX-512 F.

use std::arch::x86_64::{
    __m512, _CMP_GE_OQ, _CMP_LE_OQ, _CMP_LT_OQ, _MM_HINT_T0, _mm_prefetch, _mm256_loadu_si256, _mm512_add_ps,
    _mm512_and_si512, _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_cvtepu16_epi32, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mask_blend_ps, _mm512_max_ps, _mm512_mul_ps, _mm512_roundscale_ps, _mm512_scalef_ps,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_shuffle_f32x4, _mm512_shuffle_ps, _mm512_slli_epi32, _mm512_storeu_ps,
    _mm512_sub_ps,
};

use half::bf16;

use super::simd::{EXP2_COEFFICIENTS, EXP2_MIN, Simd};

/// Proof of AVX-512 F.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The CPU has AVX-512 F.
    #[inline(always)]
    pub(super) unsafe fn assume() -> Self {
        Self(())
    }
}

// Every block below that says "proof" relies on this: `Avx512` exists only where the instructions do.
impl Simd<16> for Avx512 {
    type F = __m512;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` is the proof of the instruction set.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: proof; the caller gives sixteen readable elements.
        unsafe { _mm512_loadu_ps(p) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: proof; the caller gives sixteen writable elements.
        unsafe { _mm512_storeu_ps(p, v) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const bf16) -> __m512 {
        // SAFETY: proof; the caller gives sixteen readable elements. A bf16 is the upper half of an f32.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())))) }
    }

    #[inline(always)]
    unsafe fn load_pairs(self, p: *const bf16) -> (__m512, __m512) {
        // SAFETY: proof; the caller gives 32 readable elements. Little-endian: the even element is the lower half.
        unsafe {
            let x = _mm512_loadu_si512(p.cast());
            let odd = _mm512_and_si512(x, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
            (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(x)), _mm512_castsi512_ps(odd))
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, p: *const T) {
        // SAFETY: proof; a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: proof.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: proof.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: proof.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: proof.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: proof.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn exp2(self, x: __m512) -> __m512 {
        // SAFETY: proof.
        unsafe {
            // The second operand of max wins over NaN, so NaN passes through.
            let x = _mm512_max_ps(_mm512_set1_ps(EXP2_MIN), x);
            let whole = _mm512_roundscale_ps::<0>(x);
            let f = _mm512_sub_ps(x, whole);
            let mut poly = _mm512_set1_ps(EXP2_COEFFICIENTS[5]);
            for i in [4, 3, 2, 1, 0] {
                poly = _mm512_fmadd_ps(poly, f, _mm512_set1_ps(EXP2_COEFFICIENTS[i]));
            }
            _mm512_scalef_ps(_mm512_fmadd_ps(poly, f, _mm512_set1_ps(1.0)), whole)
        }
    }

    #[inline(always)]
    fn within(self, v: __m512, x: f32, lo: __m512, hi: __m512) -> __m512 {
        // SAFETY: proof.
        unsafe {
            let x = _mm512_set1_ps(x);
            let inside = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, lo) & _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, hi);
            _mm512_mask_blend_ps(inside, _mm512_set1_ps(f32::NEG_INFINITY), v)
        }
    }

    #[inline(always)]
    fn any_le(self, v: __m512, limit: f32) -> bool {
        // SAFETY: proof.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LE_OQ>(v, _mm512_set1_ps(limit)) != 0 }
    }

    #[inline(always)]
    fn transpose_sum(self, r: [__m512; 16]) -> __m512 {
        // SAFETY: proof.
        unsafe {
            // Four rounds of "fold two vectors into one". The rows enter in the order that makes the sums leave in
            // order: after the rounds, 128-bit quarter j holds rows B, B+2, B+1, B+3 with B = 0, 8, 4, 12.
            let r =
                [r[0], r[2], r[1], r[3], r[8], r[10], r[9], r[11], r[4], r[6], r[5], r[7], r[12], r[14], r[13], r[15]];
            let (a, b) = (pairs(&r, 0), pairs(&r, 1));
            _mm512_add_ps(_mm512_shuffle_ps::<0x88>(a, b), _mm512_shuffle_ps::<0xdd>(a, b))
        }
    }
}

// Functions rather than closures: only these can be forced inline, into the function that has the instruction set.

/// Low half: row i, high half: row i + 8, each as eight partial sums.
///
/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn halves(r: &[__m512; 16], i: usize) -> __m512 {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let kept = _mm512_mask_blend_ps(0xff00, r[i], r[i + 8]);
        _mm512_add_ps(kept, _mm512_shuffle_f32x4::<0x4e>(r[i], r[i + 8]))
    }
}

/// Quarters: rows i, i + 8, i + 4, i + 12, each as four partial sums.
///
/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn quarters(r: &[__m512; 16], i: usize) -> __m512 {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let (a, b) = (halves(r, i), halves(r, i + 4));
        _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b))
    }
}

/// In every quarter of base row B: rows B + i and B + i + 2, each as two partial sums.
///
/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn pairs(r: &[__m512; 16], i: usize) -> __m512 {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let (a, b) = (quarters(r, i), quarters(r, i + 2));
        _mm512_add_ps(_mm512_mask_blend_ps(0xcccc, a, b), _mm512_shuffle_ps::<0x4e>(a, b))
    }
}
