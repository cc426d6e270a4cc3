// Match, amend and complete: one cluster per KV head, every block of it doing an equal share of each stage.
//
//   search    most warps: ring slots in chunks of 32; meanwhile two warps attend to the tail
//   exchange  every block's best candidate per head to every block
//   decide    the same in every block, and published at once; a group with any head that must be read is left to the
//             attend kernel
//   amend     attention over the tokens that entered the prefix since the matched query, each head from its own start
//   exchange  every block's two states, a slice of the output elements to each block
//   complete  stored state + amend -> ring entry; + tail -> output
//
// Launch: grid = num_kv_heads * cluster, cluster 1..16 blocks (8 is portable on Hopper; before it, 1); block =
// reuse_threads(kDim); dynamic shared memory = reuse_shared_bytes<kDim, kHeads>(). The attend kernel follows in the same stream.
// Programmatic dependent launch: what earlier kernels of the same step may not write is this layer's ring, tags, pauses,
// the step state, and K and V of tokens before the newest; these are read ahead.
#pragma once

#include "match.cuh"
#include "tile.cuh"

constexpr int kTileWarps = 2;  // after the search warps
// Fewer threads where a state of 16 heads needs more registers than 10 warps can have (they are allotted for 12).
__host__ __device__ constexpr int search_threads(int dim) { return dim < 256 ? 256 : 192; }
__host__ __device__ constexpr int reuse_threads(int dim) { return search_threads(dim) + 32 * kTileWarps; }
constexpr int kMaxCluster = 16;

// A buffer for a tile of any element type, and in the end for a warp's state.
__host__ __device__ constexpr int reuse_buffer_bytes(int dim) { return 2 * kTileTokens * (2 * dim + 16); }

template <int kDim, int kHeads>
__host__ __device__ constexpr int reuse_shared_bytes() {
    return kTileWarps * (2 * reuse_buffer_bytes(kDim) + kHeads * query_pitch(kDim)) + 2 * 4 * (kHeads * kDim + 4 * kMaxCluster);
}

// The two states of a step; also the buffer each is left in.
enum SpanKind { kAmend = 0, kTail = 1 };

struct ReuseShared {
    unsigned long long best[16];                   // of this block
    unsigned long long gathered[kMaxCluster][16];  // of every block
    float2 weights[kMaxCluster][2][16];            // of every block and state: sum of weights, reference
    Candidate match[16];
    int begins[2][16];                             // first token of each head in the amend span, and in the tail
    RingMeta meta[16];                             // of the matched entry
    Pause pause;                                   // before this step
    unsigned ring_bytes;
    bool reused;
    unsigned history;                              // of the group's decisions, before this step
};

template <class E, int kDim, int kHeads>
struct Reuse {
    using State = WarpState<E, kDim, kHeads>;
    static constexpr int kTileBytes = reuse_buffer_bytes(kDim), kTokenBytes = HeadKv<E, kDim>::kTokenBytes;
    static_assert(kTileBytes >= TileLayout<E, kDim, kTileTokens>::kBytes && kTileBytes >= state_bytes(kDim, kHeads));
    static constexpr int kSearchThreads = search_threads(kDim), kSearchWarps = kSearchThreads / 32;
    // The second half of the search warps exchanges the tail, and completes.
    static constexpr int kWorkerFirst = kSearchThreads / 2, kWorkers = kSearchThreads / 2;
    // The thread of a cluster's first block that tells the attend kernel: of the first tile warp where it says early that the queries
    // are there, else of a warp that has nothing else to do when the group is decided.
    static constexpr bool kAnnounces = guessed_tiles(kDim, kHeads) > 0;
    static constexpr int kPublisher = kAnnounces ? kSearchThreads : 32;

    const ReuseArgs& args;
    ReuseShared& shared;
    unsigned char* tiles;    // [kTileWarps, 2, kTileBytes]; buffer kTail or kAmend takes that state when it is done
    unsigned char* queries;  // [kTileWarps, kHeads, pitch]  a copy for each, so that they need no barrier
    float4* slices;          // [cluster, 2, slice]  values from every block
    int rank, size, kv_head, group, slice;
    unsigned step;
    int position, length, boundary;
    bool measured;  // this step compares queries

    // Attention of the tile warps over begin..end, tiles dealt to (block, warp) in turn, into buffer `which`.
    // loaded: the first tile's copies have been started.
    __device__ void attend_span(int begin, int end, SpanKind which, bool loaded) {
        const auto attend = kDim < 256 ? attend_tiles_called : attend_tiles;
        attend(head_kv(), tile_of(which), shared_address(queries_of()), shared.begins[which], args.heads.scale_log2, first_token(begin),
               end, size * kTileWarps * kTileTokens, loaded);
    }

    // One copy of the code serves both spans: the second finds it in the instruction cache. Not where the state fills the
    // registers, because a call would spill some.
    static __device__ __noinline__ void attend_tiles_called(HeadKv<E, kDim> kv, unsigned char* tile, uint32_t queries, const int* begins,
                                                            float scale_log2, int token, int end, int stride, bool loaded) {
        attend_tiles(kv, tile, queries, begins, scale_log2, token, end, stride, loaded);
    }
    static __device__ __forceinline__ void attend_tiles(HeadKv<E, kDim> kv, unsigned char* tile, uint32_t queries, const int* begins,
                                                        float scale_log2, int token, int end, int stride, bool loaded) {
        State state;
        state.clear();
        for (; token < end; token += stride) {
            if (!loaded) load_tile<E, kDim, kTileTokens>(shared_address(tile), kv, token, end, evict_first_policy());
            commit_copies();
            loaded = false;
            wait_copies<0>();
            __syncwarp();
            state.template add<true>(shared_address(tile), queries, scale_log2, token, end, begins);
            __syncwarp();
        }
        state.store(reinterpret_cast<float*>(tile));
    }

    __device__ int tile_warp() const { return threadIdx.x / 32 - kSearchWarps; }
    __device__ int first_token(int begin) const { return begin + (rank + size * tile_warp()) * kTileTokens; }
    __device__ unsigned char* tile_of(SpanKind which) const { return tiles + (2 * tile_warp() + which) * kTileBytes; }
    __device__ unsigned char* queries_of() const { return queries + tile_warp() * kHeads * query_pitch(kDim); }
    __device__ HeadKv<E, kDim> head_kv() const { return {args.kv, kv_head}; }

    // The tail, by the tile warps, while the others search.
    __device__ void attend_tail() {
        const int first = first_token(boundary);
        if (first < length) {
            // The newest token is the only one that a kernel of this step writes.
            if (first + kTileTokens >= length) wait_for_previous();
            load_tile<E, kDim, kTileTokens>(shared_address(tile_of(kTail)), head_kv(), first, length, evict_first_policy());
        }
        wait_for_previous();
        if (kAnnounces && rank == 0 && threadIdx.x == kPublisher) announce();
        const char* q = static_cast<const char*>(args.q_rot) + static_cast<size_t>(kv_head) * group * (2 * kDim);
        load_queries<E, kDim, kHeads>(queries_of(), q, group, threadIdx.x % 32, 32);
        __syncwarp();
        attend_span(boundary, length, kTail, true);
    }

    // Every head's best candidate in this block's share of the slots, by the search warps.
    __device__ void search(bool measure) {
        const int chunks = (args.ring.slots + kChunkSlots - 1) / kChunkSlots;
        const int items = (chunks - rank + size - 1) / size * group;  // (chunk, head) pairs of this block
        unsigned bytes = 0;
        for (int item = threadIdx.x / 32; item < items; item += kSearchWarps) {
            const int in_group = item % group, chunk = rank + item / group * size;
            const int head = kv_head * group + in_group;
            const __nv_bfloat16* query = args.q_pre + static_cast<size_t>(head) * kDim;
            const unsigned long long best =
                search_chunk<kDim>(args.ring, args.policy, query, head, chunk * kChunkSlots, position, measure, bytes);
            if (threadIdx.x % 32 == 0 && best != kNoCandidate) atomicMin(&shared.best[in_group], best);
        }
        wait_for_previous();
        if (!kAnnounces && threadIdx.x == kPublisher) fence_device();  // what was waited for, known to readers of its decision
        bytes = __reduce_add_sync(0xffffffffu, bytes);
        if (threadIdx.x % 32 == 0) atomicAdd(&shared.ring_bytes, bytes);
    }

    // A lane's head, and its group.
    struct Verdict {
        bool matched, reused;
        int matches, amend_begin;
        int4 meta;  // of the matched entry, under way from memory
    };
    // Every head's verdict and the group's, from all blocks' candidates. One warp.
    __device__ Verdict decide() {
        const int lane = threadIdx.x;
        const bool forced = args.policy.kind == kForced, is_head = lane < group;
        const int head = kv_head * group + lane;
        // The smallest of 64 bits as the smallest high half, then the smallest low half beside it: two short chains.
        unsigned high = 0xffffffffu, low = 0xffffffffu;
        unsigned long long ranks[kMaxCluster];
#pragma unroll
        for (int r = 0; r < kMaxCluster; ++r) {
            ranks[r] = is_head && r < size ? shared.gathered[r][lane] : kNoCandidate;
            high = min(high, static_cast<unsigned>(ranks[r] >> 32));
        }
#pragma unroll
        for (int r = 0; r < kMaxCluster; ++r) low = min(low, ranks[r] >> 32 == high ? static_cast<unsigned>(ranks[r]) : 0xffffffffu);
        const unsigned long long best = static_cast<unsigned long long>(high) << 32 | low;
        const Candidate match = candidate_of(best, !forced);
        const bool matched = is_head && best != kNoCandidate && accepts(args.policy, position, head, match);
        const int matches = __popc(__ballot_sync(0xffffffffu, matched));
        const bool reused = matches == group;
        // Heads that the group does not have see no token, so that they widen no span.
        const int begin = is_head && reused ? prefix_end(match.position, args.ring.band) : boundary;
        if (lane < kHeads) shared.begins[kAmend][lane] = begin;
        if (is_head) shared.match[lane] = match;
        if (lane == 0) shared.reused = reused;
        Verdict verdict{matched, reused, matches, __reduce_min_sync(0xffffffffu, begin), make_int4(0, 0, 0, 0)};
        if (is_head && reused) {
            verdict.meta = __ldcg(reinterpret_cast<const int4*>(args.ring.meta + ring_row(args.ring, head, match.position)));
        }
        return verdict;
    }

    // Distances to the matched entries where the search has not measured any: heads first, first + stride ... One warp.
    __device__ void measure_matches(int first, int stride) {
        for (int i = first; i < group; i += stride) {
            const int head = kv_head * group + i;
            const float distance_sq = row_distance_sq<kDim>(args.ring.query + ring_row(args.ring, head, shared.match[i].position) * kDim,
                                                            args.q_pre + static_cast<size_t>(head) * kDim);
            if (threadIdx.x % 32 == 0) shared.match[i].distance_sq = distance_sq;
        }
    }

    // Tells the attend kernel, which may be running already. kPublisher alone, in this order.
    // That this step's queries are there: what was waited for is known to readers from now on.
    __device__ void announce() {
        fence_device();
        publish(args.decisions + kv_head, step << kDecisionShift | kPending | shared.history);
    }
    __device__ void decided(bool reused) { publish(args.decisions + kv_head, step << kDecisionShift | (shared.history << 1 & kHistory) | !reused); }

    // What becomes of the group; tokens: read by this kernel. One warp, lanes below `group` with their head's verdict.
    __device__ void report(const Verdict& verdict, int tokens) {
        const int lane = threadIdx.x;
        const HeadOutcome matched = verdict.reused ? kReused : kRefreshed;
        if (lane < group) args.outcomes[kv_head * group + lane] = verdict.matched ? matched : measured ? kMissed : kNotSearched;
        if (lane != 0) return;
        if (may_search(args.policy, position)) args.pauses[kv_head] = pause_after(args.policy, shared.pause, measured, verdict.reused);
        Counters* counters = args.counters;
        atomicAdd(&counters->groups, 1ull);
        atomicAdd(&counters->kv_bytes_exact, static_cast<unsigned long long>(length) * kTokenBytes);
        if (tokens > 0) atomicAdd(&counters->kv_bytes_read, static_cast<unsigned long long>(tokens) * kTokenBytes);
        if (verdict.matches > 0) atomicAdd(&counters->heads_matched, static_cast<unsigned long long>(verdict.matches));
        if (!verdict.reused) return;
        atomicAdd(&counters->groups_reused, 1ull);
        atomicAdd(&counters->heads_reused, static_cast<unsigned long long>(group));
        atomicAdd(&counters->ring_bytes, static_cast<unsigned long long>(group) * (kEntryBytes<kDim> + 4 * kDim + sizeof(RingMeta)));
    }

    // Joins this block's warps and sends each block of the cluster its slice of one state. Threads first..first + count - 1.
    __device__ void exchange(SpanKind which, int first, int count) {
        const auto region = [&](int warp) { return reinterpret_cast<const float*>(tiles + (2 * warp + which) * kTileBytes); };
        for (int element = threadIdx.x - first; element < group * (kDim / 4); element += count) {
            const int head = element / (kDim / 4), dim = element % (kDim / 4) * 4;
            const int owner = element / slice, place = element - owner * slice;
            const Weighted all = join<State, kDim, kHeads>(region, kTileWarps, head, dim);
            store_remote(slices + (2 * rank + which) * slice + place, owner, all.value);
            // The block of a slice needs the weights of every head it holds a part of.
            if (dim == 0 || place == 0) store_remote(&shared.weights[rank][which][head], owner, make_float2(all.weight, all.max));
        }
    }

    // One state over the whole cluster, element `i` of this block's slice.
    __device__ Partial<float4> joined(int i, SpanKind which, int head) const {
        Weighted all{make_float4(0, 0, 0, 0), 0.0f, -CUDART_INF_F};
#pragma unroll 8
        for (int r = 0; r < size; ++r) all.max = fmaxf(all.max, shared.weights[r][which][head].y);
#pragma unroll 8
        for (int r = 0; r < size; ++r) {
            const float2 weight = shared.weights[r][which][head];
            const float w = weight_log2(weight.y, all.max);
            all.value = all.value + w * slices[(2 * r + which) * slice + i];
            all.weight += w * weight.x;
        }
        return all.partial();
    }

    // Where element `i` of this block's slice belongs.
    struct Place {
        int in_group, head, dim;
    };
    __device__ Place place_of(int i) const {
        const int element = rank * slice + i, in_group = element / (kDim / 4);
        return {in_group, kv_head * group + in_group, element % (kDim / 4) * 4};
    }
    // What an element needs from memory, asked for ahead of `complete`.
    struct Prior {
        float4 out;   // of the matched entry
        uint2 query;  // of this step
    };
    __device__ Prior prior_of(int i) const {
        const Place at = place_of(i);
        const size_t row = ring_row(args.ring, at.head, shared.match[at.in_group].position);
        return {__ldcg(reinterpret_cast<const float4*>(args.ring.out + row * kDim + at.dim)), query_part<kDim>(args.q_pre, at.head, at.dim)};
    }
    __device__ void complete(int i, const Prior& prior) {
        const Place at = place_of(i);
        const RingMeta old = shared.meta[at.in_group];
        float mass = 1.0f;
        const Partial<float4> prefix = merge(Partial<float4>{prior.out, old.lse}, joined(i, kAmend, at.in_group), mass);
        const float distance = old.distance + sqrtf(shared.match[at.in_group].distance_sq);
        store_entry<kDim>(args.ring, at.head, at.dim, prefix.out, prior.query, RingMeta{position, prefix.lse, old.depth + 1, distance});
        const Partial<float4> all = merge(prefix, joined(i, kTail, at.in_group), mass);
        *reinterpret_cast<float4*>(args.out + static_cast<size_t>(at.head) * kDim + at.dim) = all.out;
        if (at.dim == 0) args.reused_mass[at.head] = fminf(mass, 1.0f);  // also if it is not a number
    }

    __device__ void run();
};

template <class E, int kDim, int kHeads>
__device__ inline void Reuse<E, kDim, kHeads>::run() {
    const int thread = threadIdx.x;
    allow_next();
    if (thread < 16) {
        shared.best[thread] = kNoCandidate;
        shared.begins[kTail][thread] = 0;
    }
    position = args.state->position;
    step = args.state->step;
    const Pause pause = args.pauses[kv_head];
    const unsigned before = __ldcg(args.decisions + kv_head);
    cluster_arrive();  // not before: one block overwrites the pause once all have arrived
    if (thread == 0) {
        shared.ring_bytes = 0;
        shared.pause = pause;
        shared.history = before & kHistory;
    }
    length = position + 1;
    boundary = prefix_end(position, args.ring.band);

    measured = may_search(args.policy, position) && (args.policy.max_pause == 0 || pause.remaining == 0);
    __syncthreads();
    // A dictated hit needs the tags even while the search rests.
    if (!measured && args.policy.kind != kForced) {
        wait_for_previous();
        if (rank == 0 && thread == kPublisher) {
            announce();
            decided(false);
        }
        cluster_wait();
        if (rank == 0 && thread < 32) report(Verdict{}, 0);
        return;
    }

    if (thread < kSearchThreads) search(measured);
    else attend_tail();
    __syncthreads();
    cluster_wait();  // every block has started, so its shared memory may be written
    for (int i = thread; i < size * group; i += reuse_threads(kDim)) {
        store_remote(&shared.gathered[rank][i % group], i / group, shared.best[i % group]);
    }
    cluster_arrive();
    if (thread == kSearchThreads) atomicAdd(&args.counters->ring_bytes, static_cast<unsigned long long>(shared.ring_bytes));
    cluster_wait();
    Verdict verdict{};
    if (thread < 32) verdict = decide();
    __syncthreads();
    const bool reused = shared.reused, reports = rank == 0 && thread < 32;
    if (rank == 0 && thread == kPublisher) decided(reused);
    if (reports) report(verdict, length - (reused ? verdict.amend_begin : boundary));
    if (!reused) return;

    // Elements of this block's slice. The first stored state of each worker is asked for early; only the thread that reads
    // an element overwrites it.
    const int worker = thread - kWorkerFirst, elements = max(0, min(slice, group * (kDim / 4) - rank * slice));
    const bool works = worker >= 0 && worker < kWorkers;
    Prior prior{};
    if (works) {
        if (worker < elements) prior = prior_of(worker);
        exchange(kTail, kWorkerFirst, kWorkers);
    } else if (thread >= kSearchThreads) {
        int begin = boundary;
        for (int i = 0; i < group; ++i) begin = min(begin, shared.begins[kAmend][i]);
        attend_span(begin, boundary, kAmend, false);
    } else {
        if (thread < group) memcpy(&shared.meta[thread], &verdict.meta, sizeof(verdict.meta));
        if (!measured && thread >= 32) measure_matches(thread / 32 - 1, kWorkerFirst / 32 - 1);
    }
    __syncthreads();
    exchange(kAmend, 0, reuse_threads(kDim));
    cluster_arrive();
    cluster_wait();
    if (works) {
        for (int i = worker; i < elements; i += kWorkers) complete(i, i == worker ? prior : prior_of(i));
    }
}

template <class E, int kDim, int kHeads>
__device__ inline void reuse(const ReuseArgs& args) {
    extern __shared__ __align__(128) unsigned char buffer[];
    __shared__ ReuseShared shared;
    const int size = cluster_size(), group = args.heads.group;
    unsigned char* const queries = buffer + 2 * kTileWarps * reuse_buffer_bytes(kDim);
    float4* const slices = reinterpret_cast<float4*>(queries + kTileWarps * kHeads * query_pitch(kDim));
    const int slice = (group * (kDim / 4) + size - 1) / size;
    const int kv_head = static_cast<int>(blockIdx.x) / size;
    Reuse<E, kDim, kHeads>{args, shared, buffer, queries, slices, cluster_rank(), size, kv_head, group, slice, 0, 0, 0, 0, false}.run();
}

// Registers are capped so that the attend kernel's blocks fit beside these, except where the state needs more.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
constexpr int kSharingRegisters = 120;
#else
constexpr int kSharingRegisters = 128;
#endif
constexpr int reuse_registers(int dim, int heads) { return dim * heads <= 1024 ? kSharingRegisters : dim < 256 ? 168 : 255; }
#define REUSE_KERNEL(name, element, dim, heads)                                                                                    \
    extern "C" __global__ void __maxnreg__(reuse_registers(dim, heads)) name(const __grid_constant__ ReuseArgs args) {     \
        reuse<element, dim, heads>(args);                                                                                          \
    }
// The kernels of a head dimension: element type, and up to 8 or up to 16 query heads per KV head.
#define REUSE_KERNELS(dim)                               \
    REUSE_KERNEL(reuse_bf16_d##dim##_h8, Bf16, dim, 8)   \
    REUSE_KERNEL(reuse_bf16_d##dim##_h16, Bf16, dim, 16) \
    REUSE_KERNEL(reuse_f16_d##dim##_h8, F16, dim, 8)     \
    REUSE_KERNEL(reuse_f16_d##dim##_h16, F16, dim, 16)   \
    REUSE_KERNEL(reuse_fp8_d##dim##_h8, Fp8, dim, 8)     \
    REUSE_KERNEL(reuse_fp8_d##dim##_h16, Fp8, dim, 16)   \
    REUSE_KERNEL(reuse_q8_d##dim##_h8, Q8, dim, 8)       \
    REUSE_KERNEL(reuse_q8_d##dim##_h16, Q8, dim, 16)
