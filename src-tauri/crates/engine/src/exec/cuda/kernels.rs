//! The kernels of `cuda/`, loaded once, and their grids (`cuda/README.md`).

use mac_attention::cuda::{Argument, CudaError, Fatbin, Gpu, Kernel, Launch, Module};

use super::abi::{HeadsArgs, SampleArgs, WeightType};
use super::kv::KvAddresses;
use crate::{EngineError, KvFormat};

/// One entry per source of `cuda/`; empty where the build found no CUDA compiler.
const FATBINS: &[Fatbin] = include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// Kernels that go over any number of elements with any grid.
const ANY_GRID: Launch = Launch { grid: [2048, 1, 1], threads: 256, shared_bytes: 0, cluster: 0, overlap: false };
/// Logits that one block of `sample` looks at.
const SAMPLE_BLOCK: usize = 4096;
/// Blocks of `sample` that a multiprocessor holds: they wait for each other.
const SAMPLE_BLOCKS_PER_MULTIPROCESSOR: usize = 2;
/// And the most logits in all.
const SAMPLE_LOGITS: usize = 1 << 20;
/// Heads that one block of `split_heads` takes.
const HEADS_PER_BLOCK: usize = 4;
/// Elements of a row that one block of `embed` takes.
const EMBED_BLOCK: usize = 2048;

/// One kernel per type of weights.
type PerType = [Kernel; WeightType::ALL.len()];

/// Everything that a decoder launches, attention and the products of prefill apart.
#[derive(Debug)]
pub(super) struct Kernels {
    pub(super) gpu: Gpu,
    /// Programmatic dependent launch.
    overlap: bool,
    pub(super) matvec: PerType,
    pub(super) matvec_mixed: Kernel,
    repack: Vec<(WeightType, Kernel)>,
    dequantise: PerType,
    fill: PerType,
    fill_ring: Kernel,
    embed: PerType,
    rope_angles: Kernel,
    /// By [`KvFormat`].
    split_heads: [Kernel; 3],
    fill_kv: [Kernel; 2],
    sample: Kernel,
    rms_norm_rows: Kernel,
    silu_rows_f32: Kernel,
    f16_to_bf16: Kernel,
}

/// The longest row of logits that one launch of `sample` can look at.
pub(super) fn largest_vocab(multiprocessors: usize) -> usize {
    (multiprocessors * SAMPLE_BLOCKS_PER_MULTIPROCESSOR * SAMPLE_BLOCK).min(SAMPLE_LOGITS)
}

pub(super) fn load(gpu: &Gpu, source: &str) -> Result<Module, CudaError> {
    gpu.load(FATBINS, source)
}

fn per_type(module: impl Fn(WeightType) -> Module, prefix: &str) -> Result<PerType, CudaError> {
    let mut kernels = Vec::with_capacity(WeightType::ALL.len());
    for weight_type in WeightType::ALL {
        kernels.push(module(weight_type).kernel(&format!("{prefix}_{}", weight_type.name()))?);
    }
    kernels.try_into().map_err(|_| CudaError::MissingKernel { name: prefix.to_owned() })
}

impl Kernels {
    pub(super) fn load(gpu: &Gpu) -> Result<Self, EngineError> {
        let (dense, blocks) = (load(gpu, "matvec_dense")?, load(gpu, "matvec_blocks")?);
        let (repack, embed, heads) = (load(gpu, "repack")?, load(gpu, "embed")?, load(gpu, "heads")?);
        let (sample, rows, fill) = (load(gpu, "sample")?, load(gpu, "rows")?, load(gpu, "fill")?);
        let packed = WeightType::ALL.into_iter().filter(|t| !t.is_dense());
        Ok(Self {
            gpu: gpu.clone(),
            overlap: gpu.info().waits_for_previous(),
            matvec: per_type(|t| if t.is_dense() { dense.clone() } else { blocks.clone() }, "matvec")?,
            matvec_mixed: blocks.kernel("matvec_mixed")?,
            repack: packed
                .map(|t| Ok((t, repack.kernel(&format!("repack_{}", t.name()))?)))
                .collect::<Result<_, CudaError>>()?,
            dequantise: per_type(|_| repack.clone(), "dequantise")?,
            fill: per_type(|_| fill.clone(), "fill")?,
            fill_ring: fill.kernel("fill_ring")?,
            embed: per_type(|_| embed.clone(), "embed")?,
            rope_angles: embed.kernel("rope_angles")?,
            split_heads: [
                heads.kernel("split_heads_f32")?,
                heads.kernel("split_heads_f32_q8")?,
                heads.kernel("split_heads_f32_fp8")?,
            ],
            fill_kv: [fill.kernel("fill_kv_q8")?, fill.kernel("fill_kv_fp8")?],
            sample: sample.kernel("sample")?,
            rms_norm_rows: rows.kernel("rms_norm_rows")?,
            silu_rows_f32: rows.kernel("silu_rows_f32")?,
            f16_to_bf16: rows.kernel("f16_to_bf16")?,
        })
    }

    /// Those of a decode step.
    pub(super) fn all(&self) -> Vec<&Kernel> {
        let of_types = self.matvec.iter().chain(&self.embed);
        of_types
            .chain(&self.split_heads)
            .chain([
                &self.matvec_mixed,
                &self.rope_angles,
                &self.sample,
                &self.rms_norm_rows,
                &self.silu_rows_f32,
                &self.f16_to_bf16,
            ])
            .collect()
    }

    /// Whether kernels may begin while the one before them ends.
    pub(super) fn overlap(&self) -> bool {
        self.overlap
    }

    /// Switches that off, for comparison and for tools that do not know it.
    pub(super) fn set_overlap(&mut self, overlap: bool) {
        self.overlap = overlap && self.gpu.info().waits_for_previous();
    }

    /// Rows `first_row..` of a matrix of block type, from file order in `blocks` to the planes of `packed`.
    ///
    /// # Safety
    /// `blocks` holds `some_rows` rows, `packed` the matrix.
    pub(super) unsafe fn repack(
        &self,
        weight_type: WeightType,
        blocks: u64,
        packed: u64,
        [rows, cols, first_row, some_rows]: [usize; 4],
    ) -> Result<(), CudaError> {
        let Some((_, kernel)) = self.repack.iter().find(|(t, _)| *t == weight_type) else {
            return Err(CudaError::MissingKernel { name: format!("repack_{}", weight_type.name()) });
        };
        let [rows, cols, first_row, some_rows] = [rows, cols, first_row, some_rows].map(|n| n as i32);
        // SAFETY: passed on.
        unsafe {
            kernel.launch(
                ANY_GRID,
                &[
                    (&blocks).into(),
                    (&packed).into(),
                    (&rows).into(),
                    (&cols).into(),
                    (&first_row).into(),
                    (&some_rows).into(),
                ],
            )
        }
    }

    /// All of a matrix as bf16 `[rows, cols]`.
    ///
    /// # Safety
    /// `weights` holds the matrix, `out` has room for it.
    pub(super) unsafe fn dequantise(
        &self,
        weight_type: WeightType,
        weights: u64,
        out: u64,
        [rows, cols]: [usize; 2],
    ) -> Result<(), CudaError> {
        let [rows, cols, first] = [rows as i32, cols as i32, 0];
        // SAFETY: passed on.
        unsafe {
            self.dequantise[weight_type.index()].launch(
                ANY_GRID.overlap(self.overlap),
                &[(&weights).into(), (&out).into(), (&rows).into(), (&cols).into(), (&first).into(), (&rows).into()],
            )
        }
    }

    /// Normal noise of that standard deviation as a matrix of any type.
    ///
    /// # Safety
    /// `out` has room for the matrix.
    pub(super) unsafe fn fill(
        &self,
        weight_type: WeightType,
        out: u64,
        [rows, cols]: [usize; 2],
        seed: u64,
        std: f32,
    ) -> Result<(), CudaError> {
        let kernel = &self.fill[weight_type.index()];
        let (count, rows, cols) = ((rows * cols) as i64, rows as i32, cols as i32);
        let dense: [Argument<'_>; 4] = [(&out).into(), (&count).into(), (&seed).into(), (&std).into()];
        let packed: [Argument<'_>; 5] = [(&out).into(), (&rows).into(), (&cols).into(), (&seed).into(), (&std).into()];
        // SAFETY: passed on.
        unsafe { kernel.launch(ANY_GRID, if weight_type.is_dense() { &dense } else { &packed }) }
    }

    /// `rows` rows of normal values in one head's K or V: `plane` 0 or 1.
    ///
    /// # Safety
    /// `kv` is that head's, with memory for as many rows.
    pub(super) unsafe fn fill_kv(
        &self,
        format: KvFormat,
        kv: KvAddresses,
        plane: usize,
        [rows, head_dim]: [usize; 2],
        seed: u64,
    ) -> Result<(), CudaError> {
        let out = [kv.k, kv.v][plane];
        let kernel = match format {
            // SAFETY: passed on.
            KvFormat::Bf16 => return unsafe { self.fill(WeightType::Bf16, out, [rows, head_dim], seed, 1.0) },
            KvFormat::Q8_0 => &self.fill_kv[0],
            KvFormat::Fp8 => &self.fill_kv[1],
        };
        let scales_per_token = format.element().scales_per_token(head_dim);
        let scales = kv.scales + (plane * scales_per_token / 2 * size_of::<half::f16>()) as u64;
        let (rows, head_dim) = (rows as i32, head_dim as i32);
        // SAFETY: passed on.
        unsafe {
            kernel.launch(
                ANY_GRID,
                &[(&out).into(), (&scales).into(), (&rows).into(), (&head_dim).into(), (&seed).into()],
            )
        }
    }

    /// f16 numbers become bf16 where they are.
    ///
    /// # Safety
    /// `x` holds `count`, an even number.
    pub(super) unsafe fn f16_to_bf16(&self, x: u64, count: usize) -> Result<(), CudaError> {
        let count = count as i64;
        // SAFETY: passed on.
        unsafe { self.f16_to_bf16.launch(ANY_GRID.overlap(self.overlap), &[(&x).into(), (&count).into()]) }
    }

    /// Entries of the newest positions before a length.
    ///
    /// # Safety
    /// The addresses are of a ring of that size.
    pub(super) unsafe fn fill_ring(&self, ring: &MadeUpRing) -> Result<(), CudaError> {
        let MadeUpRing { addresses: [query, out, meta], seed, .. } = ring;
        let sizes = [ring.num_q_heads, ring.slots, ring.head_dim, ring.length, ring.band].map(|n| n as i32);
        let [heads, slots, head_dim, length, band] = &sizes;
        // SAFETY: passed on.
        unsafe {
            self.fill_ring.launch(
                ANY_GRID,
                &[
                    query.into(),
                    out.into(),
                    meta.into(),
                    heads.into(),
                    slots.into(),
                    head_dim.into(),
                    length.into(),
                    band.into(),
                    seed.into(),
                ],
            )
        }
    }

    /// Row i of `x` becomes row `tokens[i]` of the table.
    ///
    /// # Safety
    /// `tokens` holds `count` ids, `x` has room for as many rows.
    pub(super) unsafe fn embed(
        &self,
        weight_type: WeightType,
        table: u64,
        [vocab, cols, count]: [usize; 3],
        tokens: u64,
        x: u64,
    ) -> Result<(), CudaError> {
        let launch = Launch { grid: [cols.div_ceil(EMBED_BLOCK) as u32, count as u32, 1], ..Launch::new(1, 256) };
        let [vocab, cols, count] = [vocab, cols, count].map(|n| n as i32);
        // SAFETY: passed on.
        unsafe {
            self.embed[weight_type.index()].launch(
                launch.overlap(self.overlap),
                &[(&table).into(), (&vocab).into(), (&cols).into(), (&tokens).into(), (&x).into(), (&count).into()],
            )
        }
    }

    /// Cosines and sines of `count` positions from the one at `position` (an address; 0: `begin`) on.
    ///
    /// # Safety
    /// `inv_freq` holds `half` frequencies, `cos` and `sin` have room for `[count, half]`.
    pub(super) unsafe fn rope_angles(&self, angles: RopeArgs) -> Result<(), CudaError> {
        const THREADS: usize = 128;
        let RopeArgs { inv_freq, factor, half, position, begin, cos, sin, count } = angles;
        let launch = Launch::new((half * count).div_ceil(THREADS), THREADS as u32).overlap(self.overlap);
        let [half, begin, count] = [half, begin, count].map(|n| n as i32);
        // SAFETY: passed on.
        unsafe {
            self.rope_angles.launch(
                launch,
                &[
                    (&inv_freq).into(),
                    (&factor).into(),
                    (&half).into(),
                    (&position).into(),
                    (&begin).into(),
                    (&cos).into(),
                    (&sin).into(),
                    (&count).into(),
                ],
            )
        }
    }

    /// Head norms, `RoPE`, queries out, keys and values into the cache.
    ///
    /// # Safety
    /// Addresses as [`HeadsArgs`] says.
    pub(super) unsafe fn split_heads(&self, args: HeadsArgs, format: KvFormat) -> Result<(), CudaError> {
        let kernel = match format {
            KvFormat::Bf16 => &self.split_heads[0],
            KvFormat::Q8_0 => &self.split_heads[1],
            KvFormat::Fp8 => &self.split_heads[2],
        };
        let heads = (args.num_q_heads + 2 * args.num_kv_heads) as usize;
        let blocks = heads.div_ceil(HEADS_PER_BLOCK) as u32;
        let launch = Launch { grid: [blocks, args.tokens as u32, 1], ..Launch::new(1, 128) }.overlap(self.overlap);
        // SAFETY: passed on.
        unsafe { kernel.launch(launch, &[Argument::from(&args)]) }
    }

    /// Chooses a token and moves the cursor.
    ///
    /// # Safety
    /// Addresses as [`SampleArgs`] says.
    pub(super) unsafe fn sample(&self, args: SampleArgs) -> Result<(), CudaError> {
        let blocks = (args.vocab as usize).div_ceil(SAMPLE_BLOCK);
        // SAFETY: passed on.
        unsafe { self.sample.launch(Launch::new(blocks, 512).overlap(self.overlap), &[Argument::from(&args)]) }
    }

    /// `RMSNorm` of f32 rows to bf16 rows.
    ///
    /// # Safety
    /// `x` and `out` hold `[rows, cols]`, `weight` `[cols]`.
    pub(super) unsafe fn rms_norm_rows(
        &self,
        x: u64,
        weight: u64,
        eps: f32,
        out: u64,
        [rows, cols]: [usize; 2],
    ) -> Result<(), CudaError> {
        let cols = cols as i32;
        // SAFETY: passed on.
        unsafe {
            self.rms_norm_rows.launch(
                Launch::new(rows, 256).overlap(self.overlap),
                &[(&x).into(), (&weight).into(), (&eps).into(), (&out).into(), (&cols).into()],
            )
        }
    }

    /// `silu(gate) · up` of f32 rows `[rows, 2 width]`, to f32.
    ///
    /// # Safety
    /// `gate_up` and `out` are that large.
    pub(super) unsafe fn silu_row(&self, gate_up: u64, out: u64, width: usize) -> Result<(), CudaError> {
        let (width, rows, out_is_f32) = (width as i32, 1i32, 1i32);
        let launch = Launch::new((width as usize).div_ceil(256), 256).overlap(self.overlap);
        // SAFETY: passed on.
        unsafe {
            self.silu_rows_f32.launch(
                launch,
                &[(&gate_up).into(), (&width).into(), (&out).into(), (&rows).into(), (&out_is_f32).into()],
            )
        }
    }
}

/// Of `fill_ring`.
#[derive(Debug, Clone, Copy)]
pub(super) struct MadeUpRing {
    /// Of queries, outputs and tags.
    pub(super) addresses: [u64; 3],
    pub(super) num_q_heads: usize,
    pub(super) slots: usize,
    pub(super) head_dim: usize,
    pub(super) length: usize,
    pub(super) band: usize,
    pub(super) seed: u64,
}

/// Of `rope_angles`.
#[derive(Debug, Clone, Copy)]
pub(super) struct RopeArgs {
    pub(super) inv_freq: u64,
    pub(super) factor: f64,
    pub(super) half: usize,
    pub(super) position: u64,
    pub(super) begin: usize,
    pub(super) cos: u64,
    pub(super) sin: u64,
    pub(super) count: usize,
}
