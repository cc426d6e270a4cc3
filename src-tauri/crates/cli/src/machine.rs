//! What this machine is.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use mac_attention::cpu::SimdLevel;
use mac_attention::{CudaProbe, Parallel, ThreadPool, probe_cuda};
use serde::Serialize;

use crate::figures::median;

/// Used where the system does not say: larger than most.
const CACHE_IF_UNKNOWN: usize = 32 << 20;

/// Threads asked for, or as many as the machine runs at once.
pub(crate) fn threads_or_all(asked: Option<usize>) -> usize {
    asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// A pool of that many threads, the caller included.
pub(crate) fn pool(threads: usize) -> ThreadPool {
    ThreadPool::new(NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN))
}

/// `CPU, 2 threads, AVX-512`
pub(crate) fn device_words(threads: usize) -> String {
    let noun = if threads == 1 { "thread" } else { "threads" };
    format!("CPU, {threads} {noun}, {}", SimdLevel::best().name())
}

/// Bytes that can be taken without swapping; a cautious guess where the system does not tell.
pub(crate) fn free_memory() -> u64 {
    match reprise_engine::memory::available_bytes() {
        u64::MAX => 4 << 30,
        known => known,
    }
}

/// A plain sum over far more memory than the caches hold: the bound of everything that reads.
pub(crate) struct ReadGauge {
    words: Vec<u64>,
}

impl ReadGauge {
    /// Takes the memory.
    pub(crate) fn new() -> Self {
        let cache = last_level_cache_bytes();
        // Writing it takes longer than reading it, so no more than it takes to leave a large cache behind.
        let bytes = (16 * cache).min((1 << 30).max(4 * cache)).min(free_memory() as usize / 4).max(64 << 20);
        // Written once, so that every page is really there.
        Self { words: (0..bytes as u64 / 8).collect() }
    }

    /// Bytes per second of one pass on the pool's threads.
    pub(crate) fn pass(&self, pool: &dyn Parallel) -> f64 {
        let start = Instant::now();
        std::hint::black_box(SimdLevel::best().sum(&self.words, pool));
        size_of_val(self.words.as_slice()) as f64 / start.elapsed().as_secs_f64()
    }

    /// Median of a few passes.
    pub(crate) fn settled(&self, pool: &dyn Parallel) -> f64 {
        const PASSES: usize = 5;
        let rates: Vec<f64> = (0..PASSES).map(|_| self.pass(pool)).collect();
        median(&rates)
    }
}

/// Size of the largest cache that the first core reaches.
pub(crate) fn last_level_cache_bytes() -> usize {
    let sizes = (0..8).filter_map(|index| {
        let path = PathBuf::from(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size"));
        cache_size(std::fs::read_to_string(path).ok()?.trim())
    });
    sizes.max().unwrap_or(CACHE_IF_UNKNOWN)
}

/// `32768K` or `32M`, as the kernel writes it.
fn cache_size(text: &str) -> Option<usize> {
    let unit = match text.chars().last()? {
        'K' => 1 << 10,
        'M' => 1 << 20,
        _ => return text.parse().ok(),
    };
    text[..text.len() - 1].parse::<usize>().ok()?.checked_mul(unit)
}

/// The processor and the memory.
#[derive(Debug, Serialize)]
pub(crate) struct Host {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) threads: usize,
    pub(crate) simd: &'static str,
    pub(crate) cache_bytes: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) memory_free_bytes: u64,
}

impl Host {
    /// Asks the system.
    pub(crate) fn look(threads: usize) -> Self {
        use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
        let kind = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(kind).ok();
        let brand = system.as_ref().and_then(|s| Some(s.cpus().first()?.brand().trim().to_owned()));
        Self {
            cpu: brand.filter(|brand| !brand.is_empty()).unwrap_or_else(|| "unknown processor".to_owned()),
            cores: System::physical_core_count().unwrap_or_else(|_| threads_or_all(None)),
            threads,
            simd: SimdLevel::best().name(),
            cache_bytes: last_level_cache_bytes(),
            memory_bytes: system.map_or(0, |s| s.total_memory()),
            memory_free_bytes: free_memory(),
        }
    }
}

/// `13.0` of 13000.
pub(crate) fn cuda_version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// What a look for NVIDIA GPUs found.
#[derive(Debug, Serialize)]
pub(crate) struct Gpu {
    /// `found`, `no_driver`, `unusable` or `not_built`.
    pub(crate) state: &'static str,
    /// In words.
    pub(crate) words: String,
}

impl Gpu {
    /// Asks the driver, if there is one.
    pub(crate) fn look() -> Self {
        match probe_cuda() {
            CudaProbe::NotBuilt => {
                Self { state: "not_built", words: "this build does not look for NVIDIA GPUs".to_owned() }
            }
            CudaProbe::NoDriver => Self { state: "no_driver", words: "no NVIDIA driver".to_owned() },
            CudaProbe::Unusable { reason } => {
                Self { state: "unusable", words: format!("the NVIDIA driver does not start: {reason}") }
            }
            CudaProbe::Found { driver_version, devices } => {
                let list: Vec<String> = devices
                    .iter()
                    .map(|d| {
                        let (major, minor) = d.compute_capability;
                        format!(
                            "{} (compute capability {major}.{minor}, {})",
                            d.name,
                            crate::figures::bytes(d.memory_bytes as u64)
                        )
                    })
                    .collect();
                let version = cuda_version(driver_version);
                Self { state: "found", words: format!("{}; driver for CUDA {version}", list.join(", ")) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_sizes_are_read_as_the_kernel_writes_them() {
        assert_eq!(cache_size("32768K"), Some(32 << 20));
        assert_eq!(cache_size("32M"), Some(32 << 20));
        assert_eq!(cache_size("512"), Some(512));
        assert_eq!(cache_size("many"), None);
        assert_eq!(cache_size(""), None);
    }
}
