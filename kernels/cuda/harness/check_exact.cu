// Exact attention against the oracle.
#include "check.h"

#include "inputs.h"
#include "oracle.h"

namespace {

double exact_case(Shape shape, const std::vector<int>& lengths, unsigned long long seed) {
    const int capacity = *std::max_element(lengths.begin(), lengths.end()) + 5;
    Layer layer(shape, capacity, 32, 16, multiprocessors());
    fill_kv(layer, seed);
    const HostKv kv(layer);
    Buffer<StepState> state(1);
    const Kernel kernel = prepared(true, shape.dtype, shape.head_dim, shape.group());
    double worst = 0;
    for (int length : lengths) {
        const auto q = upload_query(layer.q_rot, normals(layer.q_rot.count, seed + length, 2.0f), shape.dtype);
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
        const unsigned long long bytes = 2ull * length * shape.num_kv_heads * shape.head_dim * 4;
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

}  // namespace

int check_exact(CheckSize size, const std::vector<int>& dims) {
    int failures = 0;
    const auto run = [&](Shape shape, const std::vector<int>& lengths) {
        const double worst = exact_case(shape, lengths, 1 + shape.num_q_heads * 131 + shape.head_dim);
        const bool good = worst <= kTolerance;
        failures += !good;
        std::printf("%-4s exact %s D%-3d %2d/%-2d up to %6d tokens: worst %.1e\n", good ? "ok" : "FAIL", shape.dtype == Dtype::bf16 ? "bf16" : "f16 ", shape.head_dim,
                    shape.num_q_heads, shape.num_kv_heads, lengths.back(), worst);
    };
    std::vector<int> lengths = {1, 2, 15, 16, 17, 63, 64, 65, 127, 300, 1000, 2049, 4097, 9001};
    if (size == CheckSize::tiny) lengths = {1, 65, 1000};
    for (int dim : dims) {
        for (Dtype dtype : {Dtype::bf16, Dtype::f16}) {
            for (auto [q, kv] : std::vector<std::pair<int, int>>{{32, 8}, {7, 1}, {16, 16}, {32, 2}, {24, 2}, {6, 2}}) {
                if (size == CheckSize::quick && q != 32) continue;
                if (size == CheckSize::tiny && q != (dtype == Dtype::bf16 ? 6 : 24)) continue;
                run({dtype, q, kv, dim}, lengths);
            }
        }
    }
    if (size == CheckSize::full && std::count(dims.begin(), dims.end(), 128)) {
        for (int kv : {8, 4, 1}) run({Dtype::bf16, kv == 1 ? 16 : 32, kv, 128}, {32767, 32768, 126975, 126976, 126977});
        run({Dtype::bf16, 64, 64, 128}, {1, 40, 5000});
    }
    return failures;
}
