// Which rows and units of each product of a launch are a warp's own.
#pragma once

#include "weight_units.cuh"

constexpr int kMatvecThreads = 512;  // at most
constexpr int kMatvecWarps = kMatvecThreads / 32;
constexpr int kMixed = -1;  // of a kernel: its parts may be of any block types

// Rows of one block: `count` from `first` on, in pairs of neighbours; when gated, each with the row `second` further on.
struct BlockRows {
    int first, count, second, gated;
    __device__ int pairs() const { return gated ? count : (count + 1) / 2; }
    __device__ int first_of(int pair) const { return first + (gated ? pair : 2 * pair); }
    __device__ bool has_lone() const { return !gated && count % 2 == 1; }
};

// Units of a warp in one product, counted through the pairs of its block.
struct Share {
    BlockRows rows;
    int part;        // of the product
    int units;       // of a row
    int begin, end;  // of this warp
    int pair, unit;  // that `begin` is
};

struct MatvecShared {
    float squares[kMatvecWarps];
    float2 carry[kMatvecWarps];    // what a warp adds to a pair that another began
    int carry_pair[kMatvecWarps];  // -1: none
    Share shares[kMatvecChain][kMatvecWarps];
};
constexpr int kMatvecSharedBytes = 2816;
static_assert(sizeof(MatvecShared) <= kMatvecSharedBytes, "");

// Elements of a unit.
template <int kType>
__device__ int unit_elements(int type) {
    if constexpr (kType == kMixed) {
        return type == kQ8_0 ? Unit<kQ8_0>::kElements : Unit4::kElements;
    } else {
        return Unit<kType>::kElements;
    }
}

template <int kType>
__device__ Share share_of(const MatvecArgs& args, int warp, int warps) {
    Share share{};
    while (share.part + 1 < args.num_parts && static_cast<int>(blockIdx.x) >= args.parts[share.part + 1].first_block) ++share.part;
    const MatvecPart& part = args.parts[share.part];
    const unsigned rows = args.gated ? part.rows / 2 : part.rows, blocks = part.blocks, block = blockIdx.x - part.first_block;
    // A block beyond those of all parts gets nothing.
    const int begin = block < blocks ? rows * block / blocks : 0, end = block < blocks ? rows * (block + 1) / blocks : 0;
    share.rows = {begin, end - begin, args.gated ? static_cast<int>(rows) : 1, args.gated};
    const int elements = unit_elements<kType>(part.type);
    share.units = (args.cols + elements - 1) / elements;
    const int all = share.rows.pairs() * share.units;
    share.begin = all * warp / warps, share.end = all * (warp + 1) / warps;
    share.pair = share.begin / share.units, share.unit = share.begin - share.pair * share.units;
    return share;
}

// Of all products and warps; the block waits for it.
template <int kType>
__device__ void share_out(const MatvecChain& chain, MatvecShared& shared) {
    const int warps = blockDim.x / 32;
    for (int i = threadIdx.x; i < chain.count * warps; i += blockDim.x)
        shared.shares[i / warps][i % warps] = share_of<kType>(chain.products[i / warps], i % warps, warps);
    __syncthreads();
}
