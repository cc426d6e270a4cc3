// Joining the partial results of all blocks of a group without another launch.
//
// Every block counts itself in when its part of a group is in scratch. The blocks whose runs end in a group finish it
// together: each waits until all parts are there and joins a slice of the group's outputs. Blocks wait only for blocks of the
// same launch, so all of them must fit on the device at once (they do at one block per multiprocessor).
#pragma once

#include "ring.cuh"
#include "split.cuh"

constexpr int kGatherLanes = 16;  // threads that share one output element (four dimensions)

// Partial results of one head and four dimensions, one in every lane of an element and `kBatch` in turn. All loads of a batch are
// issued at once, because each waits for L2.
template <int kDim, int kBatch>
struct Batch {
    float level[kBatch];
    float4 value[kBatch];

    // Parts first.. of `count`, `stride` rows apart.
    __device__ void load(const float* out, const float* lse, int first, int count, int stride) {
#pragma unroll
        for (int j = 0; j < kBatch; ++j) {
            const int i = first + j * kGatherLanes + threadIdx.x % kGatherLanes, row = min(i, count - 1) * stride;
            level[j] = __ldcg(lse + row) * kLog2E;
            value[j] = __ldcg(reinterpret_cast<const float4*>(out + static_cast<size_t>(row) * kDim));
            if (i >= count) level[j] = -CUDART_INF_F;
        }
    }
    __device__ void add_to(Weighted& all) const {
        float max = all.max;
#pragma unroll
        for (int j = 0; j < kBatch; ++j) max = fmaxf(max, level[j]);
        const float factor = weight_log2(all.max, max);
        all = {factor * all.value, factor * all.weight, max};
#pragma unroll
        for (int j = 0; j < kBatch; ++j) {
            const float w = weight_log2(level[j], max);
            all.value = all.value + w * value[j];
            all.weight += w;
        }
    }
};

// Joins the lanes of an element.
__device__ inline Weighted join_lanes(Weighted all) {
    float max = all.max;
#pragma unroll
    for (int step = kGatherLanes / 2; step > 0; step /= 2) max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, step));
    const float factor = weight_log2(all.max, max);
    all = {factor * all.value, factor * all.weight, max};
#pragma unroll
    for (int step = kGatherLanes / 2; step > 0; step /= 2) {
        all.value = all.value + make_float4(__shfl_xor_sync(0xffffffffu, all.value.x, step), __shfl_xor_sync(0xffffffffu, all.value.y, step),
                                            __shfl_xor_sync(0xffffffffu, all.value.z, step), __shfl_xor_sync(0xffffffffu, all.value.w, step));
        all.weight += __shfl_xor_sync(0xffffffffu, all.weight, step);
    }
    return all;
}

// The blocks that hold parts of a span.
struct Parts {
    int first, count;
};
__device__ inline Parts parts_of(const Split& split, int span) {
    const int begin = split.span_begin(span), end = split.span_end(span);
    if (begin == end) return {0, 0};
    const int first = split.owner(begin);
    return {first, split.owner(end - 1) - first + 1};
}
// A span's parts of one head and four dimensions, in scratch.
template <int kDim>
struct SpanParts {
    static constexpr int kMany = 9;  // one batch up to 144 blocks
    const float *out, *lse;
    int count, stride;
    Batch<kDim, 1> newest;

    __device__ SpanParts(const AttendArgs& args, Parts parts, int span, int in_group, int dim) : count(parts.count) {
        const size_t row = static_cast<size_t>(Split::scratch(parts.first, span)) * args.heads.group + in_group;
        out = args.partial_out + row * kDim + dim;
        lse = args.partial_lse + row;
        stride = Split::kSpansPerBlock * args.heads.group;
    }
    // Asks for the first batch of a span with few parts.
    __device__ void begin_few() {
        if (count > 0) newest.load(out, lse, 0, count, stride);
    }
    __device__ Partial<float4> few() {
        Weighted all{make_float4(0, 0, 0, 0), 0.0f, -CUDART_INF_F};
        for (int first = 0; first < count; first += kGatherLanes) {
            if (first > 0) newest.load(out, lse, first, count, stride);
            newest.add_to(all);
        }
        return join_lanes(all).partial();
    }
    template <int kBatch>
    __device__ Partial<float4> batches() const {
        Weighted all{make_float4(0, 0, 0, 0), 0.0f, -CUDART_INF_F};
        for (int first = 0; first < count; first += kBatch * kGatherLanes) {
            Batch<kDim, kBatch> batch;
            batch.load(out, lse, first, count, stride);
            batch.add_to(all);
        }
        return join_lanes(all).partial();
    }
    __device__ Partial<float4> many() const { return count <= 2 * kGatherLanes ? batches<2>() : batches<kMany>(); }
};

// Waits for a group's parts, joins this block's slice and writes outputs and, with a ring, the refreshed entries.
// index: place of the group in the list; this block's run ends in it.
template <int kDim>
__device__ inline void finish_group(const AttendArgs& args, const Split& split, int index, int kv_head, int position) {
    const int group = args.heads.group, elements = group * (kDim / 4);
    const Parts prefix = parts_of(split, 2 * index), tail = parts_of(split, 2 * index + 1);
    const int first = prefix.count > 0 ? prefix.first : tail.first;
    const int last = tail.count > 0 ? tail.first + tail.count - 1 : prefix.first + prefix.count - 1;
    // The last block may go on into the next group and finish that one instead.
    const int finishers = last - first + (split.start(last + 1) == (index + 1) * split.tiles);
    const int slice = (elements + finishers - 1) / finishers;
    const int from = (static_cast<int>(blockIdx.x) - first) * slice, until = min(elements, from + slice);
    unsigned* const arrived = args.arrivals + 2 * kv_head;
    unsigned* const left = arrived + 1;
    unsigned out_before = 0;
    if (threadIdx.x == 0) {
        while (acquire(arrived) < static_cast<unsigned>(last - first + 1)) {
        }
        // Whoever sees all parts there counts itself out; the answer is needed at the end only.
        out_before = atomicAdd(left, 1u);
    }
    __syncthreads();

    for (int base = from; base < until; base += blockDim.x / kGatherLanes) {
        const int element = base + threadIdx.x / kGatherLanes, known = min(element, until - 1);  // spare threads repeat the last
        const int in_group = known / (kDim / 4), dim = known % (kDim / 4) * 4, head = kv_head * group + in_group;
        const bool writes = element < until && threadIdx.x % kGatherLanes == 0;
        uint2 query = make_uint2(0, 0);
        if (writes && args.ring.meta != nullptr) query = query_part<kDim>(args.q_pre, head, dim);
        // The band's few parts are under way while the prefix is joined.
        SpanParts<kDim> newer(args, tail, 2 * index + 1, in_group, dim);
        newer.begin_few();
        const Partial<float4> before = SpanParts<kDim>(args, prefix, 2 * index, in_group, dim).many();
        const Partial<float4> after = newer.few();
        if (!writes) continue;
        *reinterpret_cast<float4*>(args.out + static_cast<size_t>(head) * kDim + dim) = merge(before, after).out;
        if (dim == 0) args.reused_mass[head] = 0.0f;
        if (args.ring.meta == nullptr) continue;
        store_entry<kDim>(args.ring, head, dim, before.out, query, RingMeta{position, before.lse, 0, 0.0f});
    }

    // The last to count itself out clears both counters for the next launch.
    if (threadIdx.x == 0 && out_before == static_cast<unsigned>(finishers) - 1) *arrived = *left = 0;
    if (threadIdx.x == 0 && args.ring.meta != nullptr && static_cast<int>(blockIdx.x) == first) {
        atomicAdd(&args.counters->ring_bytes, static_cast<unsigned long long>(group) * kEntryBytes<kDim>);
    }
}
