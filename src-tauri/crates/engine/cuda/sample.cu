// From logits to a token on the device, and on to the next step.
//
// Each block holds 4,096 tokens in registers. Greedy needs one meeting of the blocks; a draw needs one more, and three for each of
// top_k and top_p. Draws depend on seed and number of the draw alone.

#include "args.cuh"
#include "sample_cut.cuh"

namespace {

struct Shared {
    CutShared cut;
    unsigned recent[kSampleBlockTokens / 32];  // a bit per token of this block
    BlockBest best[kSampleWarps];
};

__device__ unsigned first_token() { return blockIdx.x * kSampleBlockTokens + threadIdx.x * kSampleItems; }

__device__ bool better(float a, unsigned a_token, float b, unsigned b_token) { return a > b || (a == b && a_token < b_token); }

__device__ BlockBest better_of(const BlockBest& a, const BlockBest& b) {
    BlockBest best = better(b.logit, b.token, a.logit, a.token) ? b : a;
    best.not_finite = a.not_finite | b.not_finite;
    return best;
}

__device__ BlockBest best_of_warp(BlockBest best) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        best = better_of(best, {__shfl_xor_sync(kFullWarp, best.logit, distance), __shfl_xor_sync(kFullWarp, best.token, distance),
                                __shfl_xor_sync(kFullWarp, best.not_finite, distance), 0});
    return best;
}

// Of the whole grid. NaN anywhere, or a largest that is infinite, is marked.
__device__ BlockBest best_of_all(Shared& shared, SampleScratch& scratch, const float (&logits)[kSampleItems]) {
    BlockBest best{-INFINITY, 0xffffffffu, 0, 0};
#pragma unroll
    for (int j = 0; j < kSampleItems; ++j) {
        best.not_finite |= isnan(logits[j]);
        if (logits[j] > best.logit) best.logit = logits[j], best.token = first_token() + j;
    }
    best = best_of_warp(best);
    if (threadIdx.x % 32 == 0) shared.best[threadIdx.x / 32] = best;
    __syncthreads();
    if (threadIdx.x < 32) {
        best = best_of_warp(shared.best[threadIdx.x % kSampleWarps]);
        if (threadIdx.x == 0) scratch.best[blockIdx.x] = best;
    }
    grid_barrier(scratch);
    best = {-INFINITY, 0xffffffffu, 0, 0};
    for (int i = threadIdx.x % 32; i < static_cast<int>(gridDim.x); i += 32) {
        const uint4 other = __ldcg(reinterpret_cast<const uint4*>(&scratch.best[i]));
        best = better_of(best, {__uint_as_float(other.x), other.y, other.z, 0});
    }
    best = best_of_warp(best);
    best.not_finite |= !isfinite(best.logit);
    return best;
}

__device__ void mark_recent(Shared& shared, const SampleArgs& args, const SampleSettings& settings, int position) {
    for (int i = threadIdx.x; i < kSampleBlockTokens / 32; i += kSampleThreads) shared.recent[i] = 0;
    __syncthreads();
    const int end = min(position + 1, args.history_len), begin = max(0, end - max(0, settings.repeat_last_n));
    for (int i = begin + threadIdx.x; i < end; i += kSampleThreads) {
        const unsigned local = __ldcg(args.history + i) - blockIdx.x * kSampleBlockTokens;
        if (local < kSampleBlockTokens) atomicOr(&shared.recent[local / 32], 1u << local % 32);
    }
    __syncthreads();
}

__device__ void load_logits(Shared& shared, const SampleArgs& args, const SampleSettings& settings, int position, float (&logits)[kSampleItems]) {
    const bool penalised = settings.repeat_penalty != 1;
    if (penalised) mark_recent(shared, args, settings, position);
    const unsigned token = first_token(), vocab = args.vocab;
    static_assert(kSampleItems == 8, "two loads of four");
    if (token + kSampleItems <= vocab) {
        *reinterpret_cast<float4*>(&logits[0]) = __ldcg(reinterpret_cast<const float4*>(args.logits + token));
        *reinterpret_cast<float4*>(&logits[4]) = __ldcg(reinterpret_cast<const float4*>(args.logits + token + 4));
    } else {
#pragma unroll
        for (int j = 0; j < kSampleItems; ++j) logits[j] = token + j < vocab ? __ldcg(args.logits + token + j) : -INFINITY;
    }
    if (!penalised) return;
    const unsigned recent = shared.recent[threadIdx.x * kSampleItems / 32] >> threadIdx.x * kSampleItems % 32;
#pragma unroll
    for (int j = 0; j < kSampleItems; ++j) {
        const float x = logits[j];
        if (recent >> j & 1) logits[j] = x >= 0 ? x / settings.repeat_penalty : x * settings.repeat_penalty;
    }
}

// Philox 4x32 with 10 rounds (Salmon et al., SC 2011): the first two words of the block numbered `index`.
__device__ Sum random_bits(unsigned long long seed, unsigned index) {
    unsigned c[4] = {index, 0, 0, 0}, k[2] = {static_cast<unsigned>(seed), static_cast<unsigned>(seed >> 32)};
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned high0 = __umulhi(0xd2511f53u, c[0]), low0 = 0xd2511f53u * c[0];
        const unsigned high1 = __umulhi(0xcd9e8d57u, c[2]), low1 = 0xcd9e8d57u * c[2];
        c[0] = high1 ^ c[1] ^ k[0], c[1] = low1, c[2] = high0 ^ c[3] ^ k[1], c[3] = low0;
        k[0] += 0x9e3779b9u, k[1] += 0xbb67ae85u;
    }
    return static_cast<Sum>(c[1]) << 32 | c[0];
}

__device__ void finish(const SampleArgs& args, const DecodeState& before, unsigned token, unsigned flags, bool drew) {
    if (before.position + 1 < args.history_len) args.history[before.position + 1] = token;
    const uint4 record{token, flags, before.step, static_cast<unsigned>(before.position)};
    reinterpret_cast<uint4*>(args.records)[before.step % args.num_records] = record;
    *args.state = {before.position + 1, before.step + 1, token, before.draws + drew};
}

__device__ void weigh(const float (&logits)[kSampleItems], float best, const SampleSettings& settings, Items& items) {
    const float scale = 1 / settings.temperature;
#pragma unroll
    for (int j = 0; j < kSampleItems; ++j) {
        const float weight = logits[j] == best ? 1 : expf((logits[j] - best) * scale);
        items.bits[j] = weight > 0 && weight >= settings.min_p ? __float_as_uint(weight) : 0;
    }
}

__device__ void draw(Shared& shared, SampleScratch& scratch, const SampleArgs& args, const SampleSettings& settings, const DecodeState& before,
                     const Items& items) {
    Cut cut{0, 0, 0};
    int used = 0;
    if (settings.top_k > 0 && settings.top_k < args.vocab) {
        const bool narrowed = narrow(shared.cut, scratch, 0, items, {static_cast<unsigned>(settings.top_k), 0}, cut);
        used = narrowed ? kPasses : 1;
    }
    if (settings.top_p < 1) {
        narrow(shared.cut, scratch, used, items, {0, static_cast<double>(settings.top_p)}, cut);
        used += kPasses;
    }
    const auto equal = [&](int j) { return cut.bits != 0 && items.bits[j] == cut.bits; };
    Sum above = 0;
    unsigned ties = 0;
#pragma unroll
    for (int j = 0; j < kSampleItems; ++j) {
        if (items.bits[j] > cut.bits) above += weight_of(items.bits[j]);
        ties += equal(j);
    }
    Sum above_end = above;
    unsigned ties_end = ties;
    scan_block(shared.cut, above_end, ties_end);
    if (threadIdx.x == kSampleThreads - 1) scratch.kept[blockIdx.x] = {above_end, ties_end, 0};
    grid_barrier(scratch);
    if (used > 0) clear(scratch.histograms[used - 1]);

    // One thread per block of the grid: how many of its ties count, and where its share begins.
    const Sum tie = weight_of(cut.bits);
    const bool is_block = threadIdx.x < gridDim.x;
    const BlockKept kept = is_block ? BlockKept{__ldcg(&scratch.kept[threadIdx.x].above), __ldcg(&scratch.kept[threadIdx.x].ties), 0} : BlockKept{0, 0, 0};
    Sum none = 0;
    unsigned ties_to = kept.ties;
    scan_block(shared.cut, none, ties_to);
    const unsigned counted = min(ties_to, cut.ties) - min(ties_to - kept.ties, cut.ties);
    Sum end = kept.above + counted * tie;
    const Sum own = end;
    unsigned unused = 0;
    scan_block(shared.cut, end, unused);
    if (threadIdx.x == blockIdx.x) shared.cut.block_begin = end - own, shared.cut.block_ties = counted;
    if (threadIdx.x == kSampleThreads - 1) shared.cut.total_sum = end;
    __syncthreads();
    const Sum total = shared.cut.total_sum;
    const unsigned block_ties = shared.cut.block_ties;
    const Sum point = __umul64hi(total, random_bits(settings.seed, before.draws));
    // The tokens of this thread, one after another, from where those before them end.
    unsigned rank = ties_end - ties;
    Sum from = shared.cut.block_begin + above_end - above + min(rank, block_ties) * tie;
#pragma unroll
    for (int j = 0; j < kSampleItems; ++j) {
        const bool here = items.bits[j] > cut.bits || (equal(j) && rank < block_ties);
        const Sum to = from + (here ? weight_of(items.bits[j]) : 0);
        rank += equal(j);
        if (point >= from && point < to) finish(args, before, first_token() + j, 0, true);
        from = to;
    }
}

}  // namespace

// Grid: ceil(vocab / 4096) blocks, resident together. Never lets the next kernel begin early, as it moves the state on.
extern "C" __global__ void __launch_bounds__(kSampleThreads, 2) sample(const __grid_constant__ SampleArgs args) {
    __shared__ Shared shared;
    SampleScratch& scratch = *static_cast<SampleScratch*>(args.scratch);
    wait_for_previous();
    const SampleSettings settings = *args.settings;
    const DecodeState before = *args.state;
    float logits[kSampleItems];
    load_logits(shared, args, settings, before.position, logits);
    if (gridDim.x * kSampleBlockTokens < static_cast<unsigned>(args.vocab)) {
        if (blockIdx.x == 0 && threadIdx.x == 0) finish(args, before, 0, kSampleGridTooSmall, false);
        return;
    }
    const BlockBest best = best_of_all(shared, scratch, logits);
    if (best.not_finite || settings.temperature == 0) {
        if (blockIdx.x == 0 && threadIdx.x == 0) finish(args, before, best.not_finite ? 0 : best.token, best.not_finite ? kSampleNotFinite : 0, false);
        return;
    }
    Items items;
    weigh(logits, best.logit, settings, items);
    draw(shared, scratch, args, settings, before, items);
}
