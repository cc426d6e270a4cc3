// Causal attention of a chunk on tensor cores of any kind since Ampere (mma.sync): one block per tile of rows and KV head,
// K and V in shared memory one tile each, V on its way while scores are computed and K while values are added.
#pragma once

#include "load.cuh"
#include "prefill_rows.cuh"

// How the block shares its tile: each warp has kStrips strips of 16 rows. Two strips halve the loads of K and V from shared
// memory, which would otherwise be as slow as the products; at 256 dimensions registers allow one.
template <int kDim>
struct PrefillShape {
    static constexpr int kTokens = kPrefillTileTokens<kDim>;
    static constexpr int kRows = kPrefillTileRows<kDim>;
    static constexpr int kWarps = kPrefillThreads / 32;
    static constexpr int kStrips = kRows / (16 * kWarps);
};

// Offset of 16 bytes, `unit` of a row of kDim elements. Units are permuted so that the same unit of 8 rows in succession lies in 8
// different groups of banks.
template <int kDim>
__device__ inline int prefill_place(int row, int unit) {
    constexpr int kMask = kDim % 64 == 0 ? 7 : 3;
    const int permutation = (kDim % 64 == 0 ? row : row / 2) & kMask;
    return row * (2 * kDim) + (unit & ~kMask) * 16 + ((unit ^ permutation) & kMask) * 16;
}

// Starts copying `kRows` rows of 2 * kDim bytes; source(row) says from where, valid(row) whether it exists (else zeros).
template <int kDim, int kRows, class Source, class Valid>
__device__ inline void prefill_copy(uint32_t shared, Source source, Valid valid) {
    constexpr int kUnits = kDim / 8;  // of 16 bytes, per row
    static_assert(kRows * kUnits % kPrefillThreads == 0);
#pragma unroll
    for (int i = 0; i < kRows * kUnits / kPrefillThreads; ++i) {
        const int place = i * kPrefillThreads + threadIdx.x, row = place / kUnits, unit = place % kUnits;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared + prefill_place<kDim>(row, unit)), "l"(source(row) + unit * 16),
                     "r"(valid(row) ? 16 : 0)
                     : "memory");
    }
}

// One warp's rows: scores, weights, values.
template <class E, int kDim, bool kSeed>
struct PrefillWarp {
    using Shape = PrefillShape<kDim>;
    static constexpr int kStrips = Shape::kStrips, kColumns = Shape::kTokens / 8;

    RowSum rows[kStrips][2];  // of rows lane / 4 and lane / 4 + 8 of each strip
    float out[kStrips][kDim / 8][4];
    float score[kStrips][kColumns][4];

    __device__ void clear() {
#pragma unroll
        for (int s = 0; s < kStrips; ++s) {
            rows[s][0] = rows[s][1] = RowSum{-CUDART_INF_F, 0.0f};
#pragma unroll
            for (int c = 0; c < kDim / 8; ++c) {
#pragma unroll
                for (int i = 0; i < 4; ++i) out[s][c][i] = 0.0f;
            }
        }
    }

    // score = Q K^T, not scaled. q: this warp's rows, k: a tile.
    __device__ void multiply_keys(uint32_t q, uint32_t k) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int s = 0; s < kStrips; ++s) {
#pragma unroll
            for (int c = 0; c < kColumns; ++c) {
#pragma unroll
                for (int i = 0; i < 4; ++i) score[s][c][i] = 0.0f;
            }
        }
#pragma unroll
        for (int d = 0; d < kDim / 16; ++d) {
            uint32_t a[kStrips][4];
#pragma unroll
            for (int s = 0; s < kStrips; ++s) load_matrices(a[s], q + prefill_place<kDim>(16 * s + lane % 16, 2 * d + lane / 16));
#pragma unroll
            for (int c = 0; c < kColumns; c += 2) {
                uint32_t b[4];
                load_matrices(b, k + prefill_place<kDim>(8 * c + lane % 8 + lane / 16 * 8, 2 * d + lane / 8 % 2));
#pragma unroll
                for (int s = 0; s < kStrips; ++s) {
                    E::mma(score[s][c], a[s], b[0], b[1]);
                    E::mma(score[s][c + 1], a[s], b[2], b[3]);
                }
            }
        }
    }

    // Turns scores into weights. first: the first token of the tile; row: this warp's first; masked: some row does not see all.
    __device__ void weigh_scores(const PrefillRows<kSeed>& all, int row, int first, bool masked) {
        const int lane = threadIdx.x % 32;
        const float scale_log2 = all.args.heads.scale_log2;
#pragma unroll
        for (int s = 0; s < kStrips; ++s) {
            if (masked) {
                const int top = row + 16 * s + lane / 4;
                mask_scores(score[s], {all.limit(top) - first, all.limit(top + 8) - first});
            }
            float factor[2];
            if (raise_references(rows[s], score[s], scale_log2, factor)) rescale(out[s], factor);
            weigh(rows[s], score[s], scale_log2);
        }
    }

    // out += weights * V.
    __device__ void add_values(uint32_t v) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int t = 0; t < kColumns / 2; ++t) {
            uint32_t high[kStrips][4], low[kStrips][4];
#pragma unroll
            for (int s = 0; s < kStrips; ++s) {
                pack_weights<E, kSeed>(score[s][2 * t], score[s][2 * t + 1], high[s], low[s]);
            }
#pragma unroll
            for (int c = 0; c < kDim / 8; c += 2) {
                uint32_t b[4];
                load_matrices_transposed(b, v + prefill_place<kDim>(16 * t + lane % 16, c + lane / 16));
#pragma unroll
                for (int s = 0; s < kStrips; ++s) {
                    E::mma(out[s][c], high[s], b[0], b[1]);
                    E::mma(out[s][c + 1], high[s], b[2], b[3]);
                    if constexpr (kSeed) {
                        E::mma(out[s][c], low[s], b[0], b[1]);
                        E::mma(out[s][c + 1], low[s], b[2], b[3]);
                    }
                }
            }
        }
    }

    __device__ void store(const PrefillRows<kSeed>& all, int row, int split) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int s = 0; s < kStrips; ++s) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                store_row<E, kDim, kSeed>(all, row + 16 * s + 8 * half + lane / 4, split, rows[s][half], [&](int c, int j) { return out[s][c][2 * half + j]; });
            }
        }
    }
};

// Grid: prefill_tiles * num_kv_heads * splits. The tiles that see most come first.
template <class E, int kDim, bool kSeed>
__device__ inline void prefill(const PrefillArgs& args) {
    using Shape = PrefillShape<kDim>;
    constexpr int kTokens = Shape::kTokens;
    extern __shared__ __align__(128) unsigned char prefill_shared[];
    const uint32_t q = shared_address(prefill_shared), k = q + Shape::kRows * 2 * kDim, v = k + kTokens * 2 * kDim;
    const int split = blockIdx.x % args.splits, place = blockIdx.x / args.splits;
    const PrefillRows<kSeed> rows(args, place % args.heads.num_kv_heads);
    const int tile = prefill_tiles(args, kSeed, Shape::kRows) - 1 - place / args.heads.num_kv_heads;
    if (tile < 0) return;
    const int first_row = tile * Shape::kRows, last_row = first_row + Shape::kRows - 1, warp_row = first_row + threadIdx.x / 32 * 16 * Shape::kStrips;
    const int end = rows.limit(last_row), warp_full = rows.limit(warp_row);
    const auto span = rows.span(last_row, kTokens, split);

    const size_t head = static_cast<size_t>(rows.kv_head) * args.kv.capacity * (2 * kDim);
    const char* const keys = static_cast<const char*>(args.kv.k) + head;
    const char* const values = static_cast<const char*>(args.kv.v) + head;
    // Tokens that no row sees are never read: what stands there may be anything, and 0 * NaN is NaN.
    const auto load = [&](uint32_t shared, const char* base, int first) {
        prefill_copy<kDim, kTokens>(
            shared, [&](int i) { return base + static_cast<size_t>(min(first + i, end - 1)) * (2 * kDim); }, [&](int i) { return first + i < end; });
        commit_copies();
    };

    wait_for_previous();
    PrefillWarp<E, kDim, kSeed> warp;
    warp.clear();
    if (span.begin < span.end) {
        prefill_copy<kDim, Shape::kRows>(
            q, [&](int i) { return rows.template query<kDim>(first_row + i); }, [&](int i) { return first_row + i < rows.count; });
        load(k, keys, (span.end - 1) * kTokens);
        for (int t = span.end - 1; t >= span.begin; --t) {
            const int first = t * kTokens;
            wait_copies<0>();
            __syncthreads();  // K is there, and all are done with the last V
            load(v, values, first);
            warp.multiply_keys(q + threadIdx.x / 32 * 16 * Shape::kStrips * 2 * kDim, k);
            warp.weigh_scores(rows, warp_row, first, first + kTokens > warp_full);
            wait_copies<0>();
            __syncthreads();  // V is there, and all are done with K
            if (t > span.begin) load(k, keys, first - kTokens);
            warp.add_values(v);
        }
    }
    allow_next();
    warp.store(rows, warp_row, split);
}

#define PREFILL_KERNEL(name, element, dim, seed)                                                                           \
    extern "C" __global__ void __launch_bounds__(kPrefillThreads, 2) name(const __grid_constant__ PrefillArgs args) { \
        prefill<element, dim, seed>(args);                                                                                  \
    }
#define PREFILL_KERNELS(dim)                                     \
    PREFILL_KERNEL(prefill_bf16_d##dim, Bf16, dim, false)        \
    PREFILL_KERNEL(prefill_f16_d##dim, F16, dim, false)          \
    PREFILL_KERNEL(prefill_seed_bf16_d##dim, Bf16, dim, true)    \
    PREFILL_KERNEL(prefill_seed_f16_d##dim, F16, dim, true)
