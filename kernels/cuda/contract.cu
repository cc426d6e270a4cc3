// What the Rust side of a launch takes for granted (src/cuda/attention/{abi,sizes,prefill}.rs). Nothing here runs.
#include <cstddef>

#include "launch_sizes.h"
#include "prefill_args.cuh"

static_assert(sizeof(StepState) == 8 && offsetof(StepState, step) == 4);
static_assert(sizeof(RingMeta) == 16 && offsetof(RingMeta, lse) == 4 && offsetof(RingMeta, depth) == 8 && offsetof(RingMeta, distance) == 12);
static_assert(sizeof(Ring) == 32 && offsetof(Ring, meta) == 16 && offsetof(Ring, slots) == 24 && offsetof(Ring, band) == 28);
static_assert(sizeof(KvCache) == 24 && offsetof(KvCache, capacity) == 16);
static_assert(sizeof(Heads) == 12 && offsetof(Heads, scale_log2) == 8);
static_assert(sizeof(Counters) == 56 && offsetof(Counters, ring_bytes) == 16 && offsetof(Counters, groups_reused) == 32);
static_assert(sizeof(Policy) == 48 && offsetof(Policy, max_pause) == 12 && offsetof(Policy, rate) == 24 && offsetof(Policy, seed) == 32);
static_assert(kDecisionShift == 5 && kRead == 1);
static_assert(sizeof(Pause) == 12 && offsetof(Pause, length) == 4 && offsetof(Pause, misses) == 8);
static_assert(sizeof(AttendArgs) == 160 && offsetof(AttendArgs, heads) == 48 && offsetof(AttendArgs, ring) == 64 && offsetof(AttendArgs, outcomes) == 104 && offsetof(AttendArgs, counters) == 152);
static_assert(sizeof(ReuseArgs) == 192 && offsetof(ReuseArgs, policy) == 96 && offsetof(ReuseArgs, pauses) == 144 && offsetof(ReuseArgs, counters) == 184);

static_assert(kAttendThreads == 128 && reuse_threads(64) == 320 && reuse_threads(128) == 320 && reuse_threads(256) == 256 && kMaxKvHeads == 128 && Split::kSpansPerBlock == 4);

constexpr bool attend_takes(int kb, int d64h8, int d64h16, int d96h8, int d96h16, int d128h8, int d128h16, int d256h8, int d256h16) {
    return attend_shared_bytes<64, 8>(kb) == d64h8 && attend_shared_bytes<64, 16>(kb) == d64h16 && attend_shared_bytes<96, 8>(kb) == d96h8 &&
           attend_shared_bytes<96, 16>(kb) == d96h16 && attend_shared_bytes<128, 8>(kb) == d128h8 && attend_shared_bytes<128, 16>(kb) == d128h16 &&
           attend_shared_bytes<256, 8>(kb) == d256h8 && attend_shared_bytes<256, 16>(kb) == d256h16;
}
static_assert(attend_takes(227, 148608, 149760, 134784, 136448, 141440, 143616, 206976, 211200));
static_assert(attend_takes(163, 148608, 149760, 134784, 136448, 141440, 143616, 139392, 143616));
static_assert(attend_takes(99, 93312, 94464, 81536, 83200, 71808, 73984, 139392, 143616));
static_assert(reuse_shared_bytes<64, 8>() == 25344 && reuse_shared_bytes<64, 16>() == 31744);
static_assert(reuse_shared_bytes<96, 8>() == 36608 && reuse_shared_bytes<96, 16>() == 46080);
static_assert(reuse_shared_bytes<128, 8>() == 47872 && reuse_shared_bytes<128, 16>() == 60416);
static_assert(reuse_shared_bytes<256, 8>() == 92928 && reuse_shared_bytes<256, 16>() == 117760);

static_assert(sizeof(PrefillArgs) == 144 && offsetof(PrefillArgs, kv) == 32 && offsetof(PrefillArgs, ring) == 56 && offsetof(PrefillArgs, heads) == 88 &&
              offsetof(PrefillArgs, first_pos) == 112 && offsetof(PrefillArgs, splits) == 124 && offsetof(PrefillArgs, partial_out) == 128);
static_assert(offsetof(PrefillWgmmaArgs, v) == 128 && offsetof(PrefillWgmmaArgs, chunk) == 256);
static_assert(kPrefillThreads == 128 && kPrefillCombineThreads == 128 && kPrefillTileRows<128> == 128 && kPrefillTileRows<256> == 64);
static_assert(prefill_shared_bytes<64>() == 32768 && prefill_shared_bytes<96>() == 49152 && prefill_shared_bytes<128>() == 49152 &&
              prefill_shared_bytes<256>() == 65536);

template <int kDim, bool kSeed>
constexpr bool wgmma_takes(int rows, int tokens, int columns, int shared_bytes) {
    using Shape = PrefillWgmmaShape<kDim, kSeed>;
    return Shape::kRows == rows && Shape::kThreads == 128 + 2 * rows && Shape::kTokens == tokens && Shape::kColumns == columns && Shape::kSharedBytes == shared_bytes;
}
static_assert(wgmma_takes<64, false>(192, 128, 64, 91392) && wgmma_takes<64, true>(128, 64, 64, 50432));
static_assert(wgmma_takes<96, false>(128, 176, 32, 161024) && wgmma_takes<96, true>(128, 64, 32, 75008));
static_assert(wgmma_takes<128, false>(128, 176, 64, 214272) && wgmma_takes<128, true>(128, 64, 64, 99584));
static_assert(wgmma_takes<256, false>(128, 80, 64, 230656) && wgmma_takes<256, true>(128, 64, 64, 197888));
