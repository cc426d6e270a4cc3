// Causal attention of a chunk on Hopper's warpgroup products: one warp copies tiles of K and V, two or three warpgroups of 64
// rows each multiply. A warpgroup starts the scores of the next tile before it adds the values of this one, and turns scores into weights
// while the tensor cores work for itself and for the others; two take turns in starting products.
#pragma once

#include "prefill_hopper.cuh"
#include "prefill_rows.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// What one block works on, tile by tile of rows, those that see most first. Rounds run in opposite directions, so that no block gets
// the longer tile in every round.
struct PrefillSchedule {
    int tiles, heads, splits, round = 0;

    __device__ PrefillSchedule(const PrefillArgs& args, bool seed, int tile_rows)
        : tiles(prefill_tiles(args, seed, tile_rows)), heads(args.heads.num_kv_heads), splits(args.splits) {}
    // False when nothing is left.
    __device__ bool next(int& tile, int& kv_head, int& split) {
        const int blocks = gridDim.x, place = blockIdx.x;
        const int i = round * blocks + (round % 2 ? blocks - 1 - place : place);
        ++round;
        if (i >= tiles * heads * splits) return false;
        tile = tiles - 1 - i / (heads * splits);
        kv_head = i / splits % heads;
        split = i % splits;
        return true;
    }
};

// Where things are in shared memory, and the barriers: a stage of K or V is full (the copy has landed) or empty (all warps have
// read it). Tiles are numbered through all that the block does; tile i is in stage i % kStages.
template <class Shape>
struct PrefillPipe {
    static constexpr int kStages = Shape::kStages;
    uint32_t base;

    __device__ uint32_t query(int warpgroup) const { return base + warpgroup * (Shape::kQueryBytes / Shape::kConsumers); }
    __device__ uint32_t tile(bool value, unsigned i) const {
        return base + Shape::kQueryBytes + (value * kStages + i % kStages) * Shape::kTileBytes;
    }
    __device__ uint32_t full(bool value, unsigned i) const {
        return base + Shape::kQueryBytes + 2 * kStages * Shape::kTileBytes + 8 * (value * kStages + i % kStages);
    }
    __device__ uint32_t empty(bool value, unsigned i) const { return full(value, i) + 8 * 2 * kStages; }

    __device__ void init() const {
        for (int i = 0; i < 2 * kStages; ++i) {
            barrier_init(full(i / kStages, i), 1);
            barrier_init(empty(i / kStages, i), 4 * Shape::kConsumers);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __device__ void wait_full(bool value, unsigned i) const { barrier_wait(full(value, i), i / kStages & 1); }
    __device__ void wait_empty(bool value, unsigned i) const { barrier_wait(empty(value, i), (i / kStages & 1) ^ 1); }
    __device__ void release(bool value, unsigned i) const {
        if (threadIdx.x % 32 == 0) barrier_arrive(empty(value, i));
    }
};

// The copying thread. Tiles of tokens go from the last to the first, values one tile behind keys, as they are used.
template <int kDim, bool kSeed, class Shape>
__device__ inline void prefill_produce(const PrefillWgmmaArgs& args, PrefillPipe<Shape> pipe) {
    const auto copy = [&](bool value, unsigned i, int first, int kv_head) {
        pipe.wait_empty(value, i);
        barrier_expect(pipe.full(value, i), Shape::kTileBytes);
#pragma unroll
        for (int x = 0; x < kDim; x += Shape::kColumns) {
            copy_box(pipe.tile(value, i) + x * Shape::kTokens * 2, value ? &args.v : &args.k, pipe.full(value, i), x, first, kv_head);
        }
    };
    PrefillSchedule schedule(args.chunk, kSeed, Shape::kRows);
    unsigned i = 0;
    for (int tile, kv_head, split; schedule.next(tile, kv_head, split);) {
        const PrefillRows<kSeed> rows(args.chunk, kv_head);
        const auto span = rows.span((tile + 1) * Shape::kRows - 1, Shape::kTokens, split);
        for (int t = span.end - 1; t >= span.begin; --t, ++i) {
            copy(false, i, t * Shape::kTokens, kv_head);
            if (t < span.end - 1) copy(true, i - 1, (t + 1) * Shape::kTokens, kv_head);
        }
        if (span.begin < span.end) copy(true, i - 1, span.begin * Shape::kTokens, kv_head);
    }
}

// One warpgroup's rows of one tile.
template <class E, int kDim, bool kSeed, class Shape>
struct PrefillWarpgroup {
    static constexpr int kColumns = Shape::kTokens / 8, kSwizzle = 2 * Shape::kColumns;
    static constexpr int kSteps = Shape::kTokens / 16;  // products per tile of values

    PrefillPipe<Shape> pipe;
    int warpgroup;  // 0 or 1
    RowSum rows[2];
    float score[kColumns][4];
    float out[kDim / 8][4];
    uint32_t high[kSteps][4], low[kSteps][4];

    // Copies the queries of rows row..row + 63 to shared memory; rows that only pad become zeros.
    __device__ void load_queries(const PrefillRows<kSeed>& all, int row) {
        constexpr int kRowChunks = kDim / 8, kChunks = 64 * kRowChunks / 128;  // 16 bytes each
        const int thread = threadIdx.x % 128;
        uint4 data[kChunks];
#pragma unroll
        for (int i = 0; i < kChunks; ++i) {
            const int chunk = i * 128 + thread, r = row + chunk / kRowChunks;
            data[i] = make_uint4(0, 0, 0, 0);
            if (r < all.count) data[i] = __ldg(reinterpret_cast<const uint4*>(all.template query<kDim>(r)) + chunk % kRowChunks);
        }
        sync_threads(3 + warpgroup, 128);  // all warps are done with the queries before
#pragma unroll
        for (int i = 0; i < kChunks; ++i) {
            const int chunk = i * 128 + thread, x = chunk % kRowChunks * 8;
            const int offset = x / Shape::kColumns * 64 * kSwizzle + chunk / kRowChunks * kSwizzle + x % Shape::kColumns * 2;
            asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(pipe.query(warpgroup) + swizzled<kSwizzle>(offset)), "r"(data[i].x), "r"(data[i].y),
                         "r"(data[i].z), "r"(data[i].w)
                         : "memory");
        }
        fence_shared();
        sync_threads(3 + warpgroup, 128);
    }

    // Starts score = Q K^T.
    __device__ void start_scores(unsigned i) {
        const uint64_t q = operand<kSwizzle>(pipe.query(warpgroup), 16), k = operand<kSwizzle>(pipe.tile(false, i), 16);
        pin(score);
        products_begin();
#pragma unroll
        for (int x = 0; x < kDim; x += 16) {
            const int inside = x % Shape::kColumns * 2, box = x / Shape::kColumns * kSwizzle;
            Wgmma<E, kColumns>::multiply(score, advance(q, box * 64 + inside), advance(k, box * Shape::kTokens + inside), x > 0);
        }
        products_commit();
    }

    // Starts out += weights * V.
    __device__ void start_values(unsigned i) {
        const uint64_t v = operand<kSwizzle>(pipe.tile(true, i), Shape::kTokens * kSwizzle);
        pin(out);
        products_begin();
#pragma unroll
        for (int t = 0; t < kSteps; ++t) {
            Wgmma<E, kDim / 8>::multiply_registers(out, high[t], advance(v, t * 16 * kSwizzle));
            if constexpr (kSeed) Wgmma<E, kDim / 8>::multiply_registers(out, low[t], advance(v, t * 16 * kSwizzle));
        }
        products_commit();
    }

    __device__ void pack() {
#pragma unroll
        for (int t = 0; t < kSteps; ++t) pack_weights<E, kSeed>(score[2 * t], score[2 * t + 1], high[t], low[t]);
    }

    // The tiles begin..end - 1 of tokens, last first and numbered from `i` on, for rows row..row + 63. Then the results are stored.
    __device__ void attend(const PrefillRows<kSeed>& all, int row, int split, int begin, int end, unsigned i) {
        const float scale_log2 = all.args.heads.scale_log2;
        const int top = row + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
        const int limit[2] = {all.limit(top), all.limit(top + 8)}, seen_by_all = all.limit(row);
        rows[0] = rows[1] = RowSum{-CUDART_INF_F, 0.0f};
#pragma unroll
        for (int c = 0; c < kDim / 8; ++c) out[c][0] = out[c][1] = out[c][2] = out[c][3] = 0.0f;
        if (begin < end) {
            load_queries(all, row);
            float factor[2];
            int first = (end - 1) * Shape::kTokens;
            pipe.wait_full(false, i);
            start_scores(i);
            products_wait<0>();
            pin(score);
            pipe.release(false, i);
            if (first + Shape::kTokens > seen_by_all) mask_scores(score, {limit[0] - first, limit[1] - first});
            raise_references(rows, score, scale_log2, factor);
            weigh(rows, score, scale_log2);
            pack();
            for (; first > begin * Shape::kTokens; ++i) {
                first -= Shape::kTokens;
                pipe.wait_full(false, i + 1);
                if constexpr (Shape::kConsumers == 2) sync_threads(1 + warpgroup, 256);
                start_scores(i + 1);
                pipe.wait_full(true, i);
                start_values(i);
                if constexpr (Shape::kConsumers == 2) arrive_threads(2 - warpgroup, 256);
                products_wait<1>();
                pin(score);
                pipe.release(false, i + 1);
                if (first + Shape::kTokens > seen_by_all) mask_scores(score, {limit[0] - first, limit[1] - first});
                const bool raised = raise_references(rows, score, scale_log2, factor);
                weigh(rows, score, scale_log2);
                products_wait<0>();
                pin(out);
                pipe.release(true, i);
                pack();
                if (raised) rescale(out, factor);
            }
            pipe.wait_full(true, i);
            start_values(i);
            products_wait<0>();
            pin(out);
            pipe.release(true, i);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            store_row<E, kDim, kSeed>(all, top + 8 * half, split, rows[half], [&](int c, int j) { return out[c][2 * half + j]; });
        }
    }
};

template <class E, int kDim, bool kSeed, class Shape>
__device__ inline void prefill_wgmma(const PrefillWgmmaArgs& args) {
    extern __shared__ unsigned char prefill_wgmma_shared[];
    const PrefillPipe<Shape> pipe{(shared_address(prefill_wgmma_shared) + 1023) / 1024 * 1024};
    if (threadIdx.x == 0) pipe.init();
    __syncthreads();
    wait_for_previous();
    const int role = threadIdx.x / 128;
    if (role == 0) {
        give_registers<24>();
        if (threadIdx.x == 0) prefill_produce<kDim, kSeed, Shape>(args, pipe);
    } else {
        take_registers<Shape::kConsumers == 2 ? 240 : 160>();
        PrefillWarpgroup<E, kDim, kSeed, Shape> work;
        work.pipe = pipe;
        work.warpgroup = role - 1;
        if (Shape::kConsumers == 2 && role == 2) arrive_threads(1, 256);  // the first warpgroup begins
        PrefillSchedule schedule(args.chunk, kSeed, Shape::kRows);
        unsigned i = 0;
        for (int tile, kv_head, split; schedule.next(tile, kv_head, split);) {
            const PrefillRows<kSeed> rows(args.chunk, kv_head);
            const auto span = rows.span((tile + 1) * Shape::kRows - 1, Shape::kTokens, split);
            work.attend(rows, tile * Shape::kRows + 64 * work.warpgroup, split, span.begin, span.end, i);
            i += span.end - span.begin;
        }
    }
}

#define PREFILL_WGMMA_BODY(element, dim, seed, ...) prefill_wgmma<element, dim, seed, __VA_ARGS__>(args)
#else
#define PREFILL_WGMMA_BODY(element, dim, seed, ...)
#endif

#define PREFILL_WGMMA_KERNEL(name, element, dim, seed, ...)                                                     \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__::kThreads, 1) name(const __grid_constant__ PrefillWgmmaArgs args) { \
        PREFILL_WGMMA_BODY(element, dim, seed, __VA_ARGS__);                                                    \
    }
#define PREFILL_WGMMA_KERNELS(dim)                                                                             \
    PREFILL_WGMMA_KERNEL(prefill_wgmma_bf16_d##dim, Bf16, dim, false, PrefillWgmmaShape<dim, false>)           \
    PREFILL_WGMMA_KERNEL(prefill_wgmma_f16_d##dim, F16, dim, false, PrefillWgmmaShape<dim, false>)             \
    PREFILL_WGMMA_KERNEL(prefill_wgmma_seed_bf16_d##dim, Bf16, dim, true, PrefillWgmmaShape<dim, true>)        \
    PREFILL_WGMMA_KERNEL(prefill_wgmma_seed_f16_d##dim, F16, dim, true, PrefillWgmmaShape<dim, true>)
