//! Eight lanes: AVX2 with FMA.

use std::arch::x86_64::{
    __m256, _CMP_GE_OQ, _CMP_LE_OQ, _CMP_LT_OQ, _CMP_NLT_UQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T0,
    _mm_loadu_si128, _mm_prefetch, _mm256_add_epi32, _mm256_add_ps, _mm256_and_ps, _mm256_and_si256, _mm256_blendv_ps,
    _mm256_castsi256_ps, _mm256_cmp_ps, _mm256_cvtepu16_epi32, _mm256_cvtps_epi32, _mm256_fmadd_ps, _mm256_hadd_ps,
    _mm256_loadu_ps, _mm256_loadu_si256, _mm256_max_ps, _mm256_movemask_ps, _mm256_mul_ps, _mm256_permute2f128_ps,
    _mm256_round_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_slli_epi32, _mm256_storeu_ps, _mm256_sub_ps,
};

use half::bf16;

use super::simd::{EXP2_COEFFICIENTS, Simd};

/// Proof of AVX2 and FMA.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The CPU has AVX2 and FMA.
    #[inline(always)]
    pub(super) unsafe fn assume() -> Self {
        Self(())
    }
}

// Every block below that says "proof" relies on this: `Avx2` exists only where the instructions do.
impl Simd<8> for Avx2 {
    type F = __m256;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: `self` is the proof of the instruction set.
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        // SAFETY: proof; the caller gives eight readable elements.
        unsafe { _mm256_loadu_ps(p) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        // SAFETY: proof; the caller gives eight writable elements.
        unsafe { _mm256_storeu_ps(p, v) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const bf16) -> __m256 {
        // SAFETY: proof; the caller gives eight readable elements. A bf16 is the upper half of an f32.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())))) }
    }

    #[inline(always)]
    unsafe fn load_pairs(self, p: *const bf16) -> (__m256, __m256) {
        // SAFETY: proof; the caller gives sixteen readable elements. Little-endian: the even element is the lower half.
        unsafe {
            let x = _mm256_loadu_si256(p.cast());
            let odd = _mm256_and_si256(x, _mm256_set1_epi32(0xffff_0000_u32.cast_signed()));
            (_mm256_castsi256_ps(_mm256_slli_epi32::<16>(x)), _mm256_castsi256_ps(odd))
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, p: *const T) {
        // SAFETY: proof; a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: proof.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: proof.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: proof.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: proof.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: proof.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn exp2(self, x: __m256) -> __m256 {
        // SAFETY: proof.
        unsafe {
            // The second operand of max wins over NaN, so NaN passes through.
            let clamped = _mm256_max_ps(_mm256_set1_ps(-127.0), x);
            let whole = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(clamped);
            let f = _mm256_sub_ps(clamped, whole);
            let mut poly = _mm256_set1_ps(EXP2_COEFFICIENTS[5]);
            for i in [4, 3, 2, 1, 0] {
                poly = _mm256_fmadd_ps(poly, f, _mm256_set1_ps(EXP2_COEFFICIENTS[i]));
            }
            let fraction = _mm256_fmadd_ps(poly, f, _mm256_set1_ps(1.0));
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
            let power = _mm256_mul_ps(fraction, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)));
            // Not-less-than is true for NaN, which must not become 0.
            let keep = _mm256_cmp_ps::<_CMP_NLT_UQ>(x, _mm256_set1_ps(-126.0));
            _mm256_and_ps(power, keep)
        }
    }

    #[inline(always)]
    fn within(self, v: __m256, x: f32, lo: __m256, hi: __m256) -> __m256 {
        // SAFETY: proof.
        unsafe {
            let x = _mm256_set1_ps(x);
            let inside = _mm256_and_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(x, lo), _mm256_cmp_ps::<_CMP_LT_OQ>(x, hi));
            _mm256_blendv_ps(_mm256_set1_ps(f32::NEG_INFINITY), v, inside)
        }
    }

    #[inline(always)]
    fn any_le(self, v: __m256, limit: f32) -> bool {
        // SAFETY: proof.
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LE_OQ>(v, _mm256_set1_ps(limit))) != 0 }
    }

    #[inline(always)]
    fn transpose_sum(self, r: [__m256; 8]) -> __m256 {
        // SAFETY: proof.
        unsafe {
            // Per 128-bit half: four row sums in order; then the halves are added.
            let low = _mm256_hadd_ps(_mm256_hadd_ps(r[0], r[1]), _mm256_hadd_ps(r[2], r[3]));
            let high = _mm256_hadd_ps(_mm256_hadd_ps(r[4], r[5]), _mm256_hadd_ps(r[6], r[7]));
            _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high))
        }
    }
}
