// What all kernels here do beside their arithmetic: launch order and copies (`copy.cuh`), words that other blocks write, sums of a warp.
#pragma once

#include "copy.cuh"

__device__ inline void prefetch_l2(const void* global) { asm volatile("prefetch.global.L2 [%0];" ::"l"(global)); }

// Values that other blocks of this launch may be writing, or reading, right now.
__device__ inline float4 load_shared_quad(const float4* from) {
    float4 v;
    asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "l"(from) : "memory");
    return v;
}
__device__ inline float load_shared(const float* from) {
    float v;
    asm volatile("ld.relaxed.gpu.global.f32 %0, [%1];" : "=f"(v) : "l"(from) : "memory");
    return v;
}
__device__ inline void store_shared(float* to, float v) { asm volatile("st.relaxed.gpu.global.f32 [%0], %1;" ::"l"(to), "f"(v) : "memory"); }

constexpr unsigned kFullWarp = 0xffffffffu;

// The same bits on every lane.
__device__ inline float warp_sum(float x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(kFullWarp, x, distance);
    return x;
}

// NaN if either is: fmaxf would lose it.
__device__ inline float max_or_nan(float a, float b) {
    float x;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(x) : "f"(a), "f"(b));
    return x;
}
