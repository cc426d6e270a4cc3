// Exact attention against the oracle.
#include "check.h"

#include "inputs.h"
#include "oracle.h"

namespace {

// sink: the first token gets most of the weight, all others share the rest.
double exact_case(Shape shape, const std::vector<int>& lengths, unsigned long long seed, bool sink) {
    const int capacity = *std::max_element(lengths.begin(), lengths.end()) + 5;
    Layer layer(shape, capacity, 32, 16, multiprocessors());
    fill_kv(layer, seed, 0.25f);
    const HostKv kv(layer);
    Buffer<StepState> state(1);
    const Kernel kernel = prepared(true, shape.dtype, shape.head_dim, shape.group());
    double worst = 0;
    for (int length : lengths) {
        std::vector<float> places = normals(layer.q_rot.count, seed + length, sink ? 0.5f : 2.0f);
        for (size_t i = 0; sink && i < places.size(); ++i) {
            const size_t kv_head = i / shape.head_dim / shape.group();
            places[i] += 1.2f * kv.k[kv_head * capacity * shape.head_dim + i % shape.head_dim];
        }
        const auto q = upload_query(layer.q_rot, places, query_dtype(shape.dtype));
        set_position(state, length - 1);
        layer.out.poison();
        for (int again = 0; again < 2; ++again) launch_attend(kernel, layer.attend_args(state.data, Attends::exact), layer.grid, again, nullptr);
        CHECK(cudaDeviceSynchronize());
        const auto out = layer.out.download();
        std::vector<double> errors(shape.num_q_heads);
        parallel(shape.num_q_heads, [&](int head) {
            const State64 want = attend64(layer, kv, q.data() + head * shape.head_dim, head / shape.group(), 0, length);
            errors[head] = relative_error(out.data() + head * shape.head_dim, want.out);
        });
        for (double e : errors) {
            if (!(e <= kTolerance)) std::printf("  exact D%d %d/%d length %d: error %g\n", shape.head_dim, shape.num_q_heads, shape.num_kv_heads, length, e);
            worst = e <= worst ? worst : e;  // NaN becomes the worst
        }
        const Counters c = layer.counters.download()[0];
        const unsigned long long bytes = 2ull * length * shape.num_kv_heads * shape.token_bytes();
        const unsigned long long groups = 2ull * shape.num_kv_heads;
        if (c.kv_bytes_read != bytes || c.kv_bytes_exact != bytes || c.groups != groups || c.groups_reused + c.heads_matched + c.ring_bytes != 0) {
            std::printf("  exact counters: %llu %llu, expected %llu bytes; %llu groups\n", c.kv_bytes_read, c.kv_bytes_exact, bytes, c.groups);
            worst = NAN;
        }
        const auto outcomes = layer.outcomes.download();
        if (!std::all_of(outcomes.begin(), outcomes.end(), [](unsigned char x) { return x == kNotSearched; })) {
            std::printf("  exact outcomes: not all NotSearched\n");
            worst = NAN;
        }
        const auto mass = layer.reused_mass.download();
        if (!std::all_of(mass.begin(), mass.end(), [](float x) { return x == 0; })) {
            std::printf("  exact reused mass: not all 0\n");
            worst = NAN;
        }
        layer.counters.zero(), layer.outcomes.poison(), layer.reused_mass.poison();
    }
    return worst;
}

// One NaN among the keys of KV head 0 and one among the values of KV head 1: both must reach the outputs, and no other head.
int nan_case(Dtype dtype) {
    const Shape shape{dtype, 12, 3, 128};
    const int length = 700, bad_dim = 70;
    Layer layer(shape, length, 32, 16, multiprocessors());
    fill_kv(layer, 11, 0.25f);
    std::vector<unsigned short> keys(static_cast<size_t>(shape.num_kv_heads) * length * shape.head_dim, 0), values = keys;
    const unsigned short nan = from_float(NAN, query_dtype(dtype));
    const size_t at = static_cast<size_t>(length - 1) * shape.head_dim;
    keys[at + 3] = nan;
    values[at + static_cast<size_t>(length) * shape.head_dim + bad_dim] = nan;
    const Buffer<unsigned short> k(keys), v(values);
    launch_pack(dtype, {k.data, v.data, layer.kv(), length, length - 1, length, shape.head_dim, shape.num_kv_heads, 0});
    upload_query(layer.q_rot, normals(layer.q_rot.count, 12, 1.0f), query_dtype(dtype));
    Buffer<StepState> state(1);
    set_position(state, length - 1);
    launch_attend(prepared(true, dtype, shape.head_dim, shape.group()), layer.attend_args(state.data, Attends::exact), layer.grid, false, nullptr);
    const auto out = layer.out.download();
    int wrong = 0;
    for (size_t i = 0; i < out.size(); ++i) {
        const int kv_head = static_cast<int>(i) / shape.head_dim / shape.group(), dim = static_cast<int>(i) % shape.head_dim;
        // A block of q8 shares its scale, and so its fate.
        const bool lost = kv_head == 0 || (kv_head == 1 && (dtype == Dtype::q8 ? dim / kScaleBlock == bad_dim / kScaleBlock : dim == bad_dim));
        wrong += std::isnan(out[i]) != lost;
    }
    std::printf("%-4s NaN in %s: %d of %zu outputs wrong\n", wrong ? "FAIL" : "ok", name_of(dtype), wrong, out.size());
    return wrong != 0;
}

}  // namespace

int check_exact(const CheckScope& scope) {
    int failures = 0;
    const auto run = [&](Shape shape, const std::vector<int>& lengths, bool sink = false) {
        const double worst = exact_case(shape, lengths, 1 + shape.num_q_heads * 131 + shape.head_dim, sink);
        const bool good = worst <= kTolerance;
        failures += !good;
        std::printf("%-4s exact %-4s D%-3d %2d/%-2d up to %6d tokens%s: worst %.1e\n", good ? "ok" : "FAIL", name_of(shape.dtype), shape.head_dim, shape.num_q_heads,
                    shape.num_kv_heads, lengths.back(), sink ? ", one of most weight" : "", worst);
    };
    std::vector<int> lengths = {1, 2, 15, 16, 17, 63, 64, 65, 127, 300, 1000, 2049, 4097, 9001};
    if (scope.size == CheckSize::tiny) lengths = {1, 65, 1000};
    for (Dtype dtype : scope.types) failures += scope.has(128) && is_byte(dtype) && nan_case(dtype);
    for (int dim : scope.dims) {
        for (Dtype dtype : scope.types) {
            for (auto [q, kv] : std::vector<std::pair<int, int>>{{32, 8}, {7, 1}, {16, 16}, {32, 2}, {24, 2}, {6, 2}}) {
                if (scope.size == CheckSize::quick && q != 32) continue;
                if (scope.size == CheckSize::tiny && q != (dtype == Dtype::bf16 ? 6 : 24)) continue;
                run({dtype, q, kv, dim}, lengths);
            }
        }
    }
    if (scope.size != CheckSize::full || !scope.has(128)) return failures;
    for (Dtype dtype : scope.types) {
        run({dtype, 8, 4, 128}, {1000, 126976}, true);
        if (dtype == Dtype::f16) continue;
        for (int kv : {8, 4, 1}) run({dtype, kv == 1 ? 16 : 32, kv, 128}, {32767, 32768, 126975, 126976, 126977});
        run({dtype, 64, 64, 128}, {1, 40, 5000});
    }
    return failures;
}
