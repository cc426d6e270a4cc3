//! A projection of one token: which kernel, which blocks, how much shared memory (`cuda/README.md`).

use mac_attention::cuda::{Argument, CudaError, Launch};

use super::abi::{MATVEC_PARTS, MatvecArgs, MatvecPart, WeightType};
use super::kernels::Kernels;
use super::matrix::{DeviceMatrix, DeviceProjection};
use crate::EngineError;

/// What belongs before and after a product. Addresses; 0 where there is none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Around {
    /// RMS norm weight of the input.
    pub(super) norm: u64,
    pub(super) eps: f32,
    pub(super) bias: u64,
    /// The result is added to what stands there.
    pub(super) accumulate: bool,
    /// `silu(first half) · second half` of the rows.
    pub(super) gated: bool,
}

/// One launch, planned when a model is loaded.
#[derive(Debug, Clone, Copy)]
pub(super) struct MatvecLaunch {
    kernel: MatvecKernel,
    launch: Launch,
    args: MatvecArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MatvecKernel {
    Of(WeightType),
    Mixed,
}

/// Block sizes, the best first; smaller ones where shared memory does not suffice.
const THREADS: [u32; 3] = [512, 256, 128];

impl Kernels {
    /// Lets every product kernel take as much shared memory as the device allows, and gives all kernels the same division
    /// of the first-level cache: a multiprocessor drains between kernels of different ones.
    pub(super) fn prepare(&self) -> Result<(), CudaError> {
        for kernel in self.matvec.iter().chain([&self.matvec_mixed]) {
            kernel.allow_shared(self.gpu.info().shared_bytes)?;
        }
        self.all().into_iter().try_for_each(|kernel| kernel.prefer_carveout(100))
    }

    /// The launches that multiply `x` by all of a projection: one, unless dense and block types meet in it.
    pub(super) fn plan_matvec(
        &self,
        projection: &DeviceProjection,
        x: u64,
        out: u64,
        around: Around,
    ) -> Result<Vec<MatvecLaunch>, EngineError> {
        let blocks_only = projection.parts.iter().all(|part| !part.weight_type.is_dense());
        let mut firsts = Vec::with_capacity(projection.parts.len());
        let mut rows = 0;
        for part in &projection.parts {
            firsts.push((part, rows));
            rows += part.rows;
        }
        let one = |parts: &[(&DeviceMatrix, usize)]| self.plan_parts(parts, x, out, around);
        if firsts.len() == 1 || (blocks_only && firsts.len() <= MATVEC_PARTS) {
            return Ok(vec![one(&firsts)?]);
        }
        firsts.iter().map(|part| one(std::slice::from_ref(part))).collect()
    }

    fn plan_parts(
        &self,
        parts: &[(&DeviceMatrix, usize)],
        x: u64,
        out: u64,
        around: Around,
    ) -> Result<MatvecLaunch, EngineError> {
        let info = self.gpu.info();
        let cols = parts.first().map_or(0, |(part, _)| part.cols);
        let units: Vec<usize> =
            parts.iter().map(|(part, _)| if around.gated { part.rows / 2 } else { part.rows }).collect();
        let bytes: Vec<usize> = parts.iter().map(|(part, _)| part.data.len()).collect();
        let blocks = share_out(info.multiprocessors, &bytes, &units);
        let mut args = MatvecArgs {
            x,
            norm: around.norm,
            bias: around.bias,
            out,
            eps: around.eps,
            cols: cols as i32,
            num_parts: parts.len() as i32,
            accumulate: i32::from(around.accumulate),
            gated: i32::from(around.gated),
            unused: 0,
            parts: [MatvecPart { weights: 0, weight_type: 0, rows: 0, first_block: 0, blocks: 0, out: 0, unused: 0 };
                MATVEC_PARTS],
        };
        let mut first_block = 0;
        for (slot, ((part, first_row), blocks)) in args.parts.iter_mut().zip(parts.iter().zip(&blocks)) {
            *slot = MatvecPart {
                weights: part.data.address(),
                weight_type: part.weight_type as i32,
                rows: part.rows as i32,
                first_block: first_block as i32,
                blocks: *blocks as i32,
                out: *first_row as i32,
                unused: 0,
            };
            first_block += blocks;
        }
        let rows_per_block = units.iter().zip(&blocks).map(|(units, blocks)| units.div_ceil(*blocks)).max();
        let rows_per_block = rows_per_block.unwrap_or(0) * if around.gated { 2 } else { 1 };
        let types: Vec<WeightType> = parts.iter().map(|(part, _)| part.weight_type).collect();
        let shared = |threads: u32| shared_bytes(threads, &types, cols, rows_per_block);
        let threads = THREADS.into_iter().find(|t| shared(*t) <= info.shared_bytes);
        let Some(threads) = threads else {
            return Err(EngineError::UnsupportedModel {
                why: format!("rows of {cols} elements need more shared memory than {} has", info.name),
            });
        };
        let kernel = match types.as_slice() {
            [only] => MatvecKernel::Of(*only),
            _ => MatvecKernel::Mixed,
        };
        let launch = Launch::new(first_block, threads).shared(shared(threads));
        Ok(MatvecLaunch { kernel, launch, args })
    }

    /// Launches a product.
    ///
    /// # Safety
    /// Matrix, input and output are alive and as large as they were said to be.
    pub(super) unsafe fn matvec(&self, planned: &MatvecLaunch) -> Result<(), CudaError> {
        let kernel = match planned.kernel {
            MatvecKernel::Of(weight_type) => &self.matvec[weight_type.index()],
            MatvecKernel::Mixed => &self.matvec_mixed,
        };
        // SAFETY: passed on.
        unsafe { kernel.launch(planned.launch.overlap(self.overlap()), &[Argument::from(&planned.args)]) }
    }
}

/// Blocks for every part, at least one each and in proportion to their bytes; never more than there are rows.
fn share_out(multiprocessors: usize, bytes: &[usize], rows: &[usize]) -> Vec<usize> {
    let whole: usize = bytes.iter().sum();
    let mut blocks: Vec<usize> = bytes.iter().map(|part| (part * multiprocessors / whole.max(1)).max(1)).collect();
    // What rounding left over goes where a block has most to do.
    while blocks.iter().sum::<usize>() < multiprocessors {
        let load = |i: &usize| bytes[*i] as f64 / blocks[*i] as f64;
        match (0..blocks.len()).max_by(|a, b| load(a).total_cmp(&load(b))) {
            Some(busiest) => blocks[busiest] += 1,
            None => break,
        }
    }
    blocks.iter().zip(rows).map(|(blocks, rows)| (*blocks).min(*rows).max(1)).collect()
}

/// Bytes per warp of the kernel for parts of several types.
const MIXED_RING: usize = 8480;

fn shared_bytes(threads: u32, types: &[WeightType], cols: usize, rows_per_block: usize) -> usize {
    let ring = |weight_type: &WeightType| match weight_type {
        WeightType::F32 | WeightType::F16 | WeightType::Bf16 => 8192,
        WeightType::Q8_0 => 7616,
        WeightType::Q4_0 | WeightType::Q4K => 8064,
        WeightType::Q4_1 | WeightType::Q5_1 => 7680,
        WeightType::Q5_0 | WeightType::Q5K => 8448,
        WeightType::Q6K => 8480,
    };
    let input = if types.iter().all(|t| t.is_dense()) {
        4 * cols.next_multiple_of(256)
    } else {
        cols.next_multiple_of(1024) * 5 / 4 + 256
    };
    // The kernel that takes any block type reckons with the largest of all.
    let rings = if types.len() > 1 { MIXED_RING } else { types.iter().map(ring).max().unwrap_or(0) };
    threads as usize / 32 * rings + input + 4 * rows_per_block + 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_multiprocessors_have_work_in_proportion() {
        assert_eq!(share_out(132, &[100], &[4096]), [132]);
        assert_eq!(share_out(132, &[100], &[20]), [20]);
        let blocks = share_out(132, &[4096, 1024, 1500], &[4096, 1024, 1024]);
        assert_eq!(blocks.iter().sum::<usize>(), 132);
        assert!(blocks[0] > 3 * blocks[1] && blocks[2] > blocks[1]);
        assert_eq!(share_out(4, &[1_000_000, 1, 1], &[1000, 8, 8]).len(), 3);
    }

    #[test]
    fn shared_memory_is_what_the_kernels_document() {
        assert_eq!(shared_bytes(512, &[WeightType::Bf16], 4096, 32), 16 * 8192 + 4 * 4096 + 128 + 512);
        assert_eq!(shared_bytes(256, &[WeightType::Q4K, WeightType::Q6K], 4096, 10), 8 * 8480 + 5120 + 256 + 40 + 512);
    }
}
