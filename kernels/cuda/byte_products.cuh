// Scores and weighted values of a tile of 8-bit rows.
//
// They are read by the instructions for 16 bits, as if two bytes were one element, and widened to f16 in registers. A lane then
// holds four neighbouring dimensions of a key where an operand wants two pairs, eight apart: the queries are stored in that order
// (load_queries). Of values it holds two dimensions of two tokens: the rows of the output are the even dimensions of each 16,
// then the odd ones (WarpState::store).
#pragma once

#include "layout.cuh"

template <class E, int kDim, int kHeads, int kTokens>
struct ByteProducts {
    using Layout = TileLayout<E, kDim, kTokens>;
    static constexpr int kColumns = kHeads / 8, kParts = kTokens / kTileTokens;
    // Parts whose products are interleaved, so that one waits for the other's: with 16 heads there are enough, and no registers.
    static constexpr int kTogether = kColumns == 1 ? kParts : 1;
    // Unrolled to the end, loads are asked for so early that they fill the registers where there are few to spare.
    static constexpr int kUnrolled = kColumns == 2 || (kDim == 128 && E::kScaled) ? 1 : kDim == 256 ? 2 : kDim / 32;

    // S^T[token, head] of each 16 tokens.
    static __device__ void scores(uint32_t tile, uint32_t queries, float (&score)[kParts][kColumns][4]) {
        const int lane = threadIdx.x % 32;
        const uint32_t key = tile + lane % 16 * Layout::kPitch + lane / 16 * 16;
        const uint32_t query = queries + lane % 8 * query_pitch(kDim) + lane / 8 * 16;
        const uint32_t scale = tile + lane / 4 * Layout::kPitch + Layout::kKeyScales;
#pragma unroll
        for (int p = 0; p < kParts; ++p) {
#pragma unroll
            for (int c = 0; c < kColumns; ++c) {
#pragma unroll
                for (int i = 0; i < 4; ++i) score[p][c][i] = 0.0f;
            }
        }
#pragma unroll
        for (int base = 0; base < kParts; base += kTogether) {
            float odd[kTogether][kColumns][4] = {};  // for 8 heads a second chain of products: it halves the wait for the accumulator
#pragma unroll(kUnrolled)
            for (int d = 0; d < kDim / 32; ++d) {
                uint32_t first[kTogether][4], second[kTogether][4];
                float scales[kTogether][2];  // of this lane's tokens, for these 32 dimensions
#pragma unroll
                for (int t = 0; t < kTogether; ++t) {
                    const uint32_t part = (base + t) * Layout::kPartBytes;
                    uint32_t bytes[4];
                    load_matrices(bytes, key + part + d * 32);
                    E::template widen<Pairs::adjacent>(bytes[0], first[t][0], first[t][2]);
                    E::template widen<Pairs::adjacent>(bytes[1], first[t][1], first[t][3]);
                    E::template widen<Pairs::adjacent>(bytes[2], second[t][0], second[t][2]);
                    E::template widen<Pairs::adjacent>(bytes[3], second[t][1], second[t][3]);
                    if constexpr (E::kScaled) {
                        scales[t][0] = load_half(scale + part + d * 2), scales[t][1] = load_half(scale + part + 8 * Layout::kPitch + d * 2);
                    }
                }
#pragma unroll
                for (int c = 0; c < kColumns; ++c) {
                    uint32_t q[4];
                    load_matrices(q, query + c * 8 * query_pitch(kDim) + d * 64);
#pragma unroll
                    for (int t = 0; t < kTogether; ++t) {
                        if constexpr (E::kScaled) {
                            // A scale is a token's for these 32 dimensions, so it multiplies their sum.
                            float block[4] = {};
                            E::mma(block, first[t], q[0], q[1]);
                            E::mma(block, second[t], q[2], q[3]);
#pragma unroll
                            for (int i = 0; i < 4; ++i) score[base + t][c][i] = fmaf(scales[t][i / 2], block[i], score[base + t][c][i]);
                        } else {
                            E::mma(score[base + t][c], first[t], q[0], q[1]);
                            E::mma(kColumns == 1 ? odd[t][c] : score[base + t][c], second[t], q[2], q[3]);
                        }
                    }
                }
            }
#pragma unroll
            for (int t = 0; t < kTogether; ++t) {
#pragma unroll
                for (int c = 0; c < kColumns; ++c) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) score[base + t][c][i] += odd[t][c][i];
                }
            }
        }
    }

    // O^T[dim, head] += V^T P^T. Weights as one f16 each: 2^-12 of relative error is far below that of the cache.
    static __device__ void add_values(uint32_t tile, const float (&weight)[kParts][kColumns][4], float (&out)[kDim / 16][kColumns][4]) {
        const int lane = threadIdx.x % 32;
        const uint32_t value = tile + Layout::kValues + lane % 16 * Layout::kPitch + lane / 16 * 16;
        const uint32_t scale = tile + lane % 4 * 2 * Layout::kPitch + Layout::kValueScales;
#pragma unroll
        for (int base = 0; base < kParts; base += kTogether) {
            uint32_t packed[kTogether][kColumns][2];
#pragma unroll
            for (int t = 0; t < kTogether; ++t) {
#pragma unroll
                for (int c = 0; c < kColumns; ++c) {
                    const float(&w)[4] = weight[base + t][c];
                    packed[t][c][0] = transpose_matrix(E::pack(w[0], w[1]));
                    packed[t][c][1] = transpose_matrix(E::pack(w[2], w[3]));
                }
            }
            __half2 scales[kTogether][2][2];  // [tokens 0..7 or 8..15][block]: of two tokens
#pragma unroll
            for (int d = 0; d < kDim / 32; ++d) {
#pragma unroll
                for (int t = 0; t < kTogether; ++t) {
                    const uint32_t part = (base + t) * Layout::kPartBytes;
                    uint32_t bytes[4], lower[4], upper[4];  // 16 dimensions each
                    load_matrices_transposed(bytes, value + part + d * 32);
                    E::template widen<Pairs::alternate>(bytes[0], lower[0], lower[1]);
                    E::template widen<Pairs::alternate>(bytes[1], lower[2], lower[3]);
                    E::template widen<Pairs::alternate>(bytes[2], upper[0], upper[1]);
                    E::template widen<Pairs::alternate>(bytes[3], upper[2], upper[3]);
                    if constexpr (E::kScaled) {
                        if (d % 2 == 0) load_value_scales(scale + part + d * 2, scales[t]);
#pragma unroll
                        for (int i = 0; i < 4; ++i) {
                            lower[i] = times(lower[i], scales[t][i / 2][d % 2]);
                            upper[i] = times(upper[i], scales[t][i / 2][d % 2]);
                        }
                    }
#pragma unroll
                    for (int c = 0; c < kColumns; ++c) {
                        E::mma(out[2 * d][c], lower, packed[t][c][0], packed[t][c][1]);
                        E::mma(out[2 * d + 1][c], upper, packed[t][c][0], packed[t][c][1]);
                    }
                }
            }
        }
    }

  private:
    // Of two neighbouring tokens of each eight, for two blocks of dimensions.
    static __device__ void load_value_scales(uint32_t from, __half2 (&scales)[2][2]) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const uint32_t even = load_word(from + half * 8 * Layout::kPitch), odd = load_word(from + (half * 8 + 1) * Layout::kPitch);
            const __half2 of_even = *reinterpret_cast<const __half2*>(&even), of_odd = *reinterpret_cast<const __half2*>(&odd);
            scales[half][0] = __lows2half2(of_even, of_odd);
            scales[half][1] = __highs2half2(of_even, of_odd);
        }
    }
};
