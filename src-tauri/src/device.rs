//! Which device serves: what a look for a GPU found, and the engine's words taken apart.

use mac_attention::cuda::{FATBINS, MINIMUM_CAPABILITY, MINIMUM_DRIVER};
use mac_attention::{CudaProbe, probe_cuda};
use reprise_engine::{Device, DeviceKind as OnDevice, EngineError, KvFormat as Held, ModelInfo};

use crate::ipc::{Advice, DeviceChoice, DeviceKind, GpuMemory, GpuView, UserError};

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

/// Loads where the user wants the model to live, with `load`, its context held as wished if the device can: the processor
/// holds 16 bits. Beside it comes the reason why the processor serves if a GPU would have been taken, and that the wish
/// waits, if it does. That choice is made here and not by the engine, so that the reason is an error with its advice and
/// not just its words.
pub(crate) fn place<T>(
    choice: DeviceChoice,
    wished: Held,
    gpu: &GpuView,
    mut load: impl FnMut(Device, Held) -> Result<T, EngineError>,
) -> Result<(T, Option<UserError>), UserError> {
    let on_gpu = |error| UserError::from_engine(error, OnDevice::Cuda, wished);
    let left = match (choice, gpu) {
        (DeviceChoice::Gpu, _) => return load(Device::Cuda, wished).map(|loaded| (loaded, None)).map_err(on_gpu),
        (DeviceChoice::Auto, GpuView::Usable { name, .. }) => match load(Device::Cuda, wished) {
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
    match load(Device::Cpu, Held::Bf16) {
        Ok(loaded) if wished.is_8_bit() => Ok((loaded, Some(on_16_bits(left, gpu)))),
        Ok(loaded) => Ok((loaded, left)),
        Err(error) => Err(UserError::from_engine(error, OnDevice::Cpu, Held::Bf16)),
    }
}

/// Tells, beside why the model is on the processor, that its context is not held in 8 bits.
fn on_16_bits(left: Option<UserError>, gpu: &GpuView) -> UserError {
    if let Some(left) = left {
        return left.hint("Its context memory is 16-bit, as 8-bit needs a GPU.");
    }
    let told = UserError::new("The context memory is 16-bit: the model runs on the processor, and 8-bit needs a GPU.");
    match gpu {
        GpuView::Usable { .. } => told.advise(Advice::SetDevice { device: DeviceChoice::Auto }),
        GpuView::Missing { why } | GpuView::Unusable { why, .. } => told.hint(why),
    }
}

/// A model file that is no good is none on the processor either.
fn left_to_the_processor(error: &EngineError) -> bool {
    matches!(error, EngineError::NoGpu { .. } | EngineError::OutOfMemory { .. } | EngineError::Gpu { .. })
}

/// The reason, and of what to do about it what leads to the GPU.
fn not_taken(name: &str, error: UserError) -> UserError {
    let ways = error.advice.into_iter().filter(|way| matches!(way, Advice::SetContext { .. } | Advice::SetKv { .. }));
    let told = UserError::new(format!("The model runs on the processor: {name} did not take it.")).hint(error.message);
    UserError { details: error.details, advice: told.advice.into_iter().chain(ways).collect(), ..told }
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

#[cfg(test)]
mod tests {
    use mac_attention::CudaDevice;

    use super::*;
    use crate::ipc::KvFormat;

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
        place(choice, Held::Bf16, gpu, |device, _| match refused.take_if(|(on, _)| *on == device) {
            Some((_, error)) => Err(error),
            None => Ok(device),
        })
    }

    /// As the engine is: what is more than 16 bits on the processor is refused there.
    fn held(
        choice: DeviceChoice,
        wished: Held,
        gpu: &GpuView,
        full_gpu: bool,
    ) -> Result<((Device, Held), Option<UserError>), UserError> {
        place(choice, wished, gpu, |device, kv| match device {
            Device::Cpu if kv.is_8_bit() => Err(EngineError::KvNeedsGpu { format: kv }),
            Device::Cuda if full_gpu => Err(full()),
            device => Ok((device, kv)),
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
        let eight_bits = Advice::SetKv { kv: KvFormat::Q8_0 };
        assert!(matches!(&left.advice[..], [Advice::Hint { text }, Advice::SetContext { tokens: 65_536 }, last]
            if text.contains("not enough GPU memory: 90 GiB") && *last == eight_bits));
        for gpu in [view(&found(12_040, (9, 0)), true), view(&CudaProbe::NoDriver, true)] {
            let (device, left) = placed(DeviceChoice::Auto, &gpu, None).unwrap();
            let hint = Advice::Hint { text: why(gpu) };
            assert_eq!((device, left.expect("told").advice), (Device::Cpu, vec![hint]));
        }
    }

    #[test]
    fn a_wish_for_8_bits_holds_on_the_gpu() {
        for choice in [DeviceChoice::Auto, DeviceChoice::Gpu] {
            assert_eq!(held(choice, Held::Q8_0, &usable(), false), Ok(((Device::Cuda, Held::Q8_0), None)));
        }
        let error = held(DeviceChoice::Gpu, Held::Fp8, &usable(), true).unwrap_err();
        assert!(!error.advice.iter().any(|advice| matches!(advice, Advice::SetKv { .. })), "{error:?}");
    }

    #[test]
    fn a_wish_for_8_bits_waits_on_the_processor_and_that_is_told() {
        let missing = view(&CudaProbe::NoDriver, true);
        let old = view(&found(12_040, (9, 0)), true);
        let cases = [
            (DeviceChoice::Auto, usable(), true, "65536"),
            (DeviceChoice::Auto, old.clone(), false, "CUDA 12.4"),
            (DeviceChoice::Auto, missing.clone(), false, "No NVIDIA driver"),
            (DeviceChoice::Cpu, usable(), false, "SetDevice"),
            (DeviceChoice::Cpu, old, false, "CUDA 12.4"),
            (DeviceChoice::Cpu, missing, false, "No NVIDIA driver"),
        ];
        for (choice, gpu, full_gpu, beside) in cases {
            let (place, told) = held(choice, Held::Q8_0, &gpu, full_gpu).unwrap();
            assert_eq!(place, (Device::Cpu, Held::Bf16));
            let told = format!("{:?}", told.expect("told"));
            assert!(told.contains("context memory is 16-bit") && told.contains(beside), "{told}");
        }
        // Nothing was wished that would wait.
        assert_eq!(held(DeviceChoice::Cpu, Held::Bf16, &usable(), false), Ok(((Device::Cpu, Held::Bf16), None)));
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
}
