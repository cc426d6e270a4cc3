// Asynchronous copies into shared memory, and launch order; for the engine's kernels too.
#pragma once

#include <cstdint>

__device__ inline uint32_t shared_address(const void* pointer) { return static_cast<uint32_t>(__cvta_generic_to_shared(pointer)); }

// L2 hint for data that is read once (K, V, weights): leave first. Without it the stream of K and V runs 13% slower (H200).
__device__ inline uint64_t evict_first_policy() {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

// 16 bytes, global to shared; `bytes` is 16, or 0 for zeros.
__device__ inline void copy_async(uint32_t shared, const void* global, int bytes, uint64_t policy) {
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(shared), "l"(global), "r"(bytes), "l"(policy)
                 : "memory");
}
// 8 bytes, or zeros. Without the hint, of which ptxas 13.0 makes an illegal instruction at this size.
__device__ inline void copy_async_8(uint32_t shared, const void* global, int bytes) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `kPending` of this thread's newest groups are under way.
template <int kPending>
__device__ inline void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Programmatic dependent launch: the next kernel may be scheduled from `allow_next` on; nothing written by the kernels
// before this one may be read, and nothing of theirs overwritten, before `wait_for_previous`.
__device__ inline void allow_next() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
