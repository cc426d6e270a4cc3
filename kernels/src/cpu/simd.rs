//! The few vector operations that the kernels are written in.

use half::bf16;

/// Cut-off of [`Simd::exp2`]: far below the smallest f32 exponent, so that everything beyond it is exactly 0.
pub(super) const EXP2_MIN: f32 = -200.0;

/// 2^f on −0.5..=0.5 as 1 + f·(C[0] + f·(C[1] + …)): relative error of the polynomial 2.6e-9, so that
/// f32 rounding (below 2e-7 after seven operations) is what remains. The constant is 1, so 2^0 is exactly 1.
pub(super) const EXP2_COEFFICIENTS: [f32; 6] =
    [std::f32::consts::LN_2, 0.240_226_5, 0.055_503_27, 0.009_618_057, 0.001_340_042_8, 0.000_154_614_45];

/// One instruction set with `N` f32 lanes. A value of the type is the proof that this CPU has it: it is only made
/// after detection, which is what lets the arithmetic be safe to call.
///
/// Everything is `#[inline(always)]` down to the intrinsics, so that the `#[target_feature]` function at the root
/// of a kernel compiles the whole body for its instruction set.
pub(super) trait Simd<const N: usize>: Copy {
    /// `N` lanes of f32.
    type F: Copy;

    /// The same number in every lane.
    fn splat(self, x: f32) -> Self::F;
    /// # Safety
    /// `p` is readable for `N` elements.
    unsafe fn load(self, p: *const f32) -> Self::F;
    /// # Safety
    /// `p` is writable for `N` elements.
    unsafe fn store(self, p: *mut f32, v: Self::F);
    /// `N` elements in their natural order.
    ///
    /// # Safety
    /// `p` is readable for `N` elements.
    unsafe fn load_bf16(self, p: *const bf16) -> Self::F;
    /// `2 N` elements as (even ones, odd ones): two plain bit operations instead of a widening shuffle.
    ///
    /// # Safety
    /// `p` is readable for `2 N` elements.
    unsafe fn load_pairs(self, p: *const bf16) -> (Self::F, Self::F);
    /// Asks for the cache line of `p`; any address is allowed.
    fn prefetch<T>(self, p: *const T);

    /// a + b.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// a − b.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// a · b.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// a · b + c.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger; `b` where `a` or `b` is NaN, on every instruction set.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// 2^x for x ≤ 0 (see [`EXP2_COEFFICIENTS`]); 0 far below; NaN stays NaN.
    fn exp2(self, x: Self::F) -> Self::F;
    /// `v` in lanes where lo ≤ x < hi, −∞ elsewhere.
    fn within(self, v: Self::F, x: f32, lo: Self::F, hi: Self::F) -> Self::F;
    /// Whether any lane is ≤ limit; false for NaN lanes.
    fn any_le(self, v: Self::F, limit: f32) -> bool;
    /// Lane i is the sum of the lanes of `rows[i]`.
    fn transpose_sum(self, rows: [Self::F; N]) -> Self::F;
}
