//! Address space first, memory as it is needed: a KV cache grows without moving.

use cudarc::driver::sys::{
    self, CUdeviceptr, CUmemAccess_flags, CUmemAccessDesc, CUmemAllocationGranularity_flags, CUmemAllocationProp,
    CUmemAllocationType, CUmemGenericAllocationHandle, CUmemLocation, CUmemLocationType, CUresult,
};

use super::error::Checked as _;
use super::{CudaError, Gpu};

/// Reserved device addresses, of which pages get memory on demand. Addresses stay, so captured graphs stay valid.
#[derive(Debug)]
pub struct ReservedBuffer {
    gpu: Gpu,
    address: CUdeviceptr,
    bytes: usize,
    page_bytes: usize,
    /// One per page; `None` has no memory yet.
    pages: Vec<Option<CUmemGenericAllocationHandle>>,
}

impl Drop for ReservedBuffer {
    fn drop(&mut self) {
        // After a fault on the device nothing runs any more, and this fails. Pages belong to no context, so they must still be
        // given back: the end of the context would not.
        let _ = self.gpu.synchronize();
        for (i, page) in self.pages.iter().enumerate() {
            if let Some(handle) = page {
                // SAFETY: mapped by us, and nothing runs.
                unsafe {
                    let _ = sys::cuMemUnmap(self.address + (i * self.page_bytes) as u64, self.page_bytes);
                    let _ = sys::cuMemRelease(*handle);
                }
            }
        }
        // SAFETY: reserved by us.
        let _ = unsafe { sys::cuMemAddressFree(self.address, self.bytes) };
    }
}

impl Gpu {
    /// Reserves `bytes` of addresses, rounded up to whole pages; no memory yet.
    pub fn reserve(&self, bytes: usize) -> Result<ReservedBuffer, CudaError> {
        self.bind()?;
        let (properties, mut page_bytes) = (properties(self), 0);
        // SAFETY: the pointers are valid for the call.
        unsafe {
            sys::cuMemGetAllocationGranularity(
                &raw mut page_bytes,
                &raw const properties,
                CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_RECOMMENDED,
            )
        }
        .checked("cuMemGetAllocationGranularity")?;
        let pages = bytes.div_ceil(page_bytes.max(1)).max(1);
        let bytes = pages * page_bytes;
        let mut address = 0;
        // SAFETY: as above.
        unsafe { sys::cuMemAddressReserve(&raw mut address, bytes, 0, 0, 0) }.checked("cuMemAddressReserve")?;
        Ok(ReservedBuffer { gpu: self.clone(), address, bytes, page_bytes, pages: vec![None; pages] })
    }
}

impl ReservedBuffer {
    /// Pages of every device so far: what a plan reckons with before a device is asked ([`Self::page_bytes`]).
    pub const USUAL_PAGE_BYTES: usize = 2 << 20;

    /// First address.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Bytes of addresses.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of one page.
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Bytes that have memory.
    pub fn backed_bytes(&self) -> usize {
        self.pages.iter().flatten().count() * self.page_bytes
    }

    /// Gives memory to every page that `begin..end` (bytes) touches. What it holds at first is undefined.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`] if the device has none left; pages backed before and by this call stay.
    pub fn back(&mut self, begin: usize, end: usize) -> Result<(), CudaError> {
        if begin > end || end > self.bytes {
            return Err(CudaError::Range { what: "backing", got: end, capacity: self.bytes });
        }
        if begin == end {
            return Ok(());
        }
        self.gpu.bind()?;
        for page in begin / self.page_bytes..=(end - 1) / self.page_bytes {
            if self.pages[page].is_none() {
                self.pages[page] = Some(self.map(page)?);
            }
        }
        Ok(())
    }

    fn map(&self, page: usize) -> Result<CUmemGenericAllocationHandle, CudaError> {
        let properties = properties(&self.gpu);
        let mut handle = 0;
        // SAFETY: the pointers are valid for the call.
        let created = unsafe { sys::cuMemCreate(&raw mut handle, self.page_bytes, &raw const properties, 0) };
        if created == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            let (free_bytes, _) = self.gpu.memory()?;
            return Err(CudaError::OutOfMemory { need_bytes: self.page_bytes as u64, free_bytes });
        }
        created.checked("cuMemCreate")?;
        let address = self.address + (page * self.page_bytes) as u64;
        let access = CUmemAccessDesc {
            location: properties.location,
            flags: CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
        // SAFETY: the page is reserved, not mapped, and the handle was just made.
        let mapped = unsafe {
            sys::cuMemMap(address, self.page_bytes, 0, handle, 0).checked("cuMemMap").and_then(|()| {
                sys::cuMemSetAccess(address, self.page_bytes, &raw const access, 1).checked("cuMemSetAccess")
            })
        };
        if let Err(error) = mapped {
            // SAFETY: ours; unmapping a page that was not mapped only fails.
            unsafe {
                let _ = sys::cuMemUnmap(address, self.page_bytes);
                let _ = sys::cuMemRelease(handle);
            }
            return Err(error);
        }
        Ok(handle)
    }
}

/// Ordinary memory of this device.
fn properties(gpu: &Gpu) -> CUmemAllocationProp {
    // SAFETY: plain integers and pointers, for which zero is a value.
    let mut properties: CUmemAllocationProp = unsafe { std::mem::zeroed() };
    properties.type_ = CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location = location(gpu);
    properties
}

fn location(gpu: &Gpu) -> CUmemLocation {
    // SAFETY: as above.
    let mut location: CUmemLocation = unsafe { std::mem::zeroed() };
    location.type_ = CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    location.id = gpu.device();
    location
}
