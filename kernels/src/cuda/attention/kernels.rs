//! The kernels of one shape, loaded and sized for the device.

use super::super::{CudaError, Gpu, Kernel, Launch};
use super::CudaElement;
use super::sizes::{
    ATTEND_THREADS, MAX_KV_HEADS, Target, attend_shared_bytes, kernel_heads, reuse_cluster, reuse_shared_bytes,
    reuse_threads,
};
use crate::cuda::FATBINS;
use crate::{AttentionShape, KernelError};

#[derive(Debug)]
pub(super) struct DecodeKernels {
    pub(super) attend: Kernel,
    pub(super) attend_launch: Launch,
    pub(super) reuse: Kernel,
    pub(super) reuse_launch: Launch,
    pub(super) advance: Kernel,
    pub(super) truncate: Kernel,
    /// Clusters and programmatic dependent launch.
    pub(super) clusters: bool,
}

impl DecodeKernels {
    pub(super) fn load(gpu: &Gpu, shape: AttentionShape, element: CudaElement) -> Result<Self, CudaError> {
        if shape.num_kv_heads() > MAX_KV_HEADS {
            let why = format!("{}, the CUDA kernels serve {MAX_KV_HEADS}", shape.num_kv_heads());
            return Err(KernelError::Setting { what: "KV heads", why }.into());
        }
        let info = gpu.info();
        let target = Target::of(info.compute_capability);
        let (dim, heads) = (shape.head_dim(), kernel_heads(shape));
        let name = |what: &str| format!("{what}_{}_d{dim}_h{heads}", element.name());
        let kernel = |what: &str, shared_bytes: usize| {
            if shared_bytes > info.shared_bytes {
                let why = format!("{shared_bytes} B of shared memory needed, a block has {} B", info.shared_bytes);
                return Err(CudaError::DeviceLimit { kernel: name(what), why });
            }
            let kernel = gpu.load(FATBINS, &format!("{what}_d{dim}"))?.kernel(&name(what))?;
            kernel.allow_shared(shared_bytes)?;
            // The same division of the first-level cache for both, or a multiprocessor would drain between them.
            kernel.prefer_carveout(100)?;
            Ok(kernel)
        };

        let shared_bytes = attend_shared_bytes(dim, element.bytes(), heads, target.shared_kb);
        let attend = kernel("attend", shared_bytes)?;
        let attend_launch =
            Launch::new(info.multiprocessors, ATTEND_THREADS).shared(shared_bytes).overlap(target.clusters);
        // Blocks wait for each other, so all of them must be there at once.
        let resident = attend.blocks_per_multiprocessor(ATTEND_THREADS, shared_bytes)? * info.multiprocessors;
        if resident < info.multiprocessors.max(shape.num_kv_heads()) || info.multiprocessors < shape.num_kv_heads() {
            let why = format!(
                "{} multiprocessors hold {resident} blocks, {} KV heads need as many of either",
                info.multiprocessors,
                shape.num_kv_heads()
            );
            return Err(CudaError::DeviceLimit { kernel: name("attend"), why });
        }

        let shared_bytes = reuse_shared_bytes(dim, heads);
        let reuse = kernel("reuse", shared_bytes)?;
        let ring_ops = gpu.load(FATBINS, "ring_ops")?;
        let mut kernels = Self {
            attend,
            attend_launch,
            reuse,
            reuse_launch: Launch::new(0, reuse_threads(dim)).shared(shared_bytes).overlap(target.clusters),
            advance: ring_ops.kernel("advance_step")?,
            truncate: ring_ops.kernel("truncate_ring")?,
            clusters: target.clusters,
        };
        kernels.fit_cluster(shape, target, &name("reuse"))?;
        Ok(kernels)
    }

    /// Takes the wanted cluster, or the largest power of two below it that the device can hold.
    fn fit_cluster(&mut self, shape: AttentionShape, target: Target, name: &str) -> Result<(), CudaError> {
        let mut cluster = reuse_cluster(shape.num_kv_heads(), target);
        if cluster > 8 {
            self.reuse.allow_large_clusters()?;
        }
        loop {
            let launch = &mut self.reuse_launch;
            launch.grid[0] = shape.num_kv_heads() as u32 * cluster;
            launch.cluster = if target.clusters { cluster } else { 0 };
            let fits = if target.clusters {
                self.reuse.active_clusters(*launch)? > 0
            } else {
                self.reuse.blocks_per_multiprocessor(launch.threads, launch.shared_bytes)? > 0
            };
            if fits {
                return Ok(());
            }
            if cluster == 1 {
                let why = "not one block fits a multiprocessor".to_owned();
                return Err(CudaError::DeviceLimit { kernel: name.to_owned(), why });
            }
            cluster /= 2;
        }
    }
}
