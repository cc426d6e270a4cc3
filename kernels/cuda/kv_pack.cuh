// Writing K and V in 8 bits: what becomes of each number. The layout is KvCache's (step.cuh).
//
// fp8: the nearest e4m3 (ties to even), at most ±448 whatever comes in; NaN stays NaN.
// q8:  blocks of 32 dimensions. scale = f16(max |x| / 127); q = x / scale, rounded to the nearest (ties to even), within ±127, stored
//      as q + 128. A block of zeros, or of numbers below what f16 can scale, has scale 0 and q 0. One with a NaN or an infinity,
//      or beyond 65504 * 127, has a scale that is none, and reads as NaN.
#pragma once

#include <cuda_fp16.h>
#include <cuda_fp8.h>

constexpr int kScaleBlock = 32;  // dimensions that share a scale of q8
// Places for the scales of one row of K or V: a power of two, so that a token's scales are read in accesses that never straddle.
__host__ __device__ constexpr int scale_slots(int head_dim) {
    int slots = 1;
    while (slots * kScaleBlock < head_dim) slots *= 2;
    return slots;
}

__host__ __device__ inline unsigned char fp8_byte(float x) { return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3); }

// |x| as a number whose order is that of magnitudes, NaN above all: the greatest of a block goes to q8_scale. An integer,
// because __reduce_max_sync takes those, and because a maximum of floats would lose NaN.
__device__ inline unsigned q8_magnitude(float x) { return __float_as_uint(x) & 0x7fffffffu; }
__device__ inline __half q8_scale(unsigned greatest) { return __float2half_rn(__fdiv_rn(__uint_as_float(greatest), 127.0f)); }
__device__ inline unsigned char q8_byte(float x, __half scale) {
    const float step = __half2float(scale);
    const int q = step > 0.0f ? __float2int_rn(__fdiv_rn(x, step)) : 0;  // 0 also where the scale is NaN
    return static_cast<unsigned char>(max(-127, min(127, q)) + 128);
}
