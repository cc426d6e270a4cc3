//! Attention of one token's query heads over one span of one KV head: the body of every decode read.
//!
//! Vectors run along the head dimension in *paired* order: within every 2 N elements the even ones come first, then
//! the odd ones ([`Simd::load_pairs`]). Queries are laid out so beforehand and accumulators stay so; a dot product
//! does not care, and the outputs are put back in order once per step.
#![expect(clippy::needless_range_loop, reason = "loops of constant length over registers, unrolled by index")]

use half::bf16;

use super::simd::Simd;

/// Most tokens between two looks at the running maximum.
pub(super) const BLOCK: usize = 64;

/// Tokens of a block: K, V and what is fetched meanwhile share a first-level cache. A compromise, measured at D 128 on two
/// cores: 16 tokens read 10 % more a second where memory is the limit, and 9 % less where it is not.
fn block_tokens(head_dim: usize) -> usize {
    const KEY_BYTES: usize = 8 * 1024;
    (KEY_BYTES / (head_dim * size_of::<bf16>())).clamp(16, BLOCK)
}

/// One span of one KV head and what comes out of it. Lengths are checked by [`super::SimdLevel::attend_span`].
pub(crate) struct Span<'a> {
    /// `[tokens, head_dim]`.
    pub keys: &'a [bf16],
    /// `[tokens, head_dim]`.
    pub values: &'a [bf16],
    /// `[group_size, head_dim]` in paired order, scaled by softmax scale · log2 e.
    pub queries: &'a [f32],
    /// Per head: tokens at the beginning of the span that do not count for it.
    pub skip: &'a [usize],
    /// `[group_size, head_dim]` in paired order: Σ 2^(score − max) · value.
    pub acc: &'a mut [f32],
    /// Per head: largest score, base 2; −∞ if no token counted.
    pub max: &'a mut [f32],
    /// Per head: Σ 2^(score − max).
    pub sum: &'a mut [f32],
    /// Elements per head.
    pub head_dim: usize,
}

/// Heads in blocks of `HA`, then `HB`, then one, so that `H · T = N` fills the registers with `T` tokens of `H` heads.
/// Returns the tokens read.
///
/// # Safety
/// Lengths fit together as [`Span`] says, the span is not empty and `head_dim` is a multiple of 2 N.
#[inline(always)]
pub(super) unsafe fn attend<S, const N: usize, const HA: usize, const TA: usize, const HB: usize, const TB: usize>(
    simd: S,
    span: &mut Span<'_>,
) -> usize
where
    S: Simd<N>,
{
    let group_size = span.skip.len();
    let tokens = span.keys.len() / span.head_dim;
    span.acc.fill(0.0);
    span.max.fill(f32::NEG_INFINITY);
    span.sum.fill(0.0);
    let block = block_tokens(span.head_dim);
    let mut begin = 0;
    while begin < tokens {
        let count = block.min(tokens - begin);
        let mut head = 0;
        while head < group_size {
            let left = group_size - head;
            // SAFETY: `head + H <= group_size` and `begin + count <= tokens`; lengths by the caller.
            unsafe {
                if left >= HA {
                    attend_heads::<S, N, HA, TA>(simd, span, head, begin, count);
                    head += HA;
                } else if left >= HB {
                    attend_heads::<S, N, HB, TB>(simd, span, head, begin, count);
                    head += HB;
                } else {
                    attend_heads::<S, N, 1, N>(simd, span, head, begin, count);
                    head += 1;
                }
            }
        }
        begin += count;
    }
    for (max, sum) in span.max.iter_mut().zip(span.sum.iter()) {
        // Comparisons drop NaN, sums keep it.
        if sum.is_nan() {
            *max = f32::NAN;
        }
    }
    tokens
}

/// # Safety
/// As [`attend`]; `H · T = N`, `head + H` heads and `begin + count` tokens exist, `1 <= count <= BLOCK`.
#[inline(always)]
unsafe fn attend_heads<S: Simd<N>, const N: usize, const H: usize, const T: usize>(
    simd: S,
    span: &mut Span<'_>,
    head: usize,
    begin: usize,
    count: usize,
) {
    // [BLOCK / T][H][T]: H · BLOCK elements, and H is at most 4.
    let mut scores = [0.0_f32; 4 * BLOCK];
    let rounds = count.div_ceil(T);
    // SAFETY: the caller's promises are the callee's; `rounds * N <= BLOCK * H`.
    unsafe { score_block::<S, N, H, T>(simd, span, head, begin, count, &mut scores) };
    mask_block::<H, T>(&mut scores, &span.skip[head..head + H], begin, count);

    // SAFETY: `scores` holds `rounds` vectors of N.
    let tops = unsafe {
        let mut top = simd.load(scores.as_ptr());
        for round in 1..rounds {
            top = simd.max(top, simd.load(scores.as_ptr().add(round * N)));
        }
        let mut lanes = [0.0_f32; N];
        simd.store(lanes.as_mut_ptr(), top);
        lanes
    };
    let mut shift = [0.0_f32; N];
    for h in 0..H {
        let old = span.max[head + h];
        let new = tops[h * T..(h + 1) * T].iter().fold(old, |a, b| if a > *b { a } else { *b });
        if new > old {
            let shrink = (old - new).exp2();
            span.sum[head + h] *= shrink;
            span.max[head + h] = new;
            for x in &mut span.acc[(head + h) * span.head_dim..(head + h + 1) * span.head_dim] {
                *x *= shrink;
            }
        }
        // A head that skips the whole block has only −∞ here; shifting by 0 keeps −∞ − −∞ away.
        shift[h * T..(h + 1) * T].fill(if new == f32::NEG_INFINITY { 0.0 } else { new });
    }

    // SAFETY: as above, and the caller's promises for `add_values`.
    unsafe {
        let shift = simd.load(shift.as_ptr());
        let mut total = simd.splat(0.0);
        for round in 0..rounds {
            let at = scores.as_mut_ptr().add(round * N);
            let weight = simd.exp2(simd.sub(simd.load(at), shift));
            total = simd.add(total, weight);
            simd.store(at, weight);
        }
        let mut lanes = [0.0_f32; N];
        simd.store(lanes.as_mut_ptr(), total);
        for h in 0..H {
            span.sum[head + h] += lanes[h * T..(h + 1) * T].iter().sum::<f32>();
        }
        let mut column = 0;
        while column + 4 * N <= span.head_dim {
            add_values::<S, N, H, T, 4>(simd, span, head, begin, count, column, &scores);
            column += 4 * N;
        }
        while column < span.head_dim {
            add_values::<S, N, H, T, 2>(simd, span, head, begin, count, column, &scores);
            column += 2 * N;
        }
    }
}

/// −∞ for tokens past the end of the block and for those a head skips.
#[inline(always)]
fn mask_block<const H: usize, const T: usize>(scores: &mut [f32], skip: &[usize], begin: usize, count: usize) {
    if count.is_multiple_of(T) && skip.iter().all(|skip| *skip <= begin) {
        return;
    }
    for (round, scores) in scores.chunks_exact_mut(H * T).take(count.div_ceil(T)).enumerate() {
        for (h, scores) in scores.chunks_exact_mut(T).enumerate() {
            for (i, score) in scores.iter_mut().enumerate() {
                let token = round * T + i;
                if token >= count || begin + token < skip[h] {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// # Safety
/// As [`attend_heads`].
#[inline(always)]
unsafe fn score_block<S: Simd<N>, const N: usize, const H: usize, const T: usize>(
    simd: S,
    span: &Span<'_>,
    head: usize,
    begin: usize,
    count: usize,
    scores: &mut [f32; 4 * BLOCK],
) {
    let head_dim = span.head_dim;
    // SAFETY: row indices are clamped to the block's last token, columns end at `head_dim`; the store stays within
    // `count.div_ceil(T) * N` elements.
    unsafe {
        let keys = span.keys.as_ptr().add(begin * head_dim);
        let values = span.values.as_ptr().add(begin * head_dim);
        let queries = span.queries.as_ptr().add(head * head_dim);
        let mut round = 0;
        while round * T < count {
            let first = round * T;
            let mut rows = [keys; T];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = keys.add((first + i).min(count - 1) * head_dim);
            }
            if head == 0 {
                // The values of the same tokens are wanted next: fetched while the scores are computed.
                for line in 0..(T * head_dim).div_ceil(32) {
                    simd.prefetch(values.wrapping_add(first * head_dim + line * 32));
                }
            }
            let mut acc = [simd.splat(0.0); N];
            let mut column = 0;
            while column < head_dim {
                let mut even = [simd.splat(0.0); H];
                let mut odd = [simd.splat(0.0); H];
                for h in 0..H {
                    even[h] = simd.load(queries.add(h * head_dim + column));
                    odd[h] = simd.load(queries.add(h * head_dim + column + N));
                }
                for t in 0..T {
                    let (k_even, k_odd) = simd.load_pairs(rows[t].add(column));
                    for h in 0..H {
                        acc[h * T + t] = simd.fma(k_even, even[h], acc[h * T + t]);
                        acc[h * T + t] = simd.fma(k_odd, odd[h], acc[h * T + t]);
                    }
                }
                column += 2 * N;
            }
            simd.store(scores.as_mut_ptr().add(round * N), simd.transpose_sum(acc));
            round += 1;
        }
    }
}

/// Adds Σ weight · value over the block to columns `column .. column + C · N` of `H` heads.
///
/// # Safety
/// As [`attend_heads`]; `C` is even and the columns exist.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the inner loop of one call site, kept flat for the optimiser")]
unsafe fn add_values<S: Simd<N>, const N: usize, const H: usize, const T: usize, const C: usize>(
    simd: S,
    span: &mut Span<'_>,
    head: usize,
    begin: usize,
    count: usize,
    column: usize,
    weights: &[f32; 4 * BLOCK],
) {
    let head_dim = span.head_dim;
    // SAFETY: heads, tokens and columns exist by the caller; a weight index is below `count.div_ceil(T) * N`.
    unsafe {
        let out = span.acc.as_mut_ptr().add(head * head_dim + column);
        let mut acc = [[simd.splat(0.0); C]; H];
        for h in 0..H {
            for c in 0..C {
                acc[h][c] = simd.load(out.add(h * head_dim + c * N));
            }
        }
        let keys_ahead = span.keys.as_ptr().wrapping_add((begin + count) * head_dim + column);
        let values = span.values.as_ptr().add(begin * head_dim + column);
        for token in 0..count {
            let row = values.add(token * head_dim);
            if head == 0 {
                // The keys of the next block, while this one's values are added.
                for line in 0..(C * N).div_ceil(32) {
                    simd.prefetch(keys_ahead.wrapping_add(token * head_dim + line * 32));
                }
            }
            let mut value = [simd.splat(0.0); C];
            for c in 0..C / 2 {
                (value[2 * c], value[2 * c + 1]) = simd.load_pairs(row.add(2 * c * N));
            }
            let weight = weights.as_ptr().add((token / T) * N + token % T);
            for h in 0..H {
                let weight = simd.splat(*weight.add(h * T));
                for c in 0..C {
                    acc[h][c] = simd.fma(weight, value[c], acc[h][c]);
                }
            }
        }
        for h in 0..H {
            for c in 0..C {
                simd.store(out.add(h * head_dim + c * N), acc[h][c]);
            }
        }
    }
}
