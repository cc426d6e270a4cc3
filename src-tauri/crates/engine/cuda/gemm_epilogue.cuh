// From accumulators to C. Every tensor-core product leaves a warp's sums alike: for rows r = lane / 4 and r + 8 and for each
// group of 8 columns, a lane holds columns 2 (lane % 4) and the next: sums[0], sums[1] of row r, sums[2], sums[3] of row r + 8.
#pragma once

#include "gemm.cuh"
#include "gemm_element.cuh"

// How many columns of C a tile of `tile_n` rows of W gives.
template <GemmEpilogue kEpilogue>
__host__ __device__ constexpr int columns_of(int tile_n) {
    return kEpilogue == kSiluBf16 ? tile_n / 2 : tile_n;
}

// Among the four lanes of a row: lane q gives word g of every group g and receives the four words of group q, so that it can
// write 16 bytes at once.
__device__ inline void transpose_quad(uint32_t (&word)[4], int lane) {
    const bool odd = lane & 1, high = lane & 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        const uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? word[i] : word[i + 1], 1);
        (odd ? word[i] : word[i + 1]) = other;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const uint32_t other = __shfl_xor_sync(0xffffffffu, high ? word[i] : word[i + 2], 2);
        (high ? word[i] : word[i + 2]) = other;
    }
}

__device__ inline float silu(float x) { return x / (1.0f + __expf(-x)); }

// Elements `column` and the next of `bias`; zeros without a bias or beyond `limit`.
__device__ inline float2 bias_of(const float* bias, int column, int limit) {
    return bias && column < limit ? *reinterpret_cast<const float2*>(bias + column) : make_float2(0, 0);
}

// bf16 rows `row` and `row + 8`, columns [column, column + 32): words[half][g] holds the lane's two columns of group g.
__device__ inline void store_words(const GemmArgs& args, uint32_t (&words)[2][4], int row, int column, int lane) {
    const int mine = column + lane % 4 * 8;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        transpose_quad(words[half], lane);
        const int at = row + 8 * half;
        if (at < args.m && mine < args.n) {
            auto* c = static_cast<uint16_t*>(args.c) + static_cast<size_t>(at) * args.ldc + mine;
            *reinterpret_cast<uint4*>(c) = make_uint4(words[half][0], words[half][1], words[half][2], words[half][3]);
        }
    }
}

// yes ? x : y. Hidden from the compiler, which would rather branch; and where accumulators meet a divergent branch, it makes every
// wgmma wait for the one before (C7520).
__device__ inline float select(bool yes, float x, float y) {
    float chosen;
    asm("{\n.reg .pred p;\nsetp.ne.b32 p, %3, 0;\nselp.f32 %0, %1, %2, p;\n}" : "=f"(chosen) : "f"(x), "f"(y), "r"(static_cast<int>(yes)));
    return chosen;
}

// Loads nothing and gives zeros unless `inside`; volatile, so that loads stay together ahead of their uses.
__device__ inline float4 load_inside(const float* from, bool inside) {
    float4 x;
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %5, 0;\nmov.f32 %0, 0f00000000;\nmov.f32 %1, 0f00000000;\nmov.f32 %2, 0f00000000;\n"
        "mov.f32 %3, 0f00000000;\n@p ld.global.v4.f32 {%0, %1, %2, %3}, [%4];\n}"
        : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
        : "l"(from), "r"(static_cast<int>(inside)));
    return x;
}

// Adds four floats in L2, without waiting for the old ones; compute capability 9.0. One addition per element and launch, so that the
// result does not depend on any order.
__device__ inline void reduce_inside(float* to, const float4& x, bool inside) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %5, 0;\n@p red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};\n}" ::"l"(to), "f"(x.x), "f"(x.y),
                 "f"(x.z), "f"(x.w), "r"(static_cast<int>(inside))
                 : "memory");
}

// f32 row `row`, half of what the lane holds. Of two neighbouring groups an even lane takes the first and an odd lane the second,
// so that each holds 16 bytes.
template <bool kAdd, bool kReduce, int kGroups>
__device__ inline void add_or_store(const GemmArgs& args, const float (&sums)[kGroups][4], int half, int row, int column, int lane) {
    constexpr int kPairs = kGroups < 16 ? kGroups / 2 : 8;  // of groups; loads of C in flight
    const bool odd = lane & 1;
    const int mine = column + (odd ? 8 : 0) + lane % 4 / 2 * 4;
    float* line = static_cast<float*>(args.c) + static_cast<size_t>(row) * args.ldc + mine;
    const bool row_inside = row < args.m;
#pragma unroll
    for (int block = 0; block < kGroups; block += 2 * kPairs) {
        float4 old[kPairs] = {};
        if constexpr (kAdd && !kReduce) {
#pragma unroll
            for (int i = 0; i < kPairs; ++i) {
                const int at = (block + 2 * i) * 8;
                old[i] = load_inside(line + at, row_inside && mine + at < args.n);
            }
        }
#pragma unroll
        for (int i = 0; i < kPairs; ++i) {
            const int at = (block + 2 * i) * 8;
            const bool inside = mine + at < args.n;
            const float4 bias = load_inside(args.bias + mine + at, args.bias && inside);
            const float(&first)[4] = sums[block + 2 * i];
            const float(&second)[4] = sums[block + 2 * i + 1];
            const float first0 = first[2 * half], first1 = first[2 * half + 1], second0 = second[2 * half], second1 = second[2 * half + 1];
            const float other0 = __shfl_xor_sync(0xffffffffu, select(odd, first0, second0), 1);
            const float other1 = __shfl_xor_sync(0xffffffffu, select(odd, first1, second1), 1);
            const float4 x = make_float4(select(odd, other0, first0) + bias.x + old[i].x, select(odd, other1, first1) + bias.y + old[i].y,
                                         select(odd, second0, other0) + bias.z + old[i].z, select(odd, second1, other1) + bias.w + old[i].w);
            if constexpr (kAdd && kReduce) {
                reduce_inside(line + at, x, row_inside && inside);
            } else {
                if (row_inside && inside) *reinterpret_cast<float4*>(line + at) = x;
            }
        }
    }
}

// Writes kGroups groups of 8 columns from `column` on; for silu the first half are gate sums, the second half up sums, and
// kGroups / 2 groups are written. kGroups is a multiple of 4, for silu of 8. `row`: the first of this lane. kReduce: add to C in L2.
template <GemmEpilogue kEpilogue, bool kReduce, int kGroups>
__device__ inline void write_sums(const GemmArgs& args, const float (&sums)[kGroups][4], int row, int column, int lane) {
    const int pair = lane % 4 * 2;
    if constexpr (kEpilogue == kSiluBf16) {
        constexpr int kUp = kGroups / 2;
#pragma unroll
        for (int block = 0; block < kUp; block += 4) {
            uint32_t words[2][4];
#pragma unroll
            for (int g = 0; g < 4; ++g) {
                const int at = column + (block + g) * 8 + pair;
                const float(&gate)[4] = sums[block + g];
                const float(&up)[4] = sums[kUp + block + g];
                float2 gate_bias = make_float2(0, 0), up_bias = gate_bias;
                if (args.bias && at < args.n) {
                    gate_bias = *reinterpret_cast<const float2*>(args.bias + at);
                    up_bias = *reinterpret_cast<const float2*>(args.bias + args.n + at);
                }
                words[0][g] = pack_bf16(silu(gate[0] + gate_bias.x) * (up[0] + up_bias.x), silu(gate[1] + gate_bias.y) * (up[1] + up_bias.y));
                words[1][g] = pack_bf16(silu(gate[2] + gate_bias.x) * (up[2] + up_bias.x), silu(gate[3] + gate_bias.y) * (up[3] + up_bias.y));
            }
            store_words(args, words, row, column + block * 8, lane);
        }
    } else if constexpr (kEpilogue == kStoreBf16) {
#pragma unroll
        for (int block = 0; block < kGroups; block += 4) {
            uint32_t words[2][4];
#pragma unroll
            for (int g = 0; g < 4; ++g) {
                const float2 bias = bias_of(args.bias, column + (block + g) * 8 + pair, args.n);
                const float(&x)[4] = sums[block + g];
                words[0][g] = pack_bf16(x[0] + bias.x, x[1] + bias.y);
                words[1][g] = pack_bf16(x[2] + bias.x, x[3] + bias.y);
            }
            store_words(args, words, row, column + block * 8, lane);
        }
    } else {
#pragma unroll
        for (int half = 0; half < 2; ++half) add_or_store<kEpilogue == kAddF32, kReduce, kGroups>(args, sums, half, row + 8 * half, column, lane);
    }
}

// 16 columns of rows `row` and `row + 8`: sums[g] holds the lane's two columns of group g; for silu they are gate sums, and `up` the
// up sums.
template <GemmEpilogue kEpilogue>
__device__ inline void write_pair(const GemmArgs& args, const float (&sums)[2][4], const float (&up)[2][4], int row, int column, int lane) {
    if constexpr (kEpilogue == kStoreF32 || kEpilogue == kAddF32) {
#pragma unroll
        for (int half = 0; half < 2; ++half) add_or_store<kEpilogue == kAddF32, true, 2>(args, sums, half, row + 8 * half, column, lane);
    } else {
        uint32_t words[2][2];
#pragma unroll
        for (int g = 0; g < 2; ++g) {
            const int at = column + g * 8 + lane % 4 * 2;
            const float2 bias = bias_of(args.bias, at, args.n);
            const float2 up_bias = bias_of(args.bias ? args.bias + args.n : nullptr, kEpilogue == kSiluBf16 ? at : args.n, args.n);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float x = sums[g][2 * half] + bias.x, y = sums[g][2 * half + 1] + bias.y;
                if (kEpilogue == kSiluBf16) x = silu(x) * (up[g][2 * half] + up_bias.x), y = silu(y) * (up[g][2 * half + 1] + up_bias.y);
                words[half][g] = pack_bf16(x, y);
            }
        }
        // As for f32: an even lane takes the first group, an odd lane the second.
        const bool odd = lane & 1;
        const int mine = column + (odd ? 8 : 0) + lane % 4 / 2 * 4;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? words[half][0] : words[half][1], 1);
            const uint2 x = odd ? make_uint2(other, words[half][1]) : make_uint2(words[half][0], other);
            const int at = row + 8 * half;
            if (at < args.m && mine < args.n) *reinterpret_cast<uint2*>(static_cast<uint16_t*>(args.c) + static_cast<size_t>(at) * args.ldc + mine) = x;
        }
    }
}
