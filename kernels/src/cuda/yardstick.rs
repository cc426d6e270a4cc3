//! How fast the device reads at best: the yardstick of every kernel that does little else.

use super::{CudaError, DeviceBuffer, FATBINS, Gpu, Kernel, Launch};

/// A plain sum over device memory.
#[derive(Debug)]
pub struct PlainSum {
    gpu: Gpu,
    kernel: Kernel,
    total: DeviceBuffer<u32>,
}

/// Numbers of 16 bits that one load takes.
const PER_LOAD: usize = 8;

impl PlainSum {
    /// Loads the kernel.
    pub fn new(gpu: &Gpu) -> Result<Self, CudaError> {
        let kernel = gpu.load(FATBINS, "plain_sum")?.kernel("plain_sum")?;
        Ok(Self { gpu: gpu.clone(), kernel, total: gpu.alloc_zeroed(1)? })
    }

    /// Sums the first `elements` of `data` (a multiple of 8 is read, the rest left out) `times` times; the device's time of
    /// each, in microseconds.
    ///
    /// # Errors
    /// [`CudaError::Range`] if `data` is shorter.
    pub fn run(&mut self, data: &DeviceBuffer<u16>, elements: usize, times: usize) -> Result<Vec<f64>, CudaError> {
        let mut marks = vec![self.gpu.event()?];
        for _ in 0..times {
            self.start(data, elements)?;
            marks.push(self.gpu.event()?);
        }
        self.gpu.synchronize()?;
        marks.windows(2).map(|pair| pair[0].microseconds_to(&pair[1])).collect()
    }

    /// Puts one sum into the stream and returns: something for the device to do while the next work is prepared.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn start(&mut self, data: &DeviceBuffer<u16>, elements: usize) -> Result<(), CudaError> {
        const THREADS: u32 = 512;
        const BLOCKS_PER_MULTIPROCESSOR: usize = 4;
        if elements > data.len() {
            return Err(CudaError::Range { what: "sum", got: elements, capacity: data.len() });
        }
        let (address, vectors) = (data.address(), (elements / PER_LOAD) as u64);
        let total = self.total.address();
        let launch = Launch::new(BLOCKS_PER_MULTIPROCESSOR * self.gpu.info().multiprocessors, THREADS);
        self.total.fill_bytes(0..1, 0)?;
        // SAFETY: the range was checked, the total is our own, and memory is freed only when the device is done with it.
        unsafe { self.kernel.launch(launch, &[(&address).into(), (&vectors).into(), (&total).into()]) }
    }

    /// Compute capability of the machine code in use, as 10·major + minor.
    pub fn machine_code(&self) -> Result<usize, CudaError> {
        self.kernel.machine_code()
    }

    /// The last sum, of 32-bit words, modulo 2^32.
    pub fn total(&self) -> Result<u32, CudaError> {
        Ok(self.total.to_vec()?.first().copied().unwrap_or(0))
    }
}
