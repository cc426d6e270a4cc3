// The kernels against the oracle.
#include "check.h"

#include "oracle.h"

namespace {

constexpr double kTolerance = 2e-3;

int multiprocessors() {
    int count = 0;
    CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0));
    return count;
}

void set_position(Buffer<StepState>& state, int position) { state.upload({StepState{position, 0}}); }

void fill_kv(Layer& layer, unsigned long long seed) {
    fill(layer.k, seed, 1.0f, 0.0f, layer.shape.dtype);
    fill(layer.v, seed + 1, 1.0f, 0.25f, layer.shape.dtype);
}

std::vector<float> upload_query(Buffer<unsigned short>& buffer, const std::vector<float>& q, Dtype dtype) {
    std::vector<unsigned short> bits(q.size());
    std::vector<float> rounded(q.size());
    for (size_t i = 0; i < q.size(); ++i) bits[i] = from_float(q[i], dtype), rounded[i] = to_float(bits[i], dtype);
    buffer.upload(bits);
    return rounded;
}

std::vector<float> normals(size_t count, unsigned long long seed, float scale) {
    std::vector<float> x(count);
    for (size_t i = 0; i < count; ++i) x[i] = scale * normal(seed, i);
    return x;
}

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
        for (int again = 0; again < 2; ++again) launch_attend(kernel, layer.attend_args(state.data, true), layer.grid, again, nullptr);
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
        if (c.kv_bytes_read != bytes || c.kv_bytes_exact != bytes) {
            std::printf("  exact counters: %llu %llu, expected %llu\n", c.kv_bytes_read, c.kv_bytes_exact, bytes);
            worst = NAN;
        }
        layer.counters.zero();
    }
    return worst;
}

// What the attend kernel reads before the decisions when all groups were read in the step before.
unsigned long long bytes_ahead(const Layer& layer, int position) {
    const int length = position + 1, dim = layer.shape.head_dim;
    const int stages = dim == 64 ? attend_stages<64>(kSharedKb) : dim == 96 ? attend_stages<96>(kSharedKb) : dim == 128 ? attend_stages<128>(kSharedKb) : attend_stages<256>(kSharedKb);
    const Split split(length, std::max(0, length - layer.band), layer.shape.num_kv_heads, layer.grid);
    unsigned long long tokens = 0;
    for (int b = 0; b < split.blocks; ++b) {
        tokens += split.tokens_between(split.start(b), std::min(split.start(b + 1), split.start(b) + (stages - 1) * kAttendWarps));
    }
    return tokens * 4 * dim;
}

struct ReuseCase {
    const char* name;
    Shape shape;
    int slots, band, start, steps;
    Policy policy;
    int cluster;
    double fresh;    // probability that a head's query jumps to a new place
    int rewind = 0;  // tokens to go back, half way
};

// Steps of a captured graph against the oracle: outputs, outcomes, entries, pauses, counters. Returns the number of faults.
int reuse_case(const ReuseCase& test, unsigned long long seed) {
    const Shape& shape = test.shape;
    const int dim = shape.head_dim, heads = shape.num_q_heads;
    Layer layer(shape, test.start + test.steps + 3, test.slots, test.band, multiprocessors());
    fill_kv(layer, seed);
    std::vector<unsigned char> flags(heads);
    for (int h = 0; h < heads; ++h) flags[h] = hash_u32(seed + 9, h) % 8 != 0;
    layer.forced_heads.upload(flags);
    Policy policy = test.policy;
    policy.forced_heads = layer.forced_heads.data;
    const HostKv kv(layer);
    Oracle oracle(layer, kv, policy, flags);
    Buffer<StepState> state(1);
    set_position(state, test.start - 1);
    const Kernel reuse = prepared(false, shape.dtype, dim, shape.group()), attend = prepared(true, shape.dtype, dim, shape.group());

    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CHECK(cudaStreamCreate(&stream));
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    advance_step<<<1, 1, 0, stream>>>(state.data);
    const bool overlap = seed % 4 != 0;  // programmatic dependent launch, mostly
    launch_reuse(reuse, layer.reuse_args(state.data, policy), test.cluster, overlap, stream);
    launch_attend(attend, layer.attend_args(state.data, false), layer.grid, overlap, stream);
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&exec, graph, 0));

    int faults = 0;
    double worst = 0, worst_lse = 0;
    unsigned deepest = 0;
    const auto fault = [&](const char* what, int position, int head, double got, double want) {
        if (++faults <= 4) std::printf("  %s: %s at position %d head %d: got %g, expected %g\n", test.name, what, position, head, got, want);
    };
    std::vector<float> place = normals(static_cast<size_t>(heads) * dim, seed + 77, 1.0f);
    std::vector<std::vector<float>> past;
    bool all_read = false;
    unsigned long long ahead_bytes = 0;  // read for groups that were expected to be read and were not
    int position = test.start - 1;
    for (int step = 0; step < test.steps; ++step) {
        if (test.rewind > 0 && step == test.steps / 2) {
            position -= test.rewind;
            state.upload({StepState{position, static_cast<unsigned>(step)}});
            truncate_ring<<<8, 128, 0, stream>>>(layer.ring(), heads, position + 1);
            CHECK(cudaStreamSynchronize(stream));
            oracle.truncate(position + 1);
        }
        ++position;
        std::vector<float> q(static_cast<size_t>(heads) * dim);
        for (int h = 0; h < heads; ++h) {
            const bool fresh = hash_u32(seed + 5, step * 64ull + h) < test.fresh * 4294967295.0;
            // Now and then a query repeats one that was itself repeated: two equal rows, of which the older must win.
            const bool repeat = step > 4 && step % 5 < 2;
            for (int d = 0; d < dim; ++d) {
                const size_t i = static_cast<size_t>(h) * dim + d;
                if (fresh) place[i] = normal(seed + 1000 + step, i);
                q[i] = repeat ? past[step - 5][i] : place[i] + 0.15f * normal(seed + 2000 + step, i);
            }
        }
        const auto q_pre = upload_query(layer.q_pre, q, Dtype::bf16);
        past.push_back(q_pre);
        const auto q_rot = upload_query(layer.q_rot, normals(q.size(), seed + 3000 + step, 2.0f), shape.dtype);
        layer.out.poison();
        CHECK(cudaGraphLaunch(exec, stream));
        CHECK(cudaStreamSynchronize(stream));

        std::vector<State64> want;
        std::vector<unsigned char> outcomes;
        oracle.step(position, q_pre, q_rot, want, outcomes);
        const auto out = layer.out.download(), ring_out = layer.ring_out.download();
        const auto meta = layer.meta.download();
        const auto keys = layer.ring_query.download();
        const auto got_outcomes = layer.outcomes.download();
        for (int h = 0; h < heads; ++h) {
            const double error = relative_error(out.data() + static_cast<size_t>(h) * dim, want[h].out);
            if (!(error <= kTolerance)) fault("output", position, h, error, 0);
            worst = error <= worst ? worst : error;
            if (got_outcomes[h] != outcomes[h]) fault("outcome", position, h, got_outcomes[h], outcomes[h]);
            const size_t row = static_cast<size_t>(h) * layer.slots + position % layer.slots;
            const Entry64& entry = oracle.ring[h][position % layer.slots];
            const RingMeta& m = meta[row];
            if (m.position != position) fault("entry position", position, h, m.position, position);
            if (m.depth != entry.depth) fault("depth", position, h, m.depth, entry.depth);
            if (!(std::fabs(m.distance - entry.distance) <= 1e-3 * (1 + entry.distance))) fault("distance", position, h, m.distance, entry.distance);
            const bool empty = entry.state.lse == -INFINITY;
            if (empty ? m.lse != -INFINITY : !(std::fabs(m.lse - entry.state.lse) <= 1e-3)) fault("entry lse", position, h, m.lse, entry.state.lse);
            if (!empty) worst_lse = std::max(worst_lse, std::fabs(m.lse - entry.state.lse));
            const double entry_error = relative_error(ring_out.data() + row * dim, entry.state.out);
            if (!(entry_error <= kTolerance)) fault("entry output", position, h, entry_error, 0);
            for (int d = 0; d < dim; ++d) {
                if (to_float(keys[row * dim + d], Dtype::bf16) != q_pre[static_cast<size_t>(h) * dim + d]) fault("entry query", position, h, d, 0);
            }
            deepest = std::max(deepest, m.depth);
        }
        const auto read = layer.decisions.download();
        const bool expected = all_read;
        all_read = std::all_of(read.begin(), read.end(), [](unsigned decision) { return decision & 1; });
        if (expected && !all_read) ahead_bytes += bytes_ahead(layer, position);
        for (int g = 0; g < shape.num_kv_heads; ++g) {
            const bool reused = outcomes[g * shape.group()] == kReused;
            if ((read[g] & 1) != !reused) fault("decision", position, g, read[g], !reused);
        }
    }
    const Counters got = layer.counters.download()[0], want = oracle.counters;
    // Whether the attend kernel looked before or after the decisions is a matter of timing.
    if (got.kv_bytes_read < want.kv_bytes_read || got.kv_bytes_read > want.kv_bytes_read + ahead_bytes) fault("kv_bytes_read", -1, -1, got.kv_bytes_read, want.kv_bytes_read + ahead_bytes);
    if (got.kv_bytes_exact != want.kv_bytes_exact) fault("kv_bytes_exact", -1, -1, got.kv_bytes_exact, want.kv_bytes_exact);
    if (policy.prune ? got.ring_bytes > want.ring_bytes : got.ring_bytes != want.ring_bytes) fault("ring_bytes", -1, -1, got.ring_bytes, want.ring_bytes);
    if (got.groups != want.groups || got.groups_reused != want.groups_reused) fault("groups_reused", -1, -1, got.groups_reused, want.groups_reused);
    if (got.heads_matched != want.heads_matched) fault("heads_matched", -1, -1, got.heads_matched, want.heads_matched);
    if (got.heads_reused != want.heads_reused) fault("heads_reused", -1, -1, got.heads_reused, want.heads_reused);
    std::printf("%-4s reuse %-26s %s D%-3d %2d/%-2d M%-3d S%-3d cluster %2d: %3d steps, groups reused %llu/%llu, heads matched %llu, depth %u, worst %.1e, lse %.1e\n",
                faults ? "FAIL" : "ok", test.name, shape.dtype == Dtype::bf16 ? "bf16" : "f16 ", dim, heads, shape.num_kv_heads, test.slots, test.band, test.cluster,
                test.steps, got.groups_reused, got.groups, got.heads_matched, deepest, worst, worst_lse);
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaStreamDestroy(stream));
    return faults;
}

}  // namespace

int check_exact(bool quick) {
    int failures = 0;
    const auto run = [&](Shape shape, const std::vector<int>& lengths) {
        const double worst = exact_case(shape, lengths, 1 + shape.num_q_heads * 131 + shape.head_dim);
        const bool good = worst <= kTolerance;
        failures += !good;
        std::printf("%-4s exact %s D%-3d %2d/%-2d up to %6d tokens: worst %.1e\n", good ? "ok" : "FAIL", shape.dtype == Dtype::bf16 ? "bf16" : "f16 ", shape.head_dim,
                    shape.num_q_heads, shape.num_kv_heads, lengths.back(), worst);
    };
    const std::vector<int> lengths = {1, 2, 15, 16, 17, 63, 64, 65, 127, 300, 1000, 2049, 4097, 9001};
#ifdef ONLY_D128
    const std::vector<int> dims = {128};
#else
    const std::vector<int> dims = {64, 96, 128, 256};
#endif
    for (int dim : dims) {
        for (Dtype dtype : {Dtype::bf16, Dtype::f16}) {
            for (auto [q, kv] : std::vector<std::pair<int, int>>{{32, 8}, {7, 1}, {16, 16}, {32, 2}, {24, 2}, {6, 2}}) {
                if (quick && q != 32) continue;
                run({dtype, q, kv, dim}, lengths);
            }
        }
    }
    if (!quick) {
        for (int kv : {8, 4, 1}) run({Dtype::bf16, kv == 1 ? 16 : 32, kv, 128}, {32767, 32768, 126975, 126976, 126977});
        run({Dtype::bf16, 64, 64, 128}, {1, 40, 5000});
    }
    return failures;
}

int check_reuse(bool quick) {
    int failures = 0;
    unsigned long long seed = 4242;
    const auto run = [&](const ReuseCase& test) { failures += reuse_case(test, seed += 17) != 0; };
#ifdef ONLY_D128
    const std::vector<int> dims = {128};
#else
    const std::vector<int> dims = {64, 96, 128, 256};
#endif
    const int steps = quick ? 24 : 130;
    for (int dim : dims) {
        for (Dtype dtype : {Dtype::bf16, Dtype::f16}) {
            const Policy search = paper(dim, 0.45f, 40, 0, false), pruned = paper(dim, 0.45f, 40, 0, true);
            run({"paper", {dtype, 8, 2, dim}, 48, 32, 0, steps, search, 8, 0.1});
            run({"paper pruned", {dtype, 16, 2, dim}, 48, 32, 0, steps, pruned, 8, 0.05});
            if (quick) continue;
            run({"paper wide group", {dtype, 16, 1, dim}, 100, 16, 0, steps, search, 16, 0.02});
            run({"paper group 1", {dtype, 5, 5, dim}, 33, 7, 0, steps, pruned, 4, 0.3});
            run({"paper pauses", {dtype, 12, 4, dim}, 64, 32, 30, steps, paper(dim, 0.45f, 40, 4, true), 2, 0.3});
            run({"paper, rewound", {dtype, 8, 2, dim}, 48, 32, 0, steps, search, 8, 0.1, 20});
            run({"forced all", {dtype, 14, 2, dim}, 64, 48, 0, steps, forced(kPatternAll, 20), 8, 0.5});
            run({"forced random", {dtype, 8, 4, dim}, 64, 48, 0, steps, forced(kPatternRandom, 64, 0.9, 7), 1, 0.5});
            run({"forced heads", {dtype, 8, 4, dim}, 64, 48, 10, steps, forced(kPatternHeads, 1), 8, 0.5});
            run({"forced none", {dtype, 8, 4, dim}, 64, 48, 10, 20, forced(kPatternNone, 8), 8, 0.5});
        }
    }
    for (int cluster : {8, 16}) {
        const int far = quick ? 3000 : 126970;
        run({"paper 127K", {Dtype::bf16, 32, 8, 128}, 512, 256, far, 8, paper(128, 0.45f, 2048, 0, false), cluster, 0.01});
        run({"paper pruned 127K", {Dtype::bf16, 32, 4, 128}, 512, 256, far, 8, paper(128, 0.45f, 2048, 16, true), cluster, 0.01});
        run({"forced random 127K", {Dtype::bf16, 32, 8, 128}, 512, 256, far, 8, forced(kPatternRandom, 64, 0.95, 3), cluster, 0.5});
    }
    return failures;
}
