// C = A W^T with mma.sync, for compute capability 8.0 and up: four warps of 64 x 64 sums, tiles of A and W copied
// asynchronously through kStages stages of shared memory.
#pragma once

#include "gemm_epilogue.cuh"
#include "gemm_raster.cuh"

template <int kTileK_, int kStages_>
struct MmaTile {
    static constexpr int kTileM = 128, kTileN = 128, kTileK = kTileK_, kStages = kStages_, kThreads = 128;
    static constexpr int kRowBytes = kTileK * 2, kMatrixBytes = kTileM * kRowBytes, kStageBytes = 2 * kMatrixBytes;
    static constexpr int kSharedBytes = kStages * kStageBytes;
    static constexpr int kChunks = kTileK / 8;                // of 16 bytes, per row
    static constexpr int kRowsPerPass = kThreads / kChunks;  // rows that the block copies at a time
    static_assert(kTileK == 32 || kTileK == 64);
    // Eight rows of one chunk must fall into different banks for ldmatrix.
    static __device__ int offset(int row, int chunk) {
        const int spread = kTileK == 64 ? row & 7 : row >> 1 & 3;
        return row * kRowBytes + ((chunk ^ spread) << 4);
    }
};

// Under programmatic dependent launch; before Hopper kernels do not overlap.
__device__ inline void wait_for_earlier_kernels() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void gemm_copy_async(uint32_t shared, const void* global, bool inside) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(inside ? 16 : 0) : "memory");
}
__device__ inline void gemm_load_matrices(uint32_t& r0, uint32_t& r1, uint32_t& r2, uint32_t& r3, uint32_t shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r0), "=r"(r1), "=r"(r2), "=r"(r3)
                 : "r"(shared)
                 : "memory");
}

// One matrix's share of a thread in every copy of a tile: kPasses rows, one chunk each.
template <class Tile, int kPasses>
struct TileSource {
    const uint16_t* row[kPasses];
    bool inside[kPasses];
    __device__ void copy(uint32_t shared, int first_row, int chunk, int k0, int k) const {
        const bool in_k = k0 + chunk * 8 < k;
#pragma unroll
        for (int i = 0; i < kPasses; ++i) {
            gemm_copy_async(shared + Tile::offset(first_row + i * Tile::kRowsPerPass, chunk), row[i] + k0, in_k && inside[i]);
        }
    }
};

// The row of W that row `r` of a tile holds. For silu every warp's 64 rows are 32 gate rows and the 32 up rows beside them.
template <GemmEpilogue kEpilogue>
__device__ inline int weight_row(const GemmArgs& args, int tile_column, int r, bool& inside) {
    const int column = tile_column + (kEpilogue == kSiluBf16 ? r / 64 * 32 + r % 32 : r);
    inside = column < args.n;
    return column + (kEpilogue == kSiluBf16 && r / 32 % 2 ? args.n : 0);
}

template <class Tile>
struct Fragments {
    uint32_t a[4][4], b[4][4];
    __device__ void load(uint32_t shared, int warp_row, int warp_column, int step, int lane) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            gemm_load_matrices(a[i][0], a[i][1], a[i][2], a[i][3], shared + Tile::offset(warp_row + i * 16 + lane % 16, step * 2 + lane / 16));
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const int row = warp_column + j * 16 + lane / 16 * 8 + lane % 8;
            gemm_load_matrices(b[j][0], b[j][1], b[j][2], b[j][3], shared + Tile::kMatrixBytes + Tile::offset(row, step * 2 + lane / 8 % 2));
        }
    }
};

// A warp's 64 x 64 sums over one tile of A and W in shared memory. kWhole: all of its rows are rows of A; else `live` groups of 16 are.
template <class Element, class Tile, bool kWhole>
__device__ inline void multiply_stage(float (&sums)[4][8][4], uint32_t stage, int warp_row, int warp_column, int lane, int live) {
    constexpr int kSteps = Tile::kTileK / 16;
    Fragments<Tile> fragments[2];
    fragments[0].load(stage, warp_row, warp_column, 0, lane);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
        if (step + 1 < kSteps) fragments[(step + 1) % 2].load(stage, warp_row, warp_column, step + 1, lane);
        const Fragments<Tile>& f = fragments[step % 2];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (!kWhole && i >= live) continue;
#pragma unroll
            for (int j = 0; j < 8; ++j) Element::mma(sums[i][j], f.a[i], f.b[j / 2][j % 2 * 2], f.b[j / 2][j % 2 * 2 + 1]);
        }
    }
}

// Runs through K: `fetch` starts the copies of a tile.
template <class Element, class Tile, bool kWhole, class Fetch>
__device__ inline void multiply_all(float (&sums)[4][8][4], int count, uint32_t base, const Fetch& fetch, int warp_row, int warp_column, int lane, int live) {
#pragma unroll
    for (int tile = 0; tile < Tile::kStages - 1; ++tile) fetch(tile);
    for (int tile = 0; tile < count; ++tile) {
        asm volatile("cp.async.wait_group %0;" ::"n"(Tile::kStages - 2) : "memory");
        __syncthreads();
        fetch(tile + Tile::kStages - 1);
        multiply_stage<Element, Tile, kWhole>(sums, base + tile % Tile::kStages * Tile::kStageBytes, warp_row, warp_column, lane, live);
    }
    asm volatile("cp.async.wait_group 0;" ::: "memory");
}

template <class Element, GemmEpilogue kEpilogue, class Tile>
__device__ inline void gemm_mma(const GemmArgs& args) {
    extern __shared__ __align__(128) uint8_t stages[];
    constexpr int kPasses = Tile::kTileM / Tile::kRowsPerPass;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_row = warp / 2 * 64, warp_column = warp % 2 * 64;
    const TilePlace place = place_of(blockIdx.x, ceil_div(args.m, Tile::kTileM), ceil_div(args.n, columns_of<kEpilogue>(Tile::kTileN)), 16);
    const int row0 = place.row * Tile::kTileM, column0 = place.column * columns_of<kEpilogue>(Tile::kTileN);

    const int first_row = threadIdx.x / Tile::kChunks, chunk = threadIdx.x % Tile::kChunks;
    TileSource<Tile, kPasses> a, w;
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
        const int r = first_row + i * Tile::kRowsPerPass;
        a.inside[i] = row0 + r < args.m;
        a.row[i] = static_cast<const uint16_t*>(args.a) + (a.inside[i] ? static_cast<size_t>(row0 + r) * args.lda : 0) + chunk * 8;
        const int source = weight_row<kEpilogue>(args, column0, r, w.inside[i]);
        w.row[i] = static_cast<const uint16_t*>(args.w) + (w.inside[i] ? static_cast<size_t>(source) * args.ldw : 0) + chunk * 8;
    }

    wait_for_earlier_kernels();
    const uint32_t base = static_cast<uint32_t>(__cvta_generic_to_shared(stages));
    const int count = ceil_div(args.k, Tile::kTileK);
    const auto fetch = [&](int tile) {
        if (tile < count) {
            const uint32_t stage = base + tile % Tile::kStages * Tile::kStageBytes;
            a.copy(stage, first_row, chunk, tile * Tile::kTileK, args.k);
            w.copy(stage + Tile::kMatrixBytes, first_row, chunk, tile * Tile::kTileK, args.k);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    };

    // Short prompts leave most of a tile empty. Asking in every step which of its rows are there costs a fifth of the speed.
    const int live = ceil_div(args.m - row0 - warp_row, 16);
    float sums[4][8][4] = {};
    if (row0 + Tile::kTileM <= args.m) {
        multiply_all<Element, Tile, true>(sums, count, base, fetch, warp_row, warp_column, lane, 4);
    } else {
        multiply_all<Element, Tile, false>(sums, count, base, fetch, warp_row, warp_column, lane, live);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        write_sums<kEpilogue, false>(args, sums[i], row0 + warp_row + i * 16 + lane / 4, column0 + columns_of<kEpilogue>(warp_column), lane);
    }
}
