//! Layers that own all they work on: a safe face of [`CudaAttention`] for benchmarks and self-checks.

use std::sync::Arc;

use bytemuck::cast_slice;
use half::bf16;

use super::{CudaAttention, CudaAttentionSetup, CudaError, CudaPrefillChunk, CudaStep, DeviceBuffer, Gpu, Graph};
use crate::{Counters, KernelError, Policy, Ring};

/// What a step of all layers does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CudaStepKind {
    /// As each layer's policy says.
    Policy,
    /// Exact, with ring entries; see [`CudaAttention::step_resting`].
    Rest,
    /// Exact, without.
    Exact,
}

/// Layers of one sequence whose K and V lie in one buffer of 16-bit words: per layer K, then V, each
/// `[num_kv_heads, capacity, head_dim]`. A step of all layers is captured when it is first replayed.
#[derive(Debug)]
pub struct CudaLayers {
    /// First, so that it goes before what it names.
    graphs: [Option<Graph>; 3],
    gpu: Gpu,
    attention: CudaAttention,
    kv: Arc<DeviceBuffer<u16>>,
    /// `[layers, num_kv_heads, capacity, 2, slots]`, where the format has them.
    scales: Option<DeviceBuffer<u16>>,
    capacity: usize,
    /// `[layers, num_q_heads, head_dim]` each.
    q_pre: DeviceBuffer<u16>,
    q_rot: DeviceBuffer<u16>,
    out: DeviceBuffer<f32>,
    /// Tokens up to the cursor.
    len: usize,
}

impl CudaLayers {
    /// 16-bit words that K and V of all layers take, scales apart.
    pub fn kv_words(setup: CudaAttentionSetup, capacity: usize) -> usize {
        let elements = 2 * setup.layers * setup.shape.num_kv_heads() * capacity * setup.shape.head_dim();
        elements * setup.element.bytes() / size_of::<u16>()
    }

    /// Layers over the first words of `kv`, with queries of zeros and empty rings. Scales are all alike, about 1/60, until
    /// [`Self::write_scales`].
    ///
    /// # Errors
    /// [`CudaError::Range`] if `kv` is too small, else as [`CudaAttention::new`].
    pub fn new(
        gpu: &Gpu,
        setup: CudaAttentionSetup,
        capacity: usize,
        kv: Arc<DeviceBuffer<u16>>,
    ) -> Result<Self, CudaError> {
        let needed = Self::kv_words(setup, capacity);
        if kv.len() < needed {
            return Err(CudaError::Range { what: "K and V", got: needed, capacity: kv.len() });
        }
        let elements = setup.layers * setup.shape.num_q_heads() * setup.shape.head_dim();
        let scales = setup.layers * setup.shape.num_kv_heads() * capacity;
        let scales = match scales * setup.element.scales_per_token(setup.shape.head_dim()) {
            0 => None,
            count => {
                /// Twice, and it is 0.016 in f16.
                const BYTE: u8 = 0x24;
                let mut scales = gpu.alloc::<u16>(count)?;
                scales.fill_bytes(0..count, BYTE)?;
                Some(scales)
            }
        };
        Ok(Self {
            graphs: [None, None, None],
            gpu: gpu.clone(),
            attention: CudaAttention::new(gpu, setup)?,
            kv,
            scales,
            capacity,
            q_pre: gpu.alloc_zeroed(elements)?,
            q_rot: gpu.alloc_zeroed(elements)?,
            out: gpu.alloc_zeroed(elements)?,
            len: 0,
        })
    }

    /// What it was made for.
    pub fn setup(&self) -> CudaAttentionSetup {
        self.attention.setup()
    }

    /// K and V of all layers, and whatever else its owner keeps there.
    pub fn kv(&self) -> &DeviceBuffer<u16> {
        &self.kv
    }

    /// Scales of one layer as bits of f16.
    ///
    /// # Errors
    /// [`KernelError::Length`] if there are not as many.
    pub fn write_scales(&mut self, layer: usize, bits: &[u16]) -> Result<(), CudaError> {
        let layers = self.setup().layers;
        let each = self.scales.as_ref().map_or(0, |scales| scales.len() / layers);
        match &mut self.scales {
            Some(scales) if bits.len() == each && layer < layers => scales.write(layer * each, bits),
            _ => Err(KernelError::Length { what: "scales", expected: each, got: bits.len() }.into()),
        }
    }

    /// How the following steps of `layer` decide.
    pub fn set_policy(&mut self, layer: usize, policy: &Policy) -> Result<(), CudaError> {
        self.graphs = [None, None, None];
        self.attention.set_policy(layer, policy)
    }

    /// Whether kernels may begin while the one before them ends; on at first where the device can.
    pub fn set_overlap(&mut self, overlap: bool) {
        self.graphs = [None, None, None];
        self.attention.set_overlap(overlap);
    }

    /// Queries of the coming steps of one layer, `[num_q_heads, head_dim]`; `rot` holds bits of the queries' element type.
    pub fn write_queries(&mut self, layer: usize, pre: &[bf16], rot: &[u16]) -> Result<(), CudaError> {
        let row = self.row();
        if pre.len() != row || rot.len() != row {
            let got = if pre.len() == row { rot.len() } else { pre.len() };
            return Err(KernelError::Length { what: "query", expected: row, got }.into());
        }
        self.q_pre.write(layer * row, cast_slice(pre))?;
        self.q_rot.write(layer * row, rot)
    }

    /// Reads `n` tokens from position `begin` on in one layer, seeds its ring and returns the outputs as bits of the queries'
    /// element type; all `[n, num_q_heads, head_dim]`. The cursor stays.
    pub fn prefill(&mut self, layer: usize, pre: &[bf16], rot: &[u16], begin: usize) -> Result<Vec<u16>, CudaError> {
        let (row, setup) = (self.row(), self.setup());
        if pre.len() != rot.len() || !pre.len().is_multiple_of(row) {
            return Err(KernelError::Length { what: "queries", expected: pre.len(), got: rot.len() }.into());
        }
        if layer >= setup.layers {
            let why = format!("{layer} of {}", setup.layers);
            return Err(KernelError::Setting { what: "layer", why }.into());
        }
        let (q_pre, q_rot) = (self.gpu.upload(cast_slice::<bf16, u16>(pre))?, self.gpu.upload(rot)?);
        let out = self.gpu.alloc_zeroed::<u16>(pre.len())?;
        self.attention.back_reading(begin + pre.len() / row, self.capacity)?;
        let (k, v, scales) = self.kv_addresses(layer);
        let chunk = CudaPrefillChunk {
            q_pre: q_pre.address(),
            q_pre_stride: row,
            q_rot: q_rot.address(),
            q_rot_stride: row,
            k,
            v,
            scales,
            capacity: self.capacity,
            out: out.address(),
            out_stride: row,
            begin,
            n: pre.len() / row,
            seed_from: 0,
        };
        // SAFETY: all buffers are here and large enough; reading the output back waits for the work.
        unsafe { self.attention.prefill(layer, &chunk)? };
        out.to_vec()
    }

    /// Sets the cursor to the newest of `len` tokens; entries and back-off stay.
    pub fn seek(&mut self, len: usize) -> Result<(), CudaError> {
        self.attention.seek(len)?;
        self.len = len;
        Ok(())
    }

    /// Forgets entries at positions `>= len` and sets the cursor to the newest of `len` tokens.
    pub fn truncate(&mut self, len: usize) -> Result<(), CudaError> {
        self.attention.truncate(len)?;
        self.len = len;
        Ok(())
    }

    /// The next token in every layer, `times` times, all in the stream before this returns; the device's time of each, in
    /// microseconds.
    ///
    /// # Errors
    /// [`CudaError::Range`] if the cursor would leave K and V.
    pub fn replay(&mut self, kind: CudaStepKind, times: usize) -> Result<Vec<f64>, CudaError> {
        if self.len + times > self.capacity {
            return Err(CudaError::Range { what: "step", got: self.len + times, capacity: self.capacity });
        }
        let graph = match self.graphs[kind as usize].take() {
            Some(graph) => graph,
            None => self.capture(kind)?,
        };
        let mut marks = vec![self.gpu.event()?];
        for _ in 0..times {
            // SAFETY: everything that the graph names is our own, and the cursor stays inside K and V.
            unsafe { graph.launch()? };
            marks.push(self.gpu.event()?);
        }
        self.graphs[kind as usize] = Some(graph);
        self.len += times;
        self.gpu.synchronize()?;
        marks.windows(2).map(|pair| pair[0].microseconds_to(&pair[1])).collect()
    }

    /// Per layer, what happened since the last call; outcomes are of the last step.
    pub fn report(&mut self) -> Result<&[Counters], CudaError> {
        // SAFETY: waited for at once.
        unsafe { self.attention.queue_report()? };
        self.attention.report()
    }

    /// Output of one layer's last step, `[num_q_heads, head_dim]`.
    pub fn out(&self, layer: usize) -> Result<Vec<f32>, CudaError> {
        let mut out = vec![0.0; self.row()];
        self.out.read(layer * self.row(), &mut out)?;
        Ok(out)
    }

    /// One layer's ring.
    pub fn ring(&self, layer: usize) -> Result<Ring, CudaError> {
        self.attention.ring(layer)
    }

    /// Replaces one layer's entries.
    pub fn restore_ring(&mut self, layer: usize, ring: &Ring) -> Result<(), CudaError> {
        self.attention.restore_ring(layer, ring)
    }

    fn row(&self) -> usize {
        self.setup().shape.num_q_heads() * self.setup().shape.head_dim()
    }

    /// Of K, V and scales.
    fn kv_addresses(&self, layer: usize) -> (u64, u64, u64) {
        let layers = self.setup().layers;
        let half = Self::kv_words(self.setup(), self.capacity) / (2 * layers);
        let scales = self.scales.as_ref().map_or(0, |scales| scales.address_of(layer * scales.len() / layers));
        (self.kv.address_of(2 * layer * half), self.kv.address_of((2 * layer + 1) * half), scales)
    }

    fn capture(&self, kind: CudaStepKind) -> Result<Graph, CudaError> {
        let setup = self.setup();
        self.gpu.capture(|| {
            // SAFETY: K, V, queries and outputs are our own and large enough; `replay` keeps the cursor below the capacity.
            unsafe {
                self.attention.advance()?;
                for layer in 0..setup.layers {
                    let (k, v, scales) = self.kv_addresses(layer);
                    let step = CudaStep {
                        q_pre: self.q_pre.address_of(layer * self.row()),
                        q_rot: self.q_rot.address_of(layer * self.row()),
                        k,
                        v,
                        scales,
                        capacity: self.capacity,
                        out: self.out.address_of(layer * self.row()),
                    };
                    match kind {
                        CudaStepKind::Policy => self.attention.step(layer, &step)?,
                        CudaStepKind::Rest => self.attention.step_resting(layer, &step)?,
                        CudaStepKind::Exact => self.attention.step_exact(layer, &step)?,
                    }
                }
            }
            Ok(())
        })
    }
}
