//! The CUDA executor: weights, KV cache, rings, sampling and cursor live on the device; a decode step is one captured
//! graph, and the host gets back the token and the counters.
//!
//! `abi`, `kernels`, `matvec`: the kernels of `cuda/` and their launches. `matrix`, `weights`, `staging`: from a file to
//! the device. `kv`, `sampler`, `program`: what a step is made of. `prefill`, `gemm`, `cublaslt`: chunks of the prompt.
//! `setup`: opening, planning, loading.

mod abi;
mod cublaslt;
mod gemm;
mod kernels;
mod kv;
mod made_up;
mod matrix;
mod matvec;
mod prefill;
mod program;
mod sampler;
mod setup;
mod staging;
mod weights;

pub use cublaslt::{CUBLASLT_VARIABLE, CublasLtAttempt, CublasLtError, CublasLtInfo, CublasLtRefusal, probe_cublaslt};
pub use made_up::MadeUpWeights;
pub use setup::CudaSetup;
pub(crate) use setup::{context_costs, load_cuda};

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use mac_attention::cuda::{CudaAttention, CudaError, Gpu, Graph};
use mac_attention::{Audit, Backoff, Counters, Pace, PaceStep};

use super::{Capacity, DeviceMemory, Executor, check_group, check_tokens, layer_policy};
use crate::model::ModelSpec;
use crate::{Attention, EngineError, Sampling};
use kernels::Kernels;
use kv::DeviceKv;
use prefill::Prefill;
use program::{Program, StepBuffers, StepKind, StepParts};
use sampler::DeviceSampler;
use weights::DeviceWeights;

/// Captured steps, made when first needed and dropped when a policy changes.
#[derive(Debug, Default)]
struct Graphs {
    policy: Option<Graph>,
    rest: Option<Graph>,
    exact: Option<Graph>,
}

impl Graphs {
    fn slot(&mut self, kind: StepKind) -> &mut Option<Graph> {
        match kind {
            StepKind::Policy => &mut self.policy,
            StepKind::Rest => &mut self.rest,
            StepKind::Exact => &mut self.exact,
        }
    }
}

/// A decoder on an NVIDIA GPU.
#[derive(Debug)]
pub struct CudaExecutor {
    /// First, so that they are dropped before what they point to.
    graphs: Graphs,
    program: Program,
    spec: ModelSpec,
    weights: DeviceWeights,
    kv: DeviceKv,
    kv_len: usize,
    attention: CudaAttention,
    /// What the layers' policies were set to.
    policy: Attention,
    /// Whether a step of [`Attention::Mac`] searches.
    pace: Pace,
    sampler: DeviceSampler,
    buffers: StepBuffers,
    prefill: Prefill,
    kernels: Kernels,
    gpu: Gpu,
    /// Steps are captured and replayed; else every launch is made anew.
    replay: bool,
    /// A step under way that nobody has waited for: its token and how it attends.
    started: Option<(u32, StepKind)>,
    /// What the last step chose, not yet asked for; or why there is no choice, which [`Executor::choose`] tells: the step itself
    /// was made.
    chosen: Option<Result<u32, EngineError>>,
    /// Whether the logits belong to the last token in the cache.
    has_logits: bool,
    logits: Vec<f32>,
    counters: Vec<Counters>,
    /// A failure of a call that cannot return one.
    fault: Option<EngineError>,
    fixed_bytes: u64,
    words: String,
}

impl CudaExecutor {
    /// Whether steps are captured once and replayed (the default), or launched kernel by kernel, for tools that look
    /// at kernels.
    pub fn set_replay(&mut self, replay: bool) {
        self.replay = replay;
        self.graphs = Graphs::default();
    }

    /// Whether kernels may begin while the one before them ends (the default where the device can).
    pub fn set_overlap(&mut self, overlap: bool) {
        self.kernels.set_overlap(overlap);
        self.attention.set_overlap(overlap);
        self.graphs = Graphs::default();
    }

    /// Switches cuBLASLt off, for comparison (it is on where it is found and faster).
    pub fn drop_cublaslt(&mut self) {
        self.prefill.gemm.drop_library();
        self.words = setup::words(self.gpu.info(), self.kv.format(), &self.weights.widened, None);
    }

    /// Bytes of weights that every decode step reads.
    pub fn step_weight_bytes(&self) -> u64 {
        self.weights.step_bytes()
    }

    /// The device that it runs on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Tells a fault once, and nothing goes on before what was to be forgotten is.
    fn take_fault(&mut self) -> Result<(), EngineError> {
        let Some(fault) = self.fault.take() else { return Ok(()) };
        self.fault = self.attention.truncate(self.kv_len).err().map(EngineError::from);
        Err(fault)
    }

    fn parts(&self) -> StepParts<'_> {
        StepParts {
            kernels: &self.kernels,
            weights: &self.weights,
            attention: &self.attention,
            sampler: &self.sampler,
            buffers: &self.buffers,
        }
    }

    /// One step on `token`, the choice of the next one included. The cache must have room.
    fn step(&mut self, token: u32) -> Result<(), EngineError> {
        let kind = match self.started.take() {
            Some((started, kind)) if started == token => kind,
            other => {
                self.started = other;
                self.drop_started()?;
                self.launch(token)?
            }
        };
        let counters = self.attention.report()?;
        self.counters.clone_from_slice(counters);
        self.note(kind);
        self.has_logits = true;
        self.chosen = Some(self.sampler.chosen(self.kv_len));
        self.kv_len += 1;
        Ok(())
    }

    /// Puts a step into the stream.
    fn launch(&mut self, token: u32) -> Result<StepKind, EngineError> {
        self.chosen = None;
        self.has_logits = false;
        self.kv.back(self.kv_len + 1)?;
        self.sampler.seek(self.kv_len, token)?;
        let kind = self.step_kind();
        if self.replay {
            let graph = match self.graphs.slot(kind).take() {
                Some(graph) => graph,
                None => self.capture(kind)?,
            };
            let graph = self.graphs.slot(kind).insert(graph);
            // SAFETY: everything that was captured is owned by this executor and still there: graphs are dropped
            // whenever a policy changes. Memory for the token was just seen to.
            unsafe { graph.launch()? };
        } else {
            // SAFETY: as above.
            unsafe { self.program.enqueue(self.parts(), kind)? };
        }
        Ok(kind)
    }

    /// Waits for a step that was started and makes it undone.
    fn drop_started(&mut self) -> Result<(), EngineError> {
        if self.started.take().is_none() {
            return Ok(());
        }
        self.attention.report()?;
        match self.sampler.chosen(self.kv_len) {
            // What such a step found does not matter any more.
            Ok(_) | Err(EngineError::Internal(_)) => {}
            Err(error) => return Err(error),
        }
        self.attention.truncate(self.kv_len)?;
        Ok(())
    }

    /// Below the shortest context at which matching is tried a step need not ask, and where searches bring less than
    /// they cost they rest.
    fn step_kind(&mut self) -> StepKind {
        let Attention::Mac(paper) = &self.policy else { return StepKind::Policy };
        if self.kv_len < paper.min_context {
            return StepKind::Rest;
        }
        if paper.backoff == Backoff::Off {
            return StepKind::Policy;
        }
        match self.pace.next_step(self.kv_len + 1) {
            PaceStep::Search => StepKind::Policy,
            PaceStep::Rest => StepKind::Rest,
            PaceStep::Exact => StepKind::Exact,
        }
    }

    /// Tells the pace what a step brought.
    fn note(&mut self, kind: StepKind) {
        if kind == StepKind::Policy && matches!(self.policy, Attention::Mac(_)) {
            let groups = self.counters.iter().map(|layer| (layer.groups_reused, layer.groups));
            self.pace.searched(groups, self.kv_len + 1);
        }
    }

    fn capture(&self, kind: StepKind) -> Result<Graph, EngineError> {
        let mut failed = None;
        let graph = self.gpu.capture(|| {
            // SAFETY: nothing runs while capturing.
            match unsafe { self.program.enqueue(self.parts(), kind) } {
                Ok(()) => Ok(()),
                Err(error) => {
                    let why = error.to_string();
                    failed = Some(error);
                    Err(CudaError::Driver { call: "capture of a step", reason: why })
                }
            }
        });
        match failed {
            Some(error) => Err(error),
            None => Ok(graph?),
        }
    }

    /// Chooses from the logits that reading left.
    fn choose_now(&mut self) -> Result<u32, EngineError> {
        if !self.has_logits || self.kv_len == 0 {
            return Err(EngineError::Internal("a choice without logits".into()));
        }
        let mut newest = [0];
        self.sampler.read_tokens(self.kv_len - 1, &mut newest)?;
        self.sampler.seek(self.kv_len - 1, newest[0])?;
        // SAFETY: the logits are the executor's own.
        unsafe { self.sampler.enqueue(&self.kernels, self.buffers.logits.address())? };
        self.gpu.synchronize()?;
        self.sampler.chosen(self.kv_len - 1)
    }

    /// Whatever the device says, the tokens are gone: the caller counts on it.
    fn cut(&mut self, len: usize) -> Result<(), EngineError> {
        let dropped = self.drop_started();
        self.pace.reset();
        self.kv_len = len;
        self.chosen = None;
        self.has_logits = false;
        dropped?;
        Ok(self.attention.truncate(len)?)
    }
}

impl Executor for CudaExecutor {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn capacity(&self) -> Capacity {
        let (free_bytes, total_bytes) = self.gpu.memory().unwrap_or((0, self.gpu.info().memory_bytes as u64));
        Capacity {
            context_tokens: self.kv.capacity(),
            device: self.words.clone(),
            kv: self.kv.format(),
            device_memory: Some(DeviceMemory {
                used_bytes: self.fixed_bytes + self.kv.backed_bytes() + self.attention.reading_bytes_backed() as u64,
                free_bytes,
                total_bytes,
            }),
        }
    }

    fn kv_len(&self) -> usize {
        self.kv_len
    }

    fn truncate(&mut self, len: usize) {
        if len < self.kv_len {
            // After a failed driver call everything that follows fails too, so it is told then.
            self.fault = self.cut(len).err().or(self.fault.take());
        }
    }

    fn set_attention(&mut self, attention: &Attention) -> Result<(), EngineError> {
        if *attention == self.policy {
            return Ok(());
        }
        let policies: Vec<_> = (0..self.spec.layers).map(|layer| layer_policy(attention, layer)).collect();
        for policy in &policies {
            policy.check(self.spec.num_q_heads)?;
        }
        self.drop_started()?;
        self.graphs = Graphs::default();
        for (layer, policy) in policies.iter().enumerate() {
            self.attention.set_policy(layer, policy)?;
        }
        self.policy = attention.clone();
        self.pace.reset();
        Ok(())
    }

    fn set_sampling(&mut self, sampling: &Sampling) -> Result<(), EngineError> {
        self.drop_started()?;
        self.sampler.set(sampling)
    }

    fn prefill(
        &mut self,
        tokens: &[u32],
        tick: &mut dyn FnMut(usize) -> ControlFlow<()>,
        cancel: &AtomicBool,
    ) -> Result<ControlFlow<()>, EngineError> {
        self.take_fault()?;
        self.drop_started()?;
        check_tokens(tokens, self.kv.capacity() - self.kv_len, self.spec.vocab)?;
        self.read(tokens, tick, cancel)
    }

    fn decode(&mut self, token: u32, cancel: &AtomicBool) -> Result<ControlFlow<()>, EngineError> {
        self.take_fault()?;
        check_tokens(&[token], self.kv.capacity() - self.kv_len, self.spec.vocab)?;
        if cancel.load(Ordering::Relaxed) {
            self.drop_started()?;
            return Ok(ControlFlow::Break(()));
        }
        self.step(token)?;
        Ok(ControlFlow::Continue(()))
    }

    fn begin(&mut self, token: u32) -> Result<(), EngineError> {
        self.take_fault()?;
        self.drop_started()?;
        check_tokens(&[token], self.kv.capacity() - self.kv_len, self.spec.vocab)?;
        let kind = self.launch(token)?;
        self.started = Some((token, kind));
        Ok(())
    }

    fn choose(&mut self) -> Result<u32, EngineError> {
        self.take_fault()?;
        if let Some(chosen) = self.chosen.take() {
            return chosen;
        }
        self.drop_started()?;
        self.choose_now()
    }

    fn logits(&mut self) -> Result<&[f32], EngineError> {
        self.take_fault()?;
        self.drop_started()?;
        self.logits.clear();
        if self.has_logits {
            self.logits.resize(self.spec.vocab, 0.0);
            self.buffers.logits.read(0, &mut self.logits)?;
        }
        Ok(&self.logits)
    }

    fn counters(&self) -> &[Counters] {
        &self.counters
    }

    fn audit(&mut self, layer: usize, kv_head: usize) -> Result<Vec<Audit>, EngineError> {
        check_group(&self.spec, layer, kv_head)?;
        self.drop_started()?;
        let step = self.program.attention_step(layer);
        // SAFETY: the step's queries and output stand in rows of their own, and the attention's cursor still where the
        // step left it.
        Ok(unsafe { self.attention.audit(layer, kv_head, &step)? })
    }
}
