// GGUF blocks to planes (packed.cuh), and any weights to bf16.

#include "launch.cuh"
#include "packed.cuh"

namespace {

__device__ unsigned half_bits(const unsigned char* p) { return p[0] | p[1] << 8; }

struct Target {
    unsigned char* plane[4];
    RowBytes bytes;

    template <class T>
    __device__ T& at(int which, size_t row, size_t index) const {
        return reinterpret_cast<T*>(plane[which] + row * bytes.of[which])[index];
    }
    // `low(i)` is the low four bits of element i of the group.
    template <class Low>
    __device__ void nibbles(size_t row, int group, Low low) const {
        uint4 packed;
        unsigned* words = &packed.x;
        for (int i = 0; i < 4; ++i) {
            unsigned word = 0;
            for (int b = 0; b < 4; ++b) word |= (low(4 * i + b) | low(16 + 4 * i + b) << 4) << 8 * b;
            words[i] = word;
        }
        at<uint4>(0, row, group) = packed;
    }
    // An entry of plane `which`, and zeros behind the row's last.
    template <class T>
    __device__ void entry(int which, size_t row, int index, int last, unsigned bits) const {
        at<T>(which, row, index) = static_cast<T>(bits);
        if (index == last)
            for (int pad = last + 1; pad < static_cast<int>(bytes.of[which] / sizeof(T)); ++pad) at<T>(which, row, pad) = 0;
    }
};

// Scale and minimum of group j in the 12 bytes of a Q4_K or Q5_K block.
__device__ void scale_and_minimum(const unsigned char* packed, int j, unsigned& scale, unsigned& minimum) {
    if (j < 4) {
        scale = packed[j] & 63;
        minimum = packed[j + 4] & 63;
    } else {
        scale = (packed[j + 4] & 15) | packed[j - 4] >> 6 << 4;
        minimum = packed[j + 4] >> 4 | packed[j] >> 6 << 4;
    }
}

__device__ uint4 k_head(const unsigned char* block) {
    uint4 head{half_bits(block) | half_bits(block + 2) << 16, 0, 0, 0};
    for (int j = 0; j < 8; ++j) {
        unsigned scale, minimum;
        scale_and_minimum(block + 4, j, scale, minimum);
        head.y |= (scale & 15) << 4 * j;
        head.z |= (minimum & 15) << 4 * j;
        head.w |= (scale >> 4 | minimum >> 4 << 2) << 4 * j;
    }
    return head;
}

// `bit(i)` is bit 4 of element i of the group.
template <class Bit>
__device__ unsigned fifth_bits(Bit bit) {
    unsigned word = 0;
    for (int i = 0; i < 32; ++i) word |= bit(i) << (8 * (i % 4) + i % 16 / 4 + i / 16 * 4);
    return word;
}

// One group of 32 elements; `blocks` begins at the row's first block.
template <int kType>
__device__ void repack_group(const unsigned char* blocks, const Target& target, size_t row, int group, int groups) {
    if constexpr (kType == kQ8_0) {
        const unsigned char* block = blocks + group * 34;
        target.entry<unsigned short>(1, row, group, groups - 1, half_bits(block));
        for (int i = 0; i < 32; ++i) target.at<unsigned char>(0, row, group * 32 + i) = block[2 + i];
    } else if constexpr (kType == kQ4_0 || kType == kQ4_1 || kType == kQ5_0 || kType == kQ5_1) {
        constexpr bool kMinimum = kType == kQ4_1 || kType == kQ5_1, kFive = kType == kQ5_0 || kType == kQ5_1;
        constexpr int kHigh = kMinimum ? 4 : 2, kLow = kHigh + (kFive ? 4 : 0);
        const unsigned char* block = blocks + group * (kLow + 16);
        if constexpr (kMinimum) {
            target.entry<unsigned>(1, row, group, groups - 1, half_bits(block) | half_bits(block + 2) << 16);
        } else {
            target.entry<unsigned short>(1, row, group, groups - 1, half_bits(block));
        }
        target.nibbles(row, group, [&](int i) -> unsigned { return i < 16 ? block[kLow + i] & 15 : block[kLow + i - 16] >> 4; });
        if constexpr (kFive) {
            const unsigned bits = half_bits(block + kHigh) | half_bits(block + kHigh + 2) << 16;
            target.entry<unsigned>(2, row, group, groups - 1, fifth_bits([&](int i) -> unsigned { return bits >> i & 1; }));
        }
    } else if constexpr (kType == kQ4_K || kType == kQ5_K) {
        constexpr int kBytes = kType == kQ4_K ? 144 : 176, kHigh = 16, kLow = kType == kQ4_K ? 16 : 48;
        const unsigned char* block = blocks + group / 8 * kBytes;
        const int j = group % 8;
        const unsigned char* low = block + kLow + j / 2 * 32;
        target.nibbles(row, group, [&](int i) -> unsigned { return j % 2 == 0 ? low[i] & 15 : low[i] >> 4; });
        if (j == 0) target.at<uint4>(1, row, group / 8) = k_head(block);
        if constexpr (kType == kQ5_K) {
            target.at<unsigned>(2, row, group) = fifth_bits([&](int i) -> unsigned { return block[kHigh + i] >> j & 1; });
        }
    } else {
        const unsigned char* block = blocks + group / 8 * 210;
        const int j = group % 8, half = j / 4, quarter = j % 4;  // 32 elements of a half of 128
        const unsigned char* low = block + half * 64 + quarter % 2 * 32;
        target.nibbles(row, group, [&](int i) -> unsigned { return quarter < 2 ? low[i] & 15 : low[i] >> 4; });
        unsigned high[2] = {0, 0};
        for (int i = 0; i < 32; ++i)
            high[i / 16] |= (block[128 + half * 32 + i] >> 2 * quarter & 3u) << (8 * (i % 4) + i % 16 / 4 * 2);
        target.at<unsigned>(1, row, 2 * group) = high[0];
        target.at<unsigned>(1, row, 2 * group + 1) = high[1];
        for (int i = 0; i < 2; ++i) target.at<unsigned char>(2, row, 2 * group + i) = block[192 + 2 * j + i];
        if (j == 0) target.entry<unsigned short>(3, row, group / 8, groups / 8 - 1, half_bits(block + 208));
    }
}

__host__ __device__ constexpr int block_bytes(int type) {
    switch (type) {
        case kQ4_0: return 18;
        case kQ4_1: return 20;
        case kQ5_0: return 22;
        case kQ5_1: return 24;
        case kQ8_0: return 34;
        case kQ4_K: return 144;
        case kQ5_K: return 176;
        default: return 210;
    }
}

template <int kType>
__device__ void repack_rows(const void* blocks, void* packed, int rows, int cols, int first_row, int some_rows) {
    allow_next();
    wait_for_previous();
    Target target{{}, row_bytes(kType, cols)};
    for (int i = 0; i < 4; ++i) target.plane[i] = static_cast<unsigned char*>(packed) + plane_offset(kType, rows, cols, i);
    const int groups = cols / kGroup;
    const size_t source_row = static_cast<size_t>(cols) / (kType <= kQ8_0 ? kGroup : kSuper) * block_bytes(kType);
    const long long count = static_cast<long long>(some_rows) * groups, stride = static_cast<long long>(gridDim.x) * blockDim.x;
    for (long long i = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x; i < count; i += stride) {
        const size_t row = i / groups;
        repack_group<kType>(static_cast<const unsigned char*>(blocks) + row * source_row, target, first_row + row, static_cast<int>(i % groups),
                            groups);
    }
}

template <int kType>
__device__ void dequantise_rows(const void* weights, __nv_bfloat16* out, int rows, int cols, int first_row, int some_rows) {
    allow_next();
    wait_for_previous();
    const Values<kType> values(weights, rows, cols);
    const int eighths = cols / 8;
    const long long count = static_cast<long long>(some_rows) * eighths, stride = static_cast<long long>(gridDim.x) * blockDim.x;
    for (long long i = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x; i < count; i += stride) {
        const size_t row = i / eighths;
        const int col = static_cast<int>(i % eighths) * 8;
        float x[8];
        values.eight(first_row + row, col, x);
        __nv_bfloat162 pairs[4];
        for (int j = 0; j < 4; ++j) pairs[j] = __floats2bfloat162_rn(x[2 * j], x[2 * j + 1]);
        reinterpret_cast<uint4*>(out)[i] = *reinterpret_cast<const uint4*>(pairs);
    }
}

}  // namespace

#define REPACK(name, type)                                                                                                               \
    extern "C" __global__ void repack_##name(const void* blocks, void* packed, int rows, int cols, int first_row, int some_rows) {       \
        repack_rows<type>(blocks, packed, rows, cols, first_row, some_rows);                                                              \
    }
#define DEQUANTISE(name, type)                                                                                                            \
    extern "C" __global__ void dequantise_##name(const void* weights, __nv_bfloat16* out, int rows, int cols, int first_row,             \
                                                 int some_rows) {                                                                         \
        dequantise_rows<type>(weights, out, rows, cols, first_row, some_rows);                                                            \
    }

REPACK(q8_0, kQ8_0)
REPACK(q4_0, kQ4_0)
REPACK(q4_1, kQ4_1)
REPACK(q5_0, kQ5_0)
REPACK(q5_1, kQ5_1)
REPACK(q4_k, kQ4_K)
REPACK(q5_k, kQ5_K)
REPACK(q6_k, kQ6_K)
DEQUANTISE(f32, kF32)
DEQUANTISE(f16, kF16)
DEQUANTISE(bf16, kBf16)
DEQUANTISE(q8_0, kQ8_0)
DEQUANTISE(q4_0, kQ4_0)
DEQUANTISE(q4_1, kQ4_1)
DEQUANTISE(q5_0, kQ5_0)
DEQUANTISE(q5_1, kQ5_1)
DEQUANTISE(q4_k, kQ4_K)
DEQUANTISE(q5_k, kQ5_K)
DEQUANTISE(q6_k, kQ6_K)
