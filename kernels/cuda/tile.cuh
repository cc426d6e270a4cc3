// One warp, 16 or 32 tokens, up to 16 query heads: the arithmetic of every kernel here.
//
// Scores are computed transposed, S^T[token, head] = K Q^T, so that tokens fill the 16 rows of the tensor-core product
// and heads its 8 columns: a group of up to 8 heads wastes no row. The output is transposed too, O^T[dim, head] = V^T P^T.
// Score, running maximum and output of a head then sit in the same lanes: column 2 * (lane % 4) + {0, 1}.
#pragma once

#include "partial.cuh"
#include "products.cuh"

// Bytes of a finished state (WarpState::store).
__host__ __device__ constexpr int state_bytes(int dim, int heads) { return heads * (dim + 2) * 4; }

// Running softmax of one warp over the tiles of kTokens tokens that it has seen. Scores are in base 2.
template <class E, int kDim, int kHeads, int kTokens = kTileTokens>
struct WarpState {
    static constexpr int kColumns = kHeads / 8, kParts = kTokens / kTileTokens;
    // A new reference lies this far below the greatest score: weights that enter products as one f16 keep all their bits
    // down to 2^-21 of it.
    static constexpr float kHeadroom = E::kBytes == 1 ? 7.0f : 0.0f;
    // The reference is moved only when a score exceeds it by this much: sums stay far inside f32, weights inside f16, and most
    // tiles neither exchange maxima nor rescale.
    static constexpr float kSlack = 8.0f + kHeadroom;

    float max[kColumns][2];  // reference of heads 8 * column + 2 * (lane % 4) + {0, 1}; same in lanes that share lane % 4
    float sum[kColumns][2];  // this lane's tokens only
    float out[kDim / 16][kColumns][4];

    __device__ void clear() {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                max[c][j] = -CUDART_INF_F;
                sum[c][j] = 0.0f;
            }
#pragma unroll
            for (int d = 0; d < kDim / 16; ++d) {
#pragma unroll
                for (int i = 0; i < 4; ++i) out[d][c][i] = 0.0f;
            }
        }
    }

    // Adds tokens token..end of a loaded tile. With kBegins a head ignores tokens below begins[head] (shared memory).
    template <bool kBegins>
    __device__ void add(uint32_t tile, uint32_t queries, float scale_log2, int token, int end, const int* begins) {
        const int lane = threadIdx.x % 32;
        float score[kParts][kColumns][4];
        Products<E, kDim, kHeads, kTokens>::scores(tile, queries, score);

        bool raise = false;
#pragma unroll
        for (int p = 0; p < kParts; ++p) {
#pragma unroll
            for (int c = 0; c < kColumns; ++c) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int at = token + p * kTileTokens + lane / 4 + i / 2 * 8;
                    bool seen = at < end;
                    if constexpr (kBegins) seen = seen && at >= begins[8 * c + 2 * (lane % 4) + i % 2];
                    score[p][c][i] = seen ? score[p][c][i] * (scale_log2 * E::kUnit) : -CUDART_INF_F;
                    raise |= score[p][c][i] > max[c][i % 2] + kSlack;
                }
            }
        }
        if (__any_sync(0xffffffffu, raise)) move_reference(score);

#pragma unroll
        for (int p = 0; p < kParts; ++p) {
#pragma unroll
            for (int c = 0; c < kColumns; ++c) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    score[p][c][i] = weight_log2(score[p][c][i], max[c][i % 2]);
                    sum[c][i % 2] += score[p][c][i];
                }
            }
        }
        Products<E, kDim, kHeads, kTokens>::add_values(tile, score, out);
    }

    // Leaves the state in shared memory: out [kHeads, kDim] (not normalised, dims permuted by `place`), max [kHeads], sum [kHeads].
    __device__ void store(float* region) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const int head = 8 * c + 2 * (lane % 4) + j;
                float total = sum[c][j];
#pragma unroll
                for (int step = 4; step < 32; step *= 2) total += __shfl_xor_sync(0xffffffffu, total, step);
                if (lane < 4) {
                    region[kHeads * kDim + head] = max[c][j];
                    region[kHeads * kDim + kHeads + head] = total;
                }
#pragma unroll
                for (int d = 0; d < kDim / 16; ++d) {
                    if constexpr (E::kBytes == 2) {
                        region[place(head, 16 * d + lane / 4)] = out[d][c][j];
                        region[place(head, 16 * d + lane / 4 + 8)] = out[d][c][j + 2];
                    } else {
                        float2* const two = reinterpret_cast<float2*>(region + place(head, 16 * d + lane / 4 * 2));
                        *two = make_float2(out[d][c][j] * E::kUnit, out[d][c][j + 2] * E::kUnit);
                    }
                }
            }
        }
    }

    // Where `store` puts an output element: bits 3 and 4 of the dimension are mixed with the head, against bank conflicts.
    static __device__ int place(int head, int dim) { return head * kDim + (dim ^ head / 2 % 4 * 8); }

  private:
    __device__ void move_reference(const float (&score)[kParts][kColumns][4]) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                float top = fmaxf(score[0][c][j], score[0][c][j + 2]);
#pragma unroll
                for (int p = 1; p < kParts; ++p) top = fmaxf(top, fmaxf(score[p][c][j], score[p][c][j + 2]));
#pragma unroll
                for (int step = 4; step < 32; step *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
                top = fmaxf(top - kHeadroom, max[c][j]);
                const float factor = weight_log2(max[c][j], top);
                max[c][j] = top;
                sum[c][j] *= factor;
#pragma unroll
                for (int d = 0; d < kDim / 16; ++d) {
                    out[d][c][j] *= factor;
                    out[d][c][j + 2] *= factor;
                }
            }
        }
    }
};

// Four dimensions of one head over several tiles or spans: values not normalised, weights against a base-2 reference.
struct Weighted {
    float4 value;
    float weight, max;

    __device__ Partial<float4> partial() const {
        return {weight != 0.0f ? __fdividef(1.0f, weight) * value : make_float4(0, 0, 0, 0), natural_lse(weight, max)};
    }
};

// Joins the stored states of `count` warps; `region(i)` is where warp i left its own.
template <class State, int kDim, int kHeads, class Region>
__device__ inline Weighted join(Region region, int count, int head, int dim) {
    Weighted all{make_float4(0, 0, 0, 0), 0.0f, -CUDART_INF_F};
    for (int i = 0; i < count; ++i) all.max = fmaxf(all.max, region(i)[kHeads * kDim + head]);
    for (int i = 0; i < count; ++i) {
        const float* state = region(i);
        const float w = weight_log2(state[kHeads * kDim + head], all.max);
        all.value = all.value + w * *reinterpret_cast<const float4*>(state + State::place(head, dim));
        all.weight += w * state[kHeads * kDim + kHeads + head];
    }
    return all;
}
