//! Which device serves: what a look for a GPU found, the engine's words taken apart, and the memory a context may take.

use mac_attention::cuda::{FATBINS, MINIMUM_CAPABILITY, MINIMUM_DRIVER};
use mac_attention::{CudaProbe, probe_cuda};
use reprise_engine::{Device, DeviceKind as OnDevice, EngineError, ModelInfo, memory};

use crate::ipc::{Advice, DeviceChoice, DeviceKind, GpuMemory, GpuView, UserError};

/// At least this much, or the share below if that is more, is not offered to a context on a GPU: what the engine keeps
/// back for the driver and for other programs (256 MiB and a 64th) is never more than either.
const KEPT_BACK_BYTES: u64 = 512 << 20;
/// A context is not offered the last 32nd of a GPU's memory.
const KEPT_BACK_SHARE: u64 = 32;

impl From<OnDevice> for DeviceKind {
    fn from(kind: OnDevice) -> Self {
        match kind {
            OnDevice::Cpu => Self::Cpu,
            OnDevice::Cuda => Self::Gpu,
        }
    }
}

/// Looks for a GPU. The first look starts the driver, which may take part of a second.
pub fn look() -> GpuView {
    view(&probe_cuda(), !FATBINS.is_empty())
}

fn view(probe: &CudaProbe, kernels_built: bool) -> GpuView {
    let missing = |why: &str| GpuView::Missing { why: why.to_owned() };
    let (driver_version, devices) = match probe {
        CudaProbe::NotBuilt => return missing("This build of Reprise runs on the processor only."),
        CudaProbe::NoDriver => return missing("No NVIDIA driver was found."),
        CudaProbe::Unusable { reason } => {
            let why = format!("The NVIDIA driver does not start: {}", sentence(reason));
            return GpuView::Unusable { name: "NVIDIA GPU".to_owned(), why };
        }
        CudaProbe::Found { driver_version, devices } => (*driver_version, devices),
    };
    // The engine takes the first one.
    let Some(device) = devices.first() else {
        return missing("There is an NVIDIA driver, but no GPU.");
    };
    let capability = device.compute_capability;
    let why = if !kernels_built {
        "This build of Reprise has no GPU kernels.".to_owned()
    } else if driver_version < MINIMUM_DRIVER {
        let (has, needs) = (version(driver_version), version(MINIMUM_DRIVER));
        format!("Its driver is too old: it speaks CUDA {has} and {needs} is needed. Install a newer NVIDIA driver.")
    } else if capability < MINIMUM_CAPABILITY {
        let ((major, minor), least) = (capability, MINIMUM_CAPABILITY);
        format!("It is too old: compute capability {major}.{minor}, and {}.{} is needed.", least.0, least.1)
    } else {
        return GpuView::Usable { name: device.name.clone(), memory_bytes: device.memory_bytes as f64 };
    };
    GpuView::Unusable { name: device.name.clone(), why }
}

/// `13.0` of 13000.
fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// Loads where the user wants the model to live, with `load`. Beside it comes the reason why the processor serves if a
/// GPU would have been taken. That choice is made here and not by the engine, so that the reason is an error with its
/// advice and not just its words.
pub(crate) fn place<T>(
    choice: DeviceChoice,
    gpu: &GpuView,
    mut load: impl FnMut(Device) -> Result<T, EngineError>,
) -> Result<(T, Option<UserError>), UserError> {
    let on_gpu = |error| UserError::from_engine(error, OnDevice::Cuda);
    let left = match (choice, gpu) {
        (DeviceChoice::Gpu, _) => return load(Device::Cuda).map(|loaded| (loaded, None)).map_err(on_gpu),
        (DeviceChoice::Auto, GpuView::Usable { name, .. }) => match load(Device::Cuda) {
            Ok(loaded) => return Ok((loaded, None)),
            Err(error) if left_to_the_processor(&error) => Some(not_taken(name, on_gpu(error))),
            Err(error) => return Err(on_gpu(error)),
        },
        (DeviceChoice::Auto, GpuView::Unusable { name, why }) => {
            Some(UserError::new(format!("The model runs on the processor: {name} cannot be used.")).hint(why))
        }
        (DeviceChoice::Auto, GpuView::Missing { why }) => {
            Some(UserError::new("The model runs on the processor.").hint(why))
        }
        (DeviceChoice::Cpu, _) => None,
    };
    match load(Device::Cpu) {
        Ok(loaded) => Ok((loaded, left)),
        Err(error) => Err(UserError::from_engine(error, OnDevice::Cpu)),
    }
}

/// A model file that is no good is none on the processor either.
fn left_to_the_processor(error: &EngineError) -> bool {
    matches!(error, EngineError::NoGpu { .. } | EngineError::OutOfMemory { .. } | EngineError::Gpu { .. })
}

/// The reason, and of what to do about it what leads to the GPU.
fn not_taken(name: &str, error: UserError) -> UserError {
    let way = error.advice.into_iter().find(|advice| matches!(advice, Advice::SetContext { .. }));
    let told = UserError::new(format!("The model runs on the processor: {name} did not take it.")).hint(error.message);
    UserError { details: error.details, advice: told.advice.into_iter().chain(way).collect(), ..told }
}

/// With a capital and a full stop.
fn sentence(words: &str) -> String {
    let words = words.trim().trim_end_matches('.');
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
}

/// The engine's words taken apart: the device, and the path its kernels take.
pub(crate) fn name_and_kernels(words: &str) -> (String, String) {
    let (name, kernels) = words.split_once(", ").unwrap_or((words, ""));
    (name.to_owned(), kernels.to_owned())
}

/// Memory of the GPU when the model was ready.
pub(crate) fn gpu_memory(info: &ModelInfo) -> Option<GpuMemory> {
    info.device_memory.map(|memory| GpuMemory {
        used_bytes: memory.used_bytes as f64,
        free_bytes: memory.free_bytes as f64,
        total_bytes: memory.total_bytes as f64,
    })
}

/// Bytes that a KV cache could have if the model were loaded again where it is: the present one is given back then.
pub(crate) fn context_room(info: &ModelInfo) -> u64 {
    let plan = &info.memory;
    match info.device_memory {
        Some(gpu) => {
            let whole = gpu.free_bytes.saturating_add(gpu.used_bytes);
            let kept_back = KEPT_BACK_BYTES.max(whole / KEPT_BACK_SHARE);
            whole.saturating_sub(kept_back).saturating_sub(plan.total() - plan.kv_bytes)
        }
        None => memory::available_bytes().saturating_add(plan.kv_bytes),
    }
}

#[cfg(test)]
mod tests {
    use mac_attention::CudaDevice;
    use reprise_engine::exec;
    use reprise_engine::memory::MemoryPlan;

    use super::*;

    fn found(driver_version: i32, compute_capability: (i32, i32)) -> CudaProbe {
        let device = CudaDevice { name: "NVIDIA H200".into(), compute_capability, memory_bytes: 141 << 30 };
        CudaProbe::Found { driver_version, devices: vec![device] }
    }

    fn why(view: GpuView) -> String {
        match view {
            GpuView::Missing { why } | GpuView::Unusable { why, .. } => why,
            GpuView::Usable { .. } => panic!("{view:?}"),
        }
    }

    #[test]
    fn a_gpu_that_can_serve_is_named_with_its_memory() {
        let usable =
            GpuView::Usable { name: "NVIDIA H200".into(), memory_bytes: f64::from(141_u32) * f64::from(1 << 30) };
        assert_eq!(view(&found(MINIMUM_DRIVER, (9, 0)), true), usable);
        assert_eq!(view(&found(MINIMUM_DRIVER, MINIMUM_CAPABILITY), true), usable);
    }

    #[test]
    fn a_gpu_that_cannot_serve_says_why() {
        assert!(why(view(&found(12_040, (9, 0)), true)).contains("CUDA 12.4 and 13.0 is needed"));
        assert!(why(view(&found(MINIMUM_DRIVER, (7, 5)), true)).contains("capability 7.5"));
        assert!(why(view(&found(MINIMUM_DRIVER, (9, 0)), false)).contains("no GPU kernels"));
        let broken = view(&CudaProbe::Unusable { reason: "no permission".into() }, true);
        assert_eq!(why(broken), "The NVIDIA driver does not start: No permission.");
    }

    #[test]
    fn a_machine_without_a_gpu_is_no_machine_with_a_broken_one() {
        let none = CudaProbe::Found { driver_version: MINIMUM_DRIVER, devices: vec![] };
        for probe in [CudaProbe::NotBuilt, CudaProbe::NoDriver, none] {
            assert!(matches!(view(&probe, true), GpuView::Missing { .. }), "{probe:?}");
        }
    }

    fn usable() -> GpuView {
        view(&found(MINIMUM_DRIVER, (9, 0)), true)
    }

    fn full() -> EngineError {
        EngineError::OutOfMemory { need_bytes: 90 << 30, free_bytes: 79 << 30, context_that_fits: 65_536 }
    }

    /// Loads on any device but `refused`; gives where it ended and why not where it was to.
    fn placed(
        choice: DeviceChoice,
        gpu: &GpuView,
        refused: Option<(Device, EngineError)>,
    ) -> Result<(Device, Option<UserError>), UserError> {
        let mut refused = refused;
        place(choice, gpu, |device| match refused.take_if(|(on, _)| *on == device) {
            Some((_, error)) => Err(error),
            None => Ok(device),
        })
    }

    #[test]
    fn a_model_goes_where_it_was_sent_or_nowhere() {
        assert_eq!(placed(DeviceChoice::Cpu, &usable(), None), Ok((Device::Cpu, None)));
        assert_eq!(placed(DeviceChoice::Gpu, &usable(), None), Ok((Device::Cuda, None)));
        let error = placed(DeviceChoice::Gpu, &usable(), Some((Device::Cuda, full()))).unwrap_err();
        assert!(error.advice.contains(&Advice::SetContext { tokens: 65_536 }), "{error:?}");
        assert!(error.advice.contains(&Advice::SetDevice { device: DeviceChoice::Cpu }), "{error:?}");
    }

    #[test]
    fn the_app_takes_the_gpu_where_it_serves_and_tells_where_it_does_not() {
        assert_eq!(placed(DeviceChoice::Auto, &usable(), None), Ok((Device::Cuda, None)));
        let (device, left) = placed(DeviceChoice::Auto, &usable(), Some((Device::Cuda, full()))).unwrap();
        let left = left.expect("told");
        assert_eq!(device, Device::Cpu);
        assert!(left.message.contains("NVIDIA H200 did not take it"), "{left:?}");
        assert!(matches!(&left.advice[..], [Advice::Hint { text }, Advice::SetContext { tokens: 65_536 }]
            if text.contains("not enough GPU memory: 90 GiB")));
        for gpu in [view(&found(12_040, (9, 0)), true), view(&CudaProbe::NoDriver, true)] {
            let (device, left) = placed(DeviceChoice::Auto, &gpu, None).unwrap();
            let hint = Advice::Hint { text: why(gpu) };
            assert_eq!((device, left.expect("told").advice), (Device::Cpu, vec![hint]));
        }
    }

    #[test]
    fn a_bad_file_is_not_tried_a_second_time() {
        let bad = EngineError::UnsupportedModel { why: "mamba is not served".into() };
        let error = placed(DeviceChoice::Auto, &usable(), Some((Device::Cuda, bad))).unwrap_err();
        assert!(error.message.contains("mamba"), "{error:?}");
    }

    #[test]
    fn words_of_the_engine_come_apart() {
        let apart = |words| name_and_kernels(words);
        assert_eq!(apart("NVIDIA H200, CUDA, sm_90a kernels"), ("NVIDIA H200".into(), "CUDA, sm_90a kernels".into()));
        assert_eq!(apart("CPU"), ("CPU".into(), String::new()));
    }

    fn info(device_memory: Option<exec::DeviceMemory>) -> ModelInfo {
        let memory =
            MemoryPlan { weights_bytes: 4 << 30, kv_bytes: 2 << 30, ring_bytes: 1 << 30, scratch_bytes: 1 << 30 };
        let device_kind = match device_memory {
            Some(_) => OnDevice::Cuda,
            None => OnDevice::Cpu,
        };
        ModelInfo {
            name: "m".into(),
            architecture: "qwen3".into(),
            weights: "Q8_0".into(),
            parameters: 0,
            device: "d".into(),
            device_kind,
            fallback: None,
            device_memory,
            context_tokens: 1024,
            max_context_tokens: 4096,
            layers: 1,
            num_q_heads: 1,
            num_kv_heads: 1,
            head_dim: 64,
            memory,
        }
    }

    #[test]
    fn the_room_for_a_context_is_that_of_the_device() {
        let gpu = exec::DeviceMemory { used_bytes: 6 << 30, free_bytes: 10 << 30, total_bytes: 24 << 30 };
        // 16 GiB are the model's or free, half a GiB is kept back, 6 GiB do not depend on the context.
        assert_eq!(context_room(&info(Some(gpu))), (19 << 30) / 2);
        let full = exec::DeviceMemory { used_bytes: 1 << 30, free_bytes: 0, ..gpu };
        assert_eq!(context_room(&info(Some(full))), 0);
        assert!(context_room(&info(None)) > 2 << 30, "the KV cache held now is given back");
    }
}
