// One layer's buffers.
#pragma once

#include "launch.h"
#include "shape.h"

// What a launch of the attend kernel is for: the exact policy, a step that writes entries but searches nothing, or the groups
// that the reuse kernel leaves to it.
enum class Attends { exact, resting, decided };

// Everything a step of one layer touches.
struct Layer {
    Shape shape;
    int capacity, slots, band, grid;
    Buffer<unsigned char> k, v;
    Buffer<unsigned short> scales, q_rot, q_pre, ring_query;  // scales: empty unless q8
    Buffer<float> out, ring_out, partial_out, partial_lse, reused_mass;
    Buffer<RingMeta> meta;
    Buffer<unsigned> arrivals;
    Buffer<unsigned> decisions;
    Buffer<unsigned char> outcomes, forced_heads;
    Buffer<Pause> pauses;
    Buffer<Counters> counters;

    Layer(Shape shape, int capacity, int slots, int band, int grid)
        : shape(shape), capacity(capacity), slots(slots), band(band), grid(grid),
          k(static_cast<size_t>(shape.num_kv_heads) * capacity * shape.row_bytes()), v(k.count),
          scales(shape.dtype == Dtype::q8 ? static_cast<size_t>(shape.num_kv_heads) * capacity * 2 * scale_slots(shape.head_dim) : 0),
          q_rot(shape.num_q_heads * shape.head_dim), q_pre(q_rot.count),
          ring_query(static_cast<size_t>(shape.num_q_heads) * slots * shape.head_dim), out(q_rot.count), ring_out(ring_query.count),
          partial_out(static_cast<size_t>(Split::kSpansPerBlock) * grid * shape.group() * shape.head_dim),
          partial_lse(static_cast<size_t>(Split::kSpansPerBlock) * grid * shape.group()), reused_mass(shape.num_q_heads),
          meta(static_cast<size_t>(shape.num_q_heads) * slots), arrivals(static_cast<size_t>(shape.num_kv_heads) * 2), decisions(shape.num_kv_heads), outcomes(shape.num_q_heads),
          forced_heads(shape.num_q_heads), pauses(shape.num_kv_heads), counters(1) {
        arrivals.zero(), pauses.poison(), counters.zero(), forced_heads.zero();
        out.poison(), partial_out.poison(), partial_lse.poison(), decisions.zero(), outcomes.poison(), reused_mass.poison(), ring_out.poison(), ring_query.poison();
        meta.zero();
        truncate_ring<<<64, 256>>>(ring(), shape.num_q_heads, 0, pauses.data, shape.num_kv_heads);
        CHECK(cudaGetLastError());
    }
    Ring ring() const { return {reinterpret_cast<__nv_bfloat16*>(ring_query.data), ring_out.data, meta.data, slots, band}; }
    KvCache kv() const { return {k.data, v.data, scales.count > 0 ? reinterpret_cast<const __half*>(scales.data) : nullptr, capacity}; }
    AttendArgs attend_args(const StepState* state, Attends what) const {
        Ring none{};
        return {state, q_rot.data, reinterpret_cast<const __nv_bfloat16*>(q_pre.data), kv(), shape.heads(), what == Attends::exact ? none : ring(),
                what != Attends::decided ? nullptr : decisions.data, outcomes.data, reused_mass.data, out.data, partial_out.data, partial_lse.data, arrivals.data, counters.data};
    }
    ReuseArgs reuse_args(const StepState* state, const Policy& policy) const {
        return {state, q_rot.data, reinterpret_cast<const __nv_bfloat16*>(q_pre.data), kv(), shape.heads(), ring(), policy,
                pauses.data, decisions.data, outcomes.data, reused_mass.data, out.data, counters.data};
    }
};

// Random K and V: normal numbers, those of V around `shift`.
inline void fill_kv(Layer& layer, unsigned long long seed, float shift) {
    const Shape& shape = layer.shape;
    const bool packed = is_byte(shape.dtype);
    const size_t count = static_cast<size_t>(shape.num_kv_heads) * layer.capacity * shape.head_dim;
    Buffer<unsigned short> k(packed ? count : 0), v(k.count);
    unsigned short* const whole[] = {packed ? k.data : reinterpret_cast<unsigned short*>(layer.k.data), packed ? v.data : reinterpret_cast<unsigned short*>(layer.v.data)};
    fill(whole[0], count, seed, 1.0f, 0.0f, query_dtype(shape.dtype));
    fill(whole[1], count, seed + 1, 1.0f, shift, query_dtype(shape.dtype));
    if (!packed) return;
    launch_pack(shape.dtype, {whole[0], whole[1], layer.kv(), layer.capacity, 0, layer.capacity, shape.head_dim, shape.num_kv_heads, 0});
    CHECK(cudaDeviceSynchronize());
}

inline Policy paper(int head_dim, float threshold, int min_context, int max_pause, bool prune) {
    Policy p{};
    p.kind = kPaper;
    p.radius_sq = 2.0f * head_dim * (1 - threshold) * (1 - threshold);
    p.min_context = min_context;
    p.max_pause = max_pause;
    p.prune = prune;
    return p;
}
inline Policy forced(PatternKind pattern, int lag, double rate = 0, unsigned long long seed = 0, int max_pause = 0) {
    Policy p{};
    p.kind = kForced;
    p.radius_sq = INFINITY;
    p.pattern = pattern;
    p.lag = lag;
    p.max_pause = max_pause;
    p.rate = static_cast<float>(rate);
    p.seed = seed;
    return p;
}
