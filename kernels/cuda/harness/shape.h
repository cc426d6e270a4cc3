// One layer's shape, and random 16-bit elements for it.
#pragma once

#include "../step.cuh"
#include "buffer.h"
#include "random.h"

struct Shape {
    Dtype dtype;
    int num_q_heads, num_kv_heads, head_dim;
    int group() const { return num_q_heads / num_kv_heads; }
    int row_bytes() const { return head_dim * (is_byte(dtype) ? 1 : 2); }
    // Of a token's K, V and scales, for one KV head.
    int token_bytes() const { return 2 * row_bytes() + (dtype == Dtype::q8 ? 4 * scale_slots(head_dim) : 0); }
    Heads heads() const { return {num_kv_heads, group(), 1.44269504f / std::sqrt(static_cast<float>(head_dim))}; }
};

static __global__ void fill_normal(unsigned short* x, size_t count, uint64_t seed, float scale, float shift, bool bf16) {
    for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < count; i += static_cast<size_t>(gridDim.x) * blockDim.x) {
        const float value = shift + scale * normal(seed, i);
        x[i] = bf16 ? __bfloat16_as_ushort(__float2bfloat16(value)) : __half_as_ushort(__float2half(value));
    }
}
inline void fill(unsigned short* x, size_t count, uint64_t seed, float scale, float shift, Dtype dtype) {
    fill_normal<<<2048, 256>>>(x, count, seed, scale, shift, dtype == Dtype::bf16);
    CHECK(cudaGetLastError());
}
inline void fill(Buffer<unsigned short>& x, uint64_t seed, float scale, float shift, Dtype dtype) { fill(x.data, x.count, seed, scale, shift, dtype); }
