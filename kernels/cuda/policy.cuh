// Which heads may reuse, and when a group's search rests.
#pragma once

#include "ring.cuh"

// A candidate's rank; the smallest wins. The nearest query, of equals the oldest; under a forced lag the oldest.
constexpr unsigned long long kNoCandidate = ~0ull;

// distance_sq is never negative, so its bits order like its value.
__device__ inline unsigned long long rank_nearest(float distance_sq, int position) {
    return static_cast<unsigned long long>(__float_as_uint(distance_sq)) << 32 | static_cast<unsigned>(position);
}
__device__ inline unsigned long long rank_oldest(float distance_sq, int position) {
    return static_cast<unsigned long long>(position) << 32 | __float_as_uint(distance_sq);
}

struct Candidate {
    int position;
    float distance_sq;
};
__device__ inline Candidate candidate_of(unsigned long long rank, bool nearest) {
    const unsigned high = static_cast<unsigned>(rank >> 32), low = static_cast<unsigned>(rank);
    return nearest ? Candidate{static_cast<int>(low), __uint_as_float(high)} : Candidate{static_cast<int>(high), __uint_as_float(low)};
}

// Whether a slot may be matched by the query at `position`: written, of the last `slots` positions, and not empty.
__device__ inline bool is_candidate(const Ring& ring, const Policy& policy, int position, int stored, float lse) {
    const int reach = policy.kind == kForced ? min(policy.lag, ring.slots) : ring.slots;
    return stored >= 0 && stored < position && position - stored <= reach && lse != -CUDART_INF_F;
}

// Counter-based: the same (seed, position, head) always gives the same number (splitmix64 of the three).
__device__ inline unsigned random_u32(unsigned long long seed, int position, int head) {
    unsigned long long x = seed + 0x9e3779b97f4a7c15ull * (static_cast<unsigned long long>(position) << 16 | static_cast<unsigned>(head));
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return static_cast<unsigned>((x ^ x >> 31) >> 32);
}

// Whether a head whose best candidate is `best` reuses it.
__device__ inline bool accepts(const Policy& policy, int position, int head, Candidate best) {
    if (policy.kind == kPaper) return best.distance_sq < policy.radius_sq;
    switch (policy.pattern) {
        case kPatternAll: return true;
        case kPatternRandom: return policy.rate_u32 == 0xffffffffu || random_u32(policy.seed, position, head) < policy.rate_u32;
        case kPatternHeads: return policy.forced_heads[head] != 0;
        default: return false;
    }
}

// A group's pause after a search: 1, 2, 4 ... max_pause steps while it keeps missing, none after a hit.
__device__ inline Pause pause_after(const Policy& policy, Pause pause, bool searched, bool reused) {
    if (!searched) return {pause.length, pause.remaining > 0 ? pause.remaining - 1 : 0};
    if (reused || policy.max_pause == 0) return {0, 0};
    const int length = min(max(1, 2 * pause.length), policy.max_pause);
    return {length, length};
}
