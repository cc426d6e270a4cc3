// One chunk of one layer for the prefill kernels: buffers, arguments, launch.
#pragma once

#include <string>

#include "parallel.h"
#include "prefill_args.cuh"
#include "shape.h"

// One way to launch: two kernels that share a shape.
struct PrefillVariant {
    std::string name;
    Dtype dtype;
    int head_dim;
    const void *attend, *seed;
    int tile_rows, threads, shared_bytes;
    int seed_tile_rows, seed_threads, seed_shared_bytes;
    int tensor_tokens, seed_tensor_tokens, columns;  // box of the tensor maps; 0: no maps, one block per tile
};
std::vector<PrefillVariant> prefill_variants();

// Whether the variant is meant by a choice of names or parts of names, separated by "|".
inline bool chosen(const PrefillVariant& variant, const std::string& choice) {
    for (size_t begin = 0; begin <= choice.size();) {
        const size_t end = std::min(choice.find('|', begin), choice.size());
        if (variant.name.find(choice.substr(begin, end - begin)) != std::string::npos) return true;
        begin = end + 1;
    }
    return false;
}

struct Chunk {
    Shape shape;
    int first_pos, n, capacity, slots, band, seed_from;
    int q_stride, pre_stride, out_stride;  // elements between tokens
    Buffer<unsigned short> k, v, q, q_pre, out, ring_query;
    Buffer<float> lse, ring_out, partial_out, partial_lse;
    int max_splits;
    Buffer<RingMeta> meta;

    Chunk(Shape shape, int first_pos, int n, int slots, int band, int seed_from, int max_splits, int spare = 9)
        : shape(shape), first_pos(first_pos), n(n), capacity(first_pos + n + spare), slots(slots), band(band), seed_from(seed_from),
          q_stride((shape.num_q_heads + 2 * shape.num_kv_heads) * shape.head_dim), pre_stride(shape.num_q_heads * shape.head_dim + 8),
          out_stride(shape.num_q_heads * shape.head_dim + 16), k(static_cast<size_t>(shape.num_kv_heads) * capacity * shape.head_dim), v(k.count),
          q(static_cast<size_t>(n) * q_stride), q_pre(static_cast<size_t>(n) * pre_stride), out(static_cast<size_t>(n) * out_stride),
          ring_query(static_cast<size_t>(shape.num_q_heads) * slots * shape.head_dim), lse(static_cast<size_t>(n) * shape.num_q_heads),
          ring_out(ring_query.count),
          partial_out(max_splits > 1 ? lse.count * max_splits * shape.head_dim : 0), partial_lse(max_splits > 1 ? lse.count * max_splits : 0), max_splits(max_splits),
          meta(static_cast<size_t>(shape.num_q_heads) * slots) {
        poison();
    }
    int end() const { return first_pos + n; }
    void poison() { out.poison(), ring_query.poison(), lse.poison(), ring_out.poison(), meta.poison(), partial_out.poison(), partial_lse.poison(); }
    // Everything a kernel may read is finite; tokens from the end on are NaN.
    void fill_inputs(unsigned long long seed, float query_scale) {
        fill(k, seed, 1.0f, 0.0f, shape.dtype);
        fill(v, seed + 1, 1.0f, 0.25f, shape.dtype);
        fill(q, seed + 2, query_scale, 0.0f, shape.dtype);
        fill(q_pre, seed + 3, 1.0f, 0.0f, Dtype::bf16);
        for (int h = 0; h < shape.num_kv_heads; ++h) {
            const size_t from = (static_cast<size_t>(h) * capacity + end()) * shape.head_dim, bytes = static_cast<size_t>(capacity - end()) * shape.head_dim * 2;
            CHECK(cudaMemset(k.data + from, 0xff, bytes));
            CHECK(cudaMemset(v.data + from, 0xff, bytes));
        }
        CHECK(cudaDeviceSynchronize());
    }
    PrefillArgs args(bool with_lse) const {
        return {q.data, reinterpret_cast<const __nv_bfloat16*>(q_pre.data), out.data, with_lse ? lse.data : nullptr, {k.data, v.data, nullptr, capacity},
                {reinterpret_cast<__nv_bfloat16*>(ring_query.data), ring_out.data, meta.data, slots, band}, shape.heads(), q_stride, pre_stride, out_stride,
                first_pos, n, seed_from, 1, partial_out.data, partial_lse.data};
    }
};

// Launches one of a variant's kernels, and the join if tokens are split. The host's part: sizes, attributes, tensor maps.
int multiprocessors();
void launch_prefill(const PrefillVariant& variant, bool seed, const PrefillArgs& args, cudaStream_t stream);

int check_prefill(const std::string& choice, bool quick);
void bench_prefill(const std::string& choice, bool brief);
