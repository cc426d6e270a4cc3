// The search: squared distances between this step's query and the ring's, before RoPE.
//
// A warp takes 32 slots of one head. Distances are sums of (q - k)^2 in f32 over exact bf16 values, in one fixed order,
// so equal rows give equal bits wherever they lie. A row is read in two halves of its dimensions; the sum over the first is
// a lower bound, so with pruning the second half of a row already too far is left unread without changing any hit.
#pragma once

#include "element.cuh"
#include "load.cuh"
#include "policy.cuh"

constexpr int kChunkSlots = 32;

// Half of the dimensions of 32 rows, spread over a warp: each load instruction covers 32 / kLanes rows.
template <int kDim>
struct HalfRows {
    static constexpr int kVectors = kDim / 16;  // 16 bytes each, of half a row
    static constexpr int kLanes = kVectors <= 4 ? 4 : kVectors <= 8 ? 8 : 16;
    static constexpr int kLoads = kLanes;       // 32 rows / (32 / kLanes) rows each
    uint4 data[kLoads];

    // rows: the first of 32 rows [kDim]; wanted: bit r = row r is read. The others become zeros.
    __device__ void load(const __nv_bfloat16* rows, int half, unsigned wanted) {
        const int lane = threadIdx.x % 32, vector = lane % kLanes;
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
            const int row = lane / kLanes * kLoads + i;
            data[i] = make_uint4(0, 0, 0, 0);
            if (vector < kVectors && (wanted >> row & 1)) {
                data[i] = __ldcg(reinterpret_cast<const uint4*>(rows + row * kDim + half * (kDim / 2) + vector * 8));
            }
        }
    }

    // This lane's part of a query's half.
    static __device__ uint4 query_part(const __nv_bfloat16* query, int half) {
        const int vector = threadIdx.x % kLanes;
        return vector < kVectors ? __ldcg(reinterpret_cast<const uint4*>(query + half * (kDim / 2) + vector * 8)) : make_uint4(0, 0, 0, 0);
    }

    // The sum over this half for row `lane`.
    __device__ float distance_sq(uint4 query) const {
        float q[8];
        unpack8(query, q);
        float sum[kLoads];
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
            float k[8];
            unpack8(data[i], k);
            float even = 0.0f, odd = 0.0f;
#pragma unroll
            for (int j = 0; j < 8; j += 2) {
                even = fmaf(q[j] - k[j], q[j] - k[j], even);
                odd = fmaf(q[j + 1] - k[j + 1], q[j + 1] - k[j + 1], odd);
            }
            sum[i] = even + odd;
        }
        trade<kLanes / 2>(sum);
        return sum[0];
    }

  private:
    // Lanes of a row trade halves of their rows until each holds one row: lane l ends with row l.
    template <int kWidth>
    static __device__ void trade(float (&sum)[kLoads]) {
        if constexpr (kWidth > 0) {
            const bool upper = threadIdx.x & kWidth;
#pragma unroll
            for (int i = 0; i < kWidth; ++i) {
                const float sent = upper ? sum[i] : sum[i + kWidth];
                const float kept = upper ? sum[i + kWidth] : sum[i];
                sum[i] = kept + __shfl_xor_sync(0xffffffffu, sent, kWidth);
            }
            trade<kWidth / 2>(sum);
        }
    }

    static __device__ void unpack8(uint4 packed, float (&x)[8]) {
        const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            x[2 * i] = __uint_as_float(words[i] << 16);
            x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
        }
    }
};

// The squared distance between one stored query and this step's, both [kDim], the same in every lane. One warp.
template <int kDim>
__device__ inline float row_distance_sq(const __nv_bfloat16* row, const __nv_bfloat16* query) {
    float sum = 0.0f;
    for (int d = threadIdx.x % 32 * 2; d < kDim; d += 64) {
        const float2 k = Bf16::unpack(__ldcg(reinterpret_cast<const unsigned*>(row + d)));
        const float2 q = Bf16::unpack(__ldcg(reinterpret_cast<const unsigned*>(query + d)));
        sum = fmaf(q.x - k.x, q.x - k.x, fmaf(q.y - k.y, q.y - k.y, sum));
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    return sum;
}

// The best candidate's rank among slots first..first + 31 of a head, the same in every lane; adds to ring_bytes (lane's
// own). What this layer's earlier steps wrote is asked for before the wait for this step's `query` ([kDim], of this head).
// measure: compute distances; without it every candidate is at 0.
template <int kDim>
__device__ inline unsigned long long search_chunk(const Ring& ring, const Policy& policy, const __nv_bfloat16* query, int head, int first,
                                                  int position, bool measure, unsigned& ring_bytes) {
    const int lane = threadIdx.x % 32, slot = first + lane;
    const size_t row = static_cast<size_t>(head) * ring.slots + first;
    const __nv_bfloat16* rows = ring.query + row * kDim;
    const bool exists = slot < ring.slots;
    const unsigned existing = __ballot_sync(0xffffffffu, exists);

    HalfRows<kDim> front, back;
    float2 tag = make_float2(__int_as_float(-1), -CUDART_INF_F);  // position, lse
    if (exists) tag = __ldcg(reinterpret_cast<const float2*>(ring.meta + row + lane));
    ring_bytes += exists ? sizeof(tag) : 0;
    if (measure) front.load(rows, 0, existing);
    // Both halves at once where they fit into registers.
    const bool together = kDim < 256 && !policy.prune;
    if (measure && together) back.load(rows, 1, existing);
    const int stored = __float_as_int(tag.x);
    bool candidate = is_candidate(ring, policy, position, stored, tag.y);
    wait_for_previous();
    const uint4 query_front = HalfRows<kDim>::query_part(query, 0), query_back = HalfRows<kDim>::query_part(query, 1);

    float distance_sq = 0.0f;
    if (measure) {
        distance_sq = front.distance_sq(query_front);
        ring_bytes += exists ? kDim : 0;
        unsigned second = existing;
        if (policy.prune) {
            candidate = candidate && distance_sq < policy.radius_sq;
            second = __ballot_sync(0xffffffffu, candidate);
        }
        if (!together && second != 0) back.load(rows, 1, second);
        if (second != 0) distance_sq += back.distance_sq(query_back);
        ring_bytes += second >> lane & 1 ? kDim : 0;
    }
    unsigned long long rank = kNoCandidate;
    if (candidate) rank = policy.kind == kPaper ? rank_nearest(distance_sq, stored) : rank_oldest(distance_sq, stored);
    // The smallest of 64 bits as the smallest high half, then the smallest low half beside it.
    const unsigned high = __reduce_min_sync(0xffffffffu, static_cast<unsigned>(rank >> 32));
    const unsigned low = __reduce_min_sync(0xffffffffu, rank >> 32 == high ? static_cast<unsigned>(rank) : 0xffffffffu);
    return static_cast<unsigned long long>(high) << 32 | low;
}
