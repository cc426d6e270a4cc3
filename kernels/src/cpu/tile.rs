//! Prefill: many query rows over one tile of keys and values.
//!
//! Vectors run along the rows (query position × head of one KV group), so maxima, sums and rescaling need no shuffles:
//! queries and outputs are kept transposed, keys and values are broadcast one number at a time.
#![expect(clippy::needless_range_loop, reason = "loops of constant length over registers, unrolled by index")]

use half::bf16;

use super::simd::Simd;

/// Tokens of one tile.
pub(crate) const TILE: usize = 64;

/// Running maximum before any token: finite, so that −∞ − max never becomes NaN.
pub(crate) const NO_SCORE: f32 = -1e30;

/// A tile against a block of `R · N` rows. Lengths are checked by [`super::SimdLevel::attend_tile`].
pub(crate) struct Tile<'a> {
    /// `[TILE, head_dim]`, f32; rows past `tokens` are finite.
    pub keys: &'a [f32],
    /// `[TILE, head_dim]`, f32; rows past `tokens` are finite.
    pub values: &'a [f32],
    /// Tokens in the tile, at least 1.
    pub tokens: usize,
    /// `[head_dim, rows]`, scaled by softmax scale · log2 e.
    pub queries: &'a [f32],
    /// `[TILE, rows]` scratch.
    pub weights: &'a mut [f32],
    /// `[head_dim, rows]`: Σ 2^(score − max) · value.
    pub acc: &'a mut [f32],
    /// Per row: largest score, base 2, or [`NO_SCORE`].
    pub max: &'a mut [f32],
    /// Per row: Σ 2^(score − max).
    pub sum: &'a mut [f32],
    /// Per row, the tokens of the tile that it may see, as (first, one past last); `None` if every row sees all.
    pub limits: Option<(&'a [f32], &'a [f32])>,
    /// Elements per head.
    pub head_dim: usize,
}

/// Works on `R · N` rows, `T` tokens (or columns) at a time, so that `R · T` accumulators fill the registers.
///
/// # Safety
/// Lengths are as [`Tile`] says with rows = R · N; `TILE` and `head_dim` are multiples of `T`.
#[inline(always)]
pub(super) unsafe fn attend<S: Simd<N>, const N: usize, const R: usize, const T: usize>(simd: S, tile: &mut Tile<'_>) {
    // SAFETY: the caller's promises are the callees'; the vectors per row block are R of N.
    unsafe {
        let top = score::<S, N, R, T>(simd, tile);
        let mut shrink = [simd.splat(0.0); R];
        let mut new = [simd.splat(0.0); R];
        for r in 0..R {
            let old = simd.load(tile.max.as_ptr().add(r * N));
            new[r] = simd.max(old, top[r]);
            shrink[r] = simd.exp2(simd.sub(old, new[r]));
            simd.store(tile.max.as_mut_ptr().add(r * N), new[r]);
        }
        let mut total = [simd.splat(0.0); R];
        for token in 0..tile.tokens {
            for r in 0..R {
                let at = tile.weights.as_mut_ptr().add((token * R + r) * N);
                let weight = simd.exp2(simd.sub(simd.load(at), new[r]));
                total[r] = simd.add(total[r], weight);
                simd.store(at, weight);
            }
        }
        for r in 0..R {
            let at = tile.sum.as_mut_ptr().add(r * N);
            simd.store(at, simd.fma(simd.load(at), shrink[r], total[r]));
        }
        add_values::<S, N, R, T>(simd, tile, &shrink);
    }
}

/// Writes the masked scores and returns the largest one per row.
///
/// # Safety
/// As [`attend`].
#[inline(always)]
unsafe fn score<S: Simd<N>, const N: usize, const R: usize, const T: usize>(simd: S, tile: &mut Tile<'_>) -> [S::F; R] {
    let head_dim = tile.head_dim;
    let mut top = [simd.splat(NO_SCORE); R];
    let mut first = 0;
    while first < tile.tokens {
        // SAFETY: `first + T <= TILE` because TILE is a multiple of T; rows and columns as the caller promised.
        unsafe {
            let keys = tile.keys.as_ptr().add(first * head_dim);
            let mut acc = [[simd.splat(0.0); R]; T];
            for column in 0..head_dim {
                let mut query = [simd.splat(0.0); R];
                for r in 0..R {
                    query[r] = simd.load(tile.queries.as_ptr().add((column * R + r) * N));
                }
                for t in 0..T {
                    let key = simd.splat(*keys.add(t * head_dim + column));
                    for r in 0..R {
                        acc[t][r] = simd.fma(key, query[r], acc[t][r]);
                    }
                }
            }
            if let Some((lo, hi)) = tile.limits {
                for r in 0..R {
                    let (lo, hi) = (simd.load(lo.as_ptr().add(r * N)), simd.load(hi.as_ptr().add(r * N)));
                    for t in 0..T {
                        acc[t][r] = simd.within(acc[t][r], (first + t) as f32, lo, hi);
                    }
                }
            }
            for t in 0..T {
                for r in 0..R {
                    top[r] = simd.max(top[r], acc[t][r]);
                    simd.store(tile.weights.as_mut_ptr().add(((first + t) * R + r) * N), acc[t][r]);
                }
            }
        }
        first += T;
    }
    top
}

/// acc = acc · shrink + Σ weight · value.
///
/// # Safety
/// As [`attend`].
#[inline(always)]
unsafe fn add_values<S: Simd<N>, const N: usize, const R: usize, const T: usize>(
    simd: S,
    tile: &mut Tile<'_>,
    shrink: &[S::F; R],
) {
    let head_dim = tile.head_dim;
    let mut first = 0;
    while first < head_dim {
        // SAFETY: `first + T <= head_dim` because head_dim is a multiple of T; tokens and rows as the caller promised.
        unsafe {
            let values = tile.values.as_ptr().add(first);
            let out = tile.acc.as_mut_ptr().add(first * R * N);
            let mut acc = [[simd.splat(0.0); R]; T];
            for t in 0..T {
                for r in 0..R {
                    acc[t][r] = simd.mul(simd.load(out.add((t * R + r) * N)), shrink[r]);
                }
            }
            for token in 0..tile.tokens {
                let mut weight = [simd.splat(0.0); R];
                for r in 0..R {
                    weight[r] = simd.load(tile.weights.as_ptr().add((token * R + r) * N));
                }
                for t in 0..T {
                    let value = simd.splat(*values.add(token * head_dim + t));
                    for r in 0..R {
                        acc[t][r] = simd.fma(value, weight[r], acc[t][r]);
                    }
                }
            }
            for t in 0..T {
                for r in 0..R {
                    simd.store(out.add((t * R + r) * N), acc[t][r]);
                }
            }
        }
        first += T;
    }
}

/// bf16 to f32 in natural order.
///
/// # Safety
/// `to` is as long as `from`, a multiple of N.
#[inline(always)]
pub(super) unsafe fn widen<S: Simd<N>, const N: usize>(simd: S, from: &[bf16], to: &mut [f32]) {
    let mut at = 0;
    while at < from.len() {
        // SAFETY: both are readable and writable for N elements from `at`.
        unsafe { simd.store(to.as_mut_ptr().add(at), simd.load_bf16(from.as_ptr().add(at))) };
        at += N;
    }
}
