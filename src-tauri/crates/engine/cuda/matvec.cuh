// out = W x for one vector, and chains of such products in one launch. The grid is one block per multiprocessor; a block takes an even
// share of a product's rows in pairs, and its warps even shares of those pairs' units, cut anywhere: a pair that several warps share is put
// together at the end, in their order.
//
// Each warp keeps its own ring of asynchronous copies, which begins to fill before the previous kernel has ended and runs on from product
// to product, so that memory stays busy while blocks wait for each other's results. Rings are deep enough to cover what the start of a
// product costs, and for a block to take more than half of a multiprocessor's shared memory: with two blocks on one, others would idle.
#pragma once

#include "input.cuh"
#include "matvec_ring.cuh"

__device__ inline float2 pair_total(const MatvecShared& shared, const float2* sums, int pair) {
    float2 total = sums[pair];
#pragma unroll
    for (int w = 1; w < kMatvecWarps; ++w) {
        const float2 carry = shared.carry[w];
        if (shared.carry_pair[w] == pair) total.x += carry.x, total.y += carry.y;
    }
    return total;
}

// What a row's product is added to. `before`: what stood at args.add when the product began; it may not have been there yet.
__device__ inline float added_to(const MatvecArgs& args, int to, float before) {
    float x = args.bias != nullptr ? __ldg(args.bias + to) : 0;
    if (args.add == nullptr) return x;
    while (args.add_tag != 0 && !has_tag(before, args.add_tag)) before = load_shared(args.add + to);
    return x + before;
}

__device__ inline void write_rows(const MatvecArgs& args, const MatvecPart& part, const BlockRows& rows, const MatvecShared& shared, const float2* sums,
                                  float before_first) {
    float scale = 1;
    if (args.norm != nullptr) {
        float squares = 0;
#pragma unroll
        for (float s : shared.squares) squares += s;
        scale = rsqrtf(squares / args.cols + args.eps);
    }
    for (int i = threadIdx.x; i < rows.count; i += blockDim.x) {
        const int to = part.out + rows.first + i;
        const float before = i < static_cast<int>(blockDim.x) || args.add == nullptr ? before_first : load_shared(args.add + to);
        const float2 pair = pair_total(shared, sums, rows.gated ? i : i / 2);
        float y = scale * (rows.gated || i % 2 == 0 ? pair.x : pair.y);
        if (rows.gated) y = __fdividef(y, 1 + expf(-y)) * (scale * pair.y);
        store_shared(args.out + to, tagged(y + added_to(args, to, before), args.out_tag));
    }
}

// Sums of both over the warp: lane 0 gets the first, lane 16 the second.
__device__ inline float warp_sum_pair(float first, float second, int lane) {
    float mine = lane < 16 ? first : second;
    mine += __shfl_xor_sync(kFullWarp, lane < 16 ? second : first, 16);
#pragma unroll
    for (int distance = 8; distance > 0; distance /= 2) mine += __shfl_xor_sync(kFullWarp, mine, distance);
    return mine;
}

// Sums of this warp's units, into `sums` where it has the beginning of a pair, else as what it adds to another's.
template <int kType, int kRingType>
__device__ void multiply(const Share& share, const Input& x, Ring<kRingType>& ring, MatvecShared& shared, float2* sums) {
    using U = Unit<kType>;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int pair = share.pair, unit = share.unit, left = share.end - share.begin;
    bool began = unit == 0;
    float first = 0, second = 0;
    // Of the unit in a slot, for both rows.
    const auto products = [&](const unsigned char* slot, int unit) {
        const typename U::Piece piece = U::piece(x, unit, lane);
        return float2{U::dot(slot, piece, lane), U::dot(slot + slot_bytes<kType>(), piece, lane)};
    };
    const auto add = [&](float2 product) {
        // Not fused with what is behind the product: the same bits from every kernel.
        first = __fadd_rn(first, product.x), second = __fadd_rn(second, product.y);
        --left;
        if (++unit == share.units || left == 0) {
            const float sum = warp_sum_pair(first, second, lane);
            float* to = reinterpret_cast<float*>(began ? &sums[pair] : &shared.carry[warp]);
            if (lane % 16 == 0) to[lane / 16] = sum;
            if (!began && lane == 0) shared.carry_pair[warp] = pair;
            first = second = 0, unit = 0, began = true, ++pair;
        }
    };
    if constexpr (kRingType != kMixed) {
        // Two at a time, so that one fills the latencies of the other; the kernel for all types has no registers left for it.
        while (left >= 2) {
            const unsigned char* slots[2];
            ring.next(slots, warp, lane);
            const float2 one = products(slots[0], unit), other = products(slots[1], unit + 1 == share.units ? 0 : unit + 1);
            add(one);
            add(other);
        }
    }
    while (left > 0) {
        const unsigned char* slots[1];
        ring.next(slots, warp, lane);
        add(products(slots[0], unit));
    }
}

template <int kRingType>
__device__ void multiply_part(int type, const Share& share, const Input& x, Ring<kRingType>& ring, MatvecShared& shared, float2* sums) {
    if constexpr (kRingType != kMixed) {
        multiply<kRingType, kRingType>(share, x, ring, shared, sums);
    } else {
        switch (type) {
            case kQ8_0: return multiply<kQ8_0, kMixed>(share, x, ring, shared, sums);
            case kQ4_0: return multiply<kQ4_0, kMixed>(share, x, ring, shared, sums);
            case kQ4_1: return multiply<kQ4_1, kMixed>(share, x, ring, shared, sums);
            case kQ5_0: return multiply<kQ5_0, kMixed>(share, x, ring, shared, sums);
            case kQ5_1: return multiply<kQ5_1, kMixed>(share, x, ring, shared, sums);
            case kQ4_K: return multiply<kQ4_K, kMixed>(share, x, ring, shared, sums);
            case kQ5_K: return multiply<kQ5_K, kMixed>(share, x, ring, shared, sums);
            case kQ6_K: return multiply<kQ6_K, kMixed>(share, x, ring, shared, sums);
            default: __trap();
        }
    }
}

template <int kType>
__host__ __device__ constexpr bool quantises() {
    if constexpr (kType == kMixed) return true;
    else return Unit<kType>::kQuantisedInput;
}

// The input of a product into shared memory; `x` points there. Sum of the squares that this thread saw.
template <int kType>
__device__ float place_input(const MatvecArgs& args, unsigned char* to, Input& x) {
    if constexpr (quantises<kType>()) {
        x.low = reinterpret_cast<const uint4*>(to);
        x.high = reinterpret_cast<const uint4*>(to + high_plane(args.cols));
        x.groups = reinterpret_cast<const QuantisedGroup*>(to + group_plane(args.cols));
        // Only short inputs have a norm.
        return args.norm != nullptr ? place_quantised<true, 1>(args, to) : place_quantised<false, 2>(args, to);
    } else {
        x.dense = reinterpret_cast<const float4*>(to);
        float4* quads = reinterpret_cast<float4*>(to);
        return args.norm != nullptr ? place_dense<kType, true, 2>(args, quads) : place_dense<kType, false, 4>(args, quads);
    }
}

// Shared memory: [rings][MatvecShared][input][sums of pairs].
template <int kType>
__device__ void matvec(const MatvecChain& chain) {
    extern __shared__ __align__(128) unsigned char memory[];
    allow_next();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    MatvecShared& shared = *reinterpret_cast<MatvecShared*>(memory + warps * ring_bytes<kType>());
    unsigned char* input = memory + warps * ring_bytes<kType>() + kMatvecSharedBytes;

    share_out<kType>(chain, shared);
    Ring<kType> ring(chain, shared, memory + warp * ring_bytes<kType>(), warp, lane);
    for (int p = 0; p < chain.count; ++p)
        if (chain.products[p].norm != nullptr)
            for (int i = threadIdx.x * 32; i < chain.products[p].cols; i += blockDim.x * 32) prefetch_l2(chain.products[p].norm + i);
    if (threadIdx.x < kMatvecWarps) shared.squares[threadIdx.x] = 0, shared.carry_pair[threadIdx.x] = -1;
    __syncthreads();
    wait_for_previous();

#pragma unroll 1
    for (int p = 0;; ++p) {
        const MatvecArgs& args = chain.products[p];
        const Share share = shared.shares[p][warp];
        const MatvecPart& part = args.parts[share.part];
        float2* sums = reinterpret_cast<float2*>(input + (quantises<kType>() ? quantised_input_bytes(args.cols) : dense_input_bytes(args.cols)));
        const bool adds = args.add != nullptr && static_cast<int>(threadIdx.x) < share.rows.count;
        const float before = adds ? load_shared(args.add + part.out + share.rows.first + threadIdx.x) : 0;
        Input x{};
        float squares = place_input<kType>(args, input, x);
        if (args.norm != nullptr) {
            squares = warp_sum(squares);
            if (lane == 0) shared.squares[warp] = squares;
        }
        __syncthreads();
        multiply_part<kType>(part.type, share, x, ring, shared, sums);
        __syncthreads();
        write_rows(args, part, share.rows, shared, sums, before);
        if (p + 1 == chain.count) break;
        // What is read of this product's sums and input has been read.
        __syncthreads();
        if (threadIdx.x < kMatvecWarps) shared.carry_pair[threadIdx.x] = -1;
    }
}

#define MATVEC(name, type)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(kMatvecThreads, 1) matvec_##name(const __grid_constant__ MatvecChain chain) { \
        matvec<type>(chain);                                                                                                   \
    }
