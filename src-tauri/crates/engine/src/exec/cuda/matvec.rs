//! Projections of one token: which kernel, which blocks, how much shared memory, and which of them go into one launch
//! (`cuda/README.md`).

use bytemuck::Zeroable;
use mac_attention::cuda::{Argument, CudaError, Launch};

use super::abi::{MATVEC_CHAIN, MATVEC_PARTS, MatvecArgs, MatvecChain, MatvecPart, WeightType};
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
    /// What the result is added to; may be where it goes.
    pub(super) add: u64,
    /// `silu(first half) · second half` of the rows.
    pub(super) gated: bool,
    /// Marks the result, so that a product in the same launch sees when it is there; 0 leaves it as it is. A buffer that gets
    /// marked results gets no others, and each other than the one before.
    pub(super) tag: i32,
}

/// One launch, planned when a model is loaded: a product, or several that each may read what those before it wrote.
#[derive(Debug, Clone, Copy)]
pub(super) struct MatvecLaunch {
    kernel: MatvecKernel,
    launch: Launch,
    needs: SharedNeeds,
    chain: MatvecChain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MatvecKernel {
    Of(WeightType),
    Mixed,
}

/// Block sizes, the best first; smaller ones where shared memory does not suffice.
const THREADS: [u32; 4] = [512, 256, 128, 64];

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
        let cols = parts.first().map_or(0, |(part, _)| part.cols);
        let units: Vec<usize> =
            parts.iter().map(|(part, _)| if around.gated { part.rows / 2 } else { part.rows }).collect();
        let bytes: Vec<usize> = parts.iter().map(|(part, _)| part.data.len()).collect();
        let blocks = share_out(self.gpu.info().multiprocessors, &bytes, &units);
        let mut args = MatvecArgs {
            x,
            norm: around.norm,
            bias: around.bias,
            out,
            eps: around.eps,
            cols: cols as i32,
            num_parts: parts.len() as i32,
            add: around.add,
            gated: i32::from(around.gated),
            out_tag: around.tag,
            ..MatvecArgs::zeroed()
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
        let kernel = match parts {
            [(only, _)] => MatvecKernel::Of(only.weight_type),
            _ => MatvecKernel::Mixed,
        };
        let needs = SharedNeeds { input: input_bytes(kernel, cols), rows_per_block };
        let launch = self.shape(kernel, first_block, needs).ok_or_else(|| EngineError::NoGpu {
            why: format!("rows of {cols} elements need more shared memory than {} has", self.gpu.info().name),
        })?;
        let mut chain = MatvecChain { count: 1, ..MatvecChain::zeroed() };
        chain.products[0] = args;
        Ok(MatvecLaunch { kernel, launch, needs, chain })
    }

    /// Grid and block; none if shared memory does not suffice.
    fn shape(&self, kernel: MatvecKernel, blocks: usize, needs: SharedNeeds) -> Option<Launch> {
        let threads = needs.threads(kernel, self.gpu.info().shared_bytes)?;
        Some(Launch::new(blocks, threads).shared(needs.bytes(kernel, threads)))
    }

    /// Puts neighbours of `launches` into one launch where one kernel serves them and has as many threads as each of them would
    /// have alone; the order stays. What one reads of another must carry a tag. (Putting neighbours of different block types
    /// into the kernel for mixed ones was slower than launching each.)
    pub(super) fn chain(&self, launches: Vec<MatvecLaunch>) -> Vec<MatvecLaunch> {
        let mut chained: Vec<MatvecLaunch> = Vec::with_capacity(launches.len());
        for next in launches {
            match chained.last_mut().and_then(|last| Some((self.join(last, &next)?, last))) {
                Some((both, last)) => *last = both,
                None => chained.push(next),
            }
        }
        chained
    }

    fn join(&self, first: &MatvecLaunch, second: &MatvecLaunch) -> Option<MatvecLaunch> {
        let kernel = first.kernel;
        let (some, more) = (first.chain.count as usize, second.chain.count as usize);
        if second.kernel != kernel || some + more > MATVEC_CHAIN {
            return None;
        }
        let needs = first.needs.with(second.needs);
        // Blocks wait for each other, so all are resident: there are no more than multiprocessors.
        let blocks = first.launch.grid[0].max(second.launch.grid[0]);
        let launch = self.shape(kernel, blocks as usize, needs)?;
        if launch.threads < first.launch.threads.max(second.launch.threads) {
            return None;
        }
        let mut chain = MatvecChain { count: (some + more) as i32, ..first.chain };
        let (before, after) = chain.products.split_at_mut(some);
        for (to, product) in after.iter_mut().zip(&second.chain.products[..more]) {
            *to = *product;
            to.await_results(before)?;
        }
        Some(MatvecLaunch { kernel, launch, needs, chain })
    }

    /// Launches products.
    ///
    /// # Safety
    /// Matrices, inputs and outputs are alive and as large as they were said to be.
    pub(super) unsafe fn matvec(&self, planned: &MatvecLaunch) -> Result<(), CudaError> {
        let kernel = match planned.kernel {
            MatvecKernel::Of(weight_type) => &self.matvec[weight_type.index()],
            MatvecKernel::Mixed => &self.matvec_mixed,
        };
        // SAFETY: passed on.
        unsafe { kernel.launch(planned.launch.overlap(self.overlap()), &[Argument::from(&planned.chain)]) }
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

impl MatvecArgs {
    /// Waits for what products before it in the same launch write; none if that has no tag.
    fn await_results(&mut self, before: &[Self]) -> Option<()> {
        for earlier in before {
            let reads = [self.x, self.add].contains(&earlier.out);
            if reads && earlier.out_tag == 0 {
                return None;
            }
            if self.x == earlier.out {
                self.x_tag = earlier.out_tag;
            }
            if self.add == earlier.out {
                self.add_tag = earlier.out_tag;
            }
        }
        Some(())
    }
}

impl MatvecKernel {
    fn takes_blocks(self) -> bool {
        match self {
            Self::Of(weight_type) => !weight_type.is_dense(),
            Self::Mixed => true,
        }
    }

    /// Bytes of a warp's ring.
    fn ring(self) -> usize {
        match self {
            Self::Of(WeightType::F32 | WeightType::F16 | WeightType::Bf16 | WeightType::Q4_0 | WeightType::Q4K) => 9216,
            Self::Of(WeightType::Q8_0) => 8704,
            Self::Of(WeightType::Q4_1 | WeightType::Q5_1) => 7680,
            Self::Of(WeightType::Q5_0 | WeightType::Q5K) => 8448,
            Self::Of(WeightType::Q6K) | Self::Mixed => 8480,
        }
    }
}

fn input_bytes(kernel: MatvecKernel, cols: usize) -> usize {
    if kernel.takes_blocks() { cols.next_multiple_of(1024) * 5 / 4 + 256 } else { 4 * cols.next_multiple_of(256) }
}

/// Shared memory of a block that does not depend on anything.
const FIXED_SHARED: usize = 3072;

/// What a launch puts into shared memory beside the rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SharedNeeds {
    /// Bytes.
    input: usize,
    rows_per_block: usize,
}

impl SharedNeeds {
    fn with(self, other: Self) -> Self {
        Self { input: self.input.max(other.input), rows_per_block: self.rows_per_block.max(other.rows_per_block) }
    }

    fn bytes(self, kernel: MatvecKernel, threads: u32) -> usize {
        threads as usize / 32 * kernel.ring() + self.input + 4 * self.rows_per_block + FIXED_SHARED
    }

    /// The largest block that a device with so much shared memory holds.
    fn threads(self, kernel: MatvecKernel, shared_bytes: usize) -> Option<u32> {
        THREADS.into_iter().find(|threads| self.bytes(kernel, *threads) <= shared_bytes)
    }
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
        let shared = |kernel, cols, rows_per_block, threads| {
            SharedNeeds { input: input_bytes(kernel, cols), rows_per_block }.bytes(kernel, threads)
        };
        let bf16 = MatvecKernel::Of(WeightType::Bf16);
        assert_eq!(shared(bf16, 4096, 32, 512), 16 * 9216 + 4 * 4096 + 128 + 3072);
        assert_eq!(shared(MatvecKernel::Mixed, 4096, 10, 256), 8 * 8480 + 5120 + 256 + 40 + 3072);
        let (short, long) =
            (SharedNeeds { input: 100, rows_per_block: 9 }, SharedNeeds { input: 900, rows_per_block: 2 });
        assert_eq!(short.with(long), SharedNeeds { input: 900, rows_per_block: 9 });
    }

    /// Columns of the down projections of Qwen 2.5 7B, Qwen 3 14B and Llama 3.1 8B on devices with 99 KB (Ada, Blackwell) and
    /// 227 KB (Hopper).
    #[test]
    fn long_rows_of_16_bits_fit_a_desktop_card() {
        let threads = |cols, kernel, shared_kb: usize| {
            SharedNeeds { input: input_bytes(kernel, cols), rows_per_block: 64 }.threads(kernel, shared_kb * 1024)
        };
        let bf16 = MatvecKernel::Of(WeightType::Bf16);
        assert_eq!([18_944, 17_408, 14_336].map(|cols| threads(cols, bf16, 99)), [Some(64), Some(64), Some(128)]);
        assert_eq!([18_944, 17_408, 14_336].map(|cols| threads(cols, bf16, 227)), [Some(512); 3]);
        assert_eq!(threads(28_672, MatvecKernel::Of(WeightType::Q8_0), 99), Some(128));
        assert_eq!([threads(28_672, bf16, 99), threads(28_672, bf16, 227)], [None, Some(256)]);
    }

    #[test]
    fn products_of_a_launch_wait_for_what_they_read_of_each_other() {
        let first = MatvecArgs { out: 64, out_tag: 2, ..MatvecArgs::zeroed() };
        let mut reader = MatvecArgs { x: 64, add: 128, ..MatvecArgs::zeroed() };
        assert_eq!((reader.await_results(&[first]), reader.x_tag, reader.add_tag), (Some(()), 2, 0));
        let mut adder = MatvecArgs { x: 128, add: 64, ..MatvecArgs::zeroed() };
        assert_eq!((adder.await_results(&[first]), adder.x_tag, adder.add_tag), (Some(()), 0, 2));
        let exact = MatvecArgs { out_tag: 0, ..first };
        assert_eq!(reader.await_results(&[exact]), None);
        assert_eq!(MatvecArgs::zeroed().await_results(&[exact]), Some(()));
    }
}
