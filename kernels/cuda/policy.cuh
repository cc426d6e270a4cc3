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

// Whether a slot may be matched by the query at `position`: written, of the last `slots` positions, and with a finite
// log-sum-exp (-inf is an empty prefix, anything else not finite is damage).
__device__ inline bool is_candidate(const Ring& ring, const Policy& policy, int position, int stored, float lse) {
    const int reach = policy.kind == kForced ? min(policy.lag, ring.slots) : ring.slots;
    return fabsf(lse) < CUDART_INF_F && stored >= max(0, position - reach) && stored < position;
}

// One round of SplitMix64 (Steele, Lea, Flood 2014).
__host__ __device__ inline unsigned long long mix(unsigned long long x) {
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}
// Counter-based: the same (seed, position, head) always gives the same number, in 0..1 and below 1. 24 bits, as many as an
// f32 holds exactly; the crate draws the same.
__host__ __device__ inline float uniform(unsigned long long seed, int position, int head) {
    const unsigned long long mixed = mix(mix(mix(seed) ^ static_cast<unsigned>(position)) ^ static_cast<unsigned>(head));
    return static_cast<float>(mixed >> 40) * (1.0f / 16777216.0f);
}

// Whether a head whose best candidate is `best` reuses it.
__device__ inline bool accepts(const Policy& policy, int position, int head, Candidate best) {
    if (policy.kind == kPaper) return best.distance_sq < policy.radius_sq;
    switch (policy.pattern) {
        case kPatternAll: return true;
        case kPatternRandom: return uniform(policy.seed, position, head) < policy.rate;
        case kPatternHeads: return policy.forced_heads[head] != 0;
        default: return false;
    }
}

// Whether the policy lets this step search at all.
__device__ inline bool may_search(const Policy& policy, int position) { return policy.kind == kForced || position >= policy.min_context; }

// Searches in a row that may fail before a group pauses: with reuse in sight a pause costs whole reads.
constexpr unsigned kToleratedMisses = 4;

// A group's pause after a step that might search: 1, 2, 4 ... max_pause steps while it keeps missing, none after a hit.
__device__ inline Pause pause_after(const Policy& policy, Pause pause, bool searched, bool reused) {
    if (policy.max_pause == 0) return pause;
    if (!searched) return {pause.remaining - 1, pause.length, pause.misses};
    if (reused) return {0, 0, 0};
    pause.misses += pause.misses != 0xffffffffu;
    if (pause.misses < kToleratedMisses) return pause;
    const unsigned length = min(max(1u, 2 * pause.length), static_cast<unsigned>(policy.max_pause));
    return {length, length, pause.misses};
}
