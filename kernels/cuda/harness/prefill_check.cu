// The prefill kernels against the oracle.
#include "prefill.h"

namespace {

// Relative L2 error per row. Outputs are 16-bit and so are the weights behind them; ring states are f32 with split weights.
constexpr double kOutTolerance = 4e-3, kStateTolerance = 2e-3, kLseTolerance = 1e-3;

// An attention state over a span of tokens.
struct State64 {
    std::vector<double> out;
    double lse = -INFINITY;
};

// |got - want| / |want|; NaN if anything is NaN.
double relative_error(const float* got, const std::vector<double>& want) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < want.size(); ++i) difference += std::pow(got[i] - want[i], 2), norm += want[i] * want[i];
    return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

struct Case {
    Dtype dtype;
    int head_dim, num_q_heads, num_kv_heads, first_pos, n, slots, band, seed_from;
    float query_scale = 2.0f;
    int sampled = 0;  // rows to compare; 0: all
    int splits = 1;
};

struct Host {
    std::vector<unsigned short> k, v, q, q_pre, out, ring_query;
    std::vector<float> lse, ring_out;
    std::vector<RingMeta> meta;
    explicit Host(const Chunk& c)
        : k(c.k.download()), v(c.v.download()), q(c.q.download()), q_pre(c.q_pre.download()), out(c.out.download()), ring_query(c.ring_query.download()),
          lse(c.lse.download()), ring_out(c.ring_out.download()), meta(c.meta.download()) {}
};

// Attention of one query over the first `limit` tokens.
State64 attend_row(const Chunk& c, const Host& host, int token, int head, int limit) {
    const int dim = c.shape.head_dim;
    State64 state{std::vector<double>(dim, 0.0)};
    if (limit == 0) return state;
    const size_t base = static_cast<size_t>(head / c.shape.group()) * c.capacity * dim;
    std::vector<double> q(dim), score(limit);
    for (int d = 0; d < dim; ++d) q[d] = to_float(host.q[static_cast<size_t>(token) * c.q_stride + head * dim + d], c.shape.dtype) / std::sqrt(static_cast<double>(dim));
    double max = -INFINITY, sum = 0;
    for (int t = 0; t < limit; ++t) {
        double dot = 0;
        for (int d = 0; d < dim; ++d) dot += q[d] * to_float(host.k[base + static_cast<size_t>(t) * dim + d], c.shape.dtype);
        score[t] = dot;
        max = std::max(max, dot);
    }
    for (int t = 0; t < limit; ++t) {
        const double w = std::exp(score[t] - max);
        sum += w;
        for (int d = 0; d < dim; ++d) state.out[d] += w * to_float(host.v[base + static_cast<size_t>(t) * dim + d], c.shape.dtype);
    }
    for (double& x : state.out) x /= sum;
    state.lse = max + std::log(sum);
    return state;
}

struct Worst {
    double out = 0, lse = 0, state = 0, state_lse = 0;
    int faults = 0;
    // NaN becomes the worst and stays it.
    static void keep(double& worst, double x) {
        if (!(x <= worst) && !std::isnan(worst)) worst = x;
    }
    void merge(const Worst& w) { keep(out, w.out), keep(lse, w.lse), keep(state, w.state), keep(state_lse, w.state_lse), faults += w.faults; }
    bool good() const { return out <= kOutTolerance && lse <= kLseTolerance && state <= kStateTolerance && state_lse <= kLseTolerance && faults == 0; }
};

bool is_poison(const RingMeta& meta) { return meta.position == -1 && meta.depth == 0xffffffffu; }

Worst compare_output(const Chunk& c, const Host& host, int token, int head) {
    const int dim = c.shape.head_dim;
    const State64 want = attend_row(c, host, token, head, c.first_pos + token + 1);
    std::vector<float> got(dim);
    for (int d = 0; d < dim; ++d) got[d] = to_float(host.out[static_cast<size_t>(token) * c.out_stride + head * dim + d], c.shape.dtype);
    Worst w;
    Worst::keep(w.out, relative_error(got.data(), want.out));
    Worst::keep(w.lse, std::fabs(host.lse[static_cast<size_t>(head) * c.n + token] - want.lse));
    return w;
}

Worst compare_entry(const Chunk& c, const Host& host, int token, int head) {
    const int dim = c.shape.head_dim, position = c.first_pos + token, limit = std::max(0, position + 1 - c.band);
    const size_t row = static_cast<size_t>(head) * c.slots + position % c.slots;
    const State64 want = attend_row(c, host, token, head, limit);
    const RingMeta& meta = host.meta[row];
    Worst w;
    if (meta.position != position || meta.depth != 0 || meta.distance != 0.0f) ++w.faults;
    if (limit == 0) {
        w.faults += meta.lse != -INFINITY;
        for (int d = 0; d < dim; ++d) w.faults += host.ring_out[row * dim + d] != 0.0f;
    } else {
        Worst::keep(w.state, relative_error(host.ring_out.data() + row * dim, want.out));
        Worst::keep(w.state_lse, std::fabs(meta.lse - want.lse));
    }
    for (int d = 0; d < dim; ++d) w.faults += host.ring_query[row * dim + d] != host.q_pre[static_cast<size_t>(token) * c.pre_stride + head * dim + d];
    return w;
}

// What must not have been touched: the gaps between rows of the output, and slots of positions without an entry.
int stray_writes(const Chunk& c, const Host& host, int first_seeded) {
    int strays = 0;
    for (int token = 0; token < c.n; ++token) {
        for (int i = c.shape.num_q_heads * c.shape.head_dim; i < c.out_stride; ++i) strays += host.out[static_cast<size_t>(token) * c.out_stride + i] != 0xffff;
    }
    std::vector<bool> expected(c.slots);
    for (int position = std::max(first_seeded, c.first_pos); position < c.end(); ++position) expected[position % c.slots] = true;
    for (int head = 0; head < c.shape.num_q_heads; ++head) {
        for (int slot = 0; slot < c.slots; ++slot) strays += !expected[slot] && !is_poison(host.meta[static_cast<size_t>(head) * c.slots + slot]);
    }
    return strays;
}

int run_case(const PrefillVariant& variant, const Case& test, unsigned long long seed) {
    const Shape shape{test.dtype, test.num_q_heads, test.num_kv_heads, test.head_dim};
    Chunk chunk(shape, test.first_pos, test.n, test.slots, test.band, test.seed_from, test.splits);
    chunk.fill_inputs(seed, test.query_scale);
    PrefillArgs args = chunk.args(true);
    args.splits = test.splits;
    for (int again = 0; again < 2; ++again) {
        chunk.poison();
        launch_prefill(variant, false, args, nullptr);
        launch_prefill(variant, true, args, nullptr);
        CHECK(cudaGetLastError());
        CHECK(cudaDeviceSynchronize());
    }
    const Host host(chunk);
    const int first_seeded = std::max({test.seed_from, chunk.end() - test.slots, test.first_pos});
    Worst worst;
    std::vector<Worst> parts;
    if (test.sampled == 0) {
        parts.resize(test.n);
        parallel(test.n, [&](int token) {
            for (int head = 0; head < test.num_q_heads; ++head) {
                parts[token].merge(compare_output(chunk, host, token, head));
                if (test.first_pos + token >= first_seeded) parts[token].merge(compare_entry(chunk, host, token, head));
            }
        });
    } else {
        parts.resize(test.sampled);
        parallel(test.sampled, [&](int i) {
            const int head = hash_u32(seed + 8, i) % test.num_q_heads;
            parts[i] = compare_output(chunk, host, i == 0 ? test.n - 1 : hash_u32(seed + 9, i) % test.n, head);
            const int seeded = chunk.end() - first_seeded;
            if (seeded > 0) parts[i].merge(compare_entry(chunk, host, first_seeded - test.first_pos + hash_u32(seed + 10, i) % seeded, head));
        });
    }
    for (const Worst& part : parts) worst.merge(part);
    worst.faults += stray_writes(chunk, host, first_seeded);
    static int shown = 0;
    const bool good = worst.good();
    if (!good ? shown++ < 25 : test.sampled > 0) {
        std::printf("%-4s %s %2d/%-2d first %6d n %5d M %3d S %3d seed from %6d splits %d: out %.1e lse %.1e state %.1e lse %.1e faults %d\n", good ? "ok" : "FAIL",
                    variant.name.c_str(), test.num_q_heads, test.num_kv_heads, test.first_pos, test.n, test.slots, test.band, test.seed_from, test.splits,
                    worst.out, worst.lse, worst.state, worst.state_lse, worst.faults);
    }
    return good ? 0 : 1;
}

std::vector<Case> cases(Dtype dtype, int dim, bool quick) {
    std::vector<Case> list;
    const int never = 1 << 30;
    // Every group size, odd places and lengths.
    for (int group = 1; group <= 16; ++group) {
        if (quick && group != 4 && group != 7) continue;
        const int kv = group > 8 ? 1 : 2;
        list.push_back({dtype, dim, kv * group, kv, 37 * group % 101, 61 + group, 24, 16, 0});
    }
    for (int n : {1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 191, 257, 300}) {
        if (quick && n > 2 && n != 129) continue;
        list.push_back({dtype, dim, 8, 2, 0, n, 64, 48, 0});
        list.push_back({dtype, dim, 4, 1, 2 * n + 1, n, 32, 7, n % 3 * n});
        if (!quick) list.push_back({dtype, dim, 2, 2, 777, n, 512, 256, 0, 6.0f});
    }
    list.push_back({dtype, dim, 8, 2, 511, 200, 64, 256, 600});
    list.push_back({dtype, dim, 8, 2, 100, 50, 64, 256, 0});      // every prefix is empty
    list.push_back({dtype, dim, 8, 2, 200, 120, 300, 256, 0});    // some are
    list.push_back({dtype, dim, 8, 2, 500, 120, 64, 32, never});  // none asked for
    list.push_back({dtype, dim, 8, 4, 1021, 331, 128, 64, 1100, 12.0f});
    for (int splits : {2, 3, 7}) {
        list.push_back({dtype, dim, 8, 2, 0, 70, 64, 48, 0, 2.0f, 0, splits});  // some splits have nothing
        list.push_back({dtype, dim, 6, 2, 1500, 50, 32, 256, 1510, 6.0f, 0, splits});
    }
    return list;
}

}  // namespace

int check_prefill(const std::string& choice, bool quick) {
    int failures = 0, count = 0;
    for (const PrefillVariant& variant : prefill_variants()) {
        if (!chosen(variant, choice)) continue;
        int failed = 0, run = 0;
        for (const Case& test : cases(variant.dtype, variant.head_dim, quick)) failed += run_case(variant, test, 100 + 7 * run++);
        const int never = 1 << 30;
        const std::vector<Case> large = {{variant.dtype, variant.head_dim, 32, 8, 126601, 400, 512, 256, 0, 2.0f, 40},
                                         {variant.dtype, variant.head_dim, 32, 8, 0, 32768, 512, 256, 0, 3.0f, 40},
                                         {variant.dtype, variant.head_dim, 32, 4, 98304, 2048, 512, 256, 99000, 1.0f, 20},
                                         {variant.dtype, variant.head_dim, 16, 16, 3, 8192, 64, 256, never, 2.0f, 20},
                                         {variant.dtype, variant.head_dim, 32, 8, 98304, 33, 512, 256, 0, 2.0f, 40, 8}};
        for (const Case& test : large) {
            if (quick || (variant.dtype == Dtype::f16 && test.n == 32768)) continue;
            failed += run_case(variant, test, 9000 + 7 * run++);
        }
        std::printf("%s %s: %d cases, %d failed\n", failed ? "FAIL" : "ok  ", variant.name.c_str(), run, failed);
        failures += failed, count += run;
    }
    if (count == 0) std::printf("no such kernel\n");
    return count == 0 ? 1 : failures;
}
