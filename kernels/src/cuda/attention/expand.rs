//! K and V of 8 bits as f16 rows: what a prompt's attention reads, one layer at a time.

use super::super::{Argument, CudaError, Gpu, Kernel, Launch, ReservedBuffer};
use super::abi::{ExpandArgs, KvArgs};
use super::{CudaAttention, CudaElement};
use crate::cuda::FATBINS;
use crate::{AttentionShape, KernelError};

/// The kernel and its rows, of one layer at a time: all layers share them.
#[derive(Debug)]
pub(super) struct Expansion {
    kernel: Kernel,
    launch: Launch,
    /// K, then V, each `[num_kv_heads, tokens, head_dim]`; `None` before the first prompt.
    rows: Option<ReservedBuffer>,
}

impl Expansion {
    /// Nothing for 16 bits.
    pub(super) fn load(gpu: &Gpu, element: CudaElement) -> Result<Option<Self>, CudaError> {
        const THREADS: u32 = 256;
        if element.bytes() > 1 {
            return Ok(None);
        }
        let kernel = gpu.load(FATBINS, "expand_kv")?.kernel(&format!("expand_kv_{}", element.name()))?;
        Ok(Some(Self { kernel, launch: Launch::new(8 * gpu.info().multiprocessors, THREADS), rows: None }))
    }
}

impl CudaAttention {
    /// Bytes that [`Self::back_reading`] takes for `tokens` tokens, at most.
    pub fn reading_bytes(shape: AttentionShape, element: CudaElement, tokens: usize) -> usize {
        let page = if element.bytes() > 1 { 0 } else { ReservedBuffer::USUAL_PAGE_BYTES };
        page + tokens * Self::reading_token_bytes(shape, element)
    }

    /// What each token adds to [`Self::reading_bytes`].
    pub fn reading_token_bytes(shape: AttentionShape, element: CudaElement) -> usize {
        if element.bytes() > 1 { 0 } else { element.queries().token_bytes(shape) }
    }

    /// Bytes taken for that now.
    pub fn reading_bytes_backed(&self) -> usize {
        self.expansion.as_ref().and_then(|expansion| expansion.rows.as_ref()).map_or(0, ReservedBuffer::backed_bytes)
    }

    /// Sees to it that [`Self::prefill`] can read chunks that end at up to `tokens` of `capacity` tokens. With 8 bits K and
    /// V of one layer are expanded to f16 for it; nothing is taken with 16.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`] if the device has none left.
    pub fn back_reading(&mut self, tokens: usize, capacity: usize) -> Result<(), CudaError> {
        let Self { gpu, expansion: Some(expansion), setup, .. } = self else { return Ok(()) };
        let token_bytes = Self::reading_token_bytes(setup.shape, setup.element);
        let whole = capacity.max(tokens) * token_bytes;
        let rows = match expansion.rows.take() {
            Some(rows) if rows.bytes() >= whole => rows,
            _ => gpu.reserve(whole)?,
        };
        expansion.rows.insert(rows).back(0, tokens * token_bytes)
    }

    /// What a chunk that ends at `end` reads: `kv` itself with 16 bits, else the expanded rows, which are filled here.
    ///
    /// # Safety
    /// `kv` holds `end` tokens by the time the stream is there.
    pub(super) unsafe fn readable(&self, kv: KvArgs, end: usize) -> Result<KvArgs, CudaError> {
        let Some(expansion) = &self.expansion else { return Ok(kv) };
        let shape = self.setup.shape;
        let needed = end * Self::reading_token_bytes(shape, self.setup.element);
        let (address, backed) = expansion.rows.as_ref().map_or((0, 0), |rows| (rows.address(), rows.backed_bytes()));
        if needed > backed {
            return Err(KernelError::Length { what: "rows backed for reading", expected: needed, got: backed }.into());
        }
        let (k, v) = (address, address + needed as u64 / 2);
        let args = ExpandArgs {
            from: kv,
            k,
            v,
            stride: end as i32,
            begin: 0,
            tokens: end as i32,
            head_dim: shape.head_dim() as i32,
            num_kv_heads: shape.num_kv_heads() as i32,
        };
        // SAFETY: as promised by the caller; the rows have memory for as much.
        unsafe { expansion.kernel.launch(expansion.launch, &[Argument::from(&args)])? };
        Ok(KvArgs { k, v, scales: 0, capacity: end as i32 })
    }
}
