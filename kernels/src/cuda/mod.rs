//! NVIDIA devices. So far only whether a driver is here, asked without linking to one.

#[cfg_attr(feature = "cuda", path = "enabled.rs")]
#[cfg_attr(not(feature = "cuda"), path = "disabled.rs")]
mod driver;

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
