//! The driver, looked for at run time.

use std::panic::catch_unwind;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute};

use super::device::driver_version;
use super::{CudaDevice, CudaProbe};

pub(super) fn probe() -> CudaProbe {
    // SAFETY: loads the driver library and drops it again; NVIDIA's own has no load-time side effect on this process.
    if !unsafe { sys::is_culib_present() } {
        return CudaProbe::NoDriver;
    }
    // The bindings panic where a library lacks a symbol, as a stand-in or a very old driver may.
    match catch_unwind(devices) {
        Ok(Ok((driver_version, devices))) => CudaProbe::Found { driver_version, devices },
        Ok(Err(error)) => CudaProbe::Unusable { reason: error.to_string() },
        Err(_) => CudaProbe::Unusable { reason: "the driver library lacks a required function".into() },
    }
}

fn devices() -> Result<(i32, Vec<CudaDevice>), DriverError> {
    result::init()?;
    let driver_version = driver_version()?;
    let devices = (0..result::device::get_count()?).map(device).collect::<Result<_, _>>()?;
    Ok((driver_version, devices))
}

fn device(ordinal: i32) -> Result<CudaDevice, DriverError> {
    let device = result::device::get(ordinal)?;
    // SAFETY: `device` comes from the driver.
    let attribute = |which| unsafe { result::device::get_attribute(device, which) };
    let major = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    // SAFETY: as above.
    let memory_bytes = unsafe { result::device::total_mem(device) }?;
    Ok(CudaDevice { name: result::device::get_name(device)?, compute_capability: (major, minor), memory_bytes })
}
