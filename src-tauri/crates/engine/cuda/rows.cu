// Between the products of a prefill chunk, row by row. Memory-bound: 16 bytes per access, f32 arithmetic.

#include <cuda_bf16.h>

#include "launch.cuh"

namespace {

__device__ float4 load4(const float* x, size_t quad) { return __ldcg(reinterpret_cast<const float4*>(x) + quad); }
__device__ float4 load4(const __nv_bfloat16* x, size_t quad) {
    const uint2 bits = __ldcg(reinterpret_cast<const uint2*>(x) + quad);
    return {__uint_as_float(bits.x << 16), __uint_as_float(bits.x & 0xffff0000u), __uint_as_float(bits.y << 16),
            __uint_as_float(bits.y & 0xffff0000u)};
}
__device__ void store4(float* x, size_t quad, float4 v) { reinterpret_cast<float4*>(x)[quad] = v; }
__device__ void store4(__nv_bfloat16* x, size_t quad, float4 v) {
    const __nv_bfloat162 low = __floats2bfloat162_rn(v.x, v.y), high = __floats2bfloat162_rn(v.z, v.w);
    reinterpret_cast<uint2*>(x)[quad] = {*reinterpret_cast<const unsigned*>(&low), *reinterpret_cast<const unsigned*>(&high)};
}
__device__ float gated(float gate, float up) { return gate / (1 + expf(-gate)) * up; }

__device__ long long first_item() { return blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x; }
__device__ long long item_stride() { return static_cast<long long>(gridDim.x) * blockDim.x; }

template <class T, class Out>
__device__ void silu_rows(const T* gate_up, Out* out, int width, int rows) {
    const int quads = width / 4;
    for (long long i = first_item(); i < static_cast<long long>(rows) * quads; i += item_stride()) {
        const size_t gate = (i / quads) * 2 * quads + i % quads;
        const float4 g = load4(gate_up, gate), u = load4(gate_up, gate + quads);
        store4(out, i, {gated(g.x, u.x), gated(g.y, u.y), gated(g.z, u.z), gated(g.w, u.w)});
    }
}

}  // namespace

// One block of 256 per row; cols a multiple of 4.
extern "C" __global__ void __launch_bounds__(256) rms_norm_rows(const float* x, const float* weight, float eps, __nv_bfloat16* out, int cols) {
    __shared__ float sums[8];
    allow_next();
    wait_for_previous();
    const int quads = cols / 4;
    const float* row = x + static_cast<size_t>(blockIdx.x) * cols;
    float squares = 0;
    for (int i = threadIdx.x; i < quads; i += 256) {
        const float4 v = load4(row, i);
        squares = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, squares))));
    }
    squares = warp_sum(squares);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = squares;
    __syncthreads();
    squares = 0;
    for (float sum : sums) squares += sum;
    const float scale = 1 / sqrtf(squares / cols + eps);
    for (int i = threadIdx.x; i < quads; i += 256) {
        const float4 v = load4(row, i), w = __ldg(reinterpret_cast<const float4*>(weight) + i);
        store4(out + static_cast<size_t>(blockIdx.x) * cols, i, {v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w});
    }
}

#define SILU_ROWS(name, type)                                                                                             \
    extern "C" __global__ void silu_rows_##name(const type* gate_up, int width, void* out, int rows, int out_is_f32) {    \
        allow_next();                                                                                                     \
        wait_for_previous();                                                                                              \
        if (out_is_f32) {                                                                                                 \
            silu_rows(gate_up, static_cast<float*>(out), width, rows);                                                    \
        } else {                                                                                                          \
            silu_rows(gate_up, static_cast<__nv_bfloat16*>(out), width, rows);                                            \
        }                                                                                                                 \
    }
SILU_ROWS(f32, float)
SILU_ROWS(bf16, __nv_bfloat16)

// In place; count a multiple of 2. What a prompt's attention over an 8-bit cache writes, for products that take bf16.
extern "C" __global__ void f16_to_bf16(__half2* x, long long count) {
    allow_next();
    wait_for_previous();
    for (long long i = first_item(); i < count / 2; i += item_stride())
        reinterpret_cast<__nv_bfloat162*>(x)[i] = __float22bfloat162_rn(__half22float2(x[i]));
}
