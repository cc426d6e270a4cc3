//! A device and its one stream.

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUcontext, CUdevice, CUdevice_attribute, CUstream};

use super::error::Checked as _;
use super::{CudaError, CudaProbe, probe_cuda};

/// Oldest CUDA version, as 1000·major + 10·minor, whose driver loads the embedded kernels: that of the compiler.
pub const MINIMUM_DRIVER: i32 = 13_000;

/// Oldest compute capability that the kernels are compiled for.
pub const MINIMUM_CAPABILITY: (i32, i32) = (8, 0);

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuInfo {
    /// Marketing name.
    pub name: String,
    /// Compute capability, for example (9, 0).
    pub compute_capability: (i32, i32),
    /// Streaming multiprocessors.
    pub multiprocessors: usize,
    /// Bytes of device memory.
    pub memory_bytes: usize,
    /// Bytes of second-level cache.
    pub l2_bytes: usize,
    /// Most shared memory a block may ask for, in bytes.
    pub shared_bytes: usize,
    /// CUDA version of the driver, as 1000·major + 10·minor.
    pub driver_version: i32,
}

/// A device with one stream, in which all work of this process runs in order. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gpu(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    device: CUdevice,
    context: CUcontext,
    stream: CUstream,
    info: GpuInfo,
}

thread_local! {
    /// A device whose work this thread sends to another stream while it captures, and that stream.
    static DIVERTED: Cell<(CUdevice, CUstream)> = const { Cell::new((0, std::ptr::null_mut())) };
}

/// Devices in use, by number.
static OPEN: Mutex<Vec<(usize, Weak<Inner>)>> = Mutex::new(Vec::new());

// SAFETY: the driver's handles may be used from any thread once the context is current there, which every call sees to.
unsafe impl Send for Inner {}
// SAFETY: as above; the driver locks its own state.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // Failing to free at the end helps nobody to know.
        // SAFETY: the stream is ours and nothing uses it any more: whoever holds memory or a graph holds this too.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            let _ = result::stream::synchronize(self.stream);
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

impl Gpu {
    /// Takes the device of that number, in the driver's order. Handles of one device in one process share its stream:
    /// kernels whose blocks wait for each other must never run beside another such kernel.
    ///
    /// # Errors
    /// [`CudaError`] where there is no driver, no such device, or one too old for the kernels.
    pub fn open(ordinal: usize) -> Result<Self, CudaError> {
        let (driver_version, count) = match probe_cuda() {
            CudaProbe::NotBuilt | CudaProbe::NoDriver => return Err(CudaError::NoDriver),
            CudaProbe::Unusable { reason } => return Err(CudaError::Unusable { reason }),
            CudaProbe::Found { driver_version, devices } => (driver_version, devices.len()),
        };
        // The bindings panic at a function that an older driver lacks, so this comes first.
        if driver_version < MINIMUM_DRIVER {
            return Err(CudaError::OldDriver { have: driver_version, need: MINIMUM_DRIVER });
        }
        if ordinal >= count {
            return Err(CudaError::NoDevice { ordinal, count });
        }
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inner) = open.iter().find_map(|(number, inner)| (*number == ordinal).then(|| inner.upgrade())?) {
            return Ok(Self(inner));
        }
        let gpu = Self::take(ordinal, driver_version)?;
        open.retain(|(_, inner)| inner.strong_count() > 0);
        open.push((ordinal, Arc::downgrade(&gpu.0)));
        Ok(gpu)
    }

    fn take(ordinal: usize, driver_version: i32) -> Result<Self, CudaError> {
        let named = |call| move |error: DriverError| CudaError::new(call, error);
        let device = result::device::get(ordinal as i32).map_err(named("cuDeviceGet"))?;
        let info = describe(device, driver_version).map_err(named("cuDeviceGetAttribute"))?;
        if info.compute_capability < MINIMUM_CAPABILITY {
            return Err(CudaError::OldDevice { name: info.name, capability: info.compute_capability });
        }
        // SAFETY: the device comes from the driver; the context is released when the last handle goes.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(named("cuDevicePrimaryCtxRetain"))?;
        // SAFETY: the context was just retained.
        let stream = unsafe { result::ctx::set_current(context) }
            .and_then(|()| result::stream::create(result::stream::StreamKind::NonBlocking));
        match stream {
            Ok(stream) => Ok(Self(Arc::new(Inner { device, context, stream, info }))),
            Err(error) => {
                // SAFETY: retained above and used by nobody.
                let _ = unsafe { result::primary_ctx::release(device) };
                Err(CudaError::new("cuStreamCreate", error))
            }
        }
    }

    /// What the device is.
    pub fn info(&self) -> &GpuInfo {
        &self.0.info
    }

    /// Free and total bytes of device memory now.
    pub fn memory(&self) -> Result<(u64, u64), CudaError> {
        self.bind()?;
        let (free, total) = result::mem_get_info().map_err(|error| CudaError::new("cuMemGetInfo", error))?;
        Ok((free as u64, total as u64))
    }

    /// Waits until all work so far is done; faults of kernels show here.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.bind()?;
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(self.stream()) }.checked("cuStreamSynchronize")
    }

    /// The stream as the driver names it (`CUstream`), for libraries that put work of their own into it. The device's
    /// context becomes the calling thread's, as they expect.
    pub fn stream_handle(&self) -> Result<*mut c_void, CudaError> {
        self.bind()?;
        Ok(self.stream().cast())
    }

    /// Makes the context current on this thread.
    pub(super) fn bind(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained.
        unsafe { result::ctx::set_current(self.0.context) }.checked("cuCtxSetCurrent")
    }

    pub(super) fn stream(&self) -> CUstream {
        let (device, stream) = DIVERTED.get();
        if stream.is_null() || device != self.0.device { self.0.stream } else { stream }
    }

    /// Sends what this thread does on the device to another stream.
    pub(super) fn divert(&self, stream: CUstream) {
        DIVERTED.set((self.0.device, stream));
    }

    /// Ends [`Self::divert`].
    pub(super) fn end_diversion() {
        DIVERTED.set((0, std::ptr::null_mut()));
    }

    pub(super) fn device(&self) -> CUdevice {
        self.0.device
    }
}

fn describe(device: CUdevice, driver_version: i32) -> Result<GpuInfo, DriverError> {
    use CUdevice_attribute as A;
    // SAFETY: `device` comes from the driver.
    let attribute = |which| unsafe { result::device::get_attribute(device, which) };
    let size = |which| attribute(which).map(|n| usize::try_from(n).unwrap_or(0));
    Ok(GpuInfo {
        name: result::device::get_name(device)?,
        compute_capability: (
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: size(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        // SAFETY: as above.
        memory_bytes: unsafe { result::device::total_mem(device) }?,
        l2_bytes: size(A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
        shared_bytes: size(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        driver_version,
    })
}

/// The version of the driver's CUDA interface, needed before any other function is safe to name.
pub(super) fn driver_version() -> Result<i32, DriverError> {
    let mut version = 0;
    // SAFETY: the pointer is valid for the call.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    Ok(version)
}
