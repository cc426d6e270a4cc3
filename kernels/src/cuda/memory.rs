//! Memory of the device, and memory of the host that the device reaches.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

use bytemuck::{Pod, Zeroable};
use cudarc::driver::result;
use cudarc::driver::sys::{self, CUdeviceptr, CUresult};

use super::error::Checked as _;
use super::{CudaError, Gpu};

/// `len` elements of device memory. Copies run in the device's stream and return when they are done.
#[derive(Debug)]
pub struct DeviceBuffer<T> {
    gpu: Gpu,
    address: CUdeviceptr,
    len: usize,
    element: PhantomData<T>,
}

// SAFETY: an address of device memory is the same from every thread.
unsafe impl<T: Send> Send for DeviceBuffer<T> {}
// SAFETY: as above; writing through a shared reference needs an unsafe launch.
unsafe impl<T: Sync> Sync for DeviceBuffer<T> {}

impl<T> Drop for DeviceBuffer<T> {
    fn drop(&mut self) {
        if self.len > 0 && self.gpu.bind().is_ok() {
            // SAFETY: allocated by us, and the driver waits for kernels that still use it.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

impl Gpu {
    /// Zeroed memory.
    pub fn alloc_zeroed<T: Zeroable>(&self, len: usize) -> Result<DeviceBuffer<T>, CudaError> {
        let buffer = self.alloc(len)?;
        if buffer.len > 0 {
            // SAFETY: the range is the buffer's own.
            unsafe { result::memset_d8_async(buffer.address, 0, buffer.bytes(), self.stream()) }
                .checked("cuMemsetD8Async")?;
        }
        Ok(buffer)
    }

    /// A copy of `data`.
    pub fn upload<T: Pod>(&self, data: &[T]) -> Result<DeviceBuffer<T>, CudaError> {
        let mut buffer = self.alloc(data.len())?;
        buffer.write(0, data)?;
        Ok(buffer)
    }

    /// `len` elements: `table` over and over.
    pub fn repeat<T: Pod>(&self, table: &[T], len: usize) -> Result<DeviceBuffer<T>, CudaError> {
        let mut buffer = self.alloc(len)?;
        let mut filled = table.len().min(buffer.len);
        buffer.write(0, &table[..filled])?;
        while filled < buffer.len && filled > 0 {
            let more = filled.min(buffer.len - filled);
            // SAFETY: both ranges lie in the buffer and do not overlap.
            unsafe {
                result::memcpy_dtod_async(
                    buffer.address_of(filled),
                    buffer.address,
                    more * size_of::<T>(),
                    self.stream(),
                )
            }
            .checked("cuMemcpyDtoDAsync")?;
            filled += more;
        }
        Ok(buffer)
    }

    /// Memory with whatever was there, so for buffers that are written before they are read.
    pub fn alloc<T>(&self, len: usize) -> Result<DeviceBuffer<T>, CudaError> {
        self.bind()?;
        let bytes =
            len.checked_mul(size_of::<T>()).ok_or(CudaError::OutOfMemory { need_bytes: u64::MAX, free_bytes: 0 })?;
        let address = if bytes == 0 {
            0
        } else {
            // SAFETY: the context is current; the memory is freed with the buffer.
            match unsafe { result::malloc_sync(bytes) } {
                Ok(address) => address,
                Err(error) if error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                    let (free_bytes, _) = self.memory()?;
                    return Err(CudaError::OutOfMemory { need_bytes: bytes as u64, free_bytes });
                }
                Err(error) => return Err(CudaError::new("cuMemAlloc", error)),
            }
        };
        Ok(DeviceBuffer { gpu: self.clone(), address, len: if bytes == 0 { 0 } else { len }, element: PhantomData })
    }

    /// Copies from a device address to `data`, after all work so far.
    ///
    /// # Safety
    /// That much memory must lie there.
    pub unsafe fn read_address<T: Pod>(&self, address: u64, data: &mut [T]) -> Result<(), CudaError> {
        if data.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the source is promised by the caller, and the destination outlives the copy because of the wait.
        unsafe { result::memcpy_dtoh_async(data, address, self.stream()) }.checked("cuMemcpyDtoHAsync")?;
        self.synchronize()
    }

    /// Page-locked host memory, zeroed: copies to and from it run at full speed, and kernels can write to it.
    pub fn pinned<T: Pod>(&self, len: usize) -> Result<PinnedBuffer<T>, CudaError> {
        self.bind()?;
        let bytes = (len * size_of::<T>()).max(1);
        // SAFETY: the context is current; freed with the buffer.
        let pointer =
            unsafe { result::malloc_host(bytes, 0) }.map_err(|error| CudaError::new("cuMemHostAlloc", error))?;
        // SAFETY: fresh memory of that many bytes.
        unsafe { std::ptr::write_bytes(pointer.cast::<u8>(), 0, bytes) };
        Ok(PinnedBuffer { gpu: self.clone(), pointer: pointer.cast(), len })
    }
}

impl<T> DeviceBuffer<T> {
    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address on the device, for a kernel's argument.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Address of element `index`, which may be one past the last.
    ///
    /// # Panics
    /// If `index` is greater than the length: a fault of the caller, never of data.
    pub fn address_of(&self, index: usize) -> u64 {
        assert!(index <= self.len, "element {index} of {}", self.len);
        self.address + (index * size_of::<T>()) as u64
    }

    fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    fn check(&self, what: &'static str, range: Range<usize>) -> Result<(), CudaError> {
        if range.start <= range.end && range.end <= self.len {
            Ok(())
        } else {
            Err(CudaError::Range { what, got: range.end, capacity: self.len })
        }
    }
}

impl<T: Pod> DeviceBuffer<T> {
    /// Copies `data` to the elements from `begin` on and waits.
    pub fn write(&mut self, begin: usize, data: &[T]) -> Result<(), CudaError> {
        self.check("write", begin..begin.saturating_add(data.len()))?;
        if data.is_empty() {
            return Ok(());
        }
        self.gpu.bind()?;
        // SAFETY: the range was checked, and the source outlives the copy because of the wait.
        unsafe { result::memcpy_htod_async(self.address_of(begin), data, self.gpu.stream()) }
            .checked("cuMemcpyHtoDAsync")?;
        self.gpu.synchronize()
    }

    /// Copies from page-locked memory without waiting; the caller waits before it changes the source.
    ///
    /// # Safety
    /// `data` must stay as it is until the stream has been synchronised.
    pub unsafe fn write_from_pinned(&mut self, begin: usize, data: &[T]) -> Result<(), CudaError> {
        self.check("write", begin..begin.saturating_add(data.len()))?;
        self.gpu.bind()?;
        // SAFETY: the range was checked; the caller keeps the source.
        unsafe { result::memcpy_htod_async(self.address_of(begin), data, self.gpu.stream()) }
            .checked("cuMemcpyHtoDAsync")
    }

    /// Copies the elements from `begin` on to `data`, after all work so far.
    pub fn read(&self, begin: usize, data: &mut [T]) -> Result<(), CudaError> {
        self.check("read", begin..begin.saturating_add(data.len()))?;
        if data.is_empty() {
            return Ok(());
        }
        self.gpu.bind()?;
        // SAFETY: the range was checked, and the destination outlives the copy because of the wait.
        unsafe { result::memcpy_dtoh_async(data, self.address_of(begin), self.gpu.stream()) }
            .checked("cuMemcpyDtoHAsync")?;
        self.gpu.synchronize()
    }

    /// Copies the first elements to page-locked memory without waiting; may be captured.
    ///
    /// # Safety
    /// `data` must live until the copy is done (for a captured copy: as long as the graph is replayed), and nobody may
    /// read it before the stream has been synchronised.
    pub unsafe fn read_to_pinned(&self, data: &PinnedBuffer<T>) -> Result<(), CudaError> {
        self.check("read", 0..data.len)?;
        self.gpu.bind()?;
        // SAFETY: the range was checked, the destination has that many elements, and the caller keeps it.
        unsafe {
            sys::cuMemcpyDtoHAsync_v2(data.pointer.cast(), self.address, data.len * size_of::<T>(), self.gpu.stream())
        }
        .checked("cuMemcpyDtoHAsync")
    }

    /// All elements, after all work so far.
    pub fn to_vec(&self) -> Result<Vec<T>, CudaError> {
        let mut data = vec![T::zeroed(); self.len];
        self.read(0, &mut data)?;
        Ok(data)
    }

    /// Sets every byte of the elements in `range`, in stream order.
    pub fn fill_bytes(&mut self, range: Range<usize>, byte: u8) -> Result<(), CudaError> {
        self.check("fill", range.clone())?;
        if range.is_empty() {
            return Ok(());
        }
        self.gpu.bind()?;
        let bytes = range.len() * size_of::<T>();
        // SAFETY: the range was checked.
        unsafe { result::memset_d8_async(self.address_of(range.start), byte, bytes, self.gpu.stream()) }
            .checked("cuMemsetD8Async")
    }
}

/// Page-locked host memory. What a kernel wrote may be read after [`Gpu::synchronize`] or an event.
#[derive(Debug)]
pub struct PinnedBuffer<T> {
    gpu: Gpu,
    pointer: *mut T,
    len: usize,
}

// SAFETY: plain memory of this process.
unsafe impl<T: Send> Send for PinnedBuffer<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for PinnedBuffer<T> {}

impl<T> PinnedBuffer<T> {
    /// Address that kernels use.
    pub fn address(&self) -> u64 {
        self.pointer as u64
    }
}

impl<T> Deref for PinnedBuffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: allocated with this length and zeroed, and `T` is plain data.
        unsafe { std::slice::from_raw_parts(self.pointer, self.len) }
    }
}

impl<T> DerefMut for PinnedBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.len) }
    }
}

impl<T> Drop for PinnedBuffer<T> {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: allocated by us. A kernel may still write to it, so the stream ends first.
            unsafe {
                let _ = result::stream::synchronize(self.gpu.stream());
                let _ = result::free_host(self.pointer.cast());
            }
        }
    }
}
