//! Exact attention of one group beside what a step used.

use bytemuck::Zeroable as _;

use super::super::{Argument, CudaError, DeviceBuffer, Gpu};
use super::abi::{AttendArgs, DECISION_SHIFT, RingArgs, StepState, Totals};
use super::{CudaAttention, CudaStep};
use crate::decode::relative_l2;
use crate::{AttentionShape, Audit, KernelError};

#[derive(Debug)]
pub(super) struct AuditScratch {
    /// `[num_q_heads, head_dim]`.
    out: DeviceBuffer<f32>,
    /// `[num_q_heads]`.
    reused_mass: DeviceBuffer<f32>,
    /// `[num_kv_heads]`.
    decisions: DeviceBuffer<u32>,
    totals: DeviceBuffer<Totals>,
}

impl AuditScratch {
    pub(super) fn new(gpu: &Gpu, shape: AttentionShape) -> Result<Self, CudaError> {
        Ok(Self {
            out: gpu.alloc_zeroed(shape.num_q_heads() * shape.head_dim())?,
            reused_mass: gpu.alloc_zeroed(shape.num_q_heads())?,
            decisions: gpu.alloc_zeroed(shape.num_kv_heads())?,
            totals: gpu.alloc_zeroed(1)?,
        })
    }
}

impl CudaAttention {
    /// Computes the exact output of one KV group of the latest step and compares it with what the step wrote. Waits; not
    /// for capture. Counters do not see it.
    ///
    /// # Errors
    /// [`CudaError::Kernel`] if there is no such layer or KV head.
    ///
    /// # Safety
    /// As for [`Self::step`]; queries, K, V and output must still be those of the step, and the cursor where it was.
    pub unsafe fn audit(&mut self, layer: usize, kv_head: usize, step: &CudaStep) -> Result<Vec<Audit>, CudaError> {
        self.check_layer(layer)?;
        let shape = self.setup.shape;
        if kv_head >= shape.num_kv_heads() {
            let why = format!("{kv_head} of {}", shape.num_kv_heads());
            return Err(KernelError::Setting { what: "audited KV head", why }.into());
        }
        let mut state = [StepState::zeroed()];
        self.state.read(0, &mut state)?;
        // Tagged with the step as the reuse kernel does; only this group is to be read.
        let tag = |head| state[0].step << DECISION_SHIFT | u32::from(head == kv_head);
        let tags: Vec<u32> = (0..shape.num_kv_heads()).map(tag).collect();
        self.audit.decisions.write(0, &tags)?;
        let args = AttendArgs {
            ring: RingArgs::zeroed(),
            decisions: self.audit.decisions.address(),
            reused_mass: self.audit.reused_mass.address(),
            out: self.audit.out.address(),
            counters: self.audit.totals.address(),
            ..self.attend_args(layer, step)?
        };
        // SAFETY: as promised by the caller; the rest is our own.
        unsafe { self.kernels.attend.launch(self.kernels.attend_launch, &[Argument::from(&args)])? };
        let group = shape.group_size() * shape.head_dim();
        let (mut exact, mut got) = (vec![0.0; group], vec![0.0; group]);
        self.audit.out.read(kv_head * group, &mut exact)?;
        let used = step.out + (kv_head * group * size_of::<f32>()) as u64;
        // SAFETY: as promised by the caller.
        unsafe { self.gpu.read_address(used, &mut got)? };
        let rows = got.chunks_exact(shape.head_dim()).zip(exact.chunks_exact(shape.head_dim()));
        Ok(rows
            .zip(kv_head * shape.group_size()..)
            .map(|((used, exact), q_head)| Audit { q_head, relative_error: relative_l2(used, exact) })
            .collect())
    }
}
