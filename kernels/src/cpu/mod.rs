//! The fast kernels of a CPU: threads, vector instructions, and the only `unsafe` of this crate.
//!
//! Every kernel body is written once over [`simd::Simd`] and compiled for each instruction set; [`SimdLevel`] picks at
//! run time. All slices are checked here, before a body runs without checks.
#![expect(
    clippy::inline_always,
    reason = "a body takes the instruction set of the function at its root only if everything is inlined into it"
)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod pool;
mod portable;
mod scan;
mod simd;
mod span;
mod tile;

use half::bf16;

pub use pool::ThreadPool;
pub(crate) use scan::{Nearest, Scan};
pub(crate) use span::Span;
pub(crate) use tile::{NO_SCORE, TILE, Tile};

use crate::Parallel;

/// The bodies, compiled for one instruction set.
struct Kernels {
    name: &'static str,
    /// f32 lanes of a vector.
    lanes: usize,
    attend_span: unsafe fn(&mut Span<'_>) -> usize,
    scan: unsafe fn(&Scan<'_>) -> (Option<Nearest>, u64),
    /// Indexed by vectors of rows − 1.
    attend_tile: [unsafe fn(&mut Tile<'_>); MAX_ROW_VECTORS],
    widen: unsafe fn(&[bf16], &mut [f32]),
    sum: unsafe fn(&[u64]) -> u64,
}

/// Vectors of query rows that a tile works on at once: with eight tokens these fill 24 of 32 registers.
pub(crate) const MAX_ROW_VECTORS: usize = 3;

/// Compiles all bodies for one instruction set.
///
/// `heads`: query heads × tokens that a decode block keeps in registers, the widest and the next.
/// `tokens`: tokens that a tile keeps in registers beside 1, 2 and 3 vectors of rows.
macro_rules! kernels {
    ($module:ident, $name:literal, $simd:expr, $lanes:literal, $(feature $feature:literal,)?
     heads [$ha:literal x $ta:literal, $hb:literal x $tb:literal], tokens [$t1:literal, $t2:literal, $t3:literal]) => {
        mod $module {
            use super::{Kernels, Nearest, Scan, Span, Tile, bf16, scan, span, tile};

            pub(super) static KERNELS: Kernels = Kernels {
                name: $name,
                lanes: $lanes,
                attend_span,
                scan,
                attend_tile: [attend_tile_1, attend_tile_2, attend_tile_3],
                widen,
                sum,
            };

            $(#[target_feature(enable = $feature)])?
            unsafe fn attend_span(span: &mut Span<'_>) -> usize {
                // SAFETY: the table is only reached after detection, with lengths checked.
                unsafe { span::attend::<_, $lanes, $ha, $ta, $hb, $tb>($simd, span) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn scan(scan: &Scan<'_>) -> (Option<Nearest>, u64) {
                // SAFETY: as above.
                unsafe { scan::nearest::<_, $lanes>($simd, scan) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn attend_tile_1(tile: &mut Tile<'_>) {
                // SAFETY: as above.
                unsafe { tile::attend::<_, $lanes, 1, $t1>($simd, tile) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn attend_tile_2(tile: &mut Tile<'_>) {
                // SAFETY: as above.
                unsafe { tile::attend::<_, $lanes, 2, $t2>($simd, tile) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn attend_tile_3(tile: &mut Tile<'_>) {
                // SAFETY: as above.
                unsafe { tile::attend::<_, $lanes, 3, $t3>($simd, tile) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn widen(from: &[bf16], to: &mut [f32]) {
                // SAFETY: as above.
                unsafe { tile::widen::<_, $lanes>($simd, from, to) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn sum(words: &[u64]) -> u64 {
                super::sum_body(words)
            }
        }
    };
}

kernels!(portable_kernels, "portable", crate::cpu::portable::Portable, 4, heads [2 x 2, 2 x 2], tokens [8, 4, 4]);
#[cfg(target_arch = "x86_64")]
kernels!(avx2_kernels, "AVX2", crate::cpu::avx2::Avx2::assume(), 8, feature "avx2,fma",
         heads [2 x 4, 2 x 4], tokens [8, 4, 4]);
#[cfg(target_arch = "x86_64")]
kernels!(avx512_kernels, "AVX-512", crate::cpu::avx512::Avx512::assume(), 16, feature "avx512f,avx2,fma",
         heads [4 x 4, 2 x 8], tokens [8, 8, 8]);

/// An instruction set that this CPU has.
#[derive(Clone, Copy)]
pub struct SimdLevel(&'static Kernels);

impl std::fmt::Debug for SimdLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name)
    }
}

impl SimdLevel {
    /// Every instruction set of this CPU that has kernels, the slowest first.
    pub fn available() -> Vec<Self> {
        [Some(Self::portable()), Self::avx2(), Self::avx512()].into_iter().flatten().collect()
    }

    /// The fastest one.
    pub fn best() -> Self {
        Self::avx512().or_else(Self::avx2).unwrap_or_else(Self::portable)
    }

    /// Plain Rust, on every machine.
    pub fn portable() -> Self {
        Self(&portable_kernels::KERNELS)
    }

    /// Its usual name.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    #[cfg(target_arch = "x86_64")]
    fn avx2() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(&avx2_kernels::KERNELS))
    }

    #[cfg(target_arch = "x86_64")]
    fn avx512() -> Option<Self> {
        Self::avx2().filter(|_| is_x86_feature_detected!("avx512f")).map(|_| Self(&avx512_kernels::KERNELS))
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn avx2() -> Option<Self> {
        None
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn avx512() -> Option<Self> {
        None
    }

    /// f32 lanes of a vector.
    pub(crate) fn lanes(self) -> usize {
        self.0.lanes
    }

    /// Natural to paired order (see `span.rs`), scaled. Whole heads.
    pub(crate) fn pair(self, natural: &[f32], scale: f32, paired: &mut [f32]) {
        let lanes = self.0.lanes;
        for (natural, paired) in natural.chunks_exact(2 * lanes).zip(paired.chunks_exact_mut(2 * lanes)) {
            let (even, odd) = paired.split_at_mut(lanes);
            for ((two, even), odd) in natural.chunks_exact(2).zip(even).zip(odd) {
                *even = two[0] * scale;
                *odd = two[1] * scale;
            }
        }
    }

    /// Paired to natural order, scaled. Whole heads.
    pub(crate) fn unpair(self, paired: &[f32], scale: f32, natural: &mut [f32]) {
        let lanes = self.0.lanes;
        for (natural, paired) in natural.chunks_exact_mut(2 * lanes).zip(paired.chunks_exact(2 * lanes)) {
            let (even, odd) = paired.split_at(lanes);
            for ((two, even), odd) in natural.chunks_exact_mut(2).zip(even).zip(odd) {
                two[0] = even * scale;
                two[1] = odd * scale;
            }
        }
    }

    /// Runs one decode span; returns the tokens read.
    pub(crate) fn attend_span(self, mut span: Span<'_>) -> usize {
        let group_size = span.skip.len();
        let elements = group_size * span.head_dim;
        assert!(span.head_dim > 0 && span.head_dim.is_multiple_of(2 * self.0.lanes));
        assert!(!span.keys.is_empty() && span.keys.len().is_multiple_of(span.head_dim));
        assert_eq!(span.values.len(), span.keys.len());
        assert!(span.queries.len() == elements && span.acc.len() == elements);
        assert!(span.max.len() == group_size && span.sum.len() == group_size);
        // SAFETY: lengths were checked; a `SimdLevel` exists only for instruction sets of this CPU.
        unsafe { (self.0.attend_span)(&mut span) }
    }

    /// Finds the nearest past query of one head, with the bytes of stored queries loaded for it.
    pub(crate) fn scan(self, scan: Scan<'_>) -> (Option<Nearest>, u64) {
        let slots = scan.positions.len();
        assert!(scan.head_dim > 0 && scan.head_dim.is_multiple_of(2 * self.0.lanes));
        assert_eq!(scan.keys.len(), slots * scan.head_dim);
        assert_eq!(scan.query.len(), scan.head_dim);
        assert!(scan.live.len() == slots && scan.lse.len() == slots);
        // SAFETY: as above.
        unsafe { (self.0.scan)(&scan) }
    }

    /// Runs one prefill tile against a block of `row_vectors` · lanes rows.
    pub(crate) fn attend_tile(self, mut tile: Tile<'_>, row_vectors: usize) {
        let rows = row_vectors * self.0.lanes;
        let elements = rows * tile.head_dim;
        // Eight is the largest number of tokens or columns that any body takes at once.
        assert!(tile.head_dim.is_multiple_of(8) && (1..=TILE).contains(&tile.tokens));
        assert!(tile.keys.len() == TILE * tile.head_dim && tile.values.len() == TILE * tile.head_dim);
        assert!(tile.queries.len() == elements && tile.acc.len() == elements);
        assert!(tile.weights.len() == TILE * rows && tile.max.len() == rows && tile.sum.len() == rows);
        assert!(match tile.limits {
            Some((lo, hi)) => lo.len() == rows && hi.len() == rows,
            // Without limits nothing hides the rows past the end of a short tile.
            None => tile.tokens == TILE,
        });
        // SAFETY: as above.
        unsafe { (self.0.attend_tile[row_vectors - 1])(&mut tile) }
    }

    /// bf16 to f32.
    pub(crate) fn widen(self, from: &[bf16], to: &mut [f32]) {
        assert!(from.len() == to.len() && from.len().is_multiple_of(self.0.lanes));
        // SAFETY: as above.
        unsafe { (self.0.widen)(from, to) }
    }

    /// Adds all words, wrapping, on all threads of `pool`: the plainest way to read memory, and so the yardstick for
    /// the bytes per second of every other kernel.
    pub fn sum(self, words: &[u64], pool: &dyn Parallel) -> u64 {
        const CHUNK: usize = 64 * 1024;
        let total = std::sync::atomic::AtomicU64::new(0);
        pool.run(words.len().div_ceil(CHUNK), &|i| {
            let chunk = &words[i * CHUNK..words.len().min((i + 1) * CHUNK)];
            // SAFETY: a `SimdLevel` exists only for instruction sets of this CPU.
            let sum = unsafe { (self.0.sum)(chunk) };
            total.fetch_add(sum, std::sync::atomic::Ordering::Relaxed);
        });
        total.into_inner()
    }
}

#[inline(always)]
fn sum_body(words: &[u64]) -> u64 {
    // 64 independent sums: enough for eight vectors of any width in flight.
    let mut sums = [0_u64; 64];
    let chunks = words.chunks_exact(64);
    let rest = chunks.remainder().iter().fold(0, |sum: u64, x| sum.wrapping_add(*x));
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*x);
        }
    }
    sums.iter().fold(rest, |sum, x| sum.wrapping_add(*x))
}

#[cfg(test)]
mod tests {
    use super::simd::Simd;
    use super::*;
    use crate::Serial;

    fn lanes<S: Simd<N>, const N: usize>(simd: S, v: S::F) -> [f32; N] {
        let mut lanes = [0.0; N];
        // SAFETY: N elements.
        unsafe { simd.store(lanes.as_mut_ptr(), v) };
        lanes
    }

    fn check_operations<S: Simd<N>, const N: usize>(simd: S) {
        let exp2 = |x: f32| lanes(simd, simd.exp2(simd.splat(x)))[N - 1];
        assert_eq!([exp2(0.0), exp2(-1.0), exp2(-126.0)], [1.0, 0.5, f32::MIN_POSITIVE]);
        assert_eq!([exp2(f32::NEG_INFINITY), exp2(-1e30), exp2(-200.0)], [0.0; 3]);
        assert!(exp2(f32::NAN).is_nan());
        for i in 0..100_000 {
            let x = -0.00125 * i as f32;
            let want = f64::from(x).exp2();
            assert!((f64::from(exp2(x)) - want).abs() <= 2e-7 * want, "2^{x}");
        }

        let rows: [[f32; N]; N] = std::array::from_fn(|i| std::array::from_fn(|j| (i * 100 + j) as f32));
        // SAFETY: N elements each.
        let vectors = rows.map(|row| unsafe { simd.load(row.as_ptr()) });
        assert_eq!(lanes(simd, simd.transpose_sum(vectors)), rows.map(|row| row.iter().sum::<f32>()));

        let first = vectors[0];
        let top = simd.max(first, simd.splat(1.5));
        assert_eq!(lanes(simd, top), rows[0].map(|x| x.max(1.5)));
        assert!(lanes(simd, simd.max(first, simd.splat(f32::NAN))).iter().all(|x| x.is_nan()));
        assert_eq!(lanes(simd, simd.max(simd.splat(f32::NAN), first)), rows[0]);
        assert!(simd.any_le(first, 0.0) && !simd.any_le(first, -0.5) && !simd.any_le(simd.splat(f32::NAN), 1e30));
        let inside = simd.within(simd.splat(7.0), 2.0, first, simd.splat(3.0));
        assert_eq!(lanes(simd, inside), rows[0].map(|lo| if lo <= 2.0 { 7.0 } else { f32::NEG_INFINITY }));

        let narrow: Vec<bf16> = (0..2 * N).map(|i| bf16::from_f32(i as f32 - 3.5)).collect();
        // SAFETY: 2 N elements.
        let (natural, (even, odd)) = unsafe { (simd.load_bf16(narrow.as_ptr()), simd.load_pairs(narrow.as_ptr())) };
        assert_eq!(lanes(simd, natural), std::array::from_fn(|i| i as f32 - 3.5));
        assert_eq!(lanes(simd, even), std::array::from_fn(|i| 2.0 * i as f32 - 3.5));
        assert_eq!(lanes(simd, odd), std::array::from_fn(|i| 2.0 * i as f32 - 2.5));
    }

    #[test]
    fn vector_operations_mean_the_same_on_every_instruction_set() {
        check_operations(portable::Portable);
        #[cfg(target_arch = "x86_64")]
        {
            if SimdLevel::avx2().is_some() {
                // SAFETY: just detected.
                check_operations(unsafe { avx2::Avx2::assume() });
            }
            if SimdLevel::avx512().is_some() {
                // SAFETY: just detected.
                check_operations(unsafe { avx512::Avx512::assume() });
            }
        }
    }

    #[test]
    fn the_sum_is_the_sum() {
        let words: Vec<u64> = (0..200_001_u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        let want = words.iter().fold(0_u64, |sum, x| sum.wrapping_add(*x));
        for simd in SimdLevel::available() {
            assert_eq!(simd.sum(&words, &Serial), want);
            assert_eq!(simd.sum(&[], &Serial), 0);
        }
    }

    #[test]
    fn paired_order_and_back() {
        let natural: Vec<f32> = (0..96).map(|i| i as f32).collect();
        for simd in SimdLevel::available() {
            let (mut paired, mut back) = (vec![0.0; 96], vec![0.0; 96]);
            simd.pair(&natural, 2.0, &mut paired);
            assert_eq!(paired[simd.lanes()], 2.0, "the first odd element follows the even ones");
            simd.unpair(&paired, 0.5, &mut back);
            assert_eq!(back, natural);
        }
    }
}
