// Launching the kernels from the harness: what the Rust side does through the driver.
#pragma once

#include "../launch_sizes.h"
#include "buffer.h"
#include "random.h"

struct Kernel {
    const void* function;
    int shared_bytes, threads;
};

#define DECLARE_ONE(name)                                       \
    extern "C" __global__ void attend_##name(const AttendArgs); \
    extern "C" __global__ void reuse_##name(const ReuseArgs);
#define DECLARE(dim)                                                                          \
    DECLARE_ONE(bf16_d##dim##_h8) DECLARE_ONE(bf16_d##dim##_h16) DECLARE_ONE(f16_d##dim##_h8) \
        DECLARE_ONE(f16_d##dim##_h16)
#ifdef ONLY_D128
#define EACH_DIM(use) use(128)
#else
#define EACH_DIM(use) use(64) use(96) use(128) use(256)
#endif
EACH_DIM(DECLARE)
extern "C" __global__ void advance_step(StepState*);
extern "C" __global__ void truncate_ring(const Ring, int, int, Pause*, int);

#define PICK_attend(kind, dim, h) Kernel{reinterpret_cast<const void*>(attend_##kind##_d##dim##_h##h), attend_shared_bytes<dim, h>(kSharedKb), kAttendThreads}
#define PICK_reuse(kind, dim, h) Kernel{reinterpret_cast<const void*>(reuse_##kind##_d##dim##_h##h), reuse_shared_bytes<dim, h>(), reuse_threads(dim)}
#define PICK_DIM(dim)                                                                                                     \
    if (head_dim == dim) {                                                                                                \
        if (attend && wide) return dtype == Dtype::bf16 ? PICK_attend(bf16, dim, 16) : PICK_attend(f16, dim, 16);       \
        if (attend) return dtype == Dtype::bf16 ? PICK_attend(bf16, dim, 8) : PICK_attend(f16, dim, 8);                 \
        if (wide) return dtype == Dtype::bf16 ? PICK_reuse(bf16, dim, 16) : PICK_reuse(f16, dim, 16);                   \
        return dtype == Dtype::bf16 ? PICK_reuse(bf16, dim, 8) : PICK_reuse(f16, dim, 8);                               \
    }

inline Kernel pick(bool attend, Dtype dtype, int head_dim, int group) {
    const bool wide = group > 8;
    EACH_DIM(PICK_DIM)
    std::printf("no kernel for head dimension %d\n", head_dim);
    std::exit(2);
}

// Raises the limits a kernel needs; once per kernel, outside of any capture.
inline Kernel prepared(bool attend, Dtype dtype, int head_dim, int group) {
    const Kernel kernel = pick(attend, dtype, head_dim, group);
    CHECK(cudaFuncSetAttribute(kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize, kernel.shared_bytes));
    // The same division of L1 for both, or an SM would have to drain between them.
    CHECK(cudaFuncSetAttribute(kernel.function, cudaFuncAttributePreferredSharedMemoryCarveout, 100));
    if (!attend) CHECK(cudaFuncSetAttribute(kernel.function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    return kernel;
}

inline void launch(const void* function, int grid, int block, int shared_bytes, int cluster, bool overlap, void* args, cudaStream_t stream) {
    cudaLaunchAttribute attributes[2];
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(grid);
    config.blockDim = dim3(block);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = attributes;
    if (cluster > 0) {
        attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
        attributes[config.numAttrs++].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
    }
    if (overlap) {
        attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
    }
    void* pointers[] = {args};
    CHECK(cudaLaunchKernelExC(&config, function, pointers));
}

inline void launch_attend(const Kernel& kernel, AttendArgs args, int grid, bool overlap, cudaStream_t stream) {
    launch(kernel.function, grid, kernel.threads, kernel.shared_bytes, 0, overlap, &args, stream);
}
inline void launch_reuse(const Kernel& kernel, ReuseArgs args, int cluster, bool overlap, cudaStream_t stream) {
    launch(kernel.function, args.heads.num_kv_heads * cluster, kernel.threads, kernel.shared_bytes, cluster, overlap, &args, stream);
}
