//! Embedded kernels, loaded by source and name.

use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUfunction, CUfunction_attribute, CUmodule};

use super::error::Checked as _;
use super::{CudaError, Gpu};

/// Source without `.cu`, its compressed machine code for every architecture, and what `ptxas` said of it.
pub type Fatbin = (&'static str, &'static [u8], &'static str);

/// One loaded source.
#[derive(Debug, Clone)]
pub struct Module(Arc<Loaded>);

#[derive(Debug)]
struct Loaded {
    gpu: Gpu,
    module: CUmodule,
}

// SAFETY: handles of the driver may be used from any thread where the context is current.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: kernels hold the module, so none is left; work in flight ends first.
            unsafe {
                let _ = result::stream::synchronize(self.gpu.stream());
                let _ = result::module::unload(self.module);
            }
        }
    }
}

/// A kernel that can be launched.
#[derive(Debug, Clone)]
pub struct Kernel {
    module: Module,
    function: CUfunction,
}

// SAFETY: as for the module.
unsafe impl Send for Kernel {}
// SAFETY: as for the module.
unsafe impl Sync for Kernel {}

impl Gpu {
    /// Loads the machine code of `source` that fits this device.
    ///
    /// # Errors
    /// [`CudaError::NoKernels`] if nothing is embedded, [`CudaError::MissingKernel`] if only this source is not.
    pub fn load(&self, fatbins: &[Fatbin], source: &str) -> Result<Module, CudaError> {
        if fatbins.is_empty() {
            return Err(CudaError::NoKernels);
        }
        let (_, image, _) = fatbins
            .iter()
            .find(|(name, ..)| *name == source)
            .ok_or_else(|| CudaError::MissingKernel { name: source.to_owned() })?;
        self.bind()?;
        // SAFETY: a whole fatbin made by the CUDA compiler at build time.
        let module = unsafe { result::module::load_data(image.as_ptr().cast::<c_void>()) }
            .map_err(|error| CudaError::new("cuModuleLoadData", error))?;
        Ok(Module(Arc::new(Loaded { gpu: self.clone(), module })))
    }
}

impl Module {
    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Result<Kernel, CudaError> {
        let missing = || CudaError::MissingKernel { name: name.to_owned() };
        self.0.gpu.bind()?;
        let symbol = CString::new(name).map_err(|_| missing())?;
        // SAFETY: the module is loaded.
        let function = unsafe { result::module::get_function(self.0.module, symbol) }.map_err(|_| missing())?;
        Ok(Kernel { module: self.clone(), function })
    }
}

impl Kernel {
    /// Lets a launch ask for `bytes` of dynamic shared memory.
    pub fn allow_shared(&self, bytes: usize) -> Result<(), CudaError> {
        self.set(CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes as i32)
    }

    /// Share of the first-level cache that should serve as shared memory, in percent.
    pub fn prefer_carveout(&self, percent: i32) -> Result<(), CudaError> {
        self.set(CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, percent)
    }

    /// Allows clusters of more than 8 blocks.
    pub fn allow_large_clusters(&self) -> Result<(), CudaError> {
        self.set(CUfunction_attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1)
    }

    /// Blocks of this size that one multiprocessor holds at a time.
    pub fn blocks_per_multiprocessor(&self, threads: u32, shared_bytes: usize) -> Result<usize, CudaError> {
        self.gpu().bind()?;
        let mut blocks = 0;
        // SAFETY: the function is loaded and the pointer valid for the call.
        unsafe {
            sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &raw mut blocks,
                self.function,
                threads as i32,
                shared_bytes,
            )
        }
        .checked("cuOccupancyMaxActiveBlocksPerMultiprocessor")?;
        Ok(usize::try_from(blocks).unwrap_or(0))
    }

    /// Compute capability of the machine code that the driver chose, as 10·major + minor.
    pub fn machine_code(&self) -> Result<usize, CudaError> {
        self.gpu().bind()?;
        let mut version = 0;
        // SAFETY: as above.
        unsafe {
            sys::cuFuncGetAttribute(
                &raw mut version,
                CUfunction_attribute::CU_FUNC_ATTRIBUTE_BINARY_VERSION,
                self.function,
            )
        }
        .checked("cuFuncGetAttribute")?;
        Ok(usize::try_from(version).unwrap_or(0))
    }

    pub(super) fn gpu(&self) -> &Gpu {
        &self.module.0.gpu
    }

    pub(super) fn function(&self) -> CUfunction {
        self.function
    }

    fn set(&self, attribute: CUfunction_attribute, value: i32) -> Result<(), CudaError> {
        self.gpu().bind()?;
        // SAFETY: the function is loaded.
        unsafe { sys::cuFuncSetAttribute(self.function, attribute, value) }.checked("cuFuncSetAttribute")
    }
}
