// The recurrence in f64 with plain loops, over host copies of what the device was given.
#pragma once

#include <algorithm>

#include "device.h"
#include "kv_formats.h"
#include "parallel.h"

struct State64 {
    std::vector<double> out;
    double lse = -INFINITY;
};

inline State64 merge64(const State64& a, const State64& b) {
    if (a.lse == -INFINITY) return b;
    if (b.lse == -INFINITY) return a;
    const double max = std::max(a.lse, b.lse), wa = std::exp(a.lse - max), wb = std::exp(b.lse - max);
    State64 r{a.out, max + std::log(wa + wb)};
    for (size_t d = 0; d < r.out.size(); ++d) r.out[d] = (wa * a.out[d] + wb * b.out[d]) / (wa + wb);
    return r;
}

// Host copies of K and V as floats, [num_kv_heads, capacity, head_dim].
struct HostKv {
    std::vector<float> k, v;
    explicit HostKv(const Layer& layer) : k(layer.k.count * layer.shape.head_dim / layer.shape.row_bytes()), v(k.size()) {
        const auto kb = layer.k.download(), vb = layer.v.download();
        const auto scales = layer.scales.download();
        const size_t dim = layer.shape.head_dim, rows = k.size() / dim;
        parallel(64, [&](int part) {
            for (size_t row = rows * part / 64; row < rows * (part + 1) / 64; ++row) {
                read_row(layer.shape, kb.data() + row * layer.shape.row_bytes(), scales.data(), 2 * row, k.data() + row * dim);
                read_row(layer.shape, vb.data() + row * layer.shape.row_bytes(), scales.data(), 2 * row + 1, v.data() + row * dim);
            }
        });
    }

  private:
    // scale_row: of the row's scales in `scales`, [.., slots].
    static void read_row(const Shape& shape, const unsigned char* bytes, const unsigned short* scales, size_t scale_row, float* x) {
        const int slots = scale_slots(shape.head_dim);
        for (int d = 0; d < shape.head_dim; ++d) {
            if (shape.dtype == Dtype::fp8) x[d] = e4m3_value(bytes[d]);
            else if (shape.dtype == Dtype::q8) x[d] = q8_value(bytes[d], to_float(scales[scale_row * slots + d / kScaleBlock], Dtype::f16));
            else x[d] = to_float(reinterpret_cast<const unsigned short*>(bytes)[d], shape.dtype);
        }
    }
};

// Attention of one head over tokens begin..end.
inline State64 attend64(const Layer& layer, const HostKv& kv, const float* q, int kv_head, int begin, int end) {
    const int dim = layer.shape.head_dim;
    State64 state{std::vector<double>(dim, 0.0)};
    if (begin >= end) return state;
    const size_t base = static_cast<size_t>(kv_head) * layer.capacity * dim;
    std::vector<double> score(end - begin);
    double max = -INFINITY, sum = 0;
    for (int t = begin; t < end; ++t) {
        double dot = 0;
        for (int d = 0; d < dim; ++d) dot += static_cast<double>(q[d]) * kv.k[base + static_cast<size_t>(t) * dim + d];
        score[t - begin] = dot / std::sqrt(static_cast<double>(dim));
        max = std::max(max, score[t - begin]);
    }
    for (int t = begin; t < end; ++t) {
        const double w = std::exp(score[t - begin] - max);
        sum += w;
        for (int d = 0; d < dim; ++d) state.out[d] += w * kv.v[base + static_cast<size_t>(t) * dim + d];
    }
    for (double& x : state.out) x /= sum;
    state.lse = max + std::log(sum);
    return state;
}

struct Entry64 {
    int position = -1;
    std::vector<float> query;
    State64 state;
    unsigned depth = 0;
    double distance = 0;
};

// One layer's oracle: the ring and the pauses, and a step over them. It decides as the crate's DecodeAttention does.
struct Oracle {
    const Layer& layer;
    const HostKv& kv;
    Policy policy;
    std::vector<unsigned char> forced_heads;
    std::vector<std::vector<Entry64>> ring;  // [num_q_heads][slots]
    std::vector<Pause> pauses;
    Counters counters{};

    Oracle(const Layer& layer, const HostKv& kv, const Policy& policy, std::vector<unsigned char> forced_heads)
        : layer(layer), kv(kv), policy(policy), forced_heads(forced_heads), ring(layer.shape.num_q_heads, std::vector<Entry64>(layer.slots)),
          pauses(layer.shape.num_kv_heads) {}

    void truncate(int length) {
        for (auto& head : ring) {
            for (Entry64& entry : head) {
                if (entry.position >= length) entry = {};
            }
        }
        std::fill(pauses.begin(), pauses.end(), Pause{});
    }

    static unsigned long long scattered(unsigned long long x) {
        x += 0x9e3779b97f4a7c15ull;
        x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
        x = (x ^ x >> 27) * 0x94d049bb133111ebull;
        return x ^ x >> 31;
    }
    bool dictated(int position, int head) const {
        if (policy.pattern == kPatternAll) return true;
        if (policy.pattern == kPatternNone) return false;
        if (policy.pattern == kPatternHeads) return forced_heads[head] != 0;
        const unsigned long long mixed = scattered(scattered(scattered(policy.seed) ^ position) ^ head);
        return std::ldexp(static_cast<double>(mixed >> 40), -24) < policy.rate;
    }

    // The entry that a head may reuse, or nullptr.
    const Entry64* match(int position, int head, const float* q_pre, bool searches) const {
        const bool forced = policy.kind == kForced;
        if (forced ? !dictated(position, head) : !searches) return nullptr;
        const int reach = forced ? std::min(policy.lag, layer.slots) : layer.slots;
        const Entry64* found = nullptr;
        double best = forced ? INFINITY : policy.radius_sq;
        for (const Entry64& e : ring[head]) {
            if (e.position < 0 || e.position >= position || position - e.position > reach || !std::isfinite(e.state.lse)) continue;
            const double key = forced ? e.position : squared_distance(q_pre, e);
            if (key < best || (found != nullptr && key == best && e.position < found->position)) best = key, found = &e;
        }
        return found;
    }
    static double squared_distance(const float* q_pre, const Entry64& e) {
        double sum = 0;
        for (size_t d = 0; d < e.query.size(); ++d) sum += std::pow(static_cast<double>(q_pre[d]) - e.query[d], 2);
        return sum;
    }

    // The crate's Pause::tick and Pause::searched.
    bool tick(int kv_head, int position) {
        if (policy.kind == kPaper && position < policy.min_context) return false;
        if (policy.max_pause == 0 || pauses[kv_head].remaining == 0) return true;
        --pauses[kv_head].remaining;
        return false;
    }
    void note(int kv_head, bool reused) {
        Pause& p = pauses[kv_head];
        if (policy.max_pause == 0) return;
        if (reused) {
            p = Pause{};
        } else if (++p.misses >= 4) {
            p.length = std::min(std::max(2 * p.length, 1u), static_cast<unsigned>(policy.max_pause));
            p.remaining = p.length;
        }
    }

    // What a step leaves per query head.
    struct Step {
        std::vector<State64> out;
        std::vector<unsigned char> outcomes;
        std::vector<double> reused_mass;
    };
    // q_pre, q_rot: [num_q_heads, head_dim]. resting: attend alone, with the ring.
    Step step(int position, bool resting, const std::vector<float>& q_pre, const std::vector<float>& q_rot) {
        const Shape& shape = layer.shape;
        Step done{std::vector<State64>(shape.num_q_heads), std::vector<unsigned char>(shape.num_q_heads, kNotSearched), std::vector<double>(shape.num_q_heads, 0.0)};
        std::vector<Counters> per_group(shape.num_kv_heads);
        parallel(shape.num_kv_heads, [&](int g) { per_group[g] = step_group(g, position, resting, q_pre, q_rot, done); });
        for (const Counters& c : per_group) {
            counters.kv_bytes_read += c.kv_bytes_read, counters.kv_bytes_exact += c.kv_bytes_exact, counters.ring_bytes += c.ring_bytes;
            counters.groups += c.groups, counters.groups_reused += c.groups_reused;
            counters.heads_matched += c.heads_matched, counters.heads_reused += c.heads_reused;
        }
        return done;
    }

  private:
    // One KV head's step, with the bytes that these kernels touch for it.
    Counters step_group(int g, int position, bool resting, const std::vector<float>& q_pre, const std::vector<float>& q_rot, Step& done) {
        const int dim = layer.shape.head_dim, group = layer.shape.group(), length = position + 1, band = layer.band;
        const int boundary = std::max(0, length - band);
        const bool searches = !resting && tick(g, position);
        const bool tagged = searches || (!resting && policy.kind == kForced);  // the tags are read
        std::vector<const Entry64*> found(group, nullptr);
        for (int i = 0; i < group && !resting; ++i) {
            const int head = g * group + i;
            found[i] = match(position, head, q_pre.data() + static_cast<size_t>(head) * dim, searches);
        }
        const bool reused = std::all_of(found.begin(), found.end(), [](const Entry64* e) { return e != nullptr; });
        if (searches) note(g, reused);
        Counters c{};
        int amend = boundary;
        for (int i = 0; i < group; ++i) {
            const int head = g * group + i;
            const float* q = q_rot.data() + static_cast<size_t>(head) * dim;
            Entry64 entry;
            entry.position = position;
            entry.query.assign(q_pre.begin() + static_cast<size_t>(head) * dim, q_pre.begin() + static_cast<size_t>(head + 1) * dim);
            if (reused) {
                const int begin = std::max(0, found[i]->position + 1 - band);
                amend = std::min(amend, begin);
                entry.state = merge64(found[i]->state, attend64(layer, kv, q, g, begin, boundary));
                entry.depth = found[i]->depth + 1;
                entry.distance = found[i]->distance + std::sqrt(squared_distance(entry.query.data(), *found[i]));
            } else {
                entry.state = attend64(layer, kv, q, g, 0, boundary);
            }
            done.out[head] = merge64(entry.state, attend64(layer, kv, q, g, boundary, length));
            if (reused) done.reused_mass[head] = std::exp(found[i]->state.lse - done.out[head].lse);
            done.outcomes[head] = found[i] == nullptr ? (searches ? kMissed : kNotSearched) : reused ? kReused : kRefreshed;
            c.heads_matched += found[i] != nullptr;
            c.heads_reused += reused;
            c.ring_bytes += 6 * dim + 16 + (reused ? 4 * dim + 16 : 0) + static_cast<unsigned long long>(layer.slots) * (tagged * 8 + searches * 2 * dim);
            ring[head][position % layer.slots] = entry;
        }
        c.groups = 1;
        c.groups_reused = reused;
        c.kv_bytes_exact = static_cast<unsigned long long>(length) * layer.shape.token_bytes();
        c.kv_bytes_read = static_cast<unsigned long long>((tagged ? length - boundary : 0) + (reused ? boundary - amend : length)) * layer.shape.token_bytes();
        return c;
    }
};

// ‖got − want‖ / ‖want‖; NaN if anything is NaN.
inline double relative_error(const float* got, const std::vector<double>& want) {
    double diff = 0, norm = 0;
    for (size_t i = 0; i < want.size(); ++i) diff += std::pow(got[i] - want[i], 2), norm += want[i] * want[i];
    return norm > 0 ? std::sqrt(diff / norm) : std::sqrt(diff);
}
