// C = A W^T for few rows (sm_90a). The product is turned around: 256 rows of W times kTokens rows of A, so that short prompts fill the
// instruction, whose second operand may have any multiple of 8 rows, where its first has 64. Warpgroup 0 copies; warpgroups 1 and 2
// multiply 64 of the first and 64 of the last 128 rows of W each: for silu these are gate rows and the up rows beside them. The
// schedule is the one of gemm_wgmma: reading W is what takes time, and every multiprocessor reads an equal share.
#pragma once

#include "gemm_epilogue.cuh"
#include "gemm_partial.cuh"
#include "gemm_schedule.cuh"
#include "gemm_wgmma.cuh"

struct FewTile {
    static constexpr int kTileN = 256, kTileK = 64, kStages = 4, kCluster = 1, kConsumers = 2, kThreads = 384;
    static constexpr int kBoxRows = 64, kBoxBytes = kBoxRows * kTileK * 2, kWBoxes = kTileN / kBoxRows;
    static constexpr int kMaxTokens = 160, kMaxABoxes = 3;
    static constexpr int kABoxes = kWBoxes;  // of the pipeline's first operand, which is W here
    static constexpr int kStageBytes = (kWBoxes + kMaxABoxes) * kBoxBytes;
    static constexpr int kSharedBytes = kStages * kStageBytes + 1024;
    static_assert(kMaxTokens * kTileN * 4 <= kWorkspaceBlockBytes);
};

// Rows of A per tile: as few tiles as possible, of even size, in sizes for which there is an instruction.
__host__ __device__ inline int few_tokens(int m) {
    const int tokens = ceil_div(m, ceil_div(m, FewTile::kMaxTokens));
    return tokens <= 16 ? 16 : ceil_div(tokens, 32) * 32;
}

template <GemmEpilogue kEpilogue>
struct FewWork {
    static constexpr int kColumns = columns_of<kEpilogue>(FewTile::kTileN);
    int tokens, rows, columns;  // per tile; of tiles
    Schedule schedule;
    __device__ explicit FewWork(const GemmArgs& args)
        : tokens(few_tokens(args.m)), rows(ceil_div(args.m, tokens)), columns(ceil_div(args.n, kColumns)),
          schedule(rows * columns, ceil_div(args.k, FewTile::kTileK), gridDim.x, blockIdx.x) {}
    __device__ bool next(Segment& segment) { return schedule.next(segment); }
    // Tiles of the same rows of W follow each other.
    __device__ TilePlace place(int tile) const { return {tile % rows * tokens, tile / rows * kColumns}; }
};

// One thread: fills stages as they come free.
template <GemmEpilogue kEpilogue>
__device__ inline void produce_few(const GemmArgs& args, const GemmTensorMap* map_a, const GemmTensorMap* map_w, const Pipeline<FewTile>& pipeline) {
    FewWork<kEpilogue> work(args);
    const int boxes = ceil_div(work.tokens, FewTile::kBoxRows);
    StageCursor<FewTile::kStages> cursor;
    Segment segment;
    while (work.next(segment)) {
        const TilePlace place = work.place(segment.tile);
#pragma unroll 1
        for (int i = segment.begin; i < segment.end; ++i) {
            const int x = i * FewTile::kTileK;
            barrier_wait(pipeline.empty_at(cursor.stage), cursor.parity ^ 1);
            const uint32_t full = pipeline.full_at(cursor.stage);
            barrier_expect(full, (FewTile::kWBoxes + boxes) * FewTile::kBoxBytes);
#pragma unroll
            for (int box = 0; box < FewTile::kWBoxes; ++box) {
                copy_tile(pipeline.a(cursor.stage) + box * FewTile::kBoxBytes, map_w, x, weight_row_of<FewTile, kEpilogue>(args, place.column, box), full);
            }
#pragma unroll 1
            for (int box = 0; box < boxes; ++box) {
                copy_tile(pipeline.w(cursor.stage) + box * FewTile::kBoxBytes, map_a, x, place.row + box * FewTile::kBoxRows, full);
            }
            cursor.advance();
        }
    }
}

// Rows and columns of an 8 x 8 matrix of f32 change places: a lane gives two columns of row lane / 4 and receives two of row lane / 4.
__device__ inline void transpose_8x8(float& x, float& y) {
    const uint32_t a = __float_as_uint(x), b = __float_as_uint(y);
    uint32_t low, high;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(low) : "r"(__byte_perm(a, b, 0x5410)));
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(high) : "r"(__byte_perm(a, b, 0x7632)));
    x = __uint_as_float(__byte_perm(low, high, 0x5410));
    y = __uint_as_float(__byte_perm(low, high, 0x7632));
}

// 16 rows of W times 16 rows of A: the sums of two groups of tokens, turned into rows of C.
__device__ inline void turn(float (&turned)[2][4], const float (&first)[4], const float (&second)[4]) {
#pragma unroll
    for (int g = 0; g < 2; ++g) {
        turned[g][0] = first[2 * g], turned[g][1] = first[2 * g + 1], turned[g][2] = second[2 * g], turned[g][3] = second[2 * g + 1];
        transpose_8x8(turned[g][0], turned[g][1]);
        transpose_8x8(turned[g][2], turned[g][3]);
    }
}

// A warpgroup's sums [2][64 rows of W][kTokens]; `row`, `column`: the tile's first of C, `warp`: of the warpgroup.
template <GemmEpilogue kEpilogue, int kTokens>
__device__ inline void write_turned(const GemmArgs& args, const float (&sums)[kTokens / 4][4], int row, int column, int group, int warp, int lane) {
    constexpr int kGroups = kTokens / 8;
    const int mine = column + group * 64 + warp * 16;
#pragma unroll
    for (int j = 0; j < kGroups; j += 2) {
        float lower[2][4], upper[2][4];
        turn(lower, sums[j], sums[j + 1]);
        turn(upper, sums[kGroups + j], sums[kGroups + j + 1]);
        write_pair<kEpilogue>(args, lower, upper, row + j * 8 + lane / 4, mine, lane);
        if constexpr (kEpilogue != kSiluBf16) write_pair<kEpilogue>(args, upper, upper, row + j * 8 + lane / 4, mine + 128, lane);
    }
}

template <class Element, int kTokens>
__device__ inline void multiply_few(float (&sums)[kTokens / 4][4], const Segment& segment, const Pipeline<FewTile>& pipeline, StageCursor<FewTile::kStages>& cursor,
                                    int group, int lane) {
    using Half = float[kTokens / 8][4];
    Half& lower = *reinterpret_cast<Half*>(&sums[0]);
    Half& upper = *reinterpret_cast<Half*>(&sums[kTokens / 8]);
    int previous = -1;
#pragma unroll 1
    for (int i = segment.begin; i < segment.end; ++i) {
        barrier_wait(pipeline.full_at(cursor.stage), cursor.parity);
        const uint32_t rows = pipeline.a(cursor.stage) + group * FewTile::kBoxBytes;
        const uint64_t w0 = wgmma_operand(rows), w1 = wgmma_operand(rows + 2 * FewTile::kBoxBytes), a = wgmma_operand(pipeline.w(cursor.stage));
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < FewTile::kTileK / 16; ++step) {
            wgmma<Element, kTokens>(lower, w0 + step * 2, a + step * 2, 1);
            wgmma<Element, kTokens>(upper, w1 + step * 2, a + step * 2, 1);
        }
        wgmma_commit();
        wgmma_wait<1>();
        if (previous >= 0) pipeline.release(previous, lane);
        previous = cursor.stage;
        cursor.advance();
    }
    wgmma_wait<0>();
    if (previous >= 0) pipeline.release(previous, lane);
}

template <class Element, GemmEpilogue kEpilogue, int kTokens>
__device__ inline void consume_few(const GemmArgs& args, const Pipeline<FewTile>& pipeline, int group) {
    constexpr int kGroups = kTokens / 4;
    FewWork<kEpilogue> work(args);
    const int lane = threadIdx.x % 32, consumer = threadIdx.x - 128;
    StageCursor<FewTile::kStages> cursor;
    Segment segment;
    while (work.next(segment)) {
        float sums[kGroups][4] = {};
        multiply_few<Element, kTokens>(sums, segment, pipeline, cursor, group, lane);
        if (!work.schedule.finishes(segment)) {
            Partial<kGroups>(args, blockIdx.x, consumer).give(sums);
        } else {
            take_parts<kGroups>(args, sums, work.schedule.earlier_parts(segment), 1, consumer);
            const TilePlace place = work.place(segment.tile);
            write_turned<kEpilogue, kTokens>(args, sums, place.row, place.column, group, threadIdx.x / 32 % 4, lane);
        }
    }
}

template <class Element, GemmEpilogue kEpilogue>
__device__ inline void gemm_few(const GemmArgs& args, const GemmTensorMap* map_a, const GemmTensorMap* map_w) {
    const Pipeline<FewTile> pipeline = start_pipeline<FewTile>(map_a, map_w);
    const int group = threadIdx.x / 128;
    if (group == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0) produce_few<kEpilogue>(args, map_a, map_w, pipeline);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        switch (few_tokens(args.m)) {
            case 16: return consume_few<Element, kEpilogue, 16>(args, pipeline, group - 1);
            case 32: return consume_few<Element, kEpilogue, 32>(args, pipeline, group - 1);
            case 64: return consume_few<Element, kEpilogue, 64>(args, pipeline, group - 1);
            case 96: return consume_few<Element, kEpilogue, 96>(args, pipeline, group - 1);
            case 128: return consume_few<Element, kEpilogue, 128>(args, pipeline, group - 1);
            case 160: return consume_few<Element, kEpilogue, 160>(args, pipeline, group - 1);
        }
    }
}
