// Attention over every token, for the groups that must be read (all of them under the exact policy).
//
// Each block streams its even share of the tiles (split.cuh) through warp-private rings of asynchronous copies; no
// barrier stands in the stream. At the end of a span the block's warps join their states and leave one partial result in
// scratch; the blocks of a group join those together (combine.cuh). With nothing to read the kernel returns at once.
//
// Launch: grid = one block per multiprocessor, >= num_kv_heads, all resident at once; block = kAttendThreads; dynamic
// shared memory = attend_shared_bytes<E, kDim, kHeads>(). Programmatic dependent launch is allowed and useful; what is read ahead is
// the step state and K and V of tokens before the newest.
#pragma once

#include "combine.cuh"

constexpr int kAttendWarps = 4;
constexpr int kAttendThreads = 32 * kAttendWarps;
constexpr int kMaxKvHeads = 128;

// Shared memory that a block may have, in KB. The host passes its device's value where a kernel uses this.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ == 900 || (__CUDA_ARCH__ >= 1000 && __CUDA_ARCH__ < 1200)
constexpr int kSharedKb = 227;
#elif __CUDA_ARCH__ == 800 || __CUDA_ARCH__ == 870
constexpr int kSharedKb = 163;
#else
constexpr int kSharedKb = 99;
#endif

// Tokens of a tile here: about the same bytes whatever the elements are.
template <class E>
constexpr int kAttendTileTokens = 2 * kTileTokens / E::kBytes;
template <class E, int kDim>
using AttendLayout = TileLayout<E, kDim, kAttendTileTokens<E>>;

// Tiles that a warp keeps in flight or in use: 4 at head dimension 128, about the same bytes at others, fewer where they
// do not fit. At least 2, so a head dimension may ask for more than a small device has.
template <class E, int kDim>
__host__ __device__ constexpr int attend_stages(int shared_kb) {
    const int wanted = 512 / kDim < 3 ? 3 : 512 / kDim;
    const int fitting = (shared_kb * 1024 - 16 * query_pitch(kDim) - 1024) / (kAttendWarps * AttendLayout<E, kDim>::kBytes);
    return fitting < 2 ? 2 : fitting < wanted ? fitting : wanted;
}
template <class E, int kDim, int kHeads>
__host__ __device__ constexpr int attend_shared_bytes(int shared_kb) {
    const int needed = kAttendWarps * attend_stages<E, kDim>(shared_kb) * AttendLayout<E, kDim>::kBytes + kHeads * query_pitch(kDim);
    // More than half of a multiprocessor's shared memory, or two blocks could share one and leave another idle.
    const int exclusive = (shared_kb + 1) / 2 * 1024 + 1024;
    return needed > exclusive ? needed : exclusive;
}

struct AttendShared {
    int groups[kMaxKvHeads];       // KV heads to read, ascending
    int num_groups;
    bool changed;                  // the list is not what it was before
    int free_stage[kAttendWarps];  // where each warp left its state
};

// Lists the KV heads of which `reads` is true, in order. One warp.
template <class Reads>
__device__ inline void list_groups(int num_kv_heads, AttendShared& shared, Reads reads) {
    const int lane = threadIdx.x;
    int found = 0;
    bool changed = false;
    for (int base = 0; base < num_kv_heads; base += 32) {
        const int group = base + lane;
        const bool read = group < num_kv_heads && reads(group);
        const unsigned mask = __ballot_sync(0xffffffffu, read);
        if (read) {
            int& place = shared.groups[found + __popc(mask & ((1u << lane) - 1))];
            changed = changed || place != group;
            place = group;
        }
        found += __popc(mask);
    }
    changed = __any_sync(0xffffffffu, changed || found != shared.num_groups);
    __syncwarp();
    if (lane == 0) shared.num_groups = found, shared.changed = changed;
}

// The KV heads that will be read, as far as can be told before this step's decisions: all of them if nothing is ever decided; the
// same as before if all groups have repeated their decision since four steps; otherwise none. One warp.
__device__ inline void guess_groups(const AttendArgs& args, AttendShared& shared, unsigned step) {
    bool steady = true;
    list_groups(args.heads.num_kv_heads, shared, [&](int head) -> bool {
        if (args.decisions == nullptr) return true;
        const unsigned word = observe(args.decisions + head), history = word & kHistory;
        const bool known = word >> kDecisionShift == step && !(word & kPending);
        steady = steady && (known || history == 0 || history == kHistory);
        return word & kRead;
    });
    steady = __all_sync(0xffffffffu, steady);
    if (threadIdx.x == 0 && !steady) shared.num_groups = 0;
}

// Waits until a KV head's word is of this step (so the step's queries are there) and, if asked for, decided.
__device__ inline unsigned await_word(const AttendArgs& args, unsigned step, int head, bool decided) {
    while (true) {
        const unsigned word = acquire(args.decisions + head);
        if (word >> kDecisionShift == step && !(decided && word & kPending)) return word;
    }
}

template <class E, int kDim, int kHeads>
__device__ inline void attend_tokens(const AttendArgs& args) {
    constexpr int kTokens = kAttendTileTokens<E>, kStages = attend_stages<E, kDim>(kSharedKb), kTileBytes = AttendLayout<E, kDim>::kBytes;
    constexpr int kAhead = (kStages - 1) * kAttendWarps;  // tiles that a block asks for ahead of their use
    constexpr int kGuessed = guessed_tiles(kDim, kHeads);
    using State = WarpState<E, kDim, kHeads, kTokens>;
    static_assert(kTileBytes >= state_bytes(kDim, kHeads));  // a buffer takes the warp's state in the end
    extern __shared__ __align__(128) unsigned char buffer[];  // tiles [warp, stage], then queries
    __shared__ AttendShared shared;
    unsigned char* const queries = buffer + kAttendWarps * kStages * kTileBytes;
    const int warp = threadIdx.x / 32, block = blockIdx.x, group_size = args.heads.group;

    allow_next();
    const int position = args.state->position, length = position + 1;
    const int boundary = args.ring.meta != nullptr ? prefix_end(position, args.ring.band) : length;
    const unsigned step = args.state->step << kDecisionShift >> kDecisionShift;  // as decisions are tagged
    if (warp == 0) guess_groups(args, shared, step);
    __syncthreads();

    Split split(length, boundary, shared.num_groups, gridDim.x, kTokens);
    int begin = 0, end = 0;            // this block's tiles
    int next = 0, stage = 0;           // this warp's next tile, which will be in buffer `stage`
    TileAt at_next{}, at_load{};       // where it lies, and where the tile to load next does
    bool early = true;                 // earlier kernels of this step may still run
    const uint64_t policy = evict_first_policy();
    const uint32_t tiles = shared_address(buffer + warp * kStages * kTileBytes);
    // Waits for what earlier kernels of this step write. The reuse kernel before this one still runs for groups that hit: what it
    // waited for is visible through its words, so this kernel waits for it only before it ends.
    const auto inputs_there = [&] {
        if (args.decisions == nullptr) wait_for_previous();
        else await_word(args, step, shared.groups[0], kGuessed == 0);
    };
    const auto load = [&](int tile, int into) {  // tile: that at_load describes
        if (tile < end) {
            const Span tokens = split.tokens(at_load.tile);
            // The newest token is the only one that a kernel of this step writes.
            if (early && tokens.begin + kTokens >= length) inputs_there();
            const HeadKv<E, kDim> kv(args.kv, shared.groups[at_load.group]);
            load_tile<E, kDim, kTokens>(tiles + into * kTileBytes, kv, tokens.begin, tokens.end, policy);
            at_load = split.advance(at_load, kAttendWarps);
        }
        commit_copies();
    };
    const auto start = [&] {
        begin = block < split.blocks ? split.start(block) : 0;
        end = block < split.blocks ? split.start(block + 1) : 0;
        next = begin + warp;
        stage = 0;
        at_next = at_load = split.at(next);
        for (int i = 0; i < kStages - 1; ++i) load(next + i * kAttendWarps, i);
    };
    start();

    int tokens_read = 0;
    bool decided = args.decisions == nullptr;  // whether the list is known to be right
    // Waits for all decisions and starts over if the guess was wrong; `loaded`: end of the tiles asked for until now.
    const auto confirm = [&](int loaded) -> bool {
        __syncthreads();
        if (warp == 0) list_groups(args.heads.num_kv_heads, shared, [&](int head) -> bool { return await_word(args, step, head, true) & kRead; });
        __syncthreads();
        decided = true;
        early = false;
        if (!shared.changed) return true;
        wait_copies<0>();
        tokens_read = split.tokens_between(begin, min(end, loaded));
        split = Split(length, boundary, shared.num_groups, gridDim.x, kTokens);
        start();
        return false;
    };
    if (decided) {
        wait_for_previous();
    } else if (kGuessed == 0 || begin == end) {
        confirm(begin + kAhead);
    } else {
        if (threadIdx.x == 0) inputs_there();
        __syncthreads();
    }
    early = false;

    State state;
    for (int at = begin; at < end;) {
        const int span = split.span_of(at), index = span / 2;
        const int span_end = min(end, split.span_end(span));
        const int kv_head = shared.groups[index];
        if (at == begin || at == index * split.tiles) {
            const char* q = static_cast<const char*>(args.q_rot) + static_cast<size_t>(kv_head) * group_size * (2 * kDim);
            load_queries<E, kDim, kHeads>(queries, q, group_size, threadIdx.x, kAttendThreads);
        }
        __syncthreads();

        state.clear();
        int until = decided ? span_end : min(span_end, begin + kGuessed * kAttendWarps);
        bool right = true;
        while (true) {
            for (; next < until; next += kAttendWarps, at_next = split.advance(at_next, kAttendWarps)) {
                wait_copies<kStages - 2>();
                __syncwarp();  // copies of all lanes are visible, and the buffer of the previous tile is free
                load(next + kAhead, stage == 0 ? kStages - 1 : stage - 1);
                const Span tokens = split.tokens(at_next.tile);
                state.template add<false>(tiles + stage * kTileBytes, shared_address(queries), args.heads.scale_log2, tokens.begin,
                                          tokens.end, nullptr);
                stage = stage + 1 == kStages ? 0 : stage + 1;
            }
            if (decided) break;
            right = confirm(until + kAhead);
            if (!right) break;
            until = span_end;
        }
        if (!right) {
            at = begin;
            continue;
        }

        // The buffer of the latest tile has no copy under way: it takes the warp's state.
        const int free_stage = stage == 0 ? kStages - 1 : stage - 1;
        __syncwarp();
        state.store(reinterpret_cast<float*>(buffer + (warp * kStages + free_stage) * kTileBytes));
        if (threadIdx.x % 32 == 0) shared.free_stage[warp] = free_stage;
        __syncthreads();
        const int row = Split::scratch(block, span) * group_size;
        const auto region = [&](int w) {
            return reinterpret_cast<const float*>(buffer + (w * kStages + shared.free_stage[w]) * kTileBytes);
        };
        for (int i = threadIdx.x; i < group_size * (kDim / 4); i += kAttendThreads) {
            const int head = i / (kDim / 4), dim = i % (kDim / 4) * 4;
            const Partial<float4> part = join<State, kDim, kHeads>(region, kAttendWarps, head, dim).partial();
            *reinterpret_cast<float4*>(args.partial_out + static_cast<size_t>(row + head) * kDim + dim) = part.out;
            if (dim == 0) args.partial_lse[row + head] = part.lse;
        }

        at = span_end;
        __syncthreads();  // the states have been read, copies may overwrite them
        const bool group_ends = at == (index + 1) * split.tiles;
        if (threadIdx.x == 0 && (at == end || group_ends)) count_in(args.arrivals + 2 * kv_head);
        if (at == end) finish_group<kDim>(args, split, index, kv_head, position);
    }

    if (args.decisions == nullptr && block == 0) {
        const int heads = args.heads.num_kv_heads * group_size;
        for (int head = threadIdx.x; head < heads; head += kAttendThreads) args.outcomes[head] = kNotSearched;
        if (threadIdx.x == 0) atomicAdd(&args.counters->groups, static_cast<unsigned long long>(args.heads.num_kv_heads));
    }
    if (threadIdx.x == 0) {
        tokens_read += split.tokens_between(begin, end);
        if (tokens_read > 0) atomicAdd(&args.counters->kv_bytes_read, static_cast<unsigned long long>(tokens_read) * HeadKv<E, kDim>::kTokenBytes);
        if (args.decisions == nullptr) atomicAdd(&args.counters->kv_bytes_exact, static_cast<unsigned long long>(tokens_read) * HeadKv<E, kDim>::kTokenBytes);
    }
    wait_for_previous();
}

template <class E, int kDim, int kHeads>
__device__ inline void attend(const AttendArgs& args) {
    // Where no block fits the host cannot launch this, and nothing is compiled.
    if constexpr (attend_shared_bytes<E, kDim, kHeads>(kSharedKb) <= kSharedKb * 1024) attend_tokens<E, kDim, kHeads>(args);
}

// Registers are capped so that a multiprocessor holds these blocks beside the reuse kernel's, except where the state needs more. Each of its
// quarters has 16,384: three of reuse's warps and one of these are 3 * 32 * 120 + 32 * 152. 8-bit tiles need more than 16-bit ones. Before
// Hopper the two kernels never run at once.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
constexpr int kByteRegisters = 152;
#else
constexpr int kByteRegisters = 168;
#endif
template <class E>
constexpr int attend_registers(int dim, int heads) {
    return dim * heads > 1024 ? 255 : E::kBytes == 1 ? kByteRegisters : 128;
}
#define ATTEND_KERNEL(name, element, dim, heads)                                                                                      \
    extern "C" __global__ void __maxnreg__(attend_registers<element>(dim, heads)) name(const __grid_constant__ AttendArgs args) { \
        attend<element, dim, heads>(args);                                                                                            \
    }
// The kernels of a head dimension: element type, and up to 8 or up to 16 query heads per KV head.
#define ATTEND_KERNELS(dim)                                \
    ATTEND_KERNEL(attend_bf16_d##dim##_h8, Bf16, dim, 8)   \
    ATTEND_KERNEL(attend_bf16_d##dim##_h16, Bf16, dim, 16) \
    ATTEND_KERNEL(attend_f16_d##dim##_h8, F16, dim, 8)     \
    ATTEND_KERNEL(attend_f16_d##dim##_h16, F16, dim, 16)   \
    ATTEND_KERNEL(attend_fp8_d##dim##_h8, Fp8, dim, 8)     \
    ATTEND_KERNEL(attend_fp8_d##dim##_h16, Fp8, dim, 16)   \
    ATTEND_KERNEL(attend_q8_d##dim##_h8, Q8, dim, 8)       \
    ATTEND_KERNEL(attend_q8_d##dim##_h16, Q8, dim, 16)
