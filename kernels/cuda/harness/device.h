// Device memory, random data, and one layer's buffers.
#pragma once

#include <cmath>
#include <vector>

#include "launch.h"

template <class T>
struct Buffer {
    T* data = nullptr;
    size_t count = 0;
    explicit Buffer(size_t count) : count(count) { CHECK(cudaMalloc(&data, (count ? count : 1) * sizeof(T))); }
    Buffer(const Buffer&) = delete;
    Buffer(Buffer&& other) : data(other.data), count(other.count) { other.data = nullptr; }
    ~Buffer() { cudaFree(data); }
    void zero() { CHECK(cudaMemset(data, 0, count * sizeof(T))); }
    void poison() { CHECK(cudaMemset(data, 0xff, count * sizeof(T))); }
    void upload(const std::vector<T>& host) { CHECK(cudaMemcpy(data, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice)); }
    std::vector<T> download() const {
        std::vector<T> host(count);
        CHECK(cudaMemcpy(host.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost));
        return host;
    }
};

// Counter-based normal numbers, as 16-bit elements.
__device__ __host__ inline unsigned hash_u32(unsigned long long seed, unsigned long long i) {
    unsigned long long x = seed * 0xd1342543de82ef95ull + i * 0x9e3779b97f4a7c15ull + 0x632be59bd9b4e019ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return static_cast<unsigned>((x ^ x >> 31) >> 32);
}
__device__ __host__ inline float normal(unsigned long long seed, unsigned long long i) {
    const float u = (hash_u32(seed, 2 * i) + 0.5f) * 2.3283064e-10f, v = hash_u32(seed, 2 * i + 1) * 2.3283064e-10f;
    return sqrtf(-2.0f * logf(u < 1e-12f ? 1e-12f : u)) * cosf(6.2831853f * v);
}
static __global__ void fill_normal(unsigned short* x, size_t count, unsigned long long seed, float scale, float shift, bool bf16) {
    for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < count; i += static_cast<size_t>(gridDim.x) * blockDim.x) {
        const float value = shift + scale * normal(seed, i);
        x[i] = bf16 ? __bfloat16_as_ushort(__float2bfloat16(value)) : __half_as_ushort(__float2half(value));
    }
}
inline void fill(Buffer<unsigned short>& x, unsigned long long seed, float scale, float shift, Dtype dtype) {
    fill_normal<<<2048, 256>>>(x.data, x.count, seed, scale, shift, dtype == Dtype::bf16);
    CHECK(cudaGetLastError());
}

inline float to_float(unsigned short bits, Dtype dtype) {
    if (dtype == Dtype::bf16) {
        const unsigned wide = static_cast<unsigned>(bits) << 16;
        float x;
        memcpy(&x, &wide, 4);
        return x;
    }
    return __half2float(__ushort_as_half(bits));
}
inline unsigned short from_float(float x, Dtype dtype) {
    return dtype == Dtype::bf16 ? __bfloat16_as_ushort(__float2bfloat16(x)) : __half_as_ushort(__float2half(x));
}

struct Shape {
    Dtype dtype;
    int num_q_heads, num_kv_heads, head_dim;
    int group() const { return num_q_heads / num_kv_heads; }
    Heads heads() const { return {num_kv_heads, group(), 1.44269504f / std::sqrt(static_cast<float>(head_dim))}; }
};

// What a launch of the attend kernel is for: the exact policy, a step that writes entries but searches nothing, or the groups
// that the reuse kernel leaves to it.
enum class Attends { exact, resting, decided };

// Everything a step of one layer touches.
struct Layer {
    Shape shape;
    int capacity, slots, band, grid;
    Buffer<unsigned short> k, v, q_rot, q_pre, ring_query;
    Buffer<float> out, ring_out, partial_out, partial_lse;
    Buffer<RingMeta> meta;
    Buffer<unsigned> arrivals;
    Buffer<unsigned> decisions;
    Buffer<unsigned char> outcomes, forced_heads;
    Buffer<Pause> pauses;
    Buffer<Counters> counters;

    Layer(Shape shape, int capacity, int slots, int band, int grid)
        : shape(shape), capacity(capacity), slots(slots), band(band), grid(grid),
          k(static_cast<size_t>(shape.num_kv_heads) * capacity * shape.head_dim), v(k.count), q_rot(shape.num_q_heads * shape.head_dim), q_pre(q_rot.count),
          ring_query(static_cast<size_t>(shape.num_q_heads) * slots * shape.head_dim), out(q_rot.count), ring_out(ring_query.count),
          partial_out(static_cast<size_t>(Split::kSpansPerBlock) * grid * shape.group() * shape.head_dim),
          partial_lse(static_cast<size_t>(Split::kSpansPerBlock) * grid * shape.group()),
          meta(static_cast<size_t>(shape.num_q_heads) * slots), arrivals(static_cast<size_t>(shape.num_kv_heads) * 2), decisions(shape.num_kv_heads), outcomes(shape.num_q_heads),
          forced_heads(shape.num_q_heads), pauses(shape.num_kv_heads), counters(1) {
        arrivals.zero(), pauses.poison(), counters.zero(), forced_heads.zero();
        out.poison(), partial_out.poison(), partial_lse.poison(), decisions.zero(), outcomes.poison(), ring_out.poison(), ring_query.poison();
        meta.zero();
        truncate_ring<<<64, 256>>>(ring(), shape.num_q_heads, 0, pauses.data, shape.num_kv_heads);
        CHECK(cudaGetLastError());
    }
    Ring ring() const { return {reinterpret_cast<__nv_bfloat16*>(ring_query.data), ring_out.data, meta.data, slots, band}; }
    KvCache kv() const { return {k.data, v.data, capacity}; }
    AttendArgs attend_args(const StepState* state, Attends what) const {
        Ring none{};
        return {state, q_rot.data, reinterpret_cast<const __nv_bfloat16*>(q_pre.data), kv(), shape.heads(), what == Attends::exact ? none : ring(),
                what != Attends::decided ? nullptr : decisions.data, outcomes.data, out.data, partial_out.data, partial_lse.data, arrivals.data, counters.data};
    }
    ReuseArgs reuse_args(const StepState* state, const Policy& policy) const {
        return {state, q_rot.data, reinterpret_cast<const __nv_bfloat16*>(q_pre.data), kv(), shape.heads(), ring(), policy,
                pauses.data, decisions.data, outcomes.data, out.data, counters.data};
    }
};

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
