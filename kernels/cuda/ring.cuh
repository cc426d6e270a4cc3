// Where a ring keeps things, and the entry a step leaves behind.
#pragma once

#include "partial.cuh"
#include "step.cuh"

// End (exclusive) of the prefix that the state stored at `position` covers.
__device__ inline int prefix_end(int position, int band) { return position + 1 > band ? position + 1 - band : 0; }

__device__ inline size_t ring_row(const Ring& ring, int head, int position) {
    return static_cast<size_t>(head) * ring.slots + position % ring.slots;
}

// Bytes of one entry: query, state, tags.
template <int kDim>
constexpr int kEntryBytes = 2 * kDim + 4 * kDim + static_cast<int>(sizeof(RingMeta));

// Four dimensions of a query before RoPE. q_pre: [num_q_heads, kDim].
template <int kDim>
__device__ inline uint2 query_part(const __nv_bfloat16* q_pre, int head, int dim) {
    return __ldcg(reinterpret_cast<const uint2*>(q_pre + static_cast<size_t>(head) * kDim + dim));
}

// Four dimensions of the entry of meta.position; whoever holds dimension 0 writes the tags.
template <int kDim>
__device__ inline void store_entry(const Ring& ring, int head, int dim, float4 out, uint2 query, RingMeta meta) {
    const size_t row = ring_row(ring, head, meta.position);
    *reinterpret_cast<float4*>(ring.out + row * kDim + dim) = out;
    *reinterpret_cast<uint2*>(ring.query + row * kDim + dim) = query;
    if (dim == 0) *reinterpret_cast<int4*>(ring.meta + row) = *reinterpret_cast<const int4*>(&meta);
}
