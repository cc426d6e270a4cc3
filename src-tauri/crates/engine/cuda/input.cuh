// The input of a product: normalised on the way into shared memory, and quantised for block types.
#pragma once

#include "weight_units.cuh"

// Tags of values that pass from product to product, see MatvecArgs.
__device__ inline float tagged(float x, int tag) { return tag == 0 ? x : __uint_as_float((__float_as_uint(x) & ~3u) | tag); }
__device__ inline bool has_tag(float4 v, unsigned tag) {
    const unsigned differing = (__float_as_uint(v.x) ^ tag) | (__float_as_uint(v.y) ^ tag) | (__float_as_uint(v.z) ^ tag) | (__float_as_uint(v.w) ^ tag);
    return (differing & 3) == 0;
}
__device__ inline bool has_tag(float v, unsigned tag) { return ((__float_as_uint(v) ^ tag) & 3) == 0; }

// x * norm of quads `quad_of(j)` into `v`; zeros beyond the end. The factor 1 / rms is left to the end of the product, which is linear;
// `sum` gets the squares this thread saw.
template <bool kNorm, int kCount, class QuadOf>
__device__ inline void weighted(const MatvecArgs& args, QuadOf quad_of, float4 (&v)[kCount], float& sum) {
    const int quads = args.cols / 4;
    const float4* x = reinterpret_cast<const float4*>(args.x);
    float4 norm[kCount];
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
        v[j] = {0, 0, 0, 0};
        if (quad_of(j) >= quads) continue;
        v[j] = load_shared_quad(x + quad_of(j));
        if (kNorm) norm[j] = __ldg(reinterpret_cast<const float4*>(args.norm) + quad_of(j));
    }
    for (bool missing = args.x_tag != 0; missing;) {
        missing = false;
#pragma unroll
        for (int j = 0; j < kCount; ++j)
            if (quad_of(j) < quads && !has_tag(v[j], args.x_tag)) v[j] = load_shared_quad(x + quad_of(j)), missing = true;
    }
    __syncwarp();
    if constexpr (kNorm) {
#pragma unroll
        for (int j = 0; j < kCount; ++j) {
            if (quad_of(j) >= quads) break;
            const float4 w = norm[j], u = v[j];
            sum = fmaf(u.x, u.x, fmaf(u.y, u.y, fmaf(u.z, u.z, fmaf(u.w, u.w, sum))));
            v[j] = {u.x * w.x, u.y * w.y, u.z * w.z, u.w * w.w};
        }
    }
}

// `kCount` loads are under way at a time.
template <int kType, bool kNorm, int kCount>
__device__ float place_dense(const MatvecArgs& args, float4* to) {
    const int all = rounded_up(args.cols, 256) / 4, step = blockDim.x;
    float sum = 0;
#pragma unroll 1
    for (int i = threadIdx.x; i < all; i += kCount * step) {
        float4 v[kCount];
        weighted<kNorm>(args, [&](int j) { return i + j * step; }, v, sum);
#pragma unroll
        for (int j = 0; j < kCount; ++j)
            if (i + j * step < all) to[Unit<kType>::input_place(i + j * step)] = v[j];
    }
    return sum;
}

__device__ inline float largest_of(float4 v) { return max_or_nan(max_or_nan(fabsf(v.x), fabsf(v.y)), max_or_nan(fabsf(v.z), fabsf(v.w))); }

// To the nearest of -127..127: adding 1.5 * 2^23 leaves the quant in the lowest byte, without a conversion.
__device__ inline unsigned quants_of(float4 v, float inverse) {
    const auto rounded = [&](float x) { return __float_as_uint(fmaf(x, inverse, 12582912.0f)); };
    const unsigned low = __byte_perm(rounded(v.x), rounded(v.y), 0x0040), high = __byte_perm(rounded(v.z), rounded(v.w), 0x0040);
    return __byte_perm(low, high, 0x5410);
}

// Eight elements of a group that four lanes share.
__device__ inline void quantise(float4 a, float4 b, int eighth, uint2* low, uint2* high, QuantisedGroup* groups) {
    constexpr float kSmallest = 1e-30f;  // below it the inverse would overflow
    float largest = max_or_nan(largest_of(a), largest_of(b));
    largest = max_or_nan(largest, __shfl_xor_sync(kFullWarp, largest, 1));
    largest = max_or_nan(largest, __shfl_xor_sync(kFullWarp, largest, 2));
    const float inverse = largest > kSmallest ? 127 * __frcp_rn(largest) : 0;
    const uint2 quants{quants_of(a, inverse), quants_of(b, inverse)};
    int sum = dot4(quants.x, 0x01010101, dot4(quants.y, 0x01010101, 0));
    sum += __shfl_xor_sync(kFullWarp, sum, 1);
    const int other = __shfl_xor_sync(kFullWarp, sum, 2);
    const int group = eighth / 4, within = eighth % 4;
    (within < 2 ? low : high)[group * 2 + within % 2] = quants;
    if (within == 0) groups[group] = {largest * (1.0f / 127), static_cast<short>(sum + other), static_cast<short>(sum)};
}

// `kCount` pairs of loads are under way at a time.
template <bool kNorm, int kCount>
__device__ float place_quantised(const MatvecArgs& args, unsigned char* to) {
    const int all = rounded_up(args.cols, 1024) / 8, step = blockDim.x;
    uint2* low = reinterpret_cast<uint2*>(to);
    uint2* high = reinterpret_cast<uint2*>(to + high_plane(args.cols));
    QuantisedGroup* groups = reinterpret_cast<QuantisedGroup*>(to + group_plane(args.cols));
    float sum = 0;
#pragma unroll 1
    for (int i = threadIdx.x; i < all; i += kCount * step) {
        float4 v[2 * kCount];
        weighted<kNorm>(args, [&](int j) { return 2 * (i + j / 2 * step) + j % 2; }, v, sum);
        // `all` and the step are multiples of 32: whole warps go on or stop.
#pragma unroll
        for (int j = 0; j < kCount; ++j)
            if (i + j * step < all) quantise(v[2 * j], v[2 * j + 1], i + j * step, low, high, groups);
    }
    return sum;
}
