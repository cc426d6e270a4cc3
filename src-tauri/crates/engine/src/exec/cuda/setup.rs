//! Opening a device, planning its memory, loading a model.

use std::cell::OnceCell;

use mac_attention::cuda::{CudaAttention, CudaAttentionSetup, CudaError, Gpu, GpuInfo, PlainSum};
use mac_attention::{Pace, PaceCost, RingLayout};

use super::cublaslt::{CublasLtInfo, LoadAhead};
use super::kernels::{Kernels, largest_vocab};
use super::kv::DeviceKv;
use super::prefill::Prefill;
use super::program::{Program, StepBuffers};
use super::sampler::DeviceSampler;
use super::weights::{DeviceWeights, Upload, device_weight_bytes};
use super::{CudaExecutor, Executor, Graphs};
use crate::memory::{ContextCost, MemoryPlan, TokenBytes, plan_beside};
use crate::model::ModelSpec;
use crate::weights::{Precision, Source, type_name};
use crate::{Attention, DeviceKind, EngineError, KvFormat, LoadOptions};
use candle_core::quantized::GgmlDType;

/// Left to the driver, to other programs and to what allocations round up to.
const RESERVE_BYTES: u64 = 256 << 20;
/// And this share of what is free.
const RESERVE_SHARE: u64 = 64;

/// A device with its kernels, on which a model may be set up.
#[derive(Debug)]
pub struct CudaSetup {
    pub(super) gpu: Gpu,
    pub(super) kernels: Kernels,
    /// Begun with the first plan.
    library: OnceCell<LoadAhead>,
}

impl CudaSetup {
    /// Takes the first device and loads the kernels.
    ///
    /// # Errors
    /// [`EngineError::NoGpu`] with the reason in words.
    pub fn open() -> Result<Self, EngineError> {
        let gpu = Gpu::open(0)?;
        let kernels = Kernels::load(&gpu)?;
        kernels.prepare()?;
        Ok(Self { gpu, kernels, library: OnceCell::new() })
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Plans a context beside weights of that many bytes, against what the device has free now. What loading needs later
    /// and takes time begins.
    pub(super) fn plan(
        &self,
        spec: &ModelSpec,
        weights_bytes: u64,
        wanted_tokens: Option<usize>,
        ring: RingLayout,
        format: KvFormat,
    ) -> Result<(usize, MemoryPlan), EngineError> {
        check_vocab(spec.vocab, self.gpu.info())?;
        self.library.get_or_init(|| LoadAhead::begin(&self.gpu, spec.d_model, spec.d_ff));
        let cost = context_cost(spec, format)?;
        let (free, _) = self.gpu.memory()?;
        let free = free.saturating_sub(RESERVE_BYTES + free / RESERVE_SHARE);
        let ring_row =
            spec.q_width() * (size_of::<half::bf16>() + size_of::<f32>()) + spec.num_q_heads * RING_TAG_BYTES;
        let fixed = MemoryPlan {
            weights_bytes,
            kv_bytes: 0,
            ring_bytes: (spec.layers * ring.slots * ring_row) as u64,
            scratch_bytes: Prefill::bytes(&self.gpu, spec, spec.max_context_tokens, false)
                + step_bytes(spec)
                + cost.scratch_bytes,
        };
        plan_beside(spec, fixed, cost.token_bytes, wanted_tokens, free)
    }

    /// Puts a model together whose weights are on the device.
    pub(super) fn finish(
        self,
        spec: ModelSpec,
        weights: DeviceWeights,
        context_tokens: usize,
        ring: RingLayout,
        format: KvFormat,
    ) -> Result<CudaExecutor, EngineError> {
        let Self { gpu, kernels, library } = self;
        let shape = spec.attention_shape()?;
        let setup = CudaAttentionSetup { shape, element: format.element(), layout: ring, layers: spec.layers };
        let mut attention = CudaAttention::new(&gpu, setup)?;
        attention.set_overlap(kernels.overlap());
        let pace = Pace::new(PaceCost::cuda_with_kv(shape, format.element().token_bytes(shape), read_bandwidth(&gpu)?));
        let kv = DeviceKv::new(&gpu, shape, spec.layers, context_tokens, format)?;
        let sampler = DeviceSampler::new(&gpu, &spec, context_tokens)?;
        let buffers = StepBuffers::new(&gpu, &spec)?;
        let program = Program::new(&kernels, &spec, &weights, &kv, &buffers, &sampler.state)?;
        drop(library);
        let prefill = Prefill::new(&gpu, &spec, &weights, context_tokens, ring)?;
        let words = words(gpu.info(), format, &weights.widened, prefill.gemm.library());
        let fixed_bytes = weights.bytes()
            + attention.ring_bytes() as u64
            + Prefill::bytes(&gpu, &spec, context_tokens, weights.all_16_bit())
            + sampler.bytes();
        let mut executor = CudaExecutor {
            graphs: Graphs::default(),
            program,
            weights,
            kv,
            kv_len: 0,
            attention,
            policy: Attention::Exact,
            pace,
            sampler,
            buffers,
            prefill,
            replay: true,
            started: None,
            chosen: None,
            has_logits: false,
            logits: Vec::new(),
            counters: vec![mac_attention::Counters::default(); spec.layers],
            fault: None,
            fixed_bytes,
            words,
            kernels,
            gpu,
            spec,
        };
        executor.warm_up()?;
        Ok(executor)
    }
}

/// The processor can serve what is too much for the device, so this is no fault of the model.
fn check_vocab(vocab: usize, info: &GpuInfo) -> Result<(), EngineError> {
    let largest = largest_vocab(info.multiprocessors);
    if vocab <= largest {
        return Ok(());
    }
    Err(EngineError::NoGpu { why: format!("{} chooses among {largest} tokens, the model has {vocab}", info.name) })
}

/// Bytes per second of a plain sum over more than the second-level cache holds.
fn read_bandwidth(gpu: &Gpu) -> Result<f64, CudaError> {
    const PASSES: usize = 5;
    let elements = 8 * gpu.info().l2_bytes.max(1 << 20) / size_of::<u16>();
    let data = gpu.alloc_zeroed::<u16>(elements)?;
    let micros = PlainSum::new(gpu)?.run(&data, elements, PASSES)?.into_iter().fold(f64::INFINITY, f64::min);
    Ok((elements * size_of::<u16>()) as f64 / (micros * 1e-6))
}

/// What a context takes on a device, however the cache is held.
pub(crate) fn context_costs(spec: &ModelSpec) -> Result<Vec<ContextCost>, EngineError> {
    KvFormat::ALL.into_iter().map(|format| context_cost(spec, format)).collect()
}

fn context_cost(spec: &ModelSpec, format: KvFormat) -> Result<ContextCost, EngineError> {
    let (shape, element) = (spec.attention_shape()?, format.element());
    Ok(ContextCost {
        device: DeviceKind::Cuda,
        kv: format,
        token_bytes: TokenBytes {
            kv: spec.kv_bytes_per_token(format),
            scratch: CudaAttention::reading_token_bytes(shape, element) as u64,
        },
        scratch_bytes: DeviceKv::slack(spec, format) + CudaAttention::reading_bytes(shape, element, 0) as u64,
    })
}

/// Position, log-sum-exp, depth and distance of a ring entry.
const RING_TAG_BYTES: usize = 16;

/// Activations of one token, partial results, settings.
fn step_bytes(spec: &ModelSpec) -> u64 {
    const PARTIALS: usize = 32 << 20;
    let per_layer = spec.layers * spec.q_width() * 6;
    (PARTIALS + per_layer + 4 * (4 * spec.d_model + 3 * spec.d_ff + 2 * spec.vocab)) as u64
}

impl CudaExecutor {
    /// One step launch by launch, so that a device or kernel that does not work shows now, and everything the driver
    /// does on first use has been done.
    fn warm_up(&mut self) -> Result<(), EngineError> {
        self.replay = false;
        // Weights that give no finite logits are told when they are used, as on the processor.
        self.step(0)?;
        self.replay = true;
        self.cut(0)
    }
}

/// `NVIDIA H200, CUDA, sm_90a kernels`, the library of prefill, a cache of 8 bits, and which types of weights are held as another.
pub(super) fn words(info: &GpuInfo, format: KvFormat, widened: &[GgmlDType], library: Option<&CublasLtInfo>) -> String {
    let (major, minor) = info.compute_capability;
    let code = match (major, minor) {
        (8, 0) => "sm_80",
        (8, 6..=8) => "sm_86",
        (8, _) => "sm_89",
        (9, _) => "sm_90a",
        (10, _) => "sm_100",
        (12, _) => "sm_120",
        _ => "compute_80",
    };
    let held = widened.iter().map(|dtype| format!("{} weights as BF16", type_name(*dtype)));
    let library = library.map(|library| format!("{library} for prefill"));
    let cache = format.is_8_bit().then(|| format!("{format} KV cache"));
    let path = [info.name.clone(), "CUDA".into(), format!("{code} kernels")];
    path.into_iter().chain(library).chain(cache).chain(held).collect::<Vec<_>>().join(", ")
}

/// Opens a device and reads a model to it.
pub(crate) fn load_cuda(
    source: &mut Source,
    spec: &ModelSpec,
    options: &LoadOptions,
    progress: &mut dyn FnMut(f32) -> bool,
) -> Result<(Box<dyn Executor>, MemoryPlan), EngineError> {
    let setup = CudaSetup::open()?;
    let held = hold_as_in_file(source, options.precision);
    let loaded = load_on(setup, source, spec, options, progress);
    if let (Err(_), Some(before), Source::Safetensors { dtype, .. }) = (&loaded, held, source) {
        // Whoever tries next, tries as it was.
        *dtype = before;
    }
    let (executor, plan) = loaded?;
    Ok((Box::new(executor), plan))
}

/// A GPU multiplies 16-bit weights as fast as it reads them, so `Auto` keeps what the files hold. The result is what was
/// planned before.
fn hold_as_in_file(source: &mut Source, precision: Precision) -> Option<GgmlDType> {
    match source {
        Source::Safetensors { files, dtype } if precision == Precision::Auto => {
            Some(std::mem::replace(dtype, files.main_dtype()))
        }
        _ => None,
    }
}

fn load_on(
    setup: CudaSetup,
    source: &Source,
    spec: &ModelSpec,
    options: &LoadOptions,
    progress: &mut dyn FnMut(f32) -> bool,
) -> Result<(CudaExecutor, MemoryPlan), EngineError> {
    let weights_bytes = device_weight_bytes(source, spec)?;
    let LoadOptions { ring, kv, .. } = *options;
    let (context_tokens, plan) = setup.plan(spec, weights_bytes, options.context_tokens, ring, kv)?;
    let total = source.tensor_bytes().max(1) as f32;
    let mut read = 0u64;
    let weights = Upload::new(&setup.gpu, &setup.kernels, source, spec)?.weights(&mut |bytes| {
        read += bytes;
        progress((read as f32 / total).min(1.0))
    })?;
    let plan = MemoryPlan { weights_bytes: weights.bytes(), ..plan };
    Ok((setup.finish(spec.clone(), weights, context_tokens, ring, kv)?, plan))
}

impl CudaExecutor {
    /// Reads a model to the first device; `context_tokens` are reserved.
    pub fn load(
        source: &Source,
        spec: &ModelSpec,
        context_tokens: usize,
        ring: RingLayout,
        format: KvFormat,
    ) -> Result<Self, EngineError> {
        let setup = CudaSetup::open()?;
        setup.plan(spec, device_weight_bytes(source, spec)?, Some(context_tokens), ring, format)?;
        let weights = Upload::new(&setup.gpu, &setup.kernels, source, spec)?.weights(&mut |_| true)?;
        setup.finish(spec.clone(), weights, context_tokens, ring, format)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vocabulary_beyond_a_small_device_leaves_the_processor() {
        let device = |multiprocessors| GpuInfo {
            name: "a small GPU".into(),
            compute_capability: (8, 6),
            multiprocessors,
            memory_bytes: 6 << 30,
            l2_bytes: 2 << 20,
            shared_bytes: 99 << 10,
            driver_version: 13_000,
        };
        // Qwen's on 18 and on 20 multiprocessors. Only errors of this kind let `Device::Auto` go on to the processor.
        match check_vocab(151_936, &device(18)) {
            Err(EngineError::NoGpu { why }) => assert!(why.contains("147456") && why.contains("151936"), "{why}"),
            other => panic!("{other:?}"),
        }
        assert!(check_vocab(151_936, &device(20)).is_ok());
    }
}
