// Thresholds over the weights of all tokens, which lie in the registers of a few blocks: the k-th largest, or the smallest of the
// likeliest that reach a sum. Ten bits of the weights at a time, by histograms in integers, so that the order of additions never matters.
#pragma once

#include "launch.cuh"

constexpr int kSampleThreads = 512, kSampleWarps = kSampleThreads / 32;
constexpr int kSampleItems = 8;  // tokens per thread, one after another
constexpr int kSampleBlockTokens = kSampleThreads * kSampleItems;
constexpr int kSampleBlocks = 256;  // at most
constexpr int kBins = 1024, kPasses = 3, kHistograms = 2 * kPasses;

using Sum = unsigned long long;

struct Histogram {
    Sum sums[kBins];
    unsigned counts[kBins];
};

struct BlockBest {
    float logit;
    unsigned token, not_finite, unused;
};

struct BlockKept {
    Sum above;      // weights beyond the threshold
    unsigned ties;  // tokens at the threshold
    unsigned unused;
};

struct SampleScratch {
    unsigned arrivals;
    unsigned unused[3];
    BlockBest best[kSampleBlocks];
    BlockKept kept[kSampleBlocks];
    Histogram histograms[kHistograms];  // zero between launches
};
static_assert(sizeof(SampleScratch) <= 128 << 10, "what the host allocates");

// Weights are exp of something <= 0, kept as bits: up to 0x3f800000, ordered as the numbers are. 0: not a candidate.
struct Items {
    unsigned bits[kSampleItems];
};
// In units of 2^-39: exact above 2^-15, and a token below 2^-39 of the likeliest is never drawn.
__device__ inline Sum weight_of(unsigned bits) { return __float2ull_rz(__uint_as_float(bits) * 549755813888.0f); }

// Tokens with weights above `bits` are kept, and the first `ties` (by token number) of those equal to it. bits 0: no threshold.
struct Cut {
    unsigned bits;
    unsigned ties;
    Sum total;  // of the kept
};

struct CutShared {
    // Sums in two words of 20 bits and more, as shared memory adds single words natively; a block's tokens cannot overflow either.
    unsigned low[kBins], high[kBins], counts[kBins];
    Sum warp_sums[kSampleWarps];
    unsigned warp_counts[kSampleWarps];
    Sum above_sum, total_sum;
    unsigned above_count, total_count, bin;
    Sum block_begin;  // of what this block keeps, within what all keep
    unsigned block_ties;
};

// All blocks of the grid; they are resident together. The last to arrive flips the highest bit, as block 0 adds what the others lack.
__device__ inline void grid_barrier(SampleScratch& scratch) {
    constexpr unsigned kFlip = 0x80000000u;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        const unsigned before = atomicAdd(&scratch.arrivals, blockIdx.x == 0 ? kFlip - (gridDim.x - 1) : 1);
        unsigned seen;
        do {
            asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(&scratch.arrivals) : "memory");
        } while (((seen ^ before) & kFlip) == 0);
    }
    __syncthreads();
}

// The whole grid does it.
__device__ inline void clear(Histogram& histogram) {
    for (int i = blockIdx.x * kSampleThreads + threadIdx.x; i < kBins; i += gridDim.x * kSampleThreads) histogram.sums[i] = 0, histogram.counts[i] = 0;
}

// Bins of all items whose higher bits equal `prefix`, added to the grid's histogram.
__device__ inline void count_bins(CutShared& shared, Histogram& global, const Items& items, unsigned at_least, unsigned prefix, int shift) {
    for (int i = threadIdx.x; i < kBins; i += kSampleThreads) shared.low[i] = 0, shared.high[i] = 0, shared.counts[i] = 0;
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kSampleItems; ++j) {
        const unsigned bits = items.bits[j];
        if (bits == 0 || bits < at_least || bits >> (shift + 10) != prefix) continue;
        const int bin = bits >> shift & (kBins - 1);
        const Sum weight = weight_of(bits);
        atomicAdd(&shared.low[bin], static_cast<unsigned>(weight) & 0xfffff);
        atomicAdd(&shared.high[bin], static_cast<unsigned>(weight >> 20));
        atomicAdd(&shared.counts[bin], 1u);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kBins; i += kSampleThreads) {
        if (shared.counts[i] == 0) continue;
        atomicAdd(&global.sums[i], (static_cast<Sum>(shared.high[i]) << 20) + shared.low[i]);
        atomicAdd(&global.counts[i], shared.counts[i]);
    }
}

// Inclusive scan over the block, in the order of threads.
__device__ inline void scan_block(CutShared& shared, Sum& sum, unsigned& count) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const Sum s = __shfl_up_sync(kFullWarp, sum, distance);
        const unsigned c = __shfl_up_sync(kFullWarp, count, distance);
        if (lane >= distance) sum += s, count += c;
    }
    __syncthreads();  // an earlier scan has been read
    if (lane == 31) shared.warp_sums[warp] = sum, shared.warp_counts[warp] = count;
    __syncthreads();
    for (int w = 0; w < warp; ++w) sum += shared.warp_sums[w], count += shared.warp_counts[w];
}

// What a bin must reach with all above it: a count, or a share of the sum of everything.
struct Goal {
    unsigned count;  // 0: goes by the sum
    double share;
};

// The bin, from the top, at which the goal is reached; what lies above it is added to `above`. `wanted` is set from the total in the
// first pass. False: the goal lies beyond everything.
__device__ inline bool find_bin(CutShared& shared, const Histogram& global, const Goal& goal, bool first, Sum total, Sum& wanted, Cut& above,
                                unsigned& above_count) {
    const int high = kBins - 1 - 2 * threadIdx.x, low = high - 1;
    const Sum high_sum = __ldcg(&global.sums[high]), low_sum = __ldcg(&global.sums[low]);
    const unsigned high_count = __ldcg(&global.counts[high]), low_count = __ldcg(&global.counts[low]);
    Sum sum = high_sum + low_sum;
    unsigned count = high_count + low_count;
    scan_block(shared, sum, count);
    if (threadIdx.x == kSampleThreads - 1) shared.total_sum = sum, shared.total_count = count;
    __syncthreads();
    if (first) {
        if (goal.count != 0 && goal.count >= shared.total_count) return false;
        const Sum all = total != 0 ? total : shared.total_sum;
        const Sum share = static_cast<Sum>(ceil(static_cast<double>(all) * goal.share));
        wanted = goal.count != 0 ? goal.count : share == 0 ? 1 : share < all ? share : all;
    }
    const auto reaches = [&](Sum s, unsigned c) { return goal.count != 0 ? above_count + c >= wanted : above.total + s >= wanted; };
    const Sum before_sum = sum - high_sum - low_sum;
    const unsigned before_count = count - high_count - low_count;
    if (reaches(sum, count) && !reaches(before_sum, before_count)) {
        const bool at_high = reaches(before_sum + high_sum, before_count + high_count);
        shared.bin = at_high ? high : low;
        shared.above_sum = before_sum + (at_high ? 0 : high_sum);
        shared.above_count = before_count + (at_high ? 0 : high_count);
    }
    __syncthreads();
    above.total += shared.above_sum;
    above_count += shared.above_count;
    above.bits = above.bits << 10 | shared.bin;
    return true;
}

// Narrows `cut` to the goal. `total`: of what `cut` keeps, 0 if that is everything. Uses `kPasses` histograms from `first_histogram` on and
// clears the one before.
__device__ inline bool narrow(CutShared& shared, SampleScratch& scratch, int first_histogram, const Items& items, const Goal& goal, Cut& cut) {
    Cut found{0, 0, 0};
    Sum wanted = 0;
    unsigned above_count = 0;
    for (int pass = 0; pass < kPasses; ++pass) {
        const int histogram = first_histogram + pass;
        count_bins(shared, scratch.histograms[histogram], items, cut.bits, found.bits, 20 - 10 * pass);
        grid_barrier(scratch);
        if (histogram > 0) {
            // Everyone has read it, or never will.
            clear(scratch.histograms[histogram - 1]);
        }
        if (!find_bin(shared, scratch.histograms[histogram], goal, pass == 0, cut.total, wanted, found, above_count)) return false;
    }
    const Sum tie = weight_of(found.bits);
    if (goal.count != 0) {
        found.ties = static_cast<unsigned>(wanted) - above_count;
    } else {
        found.ties = tie == 0 ? 1 : static_cast<unsigned>((wanted - found.total + tie - 1) / tie);
    }
    found.total += found.ties * tie;
    cut = found;
    return true;
}
