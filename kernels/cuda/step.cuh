// What a launch is told: everything here is shared with the host, so plain structs of fixed size, no framework.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kv_pack.cuh"

// Scalars that change from step to step. One per sequence, in device memory, so that a captured graph replays unchanged.
struct StepState {
    int position;   // of the newest token, 0-based; its K and V are already in the cache
    unsigned step;  // counts every step ever made, also those at a position visited before
};

// What a ring slot holds beside query and output. 16 bytes, so that a search reads it in one access.
struct RingMeta {
    int position;    // of the stored query; -1 = never written
    float lse;       // natural log; -inf = empty prefix
    unsigned depth;  // hits since the state was computed exactly
    float distance;  // sum of query distances along those hits
};

// One layer's ring. The slot of position p is p % slots. meta == nullptr: no ring.
struct Ring {
    __nv_bfloat16* query;  // [num_q_heads, slots, head_dim]  before RoPE
    float* out;            // [num_q_heads, slots, head_dim]  normalised, over 0..max(0, position + 1 - band)
    RingMeta* meta;        // [num_q_heads, slots]
    int slots;             // look-back window M
    int band;              // tokens nearest the cursor that a stored state leaves out, S
};

// One layer's K (rotated) and V: bf16, f16, fp8 (e4m3) or q8 (a byte is q + 128 with q in -127..127, and stands for q * scale).
struct KvCache {
    const void* k;         // [num_kv_heads, capacity, head_dim]
    const void* v;         // [num_kv_heads, capacity, head_dim]
    const __half* scales;  // [num_kv_heads, capacity, 2 (K, V), scale_slots(head_dim)]  q8 only: of kScaleBlock dimensions each
    int capacity;          // tokens
};

// Query heads are grouped: head h reads KV head h / group.
struct Heads {
    int num_kv_heads;
    int group;         // query heads per KV head, 1..16
    float scale_log2;  // softmax scale * log2(e)
};

// Running totals of one layer, added to by every step and never cleared by a kernel; the host takes differences.
struct Counters {
    unsigned long long kv_bytes_read;
    unsigned long long kv_bytes_exact;  // what exact attention reads
    unsigned long long ring_bytes;      // queries probed, tags, states loaded, entries written
    unsigned long long groups;
    unsigned long long groups_reused;
    unsigned long long heads_matched;
    unsigned long long heads_reused;
};

// What became of a query head in the latest step; the numbers are the crate's HeadOutcome.
enum HeadOutcome : unsigned char { kNotSearched = 0, kMissed = 1, kRefreshed = 2, kReused = 3 };

enum PolicyKind { kPaper = 1, kForced = 2 };
enum PatternKind { kPatternAll = 0, kPatternNone = 1, kPatternRandom = 2, kPatternHeads = 3 };

// When a head may reuse a stored state.
struct Policy {
    int kind;                           // PolicyKind
    float radius_sq;                    // paper: hit when the squared distance is strictly below
    int min_context;                    // paper: first position at which a search is made
    int max_pause;                      // longest pause of a group's search, in steps; 0 = no back-off, pauses are left as they are
    int prune;                          // paper: leave the second half of a query unread when the first is too far
    int pattern;                        // forced: PatternKind
    float rate;                         // forced, random: probability of a hit, 0..1
    int lag;                            // forced: tokens back to the entry that is reused
    unsigned long long seed;            // forced, random
    const unsigned char* forced_heads;  // forced, heads: [num_q_heads], 0 or 1
};

// What the reuse kernel says about a group, one word: the step from bit kDecisionShift on; kPending until it is decided; and its
// decisions in this step and the ones before it that decided, newest in bit 0, a bit set where the group must be read
// (pending: without this step's).
enum DecisionBits : unsigned { kRead = 1, kHistory = 15, kPending = 16 };
constexpr int kDecisionShift = 5;

// Tiles that each warp of the attend kernel reads on a guess before it waits for decisions: about as long as these take. None where
// registers keep the two kernels from sharing a multiprocessor (`heads`: 8 or 16, of the kernel), or where none begins before the one
// before it has ended.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
__host__ __device__ constexpr int guessed_tiles(int dim, int heads) { return dim * heads <= 1024 ? 1024 / dim : 0; }
#else
__host__ __device__ constexpr int guessed_tiles(int, int) { return 0; }
#endif

// Back-off of one KV head's search; the crate's Pause.
struct Pause {
    unsigned remaining;  // steps still to skip
    unsigned length;     // of the latest pause, 0 after a hit
    unsigned misses;     // searches in a row without reuse
};

// Attention over all tokens, for the groups that must be read. See attend.cuh.
struct AttendArgs {
    const StepState* state;
    const void* q_rot;                // [num_q_heads, head_dim]  after RoPE; bf16 if K and V are, else f16
    const __nv_bfloat16* q_pre;       // [num_q_heads, head_dim]  before RoPE; read only with a ring
    KvCache kv;
    Heads heads;
    Ring ring;                        // meta == nullptr: exact policy, no entry is written
    const unsigned* decisions;        // [num_kv_heads]  from the reuse kernel; nullptr: every group is read
    unsigned char* outcomes;          // [num_q_heads]   out: NotSearched, if nothing decides; otherwise not touched
    float* reused_mass;               // [num_q_heads]   out: 0 for each head of a group that is read
    float* out;                       // [num_q_heads, head_dim]
    float* partial_out;               // [4 * gridDim.x, group, head_dim]  scratch
    float* partial_lse;               // [4 * gridDim.x, group]            scratch
    unsigned* arrivals;               // [num_kv_heads, 2]  zero before the first launch; every launch leaves it zero
    Counters* counters;
};

// Match, amend and complete of every group. See reuse.cuh.
struct ReuseArgs {
    const StepState* state;
    const void* q_rot;           // [num_q_heads, head_dim]
    const __nv_bfloat16* q_pre;  // [num_q_heads, head_dim]
    KvCache kv;
    Heads heads;
    Ring ring;
    Policy policy;
    Pause* pauses;               // [num_kv_heads]
    unsigned* decisions;         // [num_kv_heads]  DecisionBits; in: of the step that decided before, or 0
    unsigned char* outcomes;     // [num_q_heads]   out: HeadOutcome
    float* reused_mass;          // [num_q_heads]   out, of reused heads: share of the softmax mass that lies on the matched entry's tokens
    float* out;                  // [num_q_heads, head_dim]
    Counters* counters;
};
