//! A block of the prompt, one layer: attention of all its tokens, and the ring entries of the newest.

use super::super::{CudaError, DeviceBuffer, Gpu, Kernel, Launch, Swizzle, Tensor, TensorElement};
use super::abi::{KvArgs, PrefillArgs, PrefillWgmmaArgs};
use super::sizes::{PrefillSize, prefill_splits};
use super::{CudaAttention, CudaElement, check_addresses, kv_capacity};
use crate::cuda::FATBINS;
use crate::{AttentionShape, KernelError};

/// Where a chunk of `n` tokens reads and writes: device addresses, multiples of 16. Strides count numbers from one token to
/// the next, multiples of 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CudaPrefillChunk {
    /// Queries before rotation, bf16 `[n, q_pre_stride]`; a token's heads follow each other.
    pub q_pre: u64,
    /// Numbers per token, at least `num_q_heads · head_dim`.
    pub q_pre_stride: usize,
    /// Queries after rotation, [`CudaElement::queries`] `[n, q_rot_stride]`.
    pub q_rot: u64,
    /// As for `q_pre`.
    pub q_rot_stride: usize,
    /// Rotated keys, [`CudaElement`] `[num_kv_heads, capacity, head_dim]`, the chunk's own included.
    pub k: u64,
    /// Values, likewise.
    pub v: u64,
    /// As in [`super::CudaStep`].
    pub scales: u64,
    /// Tokens per KV head that K and V have addresses for.
    pub capacity: usize,
    /// Attention output, [`CudaElement::queries`] `[n, out_stride]`.
    pub out: u64,
    /// As for `q_pre`.
    pub out_stride: usize,
    /// Position of the first token.
    pub begin: usize,
    /// Tokens.
    pub n: usize,
    /// First position that gets a ring entry; of these only the newest as many as there are slots. At or beyond the
    /// chunk's end: none.
    pub seed_from: usize,
}

/// One of the two kernels of a chunk, and what joins its parts.
#[derive(Debug)]
struct Pass {
    kernel: Kernel,
    size: PrefillSize,
    combine: Kernel,
}

#[derive(Debug)]
pub(super) struct PrefillKernels {
    attend: Pass,
    seed: Pass,
    /// Where tokens are shared out, `[splits, tokens, num_q_heads, head_dim]` and without the last.
    partial_out: DeviceBuffer<f32>,
    partial_lse: DeviceBuffer<f32>,
}

impl PrefillKernels {
    pub(super) fn load(gpu: &Gpu, shape: AttentionShape, element: CudaElement) -> Result<Self, CudaError> {
        let dim = shape.head_dim();
        let wgmma = gpu.info().compute_capability == (9, 0);
        let (source, name) = if wgmma {
            (format!("prefill_wgmma_d{dim}"), "prefill_wgmma")
        } else {
            (format!("prefill_d{dim}"), "prefill")
        };
        let module = gpu.load(FATBINS, &source)?;
        let join = gpu.load(FATBINS, "prefill_combine")?;
        let pass = |seed: bool| {
            let name = format!("{name}{}_{}_d{dim}", if seed { "_seed" } else { "" }, element.name());
            let size = if wgmma { PrefillSize::wgmma(dim, seed) } else { PrefillSize::plain(dim) };
            let room = gpu.info().shared_bytes;
            if size.shared_bytes > room {
                let why = format!("{} B of shared memory needed, a block has {room} B", size.shared_bytes);
                return Err(CudaError::DeviceLimit { kernel: name, why });
            }
            let kernel = module.kernel(&name)?;
            kernel.allow_shared(size.shared_bytes)?;
            let combine = if seed { "seed" } else { element.name() };
            Ok(Pass { kernel, size, combine: join.kernel(&format!("prefill_combine_{combine}"))? })
        };
        let (attend, seed) = (pass(false)?, pass(true)?);
        // Splits only happen while tiles of all heads and splits together are no more than multiprocessors.
        let rows = gpu.info().multiprocessors * attend.size.tile_rows.max(seed.size.tile_rows);
        Ok(Self { attend, seed, partial_out: gpu.alloc(rows * dim)?, partial_lse: gpu.alloc(rows)? })
    }
}

impl CudaAttention {
    /// Causal attention of a chunk, whose K and V are already there, over all tokens up to each of its own; and the ring
    /// entries of positions from `seed_from` on. Puts the work into the stream and returns; the cursor stays. Entries at
    /// or after `begin` must have been forgotten, see [`Self::truncate`]. Of 8-bit K and V, [`Self::back_reading`] comes first.
    ///
    /// # Errors
    /// [`CudaError::Kernel`] for a layer, an address, a stride or a position that cannot be; then nothing has been launched.
    ///
    /// # Safety
    /// The memory behind the addresses must be as large as [`CudaPrefillChunk`] says, stay until the work is done, and hold
    /// queries, K and V of every token up to the chunk's end by then.
    pub unsafe fn prefill(&self, layer: usize, chunk: &CudaPrefillChunk) -> Result<(), CudaError> {
        self.check_layer(layer)?;
        let args = self.prefill_args(layer, chunk)?;
        if chunk.n == 0 {
            return Ok(());
        }
        let end = chunk.begin + chunk.n;
        // SAFETY: as promised by the caller; the rest is our own.
        let args = unsafe { PrefillArgs { kv: self.readable(args.kv, end)?, ..args } };
        // SAFETY: as above.
        unsafe { self.launch_pass(&self.prefill.attend, args, chunk.n)? };
        let first = chunk.seed_from.max(chunk.begin).max(end.saturating_sub(self.setup.layout.slots));
        if first < end {
            // SAFETY: as above.
            unsafe { self.launch_pass(&self.prefill.seed, args, end - first)? };
        }
        Ok(())
    }

    fn prefill_args(&self, layer: usize, chunk: &CudaPrefillChunk) -> Result<PrefillArgs, CudaError> {
        let CudaPrefillChunk { q_pre, q_rot, k, v, scales, capacity, out, begin, n, .. } = *chunk;
        check_addresses([("q_pre", q_pre), ("q_rot", q_rot), ("keys", k), ("values", v), ("attention output", out)])?;
        let capacity_arg = kv_capacity(capacity)?;
        if begin.checked_add(n).is_none_or(|end| end > capacity) {
            return Err(KernelError::Length { what: "chunk", expected: capacity, got: begin.saturating_add(n) }.into());
        }
        let shape = self.setup.shape;
        let row = shape.num_q_heads() * shape.head_dim();
        let stride = |what, stride: usize| match i32::try_from(stride) {
            Ok(numbers) if stride >= row && stride.is_multiple_of(8) => Ok(numbers),
            _ => {
                let why = format!("{stride} numbers a token, {row} needed, in multiples of 8");
                Err(CudaError::from(KernelError::Setting { what, why }))
            }
        };
        Ok(PrefillArgs {
            q: q_rot,
            q_pre,
            out,
            lse: 0,
            kv: KvArgs { k, v, scales: self.check_scales(scales)?, capacity: capacity_arg },
            ring: self.rings.args(layer),
            heads: self.head_args(),
            q_token_stride: stride("q_rot stride", chunk.q_rot_stride)?,
            q_pre_token_stride: stride("q_pre stride", chunk.q_pre_stride)?,
            out_token_stride: stride("output stride", chunk.out_stride)?,
            first_pos: begin as i32,
            n: n as i32,
            seed_from: i32::try_from(chunk.seed_from).unwrap_or(i32::MAX),
            splits: 1,
            partial_out: self.prefill.partial_out.address(),
            partial_lse: self.prefill.partial_lse.address(),
        })
    }

    /// # Safety
    /// As for [`Self::prefill`]; `tokens` are those that the pass works on.
    unsafe fn launch_pass(&self, pass: &Pass, args: PrefillArgs, tokens: usize) -> Result<(), CudaError> {
        const COMBINE_THREADS: u32 = 128;
        let shape = self.setup.shape;
        let multiprocessors = self.gpu.info().multiprocessors;
        let tiles = (tokens * shape.group_size()).div_ceil(pass.size.tile_rows);
        let end = (args.first_pos + args.n) as usize;
        let splits = prefill_splits(tiles, shape.num_kv_heads(), multiprocessors, end);
        let args = PrefillArgs { splits: splits as i32, ..args };
        let blocks = tiles * shape.num_kv_heads() * splits;
        let launch = |blocks| Launch::new(blocks, pass.size.threads).shared(pass.size.shared_bytes);
        match pass.size.copy {
            None => {
                // SAFETY: as promised by the caller.
                unsafe { pass.kernel.launch(launch(blocks), &[(&args).into()])? };
            }
            Some(copy) => {
                let (k, v) = (self.prefill_map(args.kv.k, &args, copy)?, self.prefill_map(args.kv.v, &args, copy)?);
                let args = PrefillWgmmaArgs { k, v, chunk: args };
                // SAFETY: as promised by the caller.
                unsafe { pass.kernel.launch(launch(blocks.min(multiprocessors)), &[(&args).into()])? };
            }
        }
        if splits > 1 {
            let head_dim = shape.head_dim() as i32;
            let rows = tokens * shape.num_q_heads();
            let blocks = rows.div_ceil(COMBINE_THREADS as usize / 32).min(8 * multiprocessors);
            // SAFETY: as above; the parts are our own and large enough for as many splits as there are.
            unsafe {
                pass.combine.launch(Launch::new(blocks, COMBINE_THREADS), &[(&args).into(), (&head_dim).into()])?;
            }
        }
        Ok(())
    }

    /// K or V as bulk copies see it; tokens beyond the chunk read as zeros.
    fn prefill_map(
        &self,
        address: u64,
        args: &PrefillArgs,
        (tokens, columns): (usize, usize),
    ) -> Result<super::super::TensorMap, CudaError> {
        let shape = self.setup.shape;
        let (dim, row) = (shape.head_dim() as u64, 2 * shape.head_dim() as u64);
        self.gpu.tensor_map(Tensor {
            address,
            element: match self.setup.element.queries() {
                CudaElement::Bf16 => TensorElement::Bf16,
                _ => TensorElement::F16,
            },
            extents: &[dim, (args.first_pos + args.n) as u64, shape.num_kv_heads() as u64],
            strides: &[row, row * args.kv.capacity as u64],
            tile: &[columns as u32, tokens as u32, 1],
            swizzle: if columns == 64 { Swizzle::Bytes128 } else { Swizzle::Bytes64 },
        })
    }
}
