//! Decode attention on the device: the kernels of `kernels/cuda`, what they keep between steps, and the checks that they
//! do not make themselves.

mod abi;
mod audit;
mod element;
mod expand;
mod held;
mod kernels;
mod policy;
mod prefill;
mod report;
mod rings;
mod sizes;

use super::{Argument, CudaError, DeviceBuffer, Gpu, Launch};
use crate::{AttentionShape, Counters, KernelError, Pattern, Policy, Ring, RingLayout};
use abi::{AttendArgs, HeadArgs, KvArgs, ReuseArgs, RingArgs, StepState};
use audit::AuditScratch;
use bytemuck::Zeroable as _;
pub use element::CudaElement;
use expand::Expansion;
pub use held::HeldKv;
use kernels::DecodeKernels;
use policy::Rule;
pub use prefill::CudaPrefillChunk;
use prefill::PrefillKernels;
use report::Report;
use rings::Rings;
use sizes::SPANS_PER_BLOCK;

/// What a sequence's attention is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CudaAttentionSetup {
    /// Of every layer.
    pub shape: AttentionShape,
    /// Of K and V; rotated queries follow from it.
    pub element: CudaElement,
    /// Of every layer's ring.
    pub layout: RingLayout,
    /// Layers, each with a ring of its own.
    pub layers: usize,
}

/// Where one layer's step reads and writes: device addresses, multiples of 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CudaStep {
    /// Queries before rotation, bf16 `[num_q_heads, head_dim]`.
    pub q_pre: u64,
    /// Queries after rotation, [`CudaElement::queries`] `[num_q_heads, head_dim]`.
    pub q_rot: u64,
    /// Rotated keys, [`CudaElement`] `[num_kv_heads, capacity, head_dim]`.
    pub k: u64,
    /// Values, likewise.
    pub v: u64,
    /// Scales of [`CudaElement::Q8`], f16 `[num_kv_heads, capacity, 2, slots]`: K's, then V's, `2 · slots` of them
    /// [per token](CudaElement::scales_per_token); 0 where there are none.
    pub scales: u64,
    /// Tokens per KV head that K and V have addresses for.
    pub capacity: usize,
    /// Attention output, f32 `[num_q_heads, head_dim]`.
    pub out: u64,
}

/// Where one layer's ring lies: device addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CudaRing {
    /// Queries before rotation, bf16 `[num_q_heads, slots, head_dim]`.
    pub query: u64,
    /// Normalised states, f32 `[num_q_heads, slots, head_dim]`.
    pub out: u64,
    /// `[num_q_heads, slots]` of `{ i32 position (−1: none), f32 log-sum-exp, u32 depth, f32 distance }`. The slot of a position
    /// is its remainder by the number of slots.
    pub meta: u64,
}

/// Decode attention of all layers of one sequence. Everything is allocated by [`Self::new`] and stays where it is, so
/// steps may be captured once and replayed. One step of a model, in stream order:
///
/// 1. [`Self::advance`], or a kernel that moves the [cursor](Self::cursor_address) itself;
/// 2. per layer: kernels that write the newest token's K and V and both queries, then [`Self::step`];
/// 3. [`Self::queue_report`], and after a wait [`Self::report`].
///
/// A captured step replays the policy it was captured with: after [`Self::set_policy`] it must be captured again.
#[derive(Debug)]
pub struct CudaAttention {
    gpu: Gpu,
    setup: CudaAttentionSetup,
    kernels: DecodeKernels,
    prefill: PrefillKernels,
    /// Of 8-bit K and V.
    expansion: Option<Expansion>,
    rings: Rings,
    report: Report,
    /// One, shared by all layers.
    state: DeviceBuffer<StepState>,
    /// Per layer.
    rules: Vec<Rule>,
    /// `[layers, num_q_heads]`.
    forced_heads: DeviceBuffer<u8>,
    /// `[SPANS_PER_BLOCK · blocks, group, head_dim]` and without the last; layers follow each other, so one is enough.
    partial_out: DeviceBuffer<f32>,
    partial_lse: DeviceBuffer<f32>,
    /// `[num_kv_heads, 2]`; zero between launches.
    arrivals: DeviceBuffer<u32>,
    audit: AuditScratch,
}

impl CudaAttention {
    /// Loads the kernels and takes all memory. Rings are empty, every layer is exact, the cursor stands before the first token.
    ///
    /// # Errors
    /// [`CudaError`] if the shape, the device or its memory do not allow it.
    pub fn new(gpu: &Gpu, setup: CudaAttentionSetup) -> Result<Self, CudaError> {
        let CudaAttentionSetup { shape, element, layout, layers } = setup;
        let kernels = DecodeKernels::load(gpu, shape, element)?;
        let parts = SPANS_PER_BLOCK * kernels.attend_launch.grid[0] as usize * shape.group_size();
        Ok(Self {
            gpu: gpu.clone(),
            setup,
            prefill: PrefillKernels::load(gpu, shape, element.queries())?,
            expansion: Expansion::load(gpu, element)?,
            rings: Rings::new(gpu, shape, layout, layers)?,
            report: Report::new(gpu, shape, layers)?,
            state: gpu.upload(&[StepState { position: -1, step: 0 }])?,
            rules: vec![Rule::Exact; layers],
            forced_heads: gpu.alloc_zeroed(layers * shape.num_q_heads())?,
            partial_out: gpu.alloc(parts * shape.head_dim())?,
            partial_lse: gpu.alloc(parts)?,
            arrivals: gpu.alloc_zeroed(2 * shape.num_kv_heads())?,
            audit: AuditScratch::new(gpu, shape)?,
            kernels,
        })
    }

    /// What it was made for.
    pub fn setup(&self) -> CudaAttentionSetup {
        self.setup
    }

    /// Bytes of device memory that rings take.
    pub fn ring_bytes(&self) -> usize {
        self.rings.bytes()
    }

    /// Address of the cursor: an `i32`, position of the newest token (0-based, −1 before the first), then a `u32` that
    /// counts steps. Whoever moves it instead of [`Self::advance`] adds 1 to both, before any other kernel of the step.
    pub fn cursor_address(&self) -> u64 {
        self.state.address()
    }

    /// Addresses of one layer's ring, for kernels that fill it.
    ///
    /// # Errors
    /// [`KernelError::Setting`] if there is no such layer.
    pub fn ring_addresses(&self, layer: usize) -> Result<CudaRing, CudaError> {
        self.check_layer(layer)?;
        let RingArgs { query, out, meta, .. } = self.rings.args(layer);
        Ok(CudaRing { query, out, meta })
    }

    /// Whether kernels may begin while the one before them ends (programmatic dependent launch); on where the device can.
    /// Then no kernel between the cursor's move and a layer's step may write K and V of older tokens or that layer's ring.
    pub fn set_overlap(&mut self, overlap: bool) {
        let overlap = overlap && self.kernels.clusters;
        self.kernels.attend_launch.overlap = overlap;
        self.kernels.reuse_launch.overlap = overlap;
    }

    /// How the following steps of `layer` decide.
    ///
    /// # Errors
    /// [`KernelError::Setting`] or [`KernelError::Length`] for settings outside their range.
    pub fn set_policy(&mut self, layer: usize, policy: &Policy) -> Result<(), CudaError> {
        self.check_layer(layer)?;
        let shape = self.setup.shape;
        let first = layer * shape.num_q_heads();
        let rule = Rule::new(policy, shape, self.forced_heads.address_of(first))?;
        if let Policy::Forced(forced) = policy
            && let Pattern::Heads(heads) = &forced.pattern
        {
            let flags: Vec<u8> = heads.iter().copied().map(u8::from).collect();
            self.forced_heads.write(first, &flags)?;
        }
        self.rules[layer] = rule;
        Ok(())
    }

    /// Sets the cursor to the newest of `len` tokens; entries and back-off stay. Waits for work under way.
    pub fn seek(&mut self, len: usize) -> Result<(), CudaError> {
        let mut state = [StepState::zeroed()];
        self.state.read(0, &mut state)?;
        state[0].position = position_after(len)?;
        self.state.write(0, &state)
    }

    /// Forgets entries at positions `>= len` in all layers, ends their pauses, and sets the cursor to the newest of `len` tokens.
    pub fn truncate(&mut self, len: usize) -> Result<(), CudaError> {
        const THREADS: u32 = 256;
        let (ring, first) = (self.rings.args(0), position_after(len)? + 1);
        let (q_heads, pauses, kv_heads) = (self.rings.all_q_heads(), self.rings.pauses(0), self.rings.all_kv_heads());
        let blocks = 4 * self.gpu.info().multiprocessors;
        // SAFETY: one ring of all layers' heads, and their pauses, all our own.
        unsafe {
            self.kernels.truncate.launch(
                Launch::new(blocks, THREADS),
                &[(&ring).into(), (&q_heads).into(), (&first).into(), (&pauses).into(), (&kv_heads).into()],
            )?;
        }
        self.report.clear_outcomes()?;
        self.seek(len)
    }

    /// Moves the cursor to the next token; may be captured.
    ///
    /// # Safety
    /// K and V must have room for that token by the time of the next [`Self::step`].
    pub unsafe fn advance(&self) -> Result<(), CudaError> {
        // SAFETY: the cursor is our own.
        unsafe { self.kernels.advance.launch(Launch::new(1, 1), &[Argument::from(&self.state.address())]) }
    }

    /// Attention of the token at the cursor over all tokens up to it, by the layer's policy; may be captured. Writes the
    /// ring entry of this position, except under [`Policy::Exact`].
    ///
    /// # Errors
    /// [`CudaError::Kernel`] for a layer, an address or a capacity that cannot be; then nothing has been launched.
    ///
    /// # Safety
    /// The memory behind the addresses must be as large as [`CudaStep`] says, stay until the work is done (captured: as
    /// long as the graph is replayed), and hold queries, K and V of every token up to the cursor by then. The cursor must
    /// stand below `capacity`, and must have been moved since this layer's last step.
    pub unsafe fn step(&self, layer: usize, step: &CudaStep) -> Result<(), CudaError> {
        self.check_layer(layer)?;
        let attend = self.attend_args(layer, step)?;
        let Rule::Reuse(policy) = self.rules[layer] else {
            // SAFETY: passed on.
            return unsafe { self.step_resting(layer, step) };
        };
        let AttendArgs {
            state, q_rot, q_pre, kv, heads, ring, decisions, outcomes, reused_mass, out, counters, ..
        } = attend;
        let reuse = ReuseArgs {
            state,
            q_rot,
            q_pre,
            kv,
            heads,
            ring,
            policy,
            pauses: self.rings.pauses(layer),
            decisions,
            outcomes,
            reused_mass,
            out,
            counters,
        };
        // SAFETY: as above; attend follows at once and finds this step's decisions.
        unsafe {
            self.kernels.reuse.launch(self.kernels.reuse_launch, &[Argument::from(&reuse)])?;
            self.kernels.attend.launch(self.kernels.attend_launch, &[Argument::from(&attend)])
        }
    }

    /// As [`Self::step`] while searches rest: exact attention that keeps the ring fresh, one launch instead of two. Pauses
    /// stand still. Under [`Policy::Exact`] the same as [`Self::step_exact`].
    ///
    /// # Safety
    /// As for [`Self::step`].
    pub unsafe fn step_resting(&self, layer: usize, step: &CudaStep) -> Result<(), CudaError> {
        self.check_layer(layer)?;
        let keeps_ring = !matches!(self.rules[layer], Rule::Exact);
        // SAFETY: passed on.
        unsafe { self.read_all(layer, step, keeps_ring) }
    }

    /// As [`Self::step`] under [`Policy::Exact`], whatever the policy: no entry is written.
    ///
    /// # Safety
    /// As for [`Self::step`].
    pub unsafe fn step_exact(&self, layer: usize, step: &CudaStep) -> Result<(), CudaError> {
        self.check_layer(layer)?;
        // SAFETY: passed on.
        unsafe { self.read_all(layer, step, false) }
    }

    /// # Safety
    /// As for [`Self::step`].
    unsafe fn read_all(&self, layer: usize, step: &CudaStep, keeps_ring: bool) -> Result<(), CudaError> {
        let attend = self.attend_args(layer, step)?;
        let ring = if keeps_ring { attend.ring } else { RingArgs::zeroed() };
        let args = AttendArgs { ring, decisions: 0, ..attend };
        // SAFETY: as promised by the caller; the rest is our own.
        unsafe { self.kernels.attend.launch(self.kernels.attend_launch, &[Argument::from(&args)]) }
    }

    /// Copies what all layers count to the host, without waiting; may be captured.
    ///
    /// # Safety
    /// A graph that holds this copy must not outlive `self`.
    pub unsafe fn queue_report(&self) -> Result<(), CudaError> {
        // SAFETY: passed on; the host buffer is our own and read by `report` alone.
        unsafe { self.report.queue() }
    }

    /// Waits, and says per layer what happened up to the last copy and since the one before. Outcomes are of the last step;
    /// sums cover all steps in between.
    pub fn report(&mut self) -> Result<&[Counters], CudaError> {
        self.gpu.synchronize()?;
        Ok(self.report.read())
    }

    /// One layer's ring as the CPU keeps it, for snapshots and tests. Back-off is not part of it.
    pub fn ring(&self, layer: usize) -> Result<Ring, CudaError> {
        self.check_layer(layer)?;
        self.rings.download(layer)
    }

    /// Replaces one layer's entries, for a chat that is opened again.
    ///
    /// # Errors
    /// [`KernelError::Setting`] if shape or layout differ.
    pub fn restore_ring(&mut self, layer: usize, ring: &Ring) -> Result<(), CudaError> {
        self.check_layer(layer)?;
        self.rings.upload(layer, ring)
    }

    fn attend_args(&self, layer: usize, step: &CudaStep) -> Result<AttendArgs, CudaError> {
        let CudaStep { q_pre, q_rot, k, v, scales, capacity, out } = *step;
        check_addresses([("q_pre", q_pre), ("q_rot", q_rot), ("keys", k), ("values", v), ("attention output", out)])?;
        Ok(AttendArgs {
            state: self.state.address(),
            q_rot,
            q_pre,
            kv: KvArgs { k, v, scales: self.check_scales(scales)?, capacity: kv_capacity(capacity)? },
            heads: self.head_args(),
            ring: self.rings.args(layer),
            decisions: self.rings.decisions(layer),
            outcomes: self.report.outcomes(layer),
            reused_mass: self.report.reused_mass(layer),
            out,
            partial_out: self.partial_out.address(),
            partial_lse: self.partial_lse.address(),
            arrivals: self.arrivals.address(),
            counters: self.report.totals(layer),
        })
    }

    fn head_args(&self) -> HeadArgs {
        let shape = self.setup.shape;
        HeadArgs {
            num_kv_heads: shape.num_kv_heads() as i32,
            group: shape.group_size() as i32,
            scale_log2: shape.softmax_scale() * std::f32::consts::LOG2_E,
        }
    }

    /// Given where the format has them, and only there.
    fn check_scales(&self, scales: u64) -> Result<u64, KernelError> {
        let wanted = self.setup.element == CudaElement::Q8;
        if wanted == (scales != 0) && scales.is_multiple_of(16) {
            return Ok(scales);
        }
        let why = format!("address {scales:#x} for {:?}", self.setup.element);
        Err(KernelError::Setting { what: "scales", why })
    }

    fn check_layer(&self, layer: usize) -> Result<(), CudaError> {
        if layer < self.setup.layers {
            return Ok(());
        }
        let why = format!("{layer} of {}", self.setup.layers);
        Err(KernelError::Setting { what: "layer", why }.into())
    }
}

/// Position of the newest of `len` tokens.
fn position_after(len: usize) -> Result<i32, CudaError> {
    let too_long = || KernelError::Setting { what: "context", why: format!("{len} tokens") };
    Ok(i32::try_from(len).map_err(|_| too_long())? - 1)
}

/// Rows are read 16 bytes at a time.
fn check_addresses(addresses: [(&'static str, u64); 5]) -> Result<(), KernelError> {
    for (what, address) in addresses {
        if address == 0 || !address.is_multiple_of(16) {
            let why = format!("address {address:#x} is not a multiple of 16");
            return Err(KernelError::Setting { what, why });
        }
    }
    Ok(())
}

fn kv_capacity(tokens: usize) -> Result<i32, KernelError> {
    let fits = i32::try_from(tokens).ok().filter(|capacity| *capacity > 0);
    fits.ok_or_else(|| KernelError::Setting { what: "KV capacity", why: format!("{tokens} tokens") })
}
