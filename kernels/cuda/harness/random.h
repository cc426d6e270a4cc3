// Counter-based random numbers, and 16-bit elements on the host.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector>

// Of K and V. All other numbers of 16 bits are bf16, or f16 beside f16 and 8-bit K and V.
enum class Dtype { bf16, f16, fp8, q8 };
inline const char* name_of(Dtype dtype) {
    constexpr const char* names[] = {"bf16", "f16", "fp8", "q8"};
    return names[static_cast<int>(dtype)];
}
inline bool is_byte(Dtype dtype) { return dtype == Dtype::fp8 || dtype == Dtype::q8; }
inline Dtype query_dtype(Dtype dtype) { return dtype == Dtype::bf16 ? Dtype::bf16 : Dtype::f16; }

__device__ __host__ inline uint32_t hash_u32(uint64_t seed, uint64_t i) {
    uint64_t x = seed * 0xd1342543de82ef95ull + i * 0x9e3779b97f4a7c15ull + 0x632be59bd9b4e019ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return static_cast<uint32_t>((x ^ x >> 31) >> 32);
}
__device__ __host__ inline float normal(uint64_t seed, uint64_t i) {
    const float u = (hash_u32(seed, 2 * i) + 0.5f) * 2.3283064e-10f, v = hash_u32(seed, 2 * i + 1) * 2.3283064e-10f;
    return sqrtf(-2.0f * logf(u < 1e-12f ? 1e-12f : u)) * cosf(6.2831853f * v);
}

inline float to_float(uint16_t bits, Dtype dtype) {
    if (dtype == Dtype::bf16) {
        const uint32_t wide = static_cast<uint32_t>(bits) << 16;
        float x;
        std::memcpy(&x, &wide, 4);
        return x;
    }
    // Oracles ask often.
    static const std::vector<float> halves = [] {
        std::vector<float> table(65536);
        for (int i = 0; i < 65536; ++i) table[i] = __half2float(__ushort_as_half(static_cast<unsigned short>(i)));
        return table;
    }();
    return halves[bits];
}
inline uint16_t from_float(float x, Dtype dtype) {
    return dtype == Dtype::bf16 ? __bfloat16_as_ushort(__float2bfloat16(x)) : __half_as_ushort(__float2half(x));
}
