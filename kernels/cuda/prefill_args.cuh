// What a prefill launch is told, and the sizes the host must know. Shared with the host.
#pragma once

#include "step.cuh"

// One chunk of one layer: n tokens at positions first_pos..first_pos + n - 1, whose K and V are already in the cache.
// Rows of every tensor are 16-byte aligned: strides are multiples of 8 elements.
struct PrefillArgs {
    const void* q;               // [n, q_token_stride]      element type of K and V, after RoPE; head h at h * head_dim
    const __nv_bfloat16* q_pre;  // [n, q_pre_token_stride]  before RoPE; read by the seed kernels only
    void* out;                   // [n, out_token_stride]    element type of K and V; not written by the seed kernels
    float* lse;                  // [num_q_heads, n]         natural log; nullptr: not wanted; not written by the seed kernels
    KvCache kv;
    Ring ring;                   // used by the seed kernels only
    Heads heads;                 // scale_log2 > 0
    int q_token_stride;          // elements
    int q_pre_token_stride;      // elements
    int out_token_stride;        // elements
    int first_pos;
    int n;
    int seed_from;               // seed kernels: the first position that gets an entry; of these only the newest `slots` do
    // With splits > 1 a row's tokens are shared out over that many blocks, whose results wait here for prefill_combine_*.
    int splits;
    float* partial_out;          // [splits, prefill_tokens().count, num_q_heads, head_dim]  normalised
    float* partial_lse;          // [splits, prefill_tokens().count, num_q_heads]
};

// Tokens of the chunk that a launch works on: all of them, or those that get a ring entry.
struct PrefillTokens {
    int first, count;  // first: relative to the chunk
};
__host__ __device__ inline PrefillTokens prefill_tokens(const PrefillArgs& args, bool seed) {
    if (!seed) return {0, args.n};
    const int end = args.first_pos + args.n;
    int from = args.first_pos;
    if (from < args.seed_from) from = args.seed_from;
    if (from < end - args.ring.slots) from = end - args.ring.slots;
    return from < end ? PrefillTokens{from - args.first_pos, end - from} : PrefillTokens{0, 0};
}

// Rows of a launch's matrix are (token, head of the group), heads running fastest; a tile is `tile_rows` of them for one KV head.
__host__ __device__ inline int prefill_tiles(const PrefillArgs& args, bool seed, int tile_rows) {
    const long long rows = static_cast<long long>(prefill_tokens(args, seed).count) * args.heads.group;
    return static_cast<int>((rows + tile_rows - 1) / tile_rows);
}

// How many blocks should share a row's tokens: 1, unless rows are so few that they leave multiprocessors idle. `positions`: of the
// newest token, plus one. A share is at least 1024 tokens. Partial results then fit [multiprocessors * tile_rows, head_dim].
inline int prefill_splits(int tiles, int num_kv_heads, int multiprocessors, int positions) {
    const int by_blocks = multiprocessors / (tiles * num_kv_heads), by_tokens = positions / 1024;
    const int splits = by_blocks < by_tokens ? by_blocks : by_tokens;
    return splits < 1 ? 1 : splits;
}

// prefill_{bf16,f16}_d* and prefill_seed_{bf16,f16}_d*: one block per tile, KV head and split.
constexpr int kPrefillThreads = 128;
// Tokens of K and V in shared memory. 64 are faster than 32 at 64 dimensions (+21 %) and 96 (+6 %), 1 % at 128, and slower at 256
// (-9 %; H200). 32 let two blocks of 128 dimensions share a multiprocessor that has 100 KB.
template <int kDim>
constexpr int kPrefillTileTokens = kDim > 96 ? 32 : 64;
template <int kDim>
constexpr int kPrefillTileRows = kDim > 128 ? 64 : 128;
template <int kDim>
constexpr int prefill_shared_bytes() {
    return (kPrefillTileRows<kDim> + 2 * kPrefillTileTokens<kDim>) * 2 * kDim;
}

// A tensor map, as the driver encodes it (cuTensorMapEncodeTiled).
struct alignas(64) PrefillTensorMap {
    unsigned char bytes[128];
};

// Of K and V: dimensions {head_dim, first_pos + n, num_kv_heads}, so that tokens beyond the chunk read as zeros; strides of the
// cache; box {kColumns, kTokens, 1}, swizzle of kColumns * 2 bytes (PrefillWgmmaShape).
struct PrefillWgmmaArgs {
    PrefillTensorMap k, v;
    PrefillArgs chunk;
};

// prefill_wgmma_{bf16,f16}_d* and prefill_wgmma_seed_*: sm_90a. A block takes a multiprocessor and works on tile after tile; the
// grid may be smaller than tiles * num_kv_heads * splits, and should not be larger.
template <int kDim, int kTileTokens, int kWarpgroups>
struct PrefillWgmmaConfig {
    static constexpr int kConsumers = kWarpgroups;                // of 64 rows each, beside the one that copies
    static constexpr int kRows = 64 * kConsumers;
    static constexpr int kThreads = 128 * (kConsumers + 1);
    static constexpr int kTokens = kTileTokens;                   // of a tile of K or V
    static constexpr int kStages = 2;
    static constexpr int kColumns = kDim % 64 == 0 ? 64 : 32;     // elements of a box: one swizzled row of shared memory
    static constexpr int kQueryBytes = kRows * kDim * 2;
    static constexpr int kTileBytes = kTokens * kDim * 2;         // K or V
    static constexpr int kSharedBytes = kQueryBytes + 2 * kStages * kTileBytes + 1024 + 256;  // alignment, barriers
};
// As many tokens as registers and shared memory allow. At 64 dimensions the exponentials take as long as the products, and
// a third warpgroup hides more of them. The seed kernels need more registers for their weights.
template <int kDim, bool kSeed>
using PrefillWgmmaShape = PrefillWgmmaConfig<kDim, kSeed ? 64 : kDim == 64 ? 128 : kDim == 256 ? 80 : 176, (kDim == 64 && !kSeed) ? 3 : 2>;

// prefill_combine_{bf16,f16} after attend with splits > 1, prefill_combine_seed after seed; second argument: int head_dim.
constexpr int kPrefillCombineThreads = 128;
