//! Matrices between file and arithmetic, and the projections that decode steps multiply by.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Tensor};
use half::{bf16, f16};

use crate::EngineError;

/// Bytes aligned for every block type (candle asserts the alignment of what it is given).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AlignedBytes {
    words: Vec<u64>,
    len: usize,
}

impl AlignedBytes {
    /// All zero.
    pub(crate) fn zeroed(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(8)], len }
    }

    /// A copy.
    pub(crate) fn copied(bytes: &[u8]) -> Self {
        let mut copy = Self::zeroed(bytes.len());
        copy.as_mut_slice().copy_from_slice(bytes);
        copy
    }

    /// The bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }

    /// The bytes.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len]
    }
}

/// A matrix in some block type, `[rows, cols]`, its length checked.
#[derive(Debug, Clone, PartialEq)]
pub struct RawMatrix {
    dtype: GgmlDType,
    rows: usize,
    cols: usize,
    bytes: AlignedBytes,
}

impl RawMatrix {
    /// `bytes` must be as long as the shape says; `cols` is a multiple of the block size.
    pub(crate) fn new(dtype: GgmlDType, rows: usize, cols: usize, bytes: AlignedBytes) -> Self {
        debug_assert_eq!(bytes.len, rows * cols / dtype.block_size() * dtype.type_size());
        Self { dtype, rows, cols, bytes }
    }

    fn row_bytes(&self) -> usize {
        self.cols / self.dtype.block_size() * self.dtype.type_size()
    }

    /// Puts the rows of each head from pairs (`x0`, `x_half`, `x1`, …) into halves (`x0`, `x1`, …, `x_half`, …). Blocks
    /// run along a row, so moving whole rows loses nothing.
    pub(super) fn unpermute_heads(&mut self, heads: usize) -> Result<(), EngineError> {
        if heads == 0 || !self.rows.is_multiple_of(2 * heads) {
            return Err(EngineError::UnsupportedModel { why: format!("{} rows for {heads} heads", self.rows) });
        }
        let mut halves = AlignedBytes::zeroed(self.bytes.len);
        let row_bytes = self.row_bytes();
        for (to, row) in halves.as_mut_slice().chunks_exact_mut(row_bytes).enumerate() {
            let from = interleaved_row(to, self.rows / heads);
            row.copy_from_slice(&self.bytes.as_slice()[from * row_bytes..][..row_bytes]);
        }
        self.bytes = halves;
        Ok(())
    }

    /// bf16 as f16 where every value fits: the same size with three more bits, which activations are rounded to as
    /// well. Else f32.
    pub(crate) fn narrow_bf16(self) -> Self {
        if self.dtype != GgmlDType::BF16 {
            return self;
        }
        let source: &[bf16] = bytemuck::cast_slice(self.bytes.as_slice());
        let fits = |x: &bf16| x.to_f32().abs() <= f16::MAX.to_f32();
        if source.iter().all(fits) {
            let mut bytes = AlignedBytes::zeroed(self.bytes.len);
            let target: &mut [f16] = bytemuck::cast_slice_mut(bytes.as_mut_slice());
            for (to, from) in target.iter_mut().zip(source) {
                *to = f16::from_f32(from.to_f32());
            }
            return Self { dtype: GgmlDType::F16, bytes, ..self };
        }
        let values: Vec<f32> = source.iter().map(|x| x.to_f32()).collect();
        Self { dtype: GgmlDType::F32, bytes: AlignedBytes::copied(bytemuck::cast_slice(&values)), ..self }
    }

    /// Block type.
    pub fn dtype(&self) -> GgmlDType {
        self.dtype
    }

    /// The rows one after another.
    #[cfg(feature = "cuda")]
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes.as_slice().to_vec()
    }

    /// Every element in bf16, as bytes; some rows at a time, so that a large matrix is never held in f32.
    #[cfg(feature = "cuda")]
    pub(crate) fn to_bf16(&self) -> Result<Vec<u8>, EngineError> {
        let mut bytes = Vec::with_capacity(self.rows * self.cols * size_of::<bf16>());
        let step = ((1 << 22) / self.cols.max(1)).max(1);
        for begin in (0..self.rows).step_by(step) {
            let some = self.qtensor(begin..self.rows.min(begin + step))?.dequantize(&Device::Cpu)?;
            for value in some.flatten_all()?.to_vec1::<f32>()? {
                bytes.extend_from_slice(&bf16::from_f32(value).to_le_bytes());
            }
        }
        Ok(bytes)
    }

    /// Every element in f32.
    pub fn to_f32(&self) -> Result<Vec<f32>, EngineError> {
        let storage = QStorage::from_data(Cow::Borrowed(self.bytes.as_slice()), &Device::Cpu, self.dtype)?;
        let tensor = QTensor::new(storage, (self.rows, self.cols))?.dequantize(&Device::Cpu)?;
        Ok(tensor.flatten_all()?.to_vec1()?)
    }

    /// Hands some rows to candle, which copies them.
    fn qtensor(&self, rows: Range<usize>) -> Result<QTensor, EngineError> {
        let bytes = &self.bytes.as_slice()[rows.start * self.row_bytes()..rows.end * self.row_bytes()];
        // Rows of narrow blocks may begin off the alignment that candle asserts.
        let aligned;
        let bytes = if (bytes.as_ptr() as usize).is_multiple_of(align_of::<u64>()) {
            bytes
        } else {
            aligned = AlignedBytes::copied(bytes);
            aligned.as_slice()
        };
        let storage = QStorage::from_data(Cow::Borrowed(bytes), &Device::Cpu, self.dtype)?;
        Ok(QTensor::new(storage, (rows.len(), self.cols))?)
    }
}

/// Where row `to` of the half-split order stands in the pair order, within its head.
fn interleaved_row(to: usize, head_dim: usize) -> usize {
    let (head, element) = (to / head_dim, to % head_dim);
    let half = head_dim / 2;
    head * head_dim + (element % half) * 2 + element / half
}

pub(super) fn unpermute_vector(vector: &[f32], heads: usize) -> Vec<f32> {
    let head_dim = vector.len() / heads.max(1);
    (0..vector.len()).map(|to| vector[interleaved_row(to, head_dim)]).collect()
}

/// Elements of the largest part of a projection: candle packs a part in one go, a tenth of a second at this size, and
/// loading can be cancelled between parts.
const MAX_PART_ELEMENTS: usize = 1 << 27;
/// candle's tiles have this many rows; parts are cut between tiles.
const TILE_ROWS: usize = 16;

/// Matrices that multiply the same input (Q, K and V; gate and up). Those of one type are stacked into one matrix, so
/// that a decode step quantises the input once and wakes the threads once.
#[derive(Debug)]
pub struct Projection {
    parts: Vec<QTensor>,
    /// Rows of each part but the last, where one matrix was cut.
    part_rows: usize,
    out_width: usize,
    in_width: usize,
}

impl Projection {
    /// In products of a multiple of this many rows no bit of a row depends on the others or on how many there are. One
    /// row alone (x86-64, `Q6_K`) and what is left of rows in fours (ARM) go through code of candle's that sums in
    /// another order; its AMX code, from 32 rows on, sums in the same order.
    pub(crate) const ROW_GROUP: usize = if cfg!(target_arch = "aarch64") { 4 } else { 2 };

    /// Stacks what can be stacked; the output is the matrices' outputs side by side.
    pub fn new(matrices: Vec<RawMatrix>) -> Result<Self, EngineError> {
        Self::with_part_limit(matrices, MAX_PART_ELEMENTS)
    }

    fn with_part_limit(matrices: Vec<RawMatrix>, limit: usize) -> Result<Self, EngineError> {
        let out_width = matrices.iter().map(|m| m.rows).sum();
        let in_width = matrices.first().map_or(0, |m| m.cols);
        let mut stacks: Vec<RawMatrix> = Vec::new();
        for matrix in matrices {
            match stacks.last_mut() {
                Some(last) if last.dtype == matrix.dtype && last.cols == matrix.cols => {
                    let mut bytes = AlignedBytes::zeroed(last.bytes.len + matrix.bytes.len);
                    let (head, tail) = bytes.as_mut_slice().split_at_mut(last.bytes.len);
                    head.copy_from_slice(last.bytes.as_slice());
                    tail.copy_from_slice(matrix.bytes.as_slice());
                    *last = RawMatrix::new(last.dtype, last.rows + matrix.rows, last.cols, bytes);
                }
                _ => stacks.push(matrix),
            }
        }
        let part_rows = (limit / in_width.max(1) / TILE_ROWS).max(1) * TILE_ROWS;
        let mut parts = Vec::with_capacity(stacks.len());
        for stack in stacks {
            for begin in (0..stack.rows).step_by(part_rows) {
                parts.push(stack.qtensor(begin..stack.rows.min(begin + part_rows))?);
            }
        }
        Ok(Self { parts, part_rows, out_width, in_width })
    }

    /// Elements of one output row.
    pub fn out_width(&self) -> usize {
        self.out_width
    }

    /// Bytes as held, packed copies included.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|p| held_bytes(p.dtype(), p.shape().elem_count())).sum()
    }

    /// The rows `ids` of a projection made from one matrix, `[ids, in_width]`.
    pub fn rows(&self, ids: &[u32]) -> Result<Vec<f32>, EngineError> {
        let look_up = |part: &QTensor, ids: &[u32]| -> Result<Vec<f32>, EngineError> {
            let ids = Tensor::from_slice(ids, ids.len(), &Device::Cpu)?;
            Ok(part.embedding(&ids)?.flatten_all()?.to_vec1()?)
        };
        if let [only] = self.parts.as_slice() {
            return look_up(only, ids);
        }
        let mut rows = Vec::with_capacity(ids.len() * self.in_width);
        for id in ids {
            let (part, row) = (*id as usize / self.part_rows, *id as usize % self.part_rows);
            let part = self.parts.get(part).ok_or_else(|| EngineError::Internal(format!("no row {id}")))?;
            rows.extend(look_up(part, &[row as u32])?);
        }
        Ok(rows)
    }

    /// `x` is `[tokens, in_width]`, the result `[tokens, out_width]`.
    pub fn forward(&self, x: &CpuStorage, tokens: usize) -> Result<Vec<f32>, EngineError> {
        let layout = Layout::contiguous((tokens, self.in_width));
        let mut outputs = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            match part.cpu_fwd(x, &layout)? {
                (CpuStorage::F32(values), shape) => outputs.push((values, shape.elem_count() / tokens.max(1))),
                _ => return Err(EngineError::Internal("a matrix product that is not f32".into())),
            }
        }
        if let [_] = outputs.as_slice() {
            return Ok(outputs.swap_remove(0).0);
        }
        let mut joined = Vec::with_capacity(tokens * self.out_width);
        for token in 0..tokens {
            for (values, width) in &outputs {
                joined.extend_from_slice(&values[token * width..][..*width]);
            }
        }
        Ok(joined)
    }
}

/// Bytes of a matrix in memory: candle keeps a copy in tiles beside the blocks of the types it has fast kernels for.
pub(crate) fn held_bytes(dtype: GgmlDType, elements: usize) -> u64 {
    let blocks = (elements / dtype.block_size() * dtype.type_size()) as u64;
    let packed = if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        match dtype {
            GgmlDType::Q8_0 => blocks,
            // Tiles hold f32 scales: 12 B for 16 elements (Q4_K), 20 B (Q6_K).
            GgmlDType::Q4K => elements as u64 * 12 / 16,
            GgmlDType::Q6K => elements as u64 * 20 / 16,
            _ => 0,
        }
    } else {
        0
    };
    blocks + packed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, cols: usize, dtype: GgmlDType) -> RawMatrix {
        let values: Vec<f32> = (0..rows * cols).map(|i| (i % 97) as f32 / 97.0 - 0.5).collect();
        let tensor = Tensor::from_vec(values, (rows, cols), &Device::Cpu).unwrap();
        let bytes = AlignedBytes::copied(&QTensor::quantize(&tensor, dtype).unwrap().data().unwrap());
        RawMatrix::new(dtype, rows, cols, bytes)
    }

    #[test]
    fn unpermuting_undoes_the_pair_order() {
        let mut m = matrix(8, 32, GgmlDType::Q8_0);
        let before = m.to_f32().unwrap();
        m.unpermute_heads(2).unwrap();
        let after = m.to_f32().unwrap();
        // Head of 4 rows: pairs (0, 2, 1, 3) become halves (0, 1, 2, 3).
        for (to, from) in [(0, 0), (1, 2), (2, 1), (3, 3), (4, 4), (5, 6), (6, 5), (7, 7)] {
            assert_eq!(after[to * 32..][..32], before[from * 32..][..32], "row {to}");
        }
    }

    #[test]
    fn stacked_and_separate_parts_agree() {
        let x = CpuStorage::F32((0..64).map(|i| (i as f32 * 0.37).sin()).collect());
        let parts = || [(16, GgmlDType::F32), (32, GgmlDType::F32), (16, GgmlDType::F16)];
        let build = |(rows, dtype)| matrix(rows, 32, dtype);
        let fused = Projection::new(parts().map(build).to_vec()).unwrap();
        assert_eq!((fused.parts.len(), fused.out_width()), (2, 64));
        let together = fused.forward(&x, 2).unwrap();
        let mut column = 0;
        for part in parts() {
            let alone = Projection::new(vec![build(part)]).unwrap().forward(&x, 2).unwrap();
            for token in 0..2 {
                assert_eq!(together[token * 64 + column..][..part.0], alone[token * part.0..][..part.0]);
            }
            column += part.0;
        }
    }

    /// Every type that a file may have multiplies, and near what its own values give in f64.
    #[test]
    fn every_type_multiplies() {
        use GgmlDType::*;
        const COLS: usize = 512;
        let x: Vec<f32> = (0..3 * COLS).map(|i| (i as f32 * 0.37).sin()).collect();
        for dtype in [F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K] {
            let m = matrix(48, COLS, dtype);
            let values = m.to_f32().unwrap();
            let dot = |token: usize, row: usize| -> f64 {
                let pairs = x[token * COLS..][..COLS].iter().zip(&values[row * COLS..][..COLS]);
                pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            let projection = Projection::new(vec![m]).unwrap();
            for tokens in [1, 3] {
                let got = projection.forward(&CpuStorage::F32(x.clone()), tokens).unwrap();
                let (mut difference, mut norm) = (0.0, 0.0);
                for (i, got) in got.iter().enumerate() {
                    let want = dot(i / 48, i % 48);
                    difference += (f64::from(*got) - want).powi(2);
                    norm += want.powi(2);
                }
                // Inputs are rounded to 8 bits of a block's largest.
                let error = (difference / norm).sqrt();
                assert!(error < 0.02, "{dtype:?}, {tokens} tokens: {error}");
            }
        }
    }

    #[test]
    fn rows_in_whole_groups_do_not_depend_on_what_stands_beside_them() {
        use GgmlDType::*;
        const TOKENS: usize = 140;
        // Both what candle packs into tiles and what it does not.
        for (rows, cols) in [(48, 512), (50, 512), (48, 96)] {
            let x: Vec<f32> = (0..TOKENS * cols).map(|i| (i as f32 * 0.37).sin() * (i as f32 * 0.011).cos()).collect();
            let types = [F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K];
            for dtype in types.into_iter().filter(|t| cols.is_multiple_of(t.block_size())) {
                let projection = Projection::new(vec![matrix(rows, cols, dtype)]).unwrap();
                let product = |begin: usize, tokens: usize| -> Vec<u32> {
                    let x = CpuStorage::F32(x[begin * cols..][..tokens * cols].to_vec());
                    projection.forward(&x, tokens).unwrap().iter().map(|y| y.to_bits()).collect()
                };
                let all = product(0, TOKENS);
                for tokens in [1, 2, 3, 8, 9, 16, 33].map(|groups| groups * Projection::ROW_GROUP) {
                    for begin in [0, 1, 2, 7, TOKENS - tokens] {
                        let same = product(begin, tokens) == all[begin * rows..][..tokens * rows];
                        assert!(same, "{dtype:?} of {rows} x {cols}: {tokens} from {begin}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_cut_matrix_equals_the_whole() {
        let x = CpuStorage::F32((0..64).map(|i| (i as f32 * 0.37).sin()).collect());
        for dtype in [GgmlDType::Q8_0, GgmlDType::F32] {
            let whole = Projection::new(vec![matrix(50, 32, dtype)]).unwrap();
            let cut = Projection::with_part_limit(vec![matrix(50, 32, dtype)], 600).unwrap();
            assert_eq!((whole.parts.len(), cut.parts.len()), (1, 4));
            assert_eq!(whole.forward(&x, 2).unwrap(), cut.forward(&x, 2).unwrap());
            assert_eq!(whole.rows(&[0, 49, 16, 15]).unwrap(), cut.rows(&[0, 49, 16, 15]).unwrap());
            assert!(whole.rows(&[50]).is_err() && cut.rows(&[50]).is_err() && cut.rows(&[4000]).is_err());
        }
    }

    #[test]
    fn bf16_that_fits_becomes_f16_and_else_f32() {
        let narrow = |values: [f32; 2]| {
            let raw: Vec<bf16> = values.iter().map(|x| bf16::from_f32(*x)).collect();
            let bytes = AlignedBytes::copied(bytemuck::cast_slice(&raw));
            RawMatrix::new(GgmlDType::BF16, 1, 2, bytes).narrow_bf16()
        };
        assert_eq!(narrow([1.5, -2.0]).dtype, GgmlDType::F16);
        let wide = narrow([1.5, 1e10]);
        assert_eq!(wide.dtype, GgmlDType::F32);
        assert_eq!(wide.to_f32().unwrap()[1], bf16::from_f32(1e10).to_f32());
    }
}
