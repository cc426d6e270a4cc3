// One warp, 16 tokens, up to 16 query heads: the arithmetic of every kernel here.
//
// Scores are computed transposed, S^T[token, head] = K Q^T, so that tokens fill the 16 rows of the tensor-core product
// and heads its 8 columns: a group of up to 8 heads wastes no row. The output is transposed too, O^T[dim, head] = V^T P^T.
// Score, running maximum and output of a head then sit in the same lanes: column 2 * (lane % 4) + {0, 1}.
#pragma once

#include "element.cuh"
#include "load.cuh"
#include "partial.cuh"

constexpr int kTileTokens = 16;

// Shared-memory layout: K rows, then V rows, each row 16 bytes longer than its data, so that the 8 rows of a matrix
// load start in 8 different bank groups.
template <int kDim>
struct TileLayout {
    static constexpr int kPitch = 2 * kDim + 16;                // bytes
    static constexpr int kValues = kTileTokens * kPitch;        // offset of V
    static constexpr int kBytes = 2 * kTileTokens * kPitch;
    static constexpr int kMaxHeads = 16;
    // A warp's finished state (see WarpState::store) fits into one tile buffer.
    static_assert(kBytes >= kMaxHeads * (kDim + 2) * 4);
};

// Starts the copies of tokens token..token + 15 of one KV head; tokens from `end` on become zeros.
// k, v: [tokens, kDim], of this KV head.
template <int kDim>
__device__ inline void load_tile(uint32_t tile, const char* k, const char* v, int token, int end, uint64_t policy) {
    constexpr int kRowChunks = kDim / 8;  // 16 bytes each
    const int lane = threadIdx.x % 32;
    const size_t offset = static_cast<size_t>(token) * (2 * kDim);
    const int valid = (end - token) * (2 * kDim);  // bytes
#pragma unroll
    for (int i = 0; i < kTileTokens * kRowChunks / 32; ++i) {
        const int chunk = i * 32 + lane;
        const int bytes = chunk * 16 < valid ? 16 : 0;
        const uint32_t place = tile + chunk / kRowChunks * TileLayout<kDim>::kPitch + chunk % kRowChunks * 16;
        copy_async(place, k + offset + chunk * 16, bytes, policy);
        copy_async(place + TileLayout<kDim>::kValues, v + offset + chunk * 16, bytes, policy);
    }
}

// Copies the rotated queries of one group to shared memory, [kHeads, kPitch]; missing heads become zeros.
// q: [group, kDim]. Called by `threads` threads, numbered by `thread`, which synchronise afterwards.
template <int kDim, int kHeads>
__device__ inline void load_queries(unsigned char* shared, const char* q, int group, int thread, int threads) {
    constexpr int kRowChunks = kDim / 8;
    for (int chunk = thread; chunk < kHeads * kRowChunks; chunk += threads) {
        uint4 data = make_uint4(0, 0, 0, 0);
        if (chunk < group * kRowChunks) data = __ldcg(reinterpret_cast<const uint4*>(q) + chunk);
        *reinterpret_cast<uint4*>(shared + chunk / kRowChunks * TileLayout<kDim>::kPitch + chunk % kRowChunks * 16) = data;
    }
}

// Running softmax of one warp over the tiles it has seen. Scores are in base 2.
template <class E, int kDim, int kHeads>
struct WarpState {
    static constexpr int kColumns = kHeads / 8;
    // The reference is moved only when a score exceeds it by this much: sums stay far inside f32 and most tiles
    // neither exchange maxima nor rescale.
    static constexpr float kSlack = 8.0f;

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
        float score[kColumns][4];
        scores(tile, queries, score);

        bool raise = false;
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int at = token + lane / 4 + i / 2 * 8;
                bool seen = at < end;
                if constexpr (kBegins) seen = seen && at >= begins[8 * c + 2 * (lane % 4) + i % 2];
                score[c][i] = seen ? score[c][i] * scale_log2 : -CUDART_INF_F;
                raise |= score[c][i] > max[c][i % 2] + kSlack;
            }
        }
        if (__any_sync(0xffffffffu, raise)) move_reference(score);

#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                score[c][i] = weight_log2(score[c][i], max[c][i % 2]);
                sum[c][i % 2] += score[c][i];
            }
        }
        add_values(tile + TileLayout<kDim>::kValues, score);
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
                    region[place(head, 16 * d + lane / 4)] = out[d][c][j];
                    region[place(head, 16 * d + lane / 4 + 8)] = out[d][c][j + 2];
                }
            }
        }
    }

    // Where `store` puts an output element: bits 3 and 4 of the dimension are mixed with the head, against bank conflicts.
    static __device__ int place(int head, int dim) { return head * kDim + (dim ^ head / 2 % 4 * 8); }

  private:
    __device__ void scores(uint32_t tile, uint32_t queries, float (&score)[kColumns][4]) {
        const int lane = threadIdx.x % 32;
        const uint32_t key = tile + lane % 16 * TileLayout<kDim>::kPitch + lane / 16 * 16;
        const uint32_t query = queries + lane % 8 * TileLayout<kDim>::kPitch + lane / 8 * 16;
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
                load_matrices(q, query + c * 8 * TileLayout<kDim>::kPitch + d * 64);
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

    __device__ void move_reference(const float (&score)[kColumns][4]) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                float top = fmaxf(score[c][j], score[c][j + 2]);
#pragma unroll
                for (int step = 4; step < 32; step *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
                top = fmaxf(top, max[c][j]);
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

    // Weights enter the product as the sum of two 16-bit numbers: one alone would cost 1.6e-3 of relative error, the
    // second product is free where bytes are the limit.
    __device__ void add_values(uint32_t values, const float (&weight)[kColumns][4]) {
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
        const uint32_t value = values + (lane % 8 + lane / 16 * 8) * TileLayout<kDim>::kPitch + lane / 8 % 2 * 16;
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

// Four dimensions of one head over several tiles or spans: values not normalised, weights against a base-2 reference.
struct Weighted {
    float4 value;
    float weight, max;

    __device__ Partial<float4> partial() const {
        return {weight > 0.0f ? __fdividef(1.0f, weight) * value : make_float4(0, 0, 0, 0), natural_lse(weight, max)};
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
