// How block types lie in memory after `repack`: planes, so that a warp reads each with 16 bytes per lane.
//
// Quants plane: a group of 32 elements is 16 bytes in 4-, 5- and 6-bit types; byte i holds the low four bits of element i in its low
// and of element 16 + i in its high half. Q8_0 keeps its bytes. Other planes:
//
//   Q8_0, Q4_0  1: f16 scale per group; rows padded with zeros to 16 bytes
//   Q4_1        1: f16 scale and f16 minimum per group; rows padded alike
//   Q5_0, Q5_1  1: as Q4_0, Q4_1; 2: high bits as Q5_K; rows padded alike
//   Q4_K        1: 16 bytes per 256 elements: f16 d, f16 dmin, then three words of 8 nibbles, nibble j for group j: low bits of the
//                  scale, low bits of the minimum, (scale >> 4) | (minimum >> 4) << 2
//   Q5_K        1: as Q4_K; 2: word per group: bit 8 b + i is bit 4 of element 4 i + b, bit 8 b + 4 + i of element 16 + 4 i + b
//   Q6_K        1: two words per group, of elements 0..15 and 16..31: bits 8 b + 2 i and the next are bits 4, 5 of element 4 i + b
//               2: i8 scale per 16 elements; 3: f16 d per 256 elements; rows padded with zeros to 16 bytes
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "args.cuh"

constexpr int kGroup = 32;   // elements that share a scale of the quantised input
constexpr int kSuper = 256;  // elements of a block of the K types
constexpr size_t kPlaneAlignment = 256;

__host__ __device__ constexpr size_t padded(size_t n, size_t to) { return (n + to - 1) / to * to; }

// Bytes of one row in each plane; 0 where there is no such plane.
struct RowBytes {
    size_t of[4];
};

__host__ __device__ constexpr RowBytes row_bytes(int type, int cols) {
    const size_t groups = cols / kGroup, supers = cols / kSuper, n = cols;
    switch (type) {
        case kF32: return {{4 * n, 0, 0, 0}};
        case kF16:
        case kBf16: return {{2 * n, 0, 0, 0}};
        case kQ8_0: return {{n, 2 * padded(groups, 8), 0, 0}};
        case kQ4_0: return {{16 * groups, 2 * padded(groups, 8), 0, 0}};
        case kQ4_1: return {{16 * groups, 4 * padded(groups, 4), 0, 0}};
        case kQ5_0: return {{16 * groups, 2 * padded(groups, 8), 4 * padded(groups, 4), 0}};
        case kQ5_1: return {{16 * groups, 4 * padded(groups, 4), 4 * padded(groups, 4), 0}};
        case kQ4_K: return {{16 * groups, 16 * supers, 0, 0}};
        case kQ5_K: return {{16 * groups, 16 * supers, 4 * groups, 0}};
        case kQ6_K: return {{16 * groups, 8 * groups, 2 * groups, 2 * padded(supers, 8)}};
        default: return {{0, 0, 0, 0}};
    }
}

// Where plane `plane` begins.
__host__ __device__ constexpr size_t plane_offset(int type, int rows, int cols, int plane) {
    const RowBytes bytes = row_bytes(type, cols);
    size_t offset = 0;
    // All four, so that a device unrolls it and indexes no array at run time.
    for (int i = 0; i < 4; ++i) offset += i < plane ? padded(bytes.of[i] * rows, kPlaneAlignment) : 0;
    return offset;
}

__host__ __device__ constexpr size_t packed_bytes(int type, int rows, int cols) { return plane_offset(type, rows, cols, 4); }

// Elements of a packed or dense matrix, eight at a time, as the reference of the format computes them: products and sums rounded
// one by one.
template <int kType>
struct Values {
    const unsigned char* plane[4];
    RowBytes bytes;

    __device__ Values(const void* weights, int rows, int cols) : bytes(row_bytes(kType, cols)) {
        for (int i = 0; i < 4; ++i) plane[i] = static_cast<const unsigned char*>(weights) + plane_offset(kType, rows, cols, i);
    }
    template <class T>
    __device__ T at(int which, size_t row, int index) const {
        return reinterpret_cast<const T*>(plane[which] + row * bytes.of[which])[index];
    }
    __device__ float half_at(int which, size_t row, int index) const { return __half2float(at<__half>(which, row, index)); }

    // Elements col..col + 7 of `row`; col a multiple of 8.
    __device__ void eight(size_t row, int col, float (&out)[8]) const {
        if constexpr (kType == kF32) {
            for (int i = 0; i < 2; ++i) *reinterpret_cast<float4*>(out + 4 * i) = at<float4>(0, row, col / 4 + i);
        } else if constexpr (kType == kF16 || kType == kBf16) {
            const uint4 words = at<uint4>(0, row, col / 8);
            const unsigned pairs[4] = {words.x, words.y, words.z, words.w};
            for (int i = 0; i < 8; ++i) {
                const unsigned short bits = pairs[i / 2] >> 16 * (i % 2);
                out[i] = kType == kF16 ? __half2float(__ushort_as_half(bits)) : __uint_as_float(static_cast<unsigned>(bits) << 16);
            }
        } else {
            int q[8];
            quants(row, col, q);
            scaled(row, col, q, out);
        }
    }

  private:
    __device__ void quants(size_t row, int col, int (&q)[8]) const {
        const int group = col / kGroup, within = col % kGroup;
        if constexpr (kType == kQ8_0) {
            const uint2 words = at<uint2>(0, row, col / 8);
            for (int i = 0; i < 8; ++i) q[i] = static_cast<signed char>((i < 4 ? words.x : words.y) >> 8 * (i % 4));
        } else {
            const uint2 words = at<uint2>(0, row, group * 2 + within % 16 / 8);
            const int shift = within / 16 * 4;
            for (int i = 0; i < 8; ++i) q[i] = (i < 4 ? words.x : words.y) >> (8 * (i % 4) + shift) & 15;
        }
        if constexpr (kType == kQ5_K || kType == kQ5_0 || kType == kQ5_1) {
            const unsigned high = at<unsigned>(2, row, group) >> (within % 16 / 4 + within / 16 * 4);
            for (int i = 0; i < 8; ++i) q[i] |= (high >> (8 * (i % 4) + i / 4) & 1) << 4;
        } else if constexpr (kType == kQ6_K) {
            const unsigned high = at<unsigned>(1, row, 2 * group + within / 16) >> within % 16 / 4 * 2;
            for (int i = 0; i < 8; ++i) q[i] |= (high >> (8 * (i % 4) + i / 4 * 2) & 3) << 4;
        }
    }
    __device__ void scaled(size_t row, int col, const int (&q)[8], float (&out)[8]) const {
        const int group = col / kGroup;
        if constexpr (kType == kQ4_K || kType == kQ5_K) {
            const uint4 head = at<uint4>(1, row, col / kSuper);
            const __half2 d = *reinterpret_cast<const __half2*>(&head.x);
            const int shift = 4 * (group % 8);
            const unsigned high = head.w >> shift;
            const float scale = __fmul_rn(__low2float(d), static_cast<float>((head.y >> shift & 15) | (high & 3) << 4));
            const float minimum = __fmul_rn(__high2float(d), static_cast<float>((head.z >> shift & 15) | (high >> 2 & 3) << 4));
            for (int i = 0; i < 8; ++i) out[i] = __fsub_rn(__fmul_rn(scale, static_cast<float>(q[i])), minimum);
        } else if constexpr (kType == kQ6_K) {
            const float scale = __fmul_rn(half_at(3, row, col / kSuper), static_cast<float>(at<signed char>(2, row, col / 16)));
            for (int i = 0; i < 8; ++i) out[i] = __fmul_rn(scale, static_cast<float>(q[i] - 32));
        } else if constexpr (kType == kQ4_1 || kType == kQ5_1) {
            const float2 d = __half22float2(at<__half2>(1, row, group));
            for (int i = 0; i < 8; ++i) out[i] = __fadd_rn(__fmul_rn(d.x, static_cast<float>(q[i])), d.y);
        } else {
            constexpr int kZero = kType == kQ4_0 ? 8 : kType == kQ5_0 ? 16 : 0;
            const float scale = half_at(1, row, group);
            for (int i = 0; i < 8; ++i) out[i] = __fmul_rn(scale, static_cast<float>(q[i] - kZero));
        }
    }
};
