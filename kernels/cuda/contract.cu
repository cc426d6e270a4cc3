// What the Rust side of a launch takes for granted (src/cuda/attention/{abi,sizes,prefill}.rs). Nothing here runs.
#include <cstddef>

#include "expand_kv.cuh"
#include "launch_sizes.h"
#include "prefill_args.cuh"

static_assert(sizeof(StepState) == 8 && offsetof(StepState, step) == 4);
static_assert(sizeof(RingMeta) == 16 && offsetof(RingMeta, lse) == 4 && offsetof(RingMeta, depth) == 8 && offsetof(RingMeta, distance) == 12);
static_assert(sizeof(Ring) == 32 && offsetof(Ring, meta) == 16 && offsetof(Ring, slots) == 24 && offsetof(Ring, band) == 28);
static_assert(sizeof(KvCache) == 32 && offsetof(KvCache, scales) == 16 && offsetof(KvCache, capacity) == 24);
static_assert(sizeof(Heads) == 12 && offsetof(Heads, scale_log2) == 8);
static_assert(sizeof(Counters) == 56 && offsetof(Counters, ring_bytes) == 16 && offsetof(Counters, groups_reused) == 32);
static_assert(sizeof(Policy) == 48 && offsetof(Policy, max_pause) == 12 && offsetof(Policy, rate) == 24 && offsetof(Policy, seed) == 32);
static_assert(kDecisionShift == 5 && kRead == 1);
static_assert(sizeof(Pause) == 12 && offsetof(Pause, length) == 4 && offsetof(Pause, misses) == 8);
static_assert(sizeof(AttendArgs) == 168 && offsetof(AttendArgs, heads) == 56 && offsetof(AttendArgs, ring) == 72 && offsetof(AttendArgs, outcomes) == 112 && offsetof(AttendArgs, counters) == 160);
static_assert(sizeof(ReuseArgs) == 200 && offsetof(ReuseArgs, policy) == 104 && offsetof(ReuseArgs, pauses) == 152 && offsetof(ReuseArgs, counters) == 192);

static_assert(kAttendThreads == 128 && reuse_threads(64) == 320 && reuse_threads(128) == 320 && reuse_threads(256) == 256 && kMaxKvHeads == 128 && Split::kSpansPerBlock == 4);

template <class E>
constexpr bool attend_takes(int kb, int d64h8, int d64h16, int d96h8, int d96h16, int d128h8, int d128h16, int d256h8, int d256h16) {
    return attend_shared_bytes<E, 64, 8>(kb) == d64h8 && attend_shared_bytes<E, 64, 16>(kb) == d64h16 && attend_shared_bytes<E, 96, 8>(kb) == d96h8 &&
           attend_shared_bytes<E, 96, 16>(kb) == d96h16 && attend_shared_bytes<E, 128, 8>(kb) == d128h8 && attend_shared_bytes<E, 128, 16>(kb) == d128h16 &&
           attend_shared_bytes<E, 256, 8>(kb) == d256h8 && attend_shared_bytes<E, 256, 16>(kb) == d256h16;
}
static_assert(attend_takes<Bf16>(227, 148608, 149760, 134784, 136448, 141440, 143616, 206976, 211200));
static_assert(attend_takes<Bf16>(163, 148608, 149760, 134784, 136448, 141440, 143616, 139392, 143616));
static_assert(attend_takes<Bf16>(99, 93312, 94464, 81536, 83200, 71808, 73984, 139392, 143616));
static_assert(attend_takes<Fp8>(227, 164992, 166144, 145024, 146688, 149632, 151808, 213120, 217344));
static_assert(attend_takes<Fp8>(163, 144512, 145664, 145024, 146688, 149632, 151808, 143488, 147712));
static_assert(attend_takes<Fp8>(99, 83072, 84224, 87680, 89344, 75904, 78080, 143488, 147712));
template <int kDim, int kHeads>
constexpr bool kTypesTakeTheSame = attend_shared_bytes<F16, kDim, kHeads>(227) == attend_shared_bytes<Bf16, kDim, kHeads>(227) &&
                                   attend_shared_bytes<Q8, kDim, kHeads>(227) == attend_shared_bytes<Fp8, kDim, kHeads>(227);
static_assert(kTypesTakeTheSame<64, 8> && kTypesTakeTheSame<96, 16> && kTypesTakeTheSame<128, 8> && kTypesTakeTheSame<256, 16>);
static_assert(reuse_shared_bytes<64, 8>() == 25344 && reuse_shared_bytes<64, 16>() == 31744);
static_assert(reuse_shared_bytes<96, 8>() == 36608 && reuse_shared_bytes<96, 16>() == 46080);
static_assert(reuse_shared_bytes<128, 8>() == 47872 && reuse_shared_bytes<128, 16>() == 60416);
static_assert(reuse_shared_bytes<256, 8>() == 92928 && reuse_shared_bytes<256, 16>() == 117760);

static_assert(sizeof(PrefillArgs) == 152 && offsetof(PrefillArgs, kv) == 32 && offsetof(PrefillArgs, ring) == 64 && offsetof(PrefillArgs, heads) == 96 &&
              offsetof(PrefillArgs, first_pos) == 120 && offsetof(PrefillArgs, splits) == 132 && offsetof(PrefillArgs, partial_out) == 136);
static_assert(sizeof(ExpandKvArgs) == 72 && offsetof(ExpandKvArgs, k) == 32 && offsetof(ExpandKvArgs, stride) == 48 && offsetof(ExpandKvArgs, tokens) == 56 &&
              offsetof(ExpandKvArgs, num_kv_heads) == 64 && kExpandRows == 256);
static_assert(sizeof(PackKvArgs) == 72 && offsetof(PackKvArgs, to) == 16 && offsetof(PackKvArgs, stride) == 48 && offsetof(PackKvArgs, bf16) == 68);
static_assert(kScaleBlock == 32 && scale_slots(64) == 2 && scale_slots(96) == 4 && scale_slots(128) == 4 && scale_slots(256) == 8);
static_assert(HeadKv<F16, 128>::kTokenBytes == 512 && HeadKv<Fp8, 128>::kTokenBytes == 256 && HeadKv<Q8, 128>::kTokenBytes == 272);
static_assert(HeadKv<Q8, 64>::kTokenBytes == 136 && HeadKv<Q8, 96>::kTokenBytes == 208 && HeadKv<Q8, 256>::kTokenBytes == 544);
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
