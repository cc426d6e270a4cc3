// Scores and weighted values of a tile of 16-bit rows, as tensor-core products over its rows in shared memory, which are operands
// as they lie.
#pragma once

#include <type_traits>

#include "byte_products.cuh"

template <class E, int kDim, int kHeads, int kTokens>
struct WholeProducts {
    static_assert(kTokens == kTileTokens);
    using Layout = TileLayout<E, kDim, kTokens>;
    static constexpr int kColumns = kHeads / 8;

    // S^T[token, head] of each 16 tokens.
    static __device__ void scores(uint32_t tile, uint32_t queries, float (&parts)[1][kColumns][4]) {
        auto& score = parts[0];
        const int lane = threadIdx.x % 32;
        const uint32_t key = tile + lane % 16 * Layout::kPitch + lane / 16 * 16;
        const uint32_t query = queries + lane % 8 * query_pitch(kDim) + lane / 8 * 16;
        float odd[kColumns][4];  // a second chain of products halves the wait for the accumulator
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
#pragma unroll
            for (int i = 0; i < 4; ++i) score[c][i] = odd[c][i] = 0.0f;
        }
#pragma unroll
        for (int d = 0; d < kDim / 32; ++d) {
            uint32_t first[4], second[4];
            load_matrices(first, key + d * 64);
            load_matrices(second, key + d * 64 + 32);
#pragma unroll
            for (int c = 0; c < kColumns; ++c) {
                uint32_t q[4];
                load_matrices(q, query + c * 8 * query_pitch(kDim) + d * 64);
                E::mma(score[c], first, q[0], q[1]);
                E::mma(odd[c], second, q[2], q[3]);
            }
        }
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
#pragma unroll
            for (int i = 0; i < 4; ++i) score[c][i] += odd[c][i];
        }
    }

    // O^T[dim, head] += V^T P^T. Weights enter the product as the sum of two 16-bit numbers: one alone would cost 1.6e-3 of relative
    // error, the second product is free where bytes are the limit.
    static __device__ void add_values(uint32_t tile, const float (&parts)[1][kColumns][4], float (&out)[kDim / 16][kColumns][4]) {
        const auto& weight = parts[0];
        const int lane = threadIdx.x % 32;
        uint32_t high[kColumns][2], low[kColumns][2];
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const uint32_t packed = E::pack(weight[c][2 * half], weight[c][2 * half + 1]);
                const float2 rounded = E::unpack(packed);
                high[c][half] = transpose_matrix(packed);
                low[c][half] = transpose_matrix(E::pack(weight[c][2 * half] - rounded.x, weight[c][2 * half + 1] - rounded.y));
            }
        }
        const uint32_t value = tile + Layout::kValues + (lane % 8 + lane / 16 * 8) * Layout::kPitch + lane / 8 % 2 * 16;
#pragma unroll
        for (int d = 0; d < kDim / 16; ++d) {
            uint32_t v[4];
            load_matrices_transposed(v, value + d * 32);
#pragma unroll
            for (int c = 0; c < kColumns; ++c) {
                E::mma(out[d][c], v, high[c][0], high[c][1]);
                E::mma(out[d][c], v, low[c][0], low[c][1]);
            }
        }
    }
};

template <class E, int kDim, int kHeads, int kTokens>
using Products = std::conditional_t<E::kBytes == 1, ByteProducts<E, kDim, kHeads, kTokens>, WholeProducts<E, kDim, kHeads, kTokens>>;
