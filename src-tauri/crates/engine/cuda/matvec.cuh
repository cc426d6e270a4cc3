// out = W x for one vector. The grid is one block per multiprocessor; a block takes an even share of the rows in pairs, and its warps
// even shares of those pairs' units, cut anywhere: a pair that several warps share is put together at the end, in their order.
//
// Each warp keeps its own ring of asynchronous copies, which begins to fill before the previous kernel has ended. Rings are deep enough
// to cover what the start of a kernel costs, and for a block to take more than half of a multiprocessor's shared memory: with two
// blocks on one, others would idle.
#pragma once

#include "input.cuh"

constexpr int kMatvecThreads = 512;  // at most
constexpr int kMatvecWarps = kMatvecThreads / 32;

// Rows of one block: `count` from `first` on, in pairs of neighbours; when gated, each with the row `second` further on.
struct BlockRows {
    int first, count, second;
    bool gated;
    __device__ int pairs() const { return gated ? count : (count + 1) / 2; }
    __device__ int first_of(int pair) const { return first + (gated ? pair : 2 * pair); }
    __device__ bool has_lone() const { return !gated && count % 2 == 1; }
};

__device__ inline BlockRows rows_of_block(const MatvecArgs& args, const MatvecPart& part, int block) {
    const unsigned rows = args.gated ? part.rows / 2 : part.rows, blocks = part.blocks;
    const int begin = rows * block / blocks, end = rows * (block + 1) / blocks;
    return {begin, end - begin, args.gated ? static_cast<int>(rows) : 1, args.gated != 0};
}

// Copies units in order, pair after pair. Pointers run along; per stage there is little to compute, as one is due every 60 cycles.
template <int kType>
class Reader {
    using U = Unit<kType>;
    const unsigned char *quants_, *side_;   // this lane's next 16 bytes, of the first row
    int quants_skip_, side_skip_;           // from behind the last unit of a pair to the next pair
    unsigned quants_second_, side_second_;  // from the first row to the second
    int in_pair_, left_;                    // units of the pair, and of all, still to come
    int units_, pairs_left_;                // units of a row; pairs of the block from this one on
    bool quants_tail_, side_tail_;          // takes part in the last unit of a row
    bool lone_last_;                        // the last pair is one row
    Side place_;
    uint64_t policy_;
    uint32_t quants_slot_, side_slot_;

  public:
    __device__ Reader(const MatvecArgs& args, const MatvecPart& part, const BlockRows& rows, int units, int begin, int end, int lane, uint32_t ring)
        : left_(end - begin), units_(units), lone_last_(rows.has_lone()), place_(U::side(lane)), policy_(evict_first_policy()),
          quants_slot_(ring + lane * 16), side_slot_(ring + kUnitBytes + place_.slot) {
        const RowBytes bytes = row_bytes(kType, args.cols);
        const int pair = begin / units, unit = begin - pair * units, step = rows.gated ? 1 : 2;
        const size_t row = rows.first_of(pair);
        const unsigned char* base = static_cast<const unsigned char*>(part.weights);
        in_pair_ = units - unit;
        pairs_left_ = rows.pairs() - pair;
        const int quants_row = static_cast<int>(bytes.of[0]);
        quants_ = base + row * quants_row + unit * kUnitBytes + lane * 16;
        quants_skip_ = step * quants_row - units * kUnitBytes;
        quants_second_ = rows.second * static_cast<unsigned>(quants_row);
        quants_tail_ = (units - 1) * kUnitBytes + lane * 16 < quants_row;
        if constexpr (U::kSideBytes > 0) {
            const int side_row = static_cast<int>(place_.plane == 1 ? bytes.of[1] : place_.plane == 2 ? bytes.of[2] : bytes.of[3]);
            side_ = base + plane_offset(kType, part.rows, args.cols, place_.plane) + row * side_row + unit * place_.step + place_.offset;
            side_skip_ = step * side_row - units * place_.step;
            side_second_ = rows.second * static_cast<unsigned>(side_row);
            side_tail_ = (units - 1) * place_.step + place_.offset < side_row;
        }
    }

    // Into the stage at `offset` of the ring. Always commits a group, so that groups count stages.
    __device__ void copy_stage(int offset) {
        if (left_ > 0) {
            --left_;
            const bool inside = in_pair_ > 1, both = !lone_last_ || pairs_left_ > 1;
            const bool quants = inside || quants_tail_, side = inside || side_tail_;
            copy_async_16(quants_slot_ + offset, quants_, quants, policy_);
            copy_async_16(quants_slot_ + offset + slot_bytes<kType>(), quants_ + quants_second_, quants && both, policy_);
            quants_ += kUnitBytes;
            if constexpr (U::kSideBytes > 0) {
                if (place_.slot >= 0 && place_.bytes == 16) {
                    copy_async_16(side_slot_ + offset, side_, side, policy_);
                    copy_async_16(side_slot_ + offset + slot_bytes<kType>(), side_ + side_second_, side && both, policy_);
                }
                if constexpr (U::kEightBytes) {
                    if (place_.bytes == 8) {
                        copy_async_8(side_slot_ + offset, side_);
                        if (both) copy_async_8(side_slot_ + offset + slot_bytes<kType>(), side_ + side_second_);
                    }
                }
                side_ += place_.step;
            }
            if (--in_pair_ == 0) {
                in_pair_ = units_, --pairs_left_;
                quants_ += quants_skip_;
                if constexpr (U::kSideBytes > 0) side_ += side_skip_;
            }
        }
        commit_copies();
    }
};

struct MatvecShared {
    float squares[kMatvecWarps];
    float2 carry[kMatvecWarps];    // what a warp adds to a pair that another began
    int carry_pair[kMatvecWarps];  // -1: none
};
constexpr int kMatvecSharedBytes = 256;
static_assert(sizeof(MatvecShared) <= kMatvecSharedBytes, "");
static_assert(kStageRows == 2, "pairs");

__device__ inline float2 pair_total(const MatvecShared& shared, const float2* sums, int pair) {
    float2 total = sums[pair];
#pragma unroll
    for (int w = 1; w < kMatvecWarps; ++w) {
        const float2 carry = shared.carry[w];
        if (shared.carry_pair[w] == pair) total.x += carry.x, total.y += carry.y;
    }
    return total;
}

// What this thread's first row is added to, read while weights are still on their way.
__device__ inline float added_to(const MatvecArgs& args, int to) {
    float x = args.bias != nullptr ? __ldg(args.bias + to) : 0;
    if (args.accumulate) x += __ldcg(args.out + to);
    return x;
}

__device__ inline void write_rows(const MatvecArgs& args, const MatvecPart& part, const BlockRows& rows, const MatvecShared& shared, const float2* sums,
                                  float added_first) {
    float scale = 1;
    if (args.norm != nullptr) {
        float squares = 0;
#pragma unroll
        for (float s : shared.squares) squares += s;
        scale = 1 / sqrtf(squares / args.cols + args.eps);
    }
    for (int i = threadIdx.x; i < rows.count; i += blockDim.x) {
        const float2 pair = pair_total(shared, sums, rows.gated ? i : i / 2);
        float y = scale * (rows.gated || i % 2 == 0 ? pair.x : pair.y);
        if (rows.gated) y = y / (1 + expf(-y)) * (scale * pair.y);
        const int to = part.out + rows.first + i;
        args.out[to] = y + (i < static_cast<int>(blockDim.x) ? added_first : added_to(args, to));
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

// Shared memory: [rings][input][MatvecShared][sums of pairs].
template <int kType>
__device__ void matvec(const MatvecArgs& args, const MatvecPart& part) {
    extern __shared__ __align__(128) unsigned char memory[];
    allow_next();
    using U = Unit<kType>;
    constexpr int kDepth = U::kDepth;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    const BlockRows rows = rows_of_block(args, part, blockIdx.x - part.first_block);
    const int units = (args.cols + U::kElements - 1) / U::kElements, all = rows.pairs() * units;
    const int begin = all * warp / warps, end = all * (warp + 1) / warps;

    const unsigned char* ring = memory + warp * ring_bytes<kType>();
    unsigned char* input = memory + warps * ring_bytes<kType>();
    const int input_bytes = U::kQuantisedInput ? quantised_input_bytes(args.cols) : dense_input_bytes(args.cols);
    MatvecShared& shared = *reinterpret_cast<MatvecShared*>(input + input_bytes);
    float2* sums = reinterpret_cast<float2*>(input + input_bytes + kMatvecSharedBytes);

    Reader<kType> reader(args, part, rows, units, begin, end, lane, shared_address(ring));
#pragma unroll 1
    for (int i = 0; i < kDepth - 1; ++i) reader.copy_stage(i * stage_bytes<kType>());
    if (args.norm != nullptr)
        for (int i = threadIdx.x * 32; i < args.cols; i += blockDim.x * 32) prefetch_l2(args.norm + i);
    if (threadIdx.x < kMatvecWarps) shared.squares[threadIdx.x] = 0, shared.carry_pair[threadIdx.x] = -1;
    __syncthreads();
    wait_for_previous();

    float squares;
    Input x{};
    if constexpr (U::kQuantisedInput) {
        squares = place_quantised(args, input);
        x.low = reinterpret_cast<const uint4*>(input);
        x.high = reinterpret_cast<const uint4*>(input + high_plane(args.cols));
        x.groups = reinterpret_cast<const QuantisedGroup*>(input + group_plane(args.cols));
    } else {
        squares = place_dense<kType>(args, reinterpret_cast<float4*>(input));
        x.dense = reinterpret_cast<const float4*>(input);
    }
    if (args.norm != nullptr) {
        squares = warp_sum(squares);
        if (lane == 0) shared.squares[warp] = squares;
    }
    const float added_first = static_cast<int>(threadIdx.x) < rows.count ? added_to(args, part.out + rows.first + threadIdx.x) : 0;
    __syncthreads();

    int pair = begin / units, unit = begin - pair * units, stage = 0, free_stage = (kDepth - 1) * stage_bytes<kType>();
    bool began = unit == 0;
    float first = 0, second = 0;
    for (int i = begin; i < end; ++i) {
        wait_copies<kDepth - 2>();
        // Every lane's copies are there, and every lane is done with the stage that is filled next.
        __syncwarp();
        reader.copy_stage(free_stage);
        const typename U::Piece piece = U::piece(x, unit, lane);
        first += U::dot(ring + stage, piece, lane);
        second += U::dot(ring + stage + slot_bytes<kType>(), piece, lane);
        free_stage = stage;
        stage = stage + stage_bytes<kType>() == ring_bytes<kType>() ? 0 : stage + stage_bytes<kType>();
        if (++unit == units || i + 1 == end) {
            const float sum = warp_sum_pair(first, second, lane);
            float* to = reinterpret_cast<float*>(began ? &sums[pair] : &shared.carry[warp]);
            if (lane % 16 == 0) to[lane / 16] = sum;
            if (!began && lane == 0) shared.carry_pair[warp] = pair;
            first = second = 0, unit = 0, began = true, ++pair;
        }
    }
    __syncthreads();
    write_rows(args, part, rows, shared, sums, added_first);
}

// The part whose block this is.
__device__ inline const MatvecPart& own_part(const MatvecArgs& args) {
    int index = 0;
    while (index + 1 < args.num_parts && static_cast<int>(blockIdx.x) >= args.parts[index + 1].first_block) ++index;
    return args.parts[index];
}

#define MATVEC(name, multiply)                                                                                               \
    extern "C" __global__ void __launch_bounds__(kMatvecThreads, 1) matvec_##name(const __grid_constant__ MatvecArgs args) { \
        multiply(args, own_part(args));                                                                                      \
    }
