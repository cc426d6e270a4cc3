//! The search for the nearest past query of one head.

use half::bf16;

use super::simd::Simd;

/// One head's stored queries and what counts as a candidate. Lengths are checked by [`super::SimdLevel::scan`].
pub(crate) struct Scan<'a> {
    /// `[slots, head_dim]`.
    pub keys: &'a [bf16],
    /// `[head_dim]` in paired order, rounded to bf16.
    pub query: &'a [f32],
    /// Position per slot.
    pub positions: &'a [usize],
    /// Slots whose position is inside the window.
    pub live: &'a [bool],
    /// Log-sum-exp per slot; an entry without a finite one is no candidate.
    pub lse: &'a [f32],
    /// Only squared distances strictly below this count.
    pub limit: f32,
    /// Elements per head.
    pub head_dim: usize,
}

/// The nearest candidate: smallest squared distance, then smallest position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Nearest {
    pub pos: usize,
    pub distance_squared: f32,
}

/// Returns the nearest candidate and the bytes of stored queries that were loaded.
///
/// # Safety
/// Lengths fit together as [`Scan`] says and `head_dim` is a multiple of 2 N.
#[inline(always)]
pub(super) unsafe fn nearest<S: Simd<N>, const N: usize>(simd: S, scan: &Scan<'_>) -> (Option<Nearest>, u64) {
    let slots = scan.positions.len();
    let head_dim = scan.head_dim;
    // A partial sum of squares bounds the distance from below (also in f32: adding squares never lowers a sum), so
    // half the dimensions can rule out a block. Shorter heads fill two cache lines, which come together anyway.
    let probe = if head_dim >= 128 { (head_dim / 2).next_multiple_of(2 * N) } else { head_dim };
    let mut best: Option<Nearest> = None;
    let mut best_squared = scan.limit;
    let mut bytes = 0;
    let mut begin = 0;
    while begin < slots {
        let count = N.min(slots - begin);
        if scan.live[begin..begin + count].contains(&true) {
            // SAFETY: rows are clamped to `slots - 1`, columns end at `head_dim`.
            let squared = unsafe {
                let mut rows = [scan.keys.as_ptr(); N];
                for (i, row) in rows.iter_mut().enumerate() {
                    *row = row.add((begin + i.min(count - 1)) * head_dim);
                }
                let mut acc = [simd.splat(0.0); N];
                add_squares(simd, &rows, scan.query, 0, probe, &mut acc);
                let mut squared = simd.transpose_sum(acc);
                bytes += count * probe * size_of::<bf16>();
                if probe < head_dim && simd.any_le(squared, best_squared) {
                    add_squares(simd, &rows, scan.query, probe, head_dim, &mut acc);
                    squared = simd.transpose_sum(acc);
                    bytes += count * (head_dim - probe) * size_of::<bf16>();
                }
                squared
            };
            if simd.any_le(squared, best_squared) {
                let mut lanes = [0.0_f32; N];
                // SAFETY: N elements.
                unsafe { simd.store(lanes.as_mut_ptr(), squared) };
                for (i, squared) in lanes.into_iter().take(count).enumerate() {
                    let slot = begin + i;
                    let pos = scan.positions[slot];
                    let nearer =
                        squared < best_squared || (squared == best_squared && best.is_some_and(|b| pos < b.pos));
                    if nearer && scan.live[slot] && scan.lse[slot].is_finite() {
                        best_squared = squared;
                        best = Some(Nearest { pos, distance_squared: squared });
                    }
                }
            }
        }
        begin += count;
    }
    (best, bytes as u64)
}

/// Adds (key − query)² of columns `from..to` to one accumulator per row.
///
/// # Safety
/// Every row and the query are readable up to `to`, and both bounds are multiples of 2 N.
#[inline(always)]
unsafe fn add_squares<S: Simd<N>, const N: usize>(
    simd: S,
    rows: &[*const bf16; N],
    query: &[f32],
    from: usize,
    to: usize,
    acc: &mut [S::F; N],
) {
    let mut column = from;
    while column < to {
        // SAFETY: columns stay below `to`.
        unsafe {
            let q_even = simd.load(query.as_ptr().add(column));
            let q_odd = simd.load(query.as_ptr().add(column + N));
            for i in 0..N {
                let (even, odd) = simd.load_pairs(rows[i].add(column));
                let (even, odd) = (simd.sub(even, q_even), simd.sub(odd, q_odd));
                acc[i] = simd.fma(even, even, acc[i]);
                acc[i] = simd.fma(odd, odd, acc[i]);
            }
        }
        column += 2 * N;
    }
}
