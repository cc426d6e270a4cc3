// C = A W^T with wgmma and the bulk tensor copy engine (sm_90a). The blocks of a cluster compute tiles of 128 rows, one below the
// other, from the same rows of W, of which each block fetches a share for all. Warpgroup 0 copies; warpgroups 1 and 2 multiply, 64
// rows each. Blocks stay and take one segment after the other, so that copies for the next begin before the last is written.
#pragma once

#include "gemm_epilogue.cuh"
#include "gemm_partial.cuh"
#include "gemm_schedule.cuh"
#include "gemm_tma.cuh"
#include "gemm_wgmma_ops.cuh"

// kBandRows: tile rows per band; tiles under way at a time should cover about as many rows as columns.
template <int kTileN_, int kCluster_, int kStages_, int kBandRows = 16>
struct WgmmaTile {
    static constexpr int kTileM = 128, kTileN = kTileN_, kTileK = 64, kStages = kStages_, kCluster = kCluster_;
    static constexpr int kConsumers = 2, kThreads = 128 * (1 + kConsumers);
    static constexpr int kBoxRows = 64, kBoxBytes = kBoxRows * kTileK * 2;  // of one copy
    static constexpr int kABoxes = kTileM / kBoxRows, kWBoxes = kTileN / kBoxRows, kWBoxesPerBlock = kWBoxes / kCluster;
    static constexpr int kStageBytes = (kABoxes + kWBoxes) * kBoxBytes;
    static constexpr int kSharedBytes = kStages * kStageBytes + 1024;
    static constexpr int kBand = kBandRows / kCluster;
    static_assert(kWBoxes % kCluster == 0 && kTileM * kTileN * 4 <= kWorkspaceBlockBytes);
};

// Place in the ring of stages; `parity` flips with every round.
template <int kStages>
struct StageCursor {
    int stage = 0;
    unsigned parity = 0;
    __device__ void advance() {
        if (++stage == kStages) stage = 0, parity ^= 1;
    }
};

template <class Tile>
struct Pipeline {
    uint32_t stages, full, empty;  // in shared memory
    __device__ uint32_t a(int stage) const { return stages + stage * Tile::kStageBytes; }
    __device__ uint32_t w(int stage) const { return a(stage) + Tile::kABoxes * Tile::kBoxBytes; }
    __device__ uint32_t full_at(int stage) const { return full + stage * 8; }
    __device__ uint32_t empty_at(int stage) const { return empty + stage * 8; }
    __device__ void init() const {
        for (int stage = 0; stage < Tile::kStages; ++stage) {
            barrier_init(full_at(stage), 1);
            barrier_init(empty_at(stage), Tile::kCluster * Tile::kConsumers * 4);  // every consuming warp of every block
        }
        barrier_publish();
    }
    // The warp has read what it needs of the stage.
    __device__ void release(int stage, int lane) const {
        if constexpr (Tile::kCluster > 1) {
            if (lane < Tile::kCluster) barrier_arrive_at(empty_at(stage), lane);
        } else {
            if (lane == 0) barrier_arrive(empty_at(stage));
        }
    }
};

// The tiles of one product, seen from one block.
template <class Tile, GemmEpilogue kEpilogue>
struct Work {
    static constexpr int kColumns = columns_of<kEpilogue>(Tile::kTileN);
    int rows, columns;  // of tiles, rows per cluster
    int rank;
    Schedule schedule;
    __device__ explicit Work(const GemmArgs& args)
        : rows(ceil_div(args.m, Tile::kTileM * Tile::kCluster)), columns(ceil_div(args.n, kColumns)), rank(Tile::kCluster > 1 ? cluster_rank() : 0),
          schedule(rows * columns, ceil_div(args.k, Tile::kTileK), gridDim.x / Tile::kCluster, blockIdx.x / Tile::kCluster) {}
    __device__ bool next(Segment& segment) { return schedule.next(segment); }
    // First row and column of C.
    __device__ TilePlace place(int tile) const {
        const TilePlace place = place_of(tile, rows, columns, Tile::kBand);
        return {(place.row * Tile::kCluster + rank) * Tile::kTileM, place.column * kColumns};
    }
};

// Row of W where box `box` of a tile begins. For silu the first half of the boxes are gate rows, the others the up rows beside them.
template <class Tile, GemmEpilogue kEpilogue>
__device__ inline int weight_row_of(const GemmArgs& args, int column, int box) {
    constexpr int kHalf = Tile::kWBoxes / 2;
    if (kEpilogue == kSiluBf16 && box >= kHalf) return args.n + column + (box - kHalf) * Tile::kBoxRows;
    return column + box * Tile::kBoxRows;
}

// One thread: fills stages as they come free, segment by segment of `work`.
template <class Tile, GemmEpilogue kEpilogue, class WorkOf>
__device__ inline void produce(const GemmArgs& args, const GemmTensorMap* map_a, const GemmTensorMap* map_w, const Pipeline<Tile>& pipeline, WorkOf work) {
    StageCursor<Tile::kStages> cursor;
    Segment segment;
    while (work.next(segment)) {
        const TilePlace place = work.place(segment.tile);
        for (int i = segment.begin; i < segment.end; ++i) {
            barrier_wait(pipeline.empty_at(cursor.stage), cursor.parity ^ 1);
            const uint32_t full = pipeline.full_at(cursor.stage);
            barrier_expect(full, Tile::kStageBytes);
#pragma unroll
            for (int box = 0; box < Tile::kABoxes; ++box) {
                copy_tile(pipeline.a(cursor.stage) + box * Tile::kBoxBytes, map_a, i * Tile::kTileK, place.row + box * Tile::kBoxRows, full);
            }
#pragma unroll
            for (int b = 0; b < Tile::kWBoxesPerBlock; ++b) {
                const int box = work.rank * Tile::kWBoxesPerBlock + b;
                const uint32_t to = pipeline.w(cursor.stage) + box * Tile::kBoxBytes;
                const int row = weight_row_of<Tile, kEpilogue>(args, place.column, box);
                if constexpr (Tile::kCluster > 1) {
                    copy_tile_to(to, map_w, i * Tile::kTileK, row, full, (1 << Tile::kCluster) - 1);
                } else {
                    copy_tile(to, map_w, i * Tile::kTileK, row, full);
                }
            }
            cursor.advance();
        }
    }
}

// Multiplies one segment; `cursor` moves on by its steps.
template <class Element, class Tile>
__device__ inline void multiply(float (&sums)[Tile::kTileN / 8][4], const Segment& segment, const Pipeline<Tile>& pipeline, StageCursor<Tile::kStages>& cursor,
                                int group, int lane) {
    int previous = -1;
    for (int i = segment.begin; i < segment.end; ++i) {
        barrier_wait(pipeline.full_at(cursor.stage), cursor.parity);
        const uint64_t a = wgmma_operand(pipeline.a(cursor.stage) + group * Tile::kBoxBytes), w = wgmma_operand(pipeline.w(cursor.stage));
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < Tile::kTileK / 16; ++step) wgmma<Element, Tile::kTileN>(sums, a + step * 2, w + step * 2, 1);
        wgmma_commit();
        // The product before this one has read its stage.
        wgmma_wait<1>();
        if (previous >= 0) pipeline.release(previous, lane);
        previous = cursor.stage;
        cursor.advance();
    }
    wgmma_wait<0>();
    if (previous >= 0) pipeline.release(previous, lane);
}

// A warpgroup: 64 rows of every tile.
template <class Element, class Tile, GemmEpilogue kEpilogue>
__device__ inline void consume(const GemmArgs& args, const Pipeline<Tile>& pipeline, int group) {
    constexpr int kGroups = Tile::kTileN / 8;
    Work<Tile, kEpilogue> work(args);
    const int lane = threadIdx.x % 32, consumer = threadIdx.x - 128, first_row = group * 64 + consumer / 32 % 4 * 16;
    StageCursor<Tile::kStages> cursor;
    Segment segment;
    while (work.next(segment)) {
        float sums[kGroups][4] = {};
        multiply<Element>(sums, segment, pipeline, cursor, group, lane);
        const TilePlace place = work.place(segment.tile);
        const bool any = place.row + first_row < args.m;
        if (!work.schedule.finishes(segment)) {
            if (any) Partial<kGroups>(args, blockIdx.x, consumer).give(sums);
        } else if (any) {
            take_parts<kGroups>(args, sums, work.schedule.earlier_parts(segment), Tile::kCluster, consumer);
            write_sums<kEpilogue, true>(args, sums, place.row + first_row + lane / 4, place.column, lane);
        }
    }
}

// All threads: the pipeline, ready for use by the whole cluster, and memory written by earlier kernels in sight.
template <class Tile>
__device__ inline Pipeline<Tile> start_pipeline(const GemmTensorMap* map_a, const GemmTensorMap* map_w) {
    extern __shared__ uint8_t dynamic[];
    __shared__ uint64_t barriers[2 * Tile::kStages];
    // The swizzle pattern repeats every 1024 bytes of the address.
    const Pipeline<Tile> pipeline{(shared_address(dynamic) + 1023) & ~1023u, shared_address(barriers), shared_address(barriers + Tile::kStages)};
    if (threadIdx.x == 0) {
        prefetch_map(map_a);
        prefetch_map(map_w);
        pipeline.init();
    }
    Tile::kCluster > 1 ? cluster_sync() : __syncthreads();
    asm volatile("griddepcontrol.wait;" ::: "memory");
    return pipeline;
}

template <class Element, class Tile, GemmEpilogue kEpilogue>
__device__ inline void gemm_wgmma(const GemmArgs& args, const GemmTensorMap* map_a, const GemmTensorMap* map_w) {
    const Pipeline<Tile> pipeline = start_pipeline<Tile>(map_a, map_w);
    const int group = threadIdx.x / 128;
    if (group == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0) produce<Tile, kEpilogue>(args, map_a, map_w, pipeline, Work<Tile, kEpilogue>(args));
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        consume<Element, Tile, kEpilogue>(args, pipeline, group - 1);
    }
    if constexpr (Tile::kCluster > 1) {
        // Until here the other blocks may arrive at this one's barriers and copy into its stages.
        __syncwarp();
        cluster_sync();
    }
}
