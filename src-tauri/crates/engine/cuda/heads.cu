// Head norm, RoPE and the KV cache: one warp per head of [q | k | v]. Element e of a head is turned with element e + head_dim / 2.

#include <cuda_bf16.h>

#include "args.cuh"
#include "kv_pack.cuh"
#include "launch.cuh"

namespace {

constexpr int kMaxPerLane = 4;  // pairs of elements; head_dim <= 256

enum class Cache { kBf16, kQ8, kFp8 };

__device__ float value(const float* x) { return __ldcg(x); }
__device__ float value(const __nv_bfloat16* x) {
    return __bfloat162float(__ushort_as_bfloat16(__ldcg(reinterpret_cast<const unsigned short*>(x))));
}
__device__ void store(uint16_t* to, float x) { *to = __bfloat16_as_ushort(__float2bfloat16(x)); }
__device__ void store_f16(uint16_t* to, float x) { *to = __half_as_ushort(__float2half(x)); }

// One row of K or V: this lane's elements e = lane + 32 i are a[i], and e + half are b[i].
template <Cache kCache>
__device__ void append(const HeadsArgs& args, bool is_v, size_t row, const float* a, const float* b) {
    const int lane = threadIdx.x % 32, half = args.head_dim / 2;
    void* const plane = is_v ? args.v : args.k;
    const auto each = [&](auto put) {
#pragma unroll
        for (int i = 0; i < kMaxPerLane; ++i) {
            const int e = lane + 32 * i;
            if (e < half) put(e, a[i]), put(e + half, b[i]);
        }
    };
    if constexpr (kCache == Cache::kBf16) {
        uint16_t* const to = static_cast<uint16_t*>(plane) + row * args.head_dim;
        each([&](int e, float x) { store(to + e, x); });
    } else if constexpr (kCache == Cache::kFp8) {
        uint8_t* const to = static_cast<uint8_t*>(plane) + row * args.head_dim;
        each([&](int e, float x) { to[e] = fp8_byte(x); });
    } else {
        uint8_t* const to = static_cast<uint8_t*>(plane) + row * args.head_dim;
        const int blocks = args.head_dim / kScaleBlock, slots = scale_slots(args.head_dim);
        uint16_t* const scales = args.scales + (2 * row + is_v) * slots;
        // Where half a head is no multiple of a block, a block lies in other lanes' a and b.
        for (int block = 0; block < slots; ++block) {
            const auto mine = [&](int e) { return e / kScaleBlock == block; };
            unsigned greatest = 0;
            each([&](int e, float x) { greatest = mine(e) ? max(greatest, q8_magnitude(x)) : greatest; });
            const __half scale = q8_scale(__reduce_max_sync(kFullWarp, greatest));
            if (block < blocks) each([&](int e, float x) { if (mine(e)) to[e] = q8_byte(x, scale); });
            if (lane == 0) scales[block] = __half_as_ushort(scale);
        }
    }
}

template <class T, Cache kCache>
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
    if (!is_q && (position < 0 || position >= args.capacity)) return;
    const size_t cached = static_cast<size_t>(head - (is_k ? q : q + kv)) * args.capacity + position;
    if (!is_q && !is_k) {
        append<kCache>(args, true, cached, a, b);
        return;
    }
    float turned_a[kMaxPerLane], turned_b[kMaxPerLane];
#pragma unroll
    for (int i = 0; i < kMaxPerLane; ++i) {
        const int e = lane + 32 * i;
        turned_a[i] = turned_b[i] = 0;
        if (e >= half) continue;
        const float cosine = __ldcg(args.cos + token * half + e), sine = __ldcg(args.sin + token * half + e);
        turned_a[i] = a[i] * cosine - b[i] * sine, turned_b[i] = b[i] * cosine + a[i] * sine;
    }
    if (is_k) {
        append<kCache>(args, false, cached, turned_a, turned_b);
        return;
    }
    const size_t query = (static_cast<size_t>(token) * q + head) * args.head_dim;
    // Of 8-bit keys the products are made in f16.
    const auto store_rotated = [&](size_t at, float x) { kCache == Cache::kBf16 ? store(args.q_rot + at, x) : store_f16(args.q_rot + at, x); };
#pragma unroll
    for (int i = 0; i < kMaxPerLane; ++i) {
        const int e = lane + 32 * i;
        if (e >= half) continue;
        store(args.q_pre + query + e, a[i]), store(args.q_pre + query + e + half, b[i]);
        store_rotated(query + e, turned_a[i]), store_rotated(query + e + half, turned_b[i]);
    }
}

}  // namespace

#define SPLIT_HEADS(name, type, cache)                                                                        \
    extern "C" __global__ void __launch_bounds__(128) split_heads_##name(const __grid_constant__ HeadsArgs args) { \
        split_heads<type, cache>(args);                                                                       \
    }
SPLIT_HEADS(f32, float, Cache::kBf16)
SPLIT_HEADS(bf16, __nv_bfloat16, Cache::kBf16)
SPLIT_HEADS(f32_q8, float, Cache::kQ8)
SPLIT_HEADS(f32_fp8, float, Cache::kFp8)
