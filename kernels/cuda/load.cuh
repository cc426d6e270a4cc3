// Moving bytes: matrix loads, words handed from kernel to kernel, clusters.
#pragma once

#include <cstdint>
#include <cuda_fp16.h>

#include "copy.cuh"

// Four 8x8 matrices of 16-bit elements; lane l names row l % 8 of matrix l / 8.
__device__ inline void load_matrices(uint32_t (&r)[4], uint32_t shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared)
                 : "memory");
}
__device__ inline void load_matrices_transposed(uint32_t (&r)[4], uint32_t shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared)
                 : "memory");
}
__device__ inline uint32_t load_word(uint32_t shared) {
    uint32_t word;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(shared) : "memory");
    return word;
}
__device__ inline float load_half(uint32_t shared) {
    uint16_t bits;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(bits) : "r"(shared) : "memory");
    return __half2float(__ushort_as_half(bits));
}
__device__ inline uint32_t transpose_matrix(uint32_t packed) {
    uint32_t result;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(packed));
    return result;
}

// A word handed from one running kernel to another. What its writer knew when it last called fence_device is known to a reader
// that calls it after reading.
__device__ inline void fence_device() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }
__device__ inline void publish(unsigned* word, unsigned x) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(word), "r"(x) : "memory");
}
__device__ inline unsigned observe(const unsigned* word) {
    unsigned x;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(word) : "memory");
    return x;
}

// As `observe`, and what the writer released with that word is known to this thread from then on.
__device__ inline unsigned acquire(const unsigned* word) {
    unsigned x;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(word) : "memory");
    return x;
}

// Adds one and releases; after a barrier it releases what the whole block wrote. Waits for nothing.
__device__ inline void count_in(unsigned* counter) {
    asm volatile("red.add.release.gpu.global.u32 [%0], 1;" ::"l"(counter) : "memory");
}

// Thread-block clusters. Before Hopper a cluster is one block and these do nothing.
__device__ inline int cluster_rank() {
    unsigned rank = 0;
#if __CUDA_ARCH__ >= 900
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
    return static_cast<int>(rank);
}
__device__ inline int cluster_size() {
    unsigned size = 1;
#if __CUDA_ARCH__ >= 900
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
#endif
    return static_cast<int>(size);
}
__device__ inline void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#else
    __syncthreads();
#endif
}
__device__ inline void cluster_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}
// Stores into the shared memory of block `rank` of the cluster, at the place that `here` has in this block's.
__device__ inline uint32_t remote_address(const void* here, int rank) {
    uint32_t remote = shared_address(here);
#if __CUDA_ARCH__ >= 900
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(shared_address(here)), "r"(rank));
#endif
    return remote;
}
#if __CUDA_ARCH__ >= 900
#define REMOTE_STORE "st.shared::cluster"
#else
#define REMOTE_STORE "st.shared"
#endif
__device__ inline void store_remote(unsigned long long* here, int rank, unsigned long long x) {
    asm volatile(REMOTE_STORE ".u64 [%0], %1;" ::"r"(remote_address(here, rank)), "l"(x) : "memory");
}
__device__ inline void store_remote(float2* here, int rank, float2 x) {
    asm volatile(REMOTE_STORE ".v2.f32 [%0], {%1, %2};" ::"r"(remote_address(here, rank)), "f"(x.x), "f"(x.y) : "memory");
}
__device__ inline void store_remote(float4* here, int rank, float4 x) {
    asm volatile(REMOTE_STORE ".v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(remote_address(here, rank)), "f"(x.x), "f"(x.y), "f"(x.z), "f"(x.w)
                 : "memory");
}
