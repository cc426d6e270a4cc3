// GGUF blocks on the host: made-up ones, and their values as the format defines them. The oracle of packing and dequantising.
#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "../args.cuh"

inline float half_at(const unsigned char* p) {
    const unsigned short bits = static_cast<unsigned short>(p[0] | p[1] << 8);
    return __half2float(__ushort_as_half(bits));
}
inline int block_elements(int type) { return type == kF32 || type == kF16 || type == kBf16 ? 1 : type <= kQ8_0 ? 32 : 256; }
inline int block_size(int type) {
    switch (type) {
        case kF32: return 4;
        case kF16:
        case kBf16: return 2;
        case kQ8_0: return 34;
        case kQ4_0: return 18;
        case kQ4_1: return 20;
        case kQ5_0: return 22;
        case kQ5_1: return 24;
        case kQ4_K: return 144;
        case kQ5_K: return 176;
        default: return 210;
    }
}
inline size_t raw_row_bytes(int type, int cols) { return static_cast<size_t>(cols) / block_elements(type) * block_size(type); }

// Scale and minimum of the 32-element group j of a K block, 6 bits each.
inline void k_scales(const unsigned char* packed, int j, int& scale, int& minimum) {
    if (j < 4) {
        scale = packed[j] & 63, minimum = packed[j + 4] & 63;
    } else {
        scale = (packed[j + 4] & 15) | (packed[j - 4] >> 6 << 4), minimum = packed[j + 4] >> 4 | (packed[j] >> 6 << 4);
    }
}

// Element `i` of the row that begins at `row`. volatile: every product is rounded by itself.
inline float element_of(int type, const unsigned char* row, int i) {
    const unsigned char* block = row + static_cast<size_t>(i / block_elements(type)) * block_size(type);
    const int at = i % block_elements(type);
    if (type == kF32) {
        float x;
        std::memcpy(&x, block, 4);
        return x;
    }
    if (type == kF16) return half_at(block);
    if (type == kBf16) {
        const uint32_t wide = static_cast<uint32_t>(block[0] | block[1] << 8) << 16;
        float x;
        std::memcpy(&x, &wide, 4);
        return x;
    }
    if (type == kQ8_0) return half_at(block) * static_cast<float>(static_cast<signed char>(block[2 + at]));
    if (type == kQ4_0) return half_at(block) * static_cast<float>((at < 16 ? block[2 + at] & 15 : block[2 + at - 16] >> 4) - 8);
    if (type == kQ4_1 || type == kQ5_0 || type == kQ5_1) {
        const bool minimum = type != kQ5_0, five = type != kQ4_1;
        const int high = minimum ? 4 : 2;
        const unsigned char* low = block + high + (five ? 4 : 0);
        int q = at < 16 ? low[at] & 15 : low[at - 16] >> 4;
        if (five) q |= (block[high + at / 8] >> at % 8 & 1) << 4;
        volatile float product = half_at(block) * static_cast<float>(minimum ? q : q - 16);
        return minimum ? product + half_at(block + 2) : product;
    }
    if (type == kQ4_K || type == kQ5_K) {
        const int group = at / 32, l = at % 32;
        int scale, minimum;
        k_scales(block + 4, group, scale, minimum);
        const unsigned char* low = block + (type == kQ4_K ? 16 : 48) + at / 64 * 32;
        int q = group % 2 == 0 ? low[l] & 15 : low[l] >> 4;
        if (type == kQ5_K && (block[16 + l] >> group & 1)) q += 16;
        volatile float d = half_at(block) * static_cast<float>(scale), m = half_at(block + 2) * static_cast<float>(minimum);
        volatile float product = d * static_cast<float>(q);
        return product - m;
    }
    const int half = at / 128, quarter = at % 128 / 32, l = at % 32;
    const unsigned char* low = block + half * 64 + (quarter % 2) * 32;
    const int q = ((quarter < 2 ? low[l] & 15 : low[l] >> 4) | (block[128 + half * 32 + l] >> 2 * quarter & 3) << 4) - 32;
    volatile float scaled = half_at(block + 208) * static_cast<float>(static_cast<signed char>(block[192 + at / 16]));
    return scaled * static_cast<float>(q);
}

// A matrix as it lies in a file: every bit pattern of quants and scales occurs; values are of the order of 1 / sqrt(cols).
inline std::vector<unsigned char> made_up_matrix(int type, int rows, int cols, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, 1);
    std::vector<unsigned char> bytes(raw_row_bytes(type, cols) * rows);
    const float size = 1 / std::sqrt(static_cast<float>(cols));
    const auto put_half = [](unsigned char* to, float x) {
        const unsigned short bits = __half_as_ushort(__float2half(x));
        to[0] = bits & 255, to[1] = bits >> 8;
    };
    if (type == kF32 || type == kF16 || type == kBf16) {
        for (size_t i = 0; i < static_cast<size_t>(rows) * cols; ++i) {
            const float x = size * normal(random);
            if (type == kF32) std::memcpy(&bytes[4 * i], &x, 4);
            if (type == kF16) put_half(&bytes[2 * i], x);
            if (type == kBf16) {
                const unsigned short bits = __bfloat16_as_ushort(__float2bfloat16(x));
                bytes[2 * i] = bits & 255, bytes[2 * i + 1] = bits >> 8;
            }
        }
        return bytes;
    }
    for (auto& byte : bytes) byte = static_cast<unsigned char>(random());
    for (size_t at = 0; at < bytes.size(); at += block_size(type)) {
        const float d = size * (0.5f + static_cast<float>(random() % 1024) / 1024);
        unsigned char* block = &bytes[at];
        if (type == kQ8_0) put_half(block, d / 64);
        if (type == kQ4_0) put_half(block, d / 4);
        if (type == kQ4_1) put_half(block, d / 4), put_half(block + 2, -2 * d);
        if (type == kQ5_0) put_half(block, d / 9);
        if (type == kQ5_1) put_half(block, d / 9), put_half(block + 2, -1.5f * d);
        if (type == kQ4_K) put_half(block, d / 128), put_half(block + 2, d / 32);
        if (type == kQ5_K) put_half(block, d / 256), put_half(block + 2, d / 32);
        if (type == kQ6_K) put_half(block + 208, d / 1024);
    }
    return bytes;
}
