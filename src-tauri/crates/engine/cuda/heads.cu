// Head norm, RoPE and the KV cache: one warp per head of [q | k | v]. Element e of a head is turned with element e + head_dim / 2.

#include <cuda_bf16.h>

#include "args.cuh"
#include "launch.cuh"

namespace {

constexpr int kMaxPerLane = 4;  // pairs of elements; head_dim <= 256

__device__ float value(const float* x) { return __ldcg(x); }
__device__ float value(const __nv_bfloat16* x) {
    return __bfloat162float(__ushort_as_bfloat16(__ldcg(reinterpret_cast<const unsigned short*>(x))));
}
__device__ void store(uint16_t* to, float x) { *to = __bfloat16_as_ushort(__float2bfloat16(x)); }

template <class T>
__device__ void split_heads(const HeadsArgs& args) {
    allow_next();
    const int lane = threadIdx.x % 32, head = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, token = blockIdx.y;
    const int half = args.head_dim / 2, q = args.num_q_heads, kv = args.num_kv_heads;
    const bool is_q = head < q, is_k = !is_q && head < q + kv;
    const float* norm = is_q ? args.q_norm : is_k ? args.k_norm : nullptr;
    if (head >= q + 2 * kv) return;

    // Weights first: they are there before the previous kernel ends. Pair i of this lane: elements e and e + half.
    float a[kMaxPerLane], b[kMaxPerLane], norm_a[kMaxPerLane], norm_b[kMaxPerLane];
#pragma unroll
    for (int i = 0; i < kMaxPerLane; ++i) {
        const int e = lane + 32 * i;
        a[i] = b[i] = 0;
        norm_a[i] = norm_b[i] = 1;
        if (e >= half) continue;
        if (args.bias != nullptr) a[i] = __ldg(args.bias + head * args.head_dim + e), b[i] = __ldg(args.bias + head * args.head_dim + e + half);
        if (norm != nullptr) norm_a[i] = __ldg(norm + e), norm_b[i] = __ldg(norm + e + half);
    }
    wait_for_previous();
    const int position = (args.position != nullptr ? __ldcg(args.position) : args.begin) + token;
    const T* row = static_cast<const T*>(args.qkv) + (static_cast<size_t>(token) * (q + 2 * kv) + head) * args.head_dim;
    float squares = 0;
#pragma unroll
    for (int i = 0; i < kMaxPerLane; ++i) {
        const int e = lane + 32 * i;
        if (e >= half) continue;
        a[i] += value(row + e), b[i] += value(row + e + half);
        squares = fmaf(a[i], a[i], fmaf(b[i], b[i], squares));
    }
    if (norm != nullptr) {
        const float scale = 1 / sqrtf(warp_sum(squares) / args.head_dim + args.eps);
#pragma unroll
        for (int i = 0; i < kMaxPerLane; ++i) a[i] = a[i] * scale * norm_a[i], b[i] = b[i] * scale * norm_b[i];
    }
    const size_t query = (static_cast<size_t>(token) * q + head) * args.head_dim;
    const size_t cached = (static_cast<size_t>(head - (is_k ? q : q + kv)) * args.capacity + position) * args.head_dim;
    if (!is_q && (position < 0 || position >= args.capacity)) return;
#pragma unroll
    for (int i = 0; i < kMaxPerLane; ++i) {
        const int e = lane + 32 * i;
        if (e >= half) continue;
        if (!is_q && !is_k) {
            store(args.v + cached + e, a[i]), store(args.v + cached + e + half, b[i]);
            continue;
        }
        const float cosine = __ldcg(args.cos + token * half + e), sine = __ldcg(args.sin + token * half + e);
        const float turned_a = a[i] * cosine - b[i] * sine, turned_b = b[i] * cosine + a[i] * sine;
        if (is_q) {
            store(args.q_pre + query + e, a[i]), store(args.q_pre + query + e + half, b[i]);
            store(args.q_rot + query + e, turned_a), store(args.q_rot + query + e + half, turned_b);
        } else {
            store(args.k + cached + e, turned_a), store(args.k + cached + e + half, turned_b);
        }
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(128) split_heads_f32(const __grid_constant__ HeadsArgs args) { split_heads<float>(args); }
extern "C" __global__ void __launch_bounds__(128) split_heads_bf16(const __grid_constant__ HeadsArgs args) { split_heads<__nv_bfloat16>(args); }
