// Launching the kernels from the harness: what the Rust side does through the driver.
#pragma once

#include "../expand_kv.cuh"
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
#define DECLARE_TYPE(type, dim) DECLARE_ONE(type##_d##dim##_h8) DECLARE_ONE(type##_d##dim##_h16)
#define DECLARE(dim) DECLARE_TYPE(bf16, dim) DECLARE_TYPE(f16, dim) DECLARE_TYPE(fp8, dim) DECLARE_TYPE(q8, dim)
#ifdef ONLY_D128
#define EACH_DIM(use) use(128)
#else
#define EACH_DIM(use) use(64) use(96) use(128) use(256)
#endif
EACH_DIM(DECLARE)
extern "C" __global__ void advance_step(StepState*);
extern "C" __global__ void truncate_ring(const Ring, int, int, Pause*, int);
extern "C" __global__ void expand_kv_fp8(const ExpandKvArgs);
extern "C" __global__ void expand_kv_q8(const ExpandKvArgs);
extern "C" __global__ void pack_kv_fp8(const PackKvArgs);
extern "C" __global__ void pack_kv_q8(const PackKvArgs);

#define PICK_attend(Element, type, dim, h) \
    Kernel{reinterpret_cast<const void*>(attend_##type##_d##dim##_h##h), attend_shared_bytes<Element, dim, h>(kSharedKb), kAttendThreads}
#define PICK_reuse(type, dim, h) Kernel{reinterpret_cast<const void*>(reuse_##type##_d##dim##_h##h), reuse_shared_bytes<dim, h>(), reuse_threads(dim)}
#define PICK_TYPE(Element, type, dim)                                                                             \
    if (head_dim == dim && dtype == Dtype::type) {                                                                \
        if (attend) return wide ? PICK_attend(Element, type, dim, 16) : PICK_attend(Element, type, dim, 8);       \
        return wide ? PICK_reuse(type, dim, 16) : PICK_reuse(type, dim, 8);                                       \
    }
#define PICK_DIM(dim) PICK_TYPE(Bf16, bf16, dim) PICK_TYPE(F16, f16, dim) PICK_TYPE(Fp8, fp8, dim) PICK_TYPE(Q8, q8, dim)

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
inline void launch_pack(Dtype dtype, const PackKvArgs& args) {
    (dtype == Dtype::fp8 ? pack_kv_fp8 : pack_kv_q8)<<<1024, 256>>>(args);
    CHECK(cudaGetLastError());
}
inline void launch_expand(Dtype dtype, const ExpandKvArgs& args, int grid, cudaStream_t stream = nullptr) {
    (dtype == Dtype::fp8 ? expand_kv_fp8 : expand_kv_q8)<<<grid, 256, 0, stream>>>(args);
    CHECK(cudaGetLastError());
}
