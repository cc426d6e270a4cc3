//! Four lanes in plain Rust: the slow twin of the intrinsics, and what machines other than x86-64 run
//! (compilers turn it into NEON or SSE2).

use half::bf16;

use super::simd::{EXP2_COEFFICIENTS, EXP2_MIN, Simd};

#[derive(Clone, Copy)]
pub(super) struct Portable;

type F = [f32; 4];

#[inline(always)]
fn zip(a: F, b: F, f: impl Fn(f32, f32) -> f32) -> F {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

#[inline(always)]
fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    // Without the instruction `f32::mul_add` is a library call, some fifty times slower than two roundings.
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn exp2(x: f32) -> f32 {
    // Written so that NaN passes through.
    let x = if x < EXP2_MIN { EXP2_MIN } else { x };
    let whole = x.round_ties_even();
    let f = x - whole;
    let poly = EXP2_COEFFICIENTS.iter().rev().fold(0.0, |sum, c| mul_add(sum, f, *c));
    let fraction = mul_add(poly, f, 1.0);
    // 2^whole by its exponent bits; below the normal range the result is 0, as good as the denormal.
    if x < -126.0 { 0.0 } else { fraction * f32::from_bits(((whole as i32 + 127) as u32) << 23) }
}

impl Simd<4> for Portable {
    type F = F;

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        [x; 4]
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> F {
        // SAFETY: the caller gives four readable elements; an array has the alignment of its element.
        unsafe { p.cast::<F>().read() }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: F) {
        // SAFETY: the caller gives four writable elements.
        unsafe { p.cast::<F>().write(v) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const bf16) -> F {
        // SAFETY: the caller gives four readable elements.
        unsafe { p.cast::<[bf16; 4]>().read() }.map(bf16::to_f32)
    }

    #[inline(always)]
    unsafe fn load_pairs(self, p: *const bf16) -> (F, F) {
        // SAFETY: the caller gives eight readable elements.
        let x = unsafe { p.cast::<[bf16; 8]>().read() }.map(|x| f32::from_bits(u32::from(x.to_bits()) << 16));
        ([x[0], x[2], x[4], x[6]], [x[1], x[3], x[5], x[7]])
    }

    #[inline(always)]
    fn prefetch<T>(self, _: *const T) {}

    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        let p = |i: usize| mul_add(a[i], b[i], c[i]);
        [p(0), p(1), p(2), p(3)]
    }

    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn exp2(self, x: F) -> F {
        x.map(exp2)
    }

    #[inline(always)]
    fn within(self, v: F, x: f32, lo: F, hi: F) -> F {
        let p = |i: usize| if lo[i] <= x && x < hi[i] { v[i] } else { f32::NEG_INFINITY };
        [p(0), p(1), p(2), p(3)]
    }

    #[inline(always)]
    fn any_le(self, v: F, limit: f32) -> bool {
        v.iter().any(|x| *x <= limit)
    }

    #[inline(always)]
    fn transpose_sum(self, rows: [F; 4]) -> F {
        rows.map(|r| (r[0] + r[1]) + (r[2] + r[3]))
    }
}
