//! What can go wrong between this process and a device.

use cudarc::driver::result::DriverError;
use cudarc::driver::sys::CUresult;

use super::MINIMUM_CAPABILITY;
use crate::KernelError;

/// A failure of the driver, the device or a request to it. Facts only; advice is the window's business.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// No driver library on this machine.
    #[error("no NVIDIA driver was found")]
    NoDriver,
    /// A driver that speaks an older CUDA than the kernels were built with.
    #[error("the NVIDIA driver speaks CUDA {}.{}, the kernels need {}.{}", have / 1000, have % 1000 / 10, need / 1000, need % 1000 / 10)]
    OldDriver {
        /// 1000·major + 10·minor.
        have: i32,
        /// 1000·major + 10·minor.
        need: i32,
    },
    /// The driver is there and refuses to start.
    #[error("the NVIDIA driver does not start: {reason}")]
    Unusable {
        /// The driver's words.
        reason: String,
    },
    /// No device of that number.
    #[error("there is no CUDA device {ordinal}, only {count}")]
    NoDevice {
        /// Asked for.
        ordinal: usize,
        /// Devices here.
        count: usize,
    },
    /// A device too old for the kernels.
    #[error("{name} has compute capability {}.{}, the kernels need {}.{}", capability.0, capability.1, MINIMUM_CAPABILITY.0, MINIMUM_CAPABILITY.1)]
    OldDevice {
        /// The device.
        name: String,
        /// Its compute capability.
        capability: (i32, i32),
    },
    /// The program was built where no CUDA compiler was to be found.
    #[error("this program was built without CUDA kernels")]
    NoKernels,
    /// The embedded kernels lack one: a fault of the build.
    #[error("the embedded CUDA kernels have no {name}")]
    MissingKernel {
        /// Source or kernel.
        name: String,
    },
    /// A device that is too small for a kernel.
    #[error("{kernel} does not run on this device: {why}")]
    DeviceLimit {
        /// The kernel.
        kernel: String,
        /// What it needs and what is there.
        why: String,
    },
    /// Device memory is short.
    #[error("not enough device memory: {need_bytes} B needed, {free_bytes} B free")]
    OutOfMemory {
        /// Bytes of the request that failed.
        need_bytes: u64,
        /// Bytes free at that moment.
        free_bytes: u64,
    },
    /// A copy or a range that does not fit its buffer.
    #[error("{what}: {got} elements, the buffer holds {capacity}")]
    Range {
        /// Which operation.
        what: &'static str,
        /// End of the range asked for.
        got: usize,
        /// Elements of the buffer.
        capacity: usize,
    },
    /// A call that the driver refused. After a fault inside a kernel every later call fails too.
    #[error("{call}: {reason}")]
    Driver {
        /// Driver function.
        call: &'static str,
        /// Its reason.
        reason: String,
    },
    /// Shapes and settings.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl CudaError {
    pub(super) fn new(call: &'static str, error: DriverError) -> Self {
        let reason =
            error.error_string().map_or_else(|_| format!("{error:?}"), |text| text.to_string_lossy().into_owned());
        Self::Driver { call, reason }
    }
}

/// Turns the driver's code into an error that names the call.
pub(super) trait Checked {
    fn checked(self, call: &'static str) -> Result<(), CudaError>;
}

impl Checked for CUresult {
    fn checked(self, call: &'static str) -> Result<(), CudaError> {
        self.result().map_err(|error| CudaError::new(call, error))
    }
}

impl<T> Checked for Result<T, DriverError> {
    fn checked(self, call: &'static str) -> Result<(), CudaError> {
        self.map(drop).map_err(|error| CudaError::new(call, error))
    }
}
