// Made-up weights and cache contents, for benchmarks without a download: right in size and scale. A counter-based hash, so that the
// same seed gives the same values in any grid.

#include "kv_pack.cuh"
#include "launch.cuh"
#include "packed.cuh"

namespace {

__device__ unsigned long long hash(unsigned long long seed, unsigned long long i) {
    unsigned long long x = seed * 0xd1342543de82ef95ull + i * 0x9e3779b97f4a7c15ull + 0x632be59bd9b4e019ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}
__device__ float normal(unsigned long long seed, unsigned long long i) {
    const unsigned long long bits = hash(seed, i);
    // The first in (0, 1], so that its logarithm is finite.
    const float u = (static_cast<float>(bits >> 40) + 1) * 5.9604645e-8f, v = static_cast<float>(bits & 0xffffff) * 5.9604645e-8f;
    return sqrtf(-2 * logf(u)) * cospif(2 * v);
}

__device__ long long first_item() { return blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x; }
__device__ long long item_stride() { return static_cast<long long>(gridDim.x) * blockDim.x; }

__device__ void store(float* to, float x) { *to = x; }
__device__ void store(__half* to, float x) { *to = __float2half(x); }
__device__ void store(__nv_bfloat16* to, float x) { *to = __float2bfloat16(x); }

template <class T>
__device__ void fill_dense(T* out, long long count, unsigned long long seed, float std) {
    allow_next();
    wait_for_previous();
    for (long long i = first_item(); i < count; i += item_stride()) store(out + i, std * normal(seed, i));
}

// A byte of plane `plane` at offset `at` of a row. Quants are uniform; scales are set so that the values' deviation is `std` and
// their mean near zero.
template <int kType>
__device__ unsigned char packed_byte(int plane, size_t at, unsigned random, float std) {
    const auto half_byte = [&](float x) -> unsigned char { return __half_as_ushort(__float2half(x)) >> 8 * (at % 2) & 255; };
    if (plane == 0) return static_cast<unsigned char>(random);
    if constexpr (kType == kQ8_0) {
        return half_byte(std / 73.9f);  // deviation of -128..127
    } else if constexpr (kType == kQ4_0) {
        return half_byte(std / 4.61f);  // of 0..15
    } else if constexpr (kType == kQ4_1 || kType == kQ5_0 || kType == kQ5_1) {
        if (plane == 2) return static_cast<unsigned char>(random);
        constexpr bool kFour = kType == kQ4_1;
        const float d = std / (kFour ? 4.61f : 9.23f);
        return half_byte(kType == kQ5_0 || at % 4 < 2 ? d : -d * (kFour ? 7.5f : 15.5f));
    } else if constexpr (kType == kQ4_K || kType == kQ5_K) {
        if (plane == 2) return static_cast<unsigned char>(random);
        // Scale 32 for all groups; the minimum times dmin is the mean of the quants times scale and d.
        constexpr float kDeviation = kType == kQ4_K ? 4.61f : 9.23f, kMean = kType == kQ4_K ? 7.5f : 15.5f;
        const float d = std / (32 * kDeviation);
        const int byte = at % 16;
        if (byte < 2) return half_byte(d);
        if (byte < 4) return half_byte(d * kMean);  // minimum 32 as well
        return byte < 12 ? 0 : (32 >> 4 | 32 >> 4 << 2) * 17;
    } else {
        if (plane == 1) return static_cast<unsigned char>(random);
        return plane == 2 ? 64 : half_byte(std / (64 * 18.5f));  // deviation of -32..31
    }
}

template <int kType>
__device__ void fill_packed(unsigned char* packed, int rows, int cols, unsigned long long seed, float std) {
    allow_next();
    wait_for_previous();
    const RowBytes bytes = row_bytes(kType, cols);
    for (int plane = 0; plane < 4; ++plane) {
        unsigned char* to = packed + plane_offset(kType, rows, cols, plane);
        // Rows of every plane are multiples of 8 bytes.
        const long long words = static_cast<long long>(bytes.of[plane]) * rows / 8;
        for (long long i = first_item(); i < words; i += item_stride()) {
            const unsigned long long random = hash(seed + plane, i);
            unsigned long long word = 0;
            for (int b = 0; b < 8; ++b)
                word |= static_cast<unsigned long long>(packed_byte<kType>(plane, i * 8 + b, random >> 8 * b & 255, std)) << 8 * b;
            reinterpret_cast<unsigned long long*>(to)[i] = word;
        }
    }
}

// Rows of K or of V in an 8-bit cache, a warp each: normal values. scales: where the first row's are, nullptr without; rows
// are 2 * slots of them apart.
template <bool kScales>
__device__ void fill_kv(unsigned char* out, unsigned short* scales, int rows, int head_dim, unsigned long long seed) {
    allow_next();
    wait_for_previous();
    const int lane = threadIdx.x % 32, slots = scale_slots(head_dim);
    for (long long row = first_item() / 32; row < rows; row += item_stride() / 32) {
        for (int block = 0; block < head_dim / 32; ++block) {
            const long long at = row * head_dim + 32 * block + lane;
            const float x = normal(seed, at);
            if constexpr (kScales) {
                const __half scale = q8_scale(__reduce_max_sync(kFullWarp, q8_magnitude(x)));
                out[at] = q8_byte(x, scale);
                if (lane == 0) scales[2 * row * slots + block] = __half_as_ushort(scale);
            } else {
                out[at] = fp8_byte(x);
            }
        }
    }
}

// The attention kernels' ring entry.
struct RingMeta {
    int position;
    float lse;
    unsigned depth;
    float distance;
};

}  // namespace

extern "C" __global__ void fill_f32(float* out, long long count, unsigned long long seed, float std) { fill_dense(out, count, seed, std); }
extern "C" __global__ void fill_f16(__half* out, long long count, unsigned long long seed, float std) { fill_dense(out, count, seed, std); }
extern "C" __global__ void fill_bf16(__nv_bfloat16* out, long long count, unsigned long long seed, float std) { fill_dense(out, count, seed, std); }

#define FILL(name, type)                                                                                                    \
    extern "C" __global__ void fill_##name(void* packed, int rows, int cols, unsigned long long seed, float std) {          \
        fill_packed<type>(static_cast<unsigned char*>(packed), rows, cols, seed, std);                                      \
    }
FILL(q8_0, kQ8_0)
FILL(q4_0, kQ4_0)
FILL(q4_1, kQ4_1)
FILL(q5_0, kQ5_0)
FILL(q5_1, kQ5_1)
FILL(q4_k, kQ4_K)
FILL(q5_k, kQ5_K)
FILL(q6_k, kQ6_K)

extern "C" __global__ void fill_kv_q8(unsigned char* out, unsigned short* scales, int rows, int head_dim, unsigned long long seed) {
    fill_kv<true>(out, scales, rows, head_dim, seed);
}
extern "C" __global__ void fill_kv_fp8(unsigned char* out, unsigned short* scales, int rows, int head_dim, unsigned long long seed) {
    fill_kv<false>(out, scales, rows, head_dim, seed);
}

// Entries for the last `slots` positions before `length`, as if each had been computed exactly: normal queries, outputs of the size
// that averaging over the prefix leaves, and its log-sum-exp.
extern "C" __global__ void fill_ring(__nv_bfloat16* query, float* out, RingMeta* meta, int num_q_heads, int slots, int head_dim, int length,
                                     int band, unsigned long long seed) {
    allow_next();
    wait_for_previous();
    const long long entries = static_cast<long long>(num_q_heads) * slots;
    for (long long i = first_item(); i < entries * head_dim; i += item_stride()) {
        store(query + i, normal(seed, i));
        out[i] = 0.1f * normal(seed + 1, i);
    }
    for (long long i = first_item(); i < entries; i += item_stride()) {
        const int slot = static_cast<int>(i % slots);
        // The newest position before `length` in this slot.
        const int position = length - 1 - ((length - 1 - slot) % slots + slots) % slots;
        const int prefix = position + 1 - band;
        meta[i] = {position < 0 ? -1 : position, prefix > 0 ? logf(static_cast<float>(prefix)) : -INFINITY, 0, 0};
    }
}
