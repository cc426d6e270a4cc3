//! Launching one kernel.

use std::ffi::c_void;

use cudarc::driver::sys::{self, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchConfig, CUresult};

use super::error::Checked as _;
use super::{CudaError, Kernel};

/// Grid, block and what goes with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads per block.
    pub threads: u32,
    /// Dynamic shared memory per block; above 48 KB the kernel must have been told, see [`Kernel::allow_shared`].
    pub shared_bytes: usize,
    /// Blocks of a cluster in x; 0 means no clusters. Needs compute capability 9.0.
    pub cluster: u32,
    /// Programmatic dependent launch: may begin while the kernel before it still runs, and waits inside
    /// (`griddepcontrol.wait`). Needs compute capability 9.0.
    pub overlap: bool,
}

impl Launch {
    /// `blocks` in x, without shared memory, clusters or overlap.
    pub fn new(blocks: usize, threads: u32) -> Self {
        Self { grid: [blocks as u32, 1, 1], threads, shared_bytes: 0, cluster: 0, overlap: false }
    }

    /// With so much dynamic shared memory.
    #[must_use]
    pub fn shared(self, shared_bytes: usize) -> Self {
        Self { shared_bytes, ..self }
    }

    /// With programmatic dependent launch, if `yes`.
    #[must_use]
    pub fn overlap(self, yes: bool) -> Self {
        Self { overlap: yes, ..self }
    }
}

/// One argument of a kernel: a value in the very layout that the kernel declares, so `#[repr(C)]` for structs and `u64`
/// for pointers.
#[derive(Debug, Clone, Copy)]
pub struct Argument<'a>(&'a dyn AnyArgument);

trait AnyArgument: std::fmt::Debug {
    fn pointer(&self) -> *mut c_void;
}

impl<T: Copy + std::fmt::Debug> AnyArgument for T {
    fn pointer(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }
}

impl<'a, T: Copy + std::fmt::Debug> From<&'a T> for Argument<'a> {
    fn from(value: &'a T) -> Self {
        Self(value)
    }
}

impl Kernel {
    /// Puts the kernel into its device's stream (or into the graph that is being captured) and returns at once.
    ///
    /// # Safety
    /// `arguments` must match the kernel's parameters in number, layout and meaning: addresses are of memory large enough,
    /// alive until the work is done (for a captured launch: as long as the graph is replayed), and not written by others
    /// meanwhile.
    pub unsafe fn launch(&self, launch: Launch, arguments: &[Argument<'_>]) -> Result<(), CudaError> {
        self.gpu().bind()?;
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(|argument| argument.0.pointer()).collect();
        self.configured(launch, |config| {
            // SAFETY: the driver copies the arguments during the call; that they fit is the caller's promise.
            unsafe { sys::cuLaunchKernelEx(config, self.function(), pointers.as_mut_ptr(), std::ptr::null_mut()) }
        })
        .checked("cuLaunchKernelEx")
    }

    /// Clusters of this launch that the device holds at a time; 0 if not even one fits.
    pub fn active_clusters(&self, launch: Launch) -> Result<usize, CudaError> {
        self.gpu().bind()?;
        let mut clusters = 0;
        self.configured(launch, |config| {
            // SAFETY: the function is loaded and both pointers valid for the call.
            unsafe { sys::cuOccupancyMaxActiveClusters(&raw mut clusters, self.function(), config) }
        })
        .checked("cuOccupancyMaxActiveClusters")?;
        Ok(usize::try_from(clusters).unwrap_or(0))
    }

    /// Shows `launch` to the driver in its own words.
    fn configured(&self, launch: Launch, call: impl FnOnce(*const CUlaunchConfig) -> CUresult) -> CUresult {
        let mut attributes = [CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_IGNORE,
            pad: Default::default(),
            // SAFETY: plain integers and pointers, for which zero is a value.
            value: unsafe { std::mem::zeroed() },
        }; 2];
        let mut count = 0;
        if launch.cluster > 0 {
            attributes[count].id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            attributes[count].value.clusterDim.x = launch.cluster;
            attributes[count].value.clusterDim.y = 1;
            attributes[count].value.clusterDim.z = 1;
            count += 1;
        }
        if launch.overlap {
            attributes[count].id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
            attributes[count].value.programmaticStreamSerializationAllowed = 1;
            count += 1;
        }
        let config = CUlaunchConfig {
            gridDimX: launch.grid[0],
            gridDimY: launch.grid[1],
            gridDimZ: launch.grid[2],
            blockDimX: launch.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared_bytes as u32,
            hStream: self.gpu().stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: count as u32,
        };
        call(&raw const config)
    }
}
