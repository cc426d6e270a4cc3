//! NVIDIA devices: the driver, looked for at run time, and the kernels of `kernels/cuda` on it.
//!
//! Nothing links to CUDA. [`probe_cuda`] asks whether a driver is here; [`Gpu::open`] takes a device with one stream of
//! its own, on which everything of this crate runs in order. Without the `cuda` feature only the probe remains.

#[cfg_attr(feature = "cuda", path = "enabled.rs")]
#[cfg_attr(not(feature = "cuda"), path = "disabled.rs")]
mod driver;

#[cfg(feature = "cuda")]
mod attention;
#[cfg(feature = "cuda")]
mod device;
#[cfg(feature = "cuda")]
mod error;
#[cfg(feature = "cuda")]
mod graph;
#[cfg(feature = "cuda")]
mod launch;
#[cfg(feature = "cuda")]
mod layers;
#[cfg(feature = "cuda")]
mod memory;
#[cfg(feature = "cuda")]
mod module;
#[cfg(feature = "cuda")]
mod reserved;
#[cfg(feature = "cuda")]
mod tensor_map;
#[cfg(feature = "cuda")]
mod yardstick;

#[cfg(feature = "cuda")]
pub use attention::{CudaAttention, CudaAttentionSetup, CudaElement, CudaPrefillChunk, CudaRing, CudaStep, HeldKv};
#[cfg(feature = "cuda")]
pub use device::{Gpu, GpuInfo, MINIMUM_CAPABILITY, MINIMUM_DRIVER};
#[cfg(feature = "cuda")]
pub use error::CudaError;
#[cfg(feature = "cuda")]
pub use graph::{Event, Graph};
#[cfg(feature = "cuda")]
pub use launch::{Argument, Launch};
#[cfg(feature = "cuda")]
pub use layers::{CudaLayers, CudaStepKind};
#[cfg(feature = "cuda")]
pub use memory::{DeviceBuffer, PinnedBuffer};
#[cfg(feature = "cuda")]
pub use module::{Fatbin, Kernel, Module};
#[cfg(feature = "cuda")]
pub use reserved::ReservedBuffer;
#[cfg(feature = "cuda")]
pub use tensor_map::{Swizzle, Tensor, TensorElement, TensorMap};
#[cfg(feature = "cuda")]
pub use yardstick::PlainSum;

/// This crate's kernels, one entry per source of `kernels/cuda`; empty where the build found no CUDA compiler.
#[cfg(feature = "cuda")]
pub const FATBINS: &[Fatbin] = include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// What a look for NVIDIA devices found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CudaProbe {
    /// Built without the `cuda` feature.
    NotBuilt,
    /// No driver library on this machine.
    NoDriver,
    /// A driver that refuses to start, with its reason.
    Unusable {
        /// The driver's words.
        reason: String,
    },
    /// Devices are here.
    Found {
        /// CUDA version the driver speaks, as 1000·major + 10·minor.
        driver_version: i32,
        /// The devices, in the driver's order.
        devices: Vec<CudaDevice>,
    },
}

/// One NVIDIA device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaDevice {
    /// Marketing name.
    pub name: String,
    /// Compute capability, for example (9, 0).
    pub compute_capability: (i32, i32),
    /// Bytes of device memory.
    pub memory_bytes: usize,
}

/// Looks for a driver; never fails and never panics.
pub fn probe_cuda() -> CudaProbe {
    driver::probe()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_answers_on_every_machine_and_says_the_same_twice() {
        let found = probe_cuda();
        assert_eq!(found, probe_cuda());
        assert_eq!(found == CudaProbe::NotBuilt, cfg!(not(feature = "cuda")));
        if let CudaProbe::Found { driver_version, devices } = found {
            assert!(driver_version >= 1000);
            assert!(devices.iter().all(|device| !device.name.is_empty() && device.memory_bytes > 0));
        }
    }
}
