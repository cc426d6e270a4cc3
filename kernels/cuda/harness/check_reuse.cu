// Match, amend and complete against the oracle: chains of steps in captured graphs.
#include "check.h"

#include "inputs.h"
#include "oracle.h"

namespace {

template <class E>
int stages_of(int dim) {
    return dim == 64 ? attend_stages<E, 64>(kSharedKb) : dim == 96 ? attend_stages<E, 96>(kSharedKb) : dim == 128 ? attend_stages<E, 128>(kSharedKb) : attend_stages<E, 256>(kSharedKb);
}

// The most that the attend kernel reads on a guess.
unsigned long long bytes_guessed(const Layer& layer) {
    const bool bytes = is_byte(layer.shape.dtype);
    const int dim = layer.shape.head_dim, stages = bytes ? stages_of<Fp8>(dim) : stages_of<Bf16>(dim);
    const int tile_tokens = bytes ? kAttendTileTokens<Fp8> : kAttendTileTokens<Bf16>;
    return static_cast<unsigned long long>(layer.grid) * (guessed_tiles(dim, 8) + stages - 1) * kAttendWarps * tile_tokens * layer.shape.token_bytes();
}

struct ReuseCase {
    const char* name;
    Shape shape;
    int slots, band, start, steps;
    Policy policy;
    int cluster;
    double fresh;            // probability that a head's query jumps to a new place
    int rewind = 0;          // tokens to go back, half way
    int rest_every = 0;      // every so many steps attend runs alone, with the ring
    bool damage = false;     // now and then an entry's log-sum-exp becomes infinite or NaN
    Pause stored_pause = {}; // of every group, before the first step
    bool flip = false;       // groups hit or miss by turns, and change sides half way
};

// A chain of steps of one layer, on the device and in the oracle.
class Chain {
  public:
    Chain(const ReuseCase& test, unsigned long long seed)
        : test_(test), seed_(seed), layer_(test.shape, test.start + test.steps + 3, test.slots, test.band, multiprocessors()), kv_(filled(layer_, seed)),
          flags_(test.flip ? alternating(layer_, 0) : flags(layer_, seed)), oracle_(layer_, kv_, with_heads(test.policy, layer_), flags_), state_(1), position_(test.start - 1), read_(test.shape.num_kv_heads, 0),
          place_(normals(layer_.q_pre.count, seed + 77, 1.0f)) {
        set_position(state_, position_);
        if (test.stored_pause.remaining > 0) {
            oracle_.pauses.assign(oracle_.pauses.size(), test.stored_pause);
            layer_.pauses.upload(oracle_.pauses);
        }
        CHECK(cudaStreamCreate(&stream_));
        searching_ = captured(false);
        resting_ = captured(true);
    }
    Chain(const Chain&) = delete;
    ~Chain() {
        cudaGraphExecDestroy(searching_);
        cudaGraphExecDestroy(resting_);
        cudaStreamDestroy(stream_);
    }

    int run() {
        for (int step = 0; step < test_.steps; ++step) {
            if (test_.rewind > 0 && step == test_.steps / 2) rewind(step);
            if (test_.damage && step % 3 == 2) damage(step);
            if (test_.flip && step == test_.steps / 2) oracle_.forced_heads = alternating(layer_, 1);
            ++position_;
            const bool resting = test_.rest_every > 0 && step % test_.rest_every == test_.rest_every - 1;
            const std::vector<float> q_pre = upload_query(layer_.q_pre, next_query(step), Dtype::bf16);
            past_.push_back(q_pre);
            const auto q_rot = upload_query(layer_.q_rot, normals(q_pre.size(), seed_ + 3000 + step, 2.0f), query_dtype(test_.shape.dtype));
            layer_.out.poison(), layer_.outcomes.poison(), layer_.reused_mass.poison();
            CHECK(cudaGraphLaunch(resting ? resting_ : searching_, stream_));
            CHECK(cudaStreamSynchronize(stream_));
            const Oracle::Step want = oracle_.step(position_, resting, q_pre, q_rot);
            compare_heads(want, q_pre);
            compare_groups(want.outcomes, resting);
        }
        compare_counters();
        const Counters& c = oracle_.counters;
        std::printf("%-4s reuse %-26s %-4s D%-3d %2d/%-2d M%-3d S%-3d cluster %2d: %3d steps, groups reused %llu/%llu, heads matched %llu, depth %u, worst %.1e, lse %.1e, mass %.1e\n",
                    faults_ ? "FAIL" : "ok", test_.name, name_of(test_.shape.dtype), test_.shape.head_dim, test_.shape.num_q_heads,
                    test_.shape.num_kv_heads, test_.slots, test_.band, test_.cluster, test_.steps, c.groups_reused, c.groups, c.heads_matched, deepest_, worst_, worst_lse_, worst_mass_);
        return faults_;
    }

  private:
    static const Layer& filled(Layer& layer, unsigned long long seed) {
        fill_kv(layer, seed, 0.25f);
        return layer;
    }
    static std::vector<unsigned char> flags(Layer& layer, unsigned long long seed) {
        std::vector<unsigned char> flags(layer.shape.num_q_heads);
        for (size_t h = 0; h < flags.size(); ++h) flags[h] = hash_u32(seed + 9, h) % 8 != 0;
        layer.forced_heads.upload(flags);
        return flags;
    }
    // Every other group hits, beginning with `first`.
    static std::vector<unsigned char> alternating(Layer& layer, int first) {
        std::vector<unsigned char> flags(layer.shape.num_q_heads);
        for (size_t h = 0; h < flags.size(); ++h) flags[h] = h / layer.shape.group() % 2 == first;
        layer.forced_heads.upload(flags);
        return flags;
    }
    static Policy with_heads(Policy policy, const Layer& layer) {
        policy.forced_heads = layer.forced_heads.data;
        return policy;
    }

    cudaGraphExec_t captured(bool resting) {
        const Shape& shape = test_.shape;
        const Kernel reuse = prepared(false, shape.dtype, shape.head_dim, shape.group()), attend = prepared(true, shape.dtype, shape.head_dim, shape.group());
        const bool overlap = seed_ % 4 != 0;  // programmatic dependent launch, mostly
        cudaGraph_t graph;
        cudaGraphExec_t exec;
        CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal));
        advance_step<<<1, 1, 0, stream_>>>(state_.data);
        if (!resting) launch_reuse(reuse, layer_.reuse_args(state_.data, oracle_.policy), test_.cluster, overlap, stream_);
        launch_attend(attend, layer_.attend_args(state_.data, resting ? Attends::resting : Attends::decided), layer_.grid, overlap, stream_);
        CHECK(cudaStreamEndCapture(stream_, &graph));
        CHECK(cudaGraphInstantiate(&exec, graph, 0));
        CHECK(cudaGraphDestroy(graph));
        return exec;
    }

    void rewind(int step) {
        position_ -= test_.rewind;
        state_.upload({StepState{position_, static_cast<unsigned>(step)}});
        truncate_ring<<<8, 128, 0, stream_>>>(layer_.ring(), test_.shape.num_q_heads, position_ + 1, layer_.pauses.data, test_.shape.num_kv_heads);
        CHECK(cudaStreamSynchronize(stream_));
        oracle_.truncate(position_ + 1);
    }
    // The newest entry of one head in four loses its log-sum-exp.
    void damage(int step) {
        const float lse = step % 2 == 0 ? INFINITY : NAN;
        for (int head = step % 4; head < test_.shape.num_q_heads; head += 4) {
            const int slot = position_ % layer_.slots;
            Entry64& entry = oracle_.ring[head][slot];
            if (entry.position != position_) continue;
            entry.state.lse = lse;
            CHECK(cudaMemcpy(&layer_.meta.data[static_cast<size_t>(head) * layer_.slots + slot].lse, &lse, sizeof(lse), cudaMemcpyHostToDevice));
        }
    }

    std::vector<float> next_query(int step) {
        const int dim = test_.shape.head_dim;
        std::vector<float> q(layer_.q_pre.count);
        for (int h = 0; h < test_.shape.num_q_heads; ++h) {
            const bool fresh = hash_u32(seed_ + 5, step * 64ull + h) < test_.fresh * 4294967295.0;
            // Now and then a query repeats one that was itself repeated: two equal rows, of which the older must win.
            const bool repeat = step > 4 && step % 5 < 2;
            for (int d = 0; d < dim; ++d) {
                const size_t i = static_cast<size_t>(h) * dim + d;
                if (fresh) place_[i] = normal(seed_ + 1000 + step, i);
                q[i] = repeat ? past_[step - 5][i] : place_[i] + 0.15f * normal(seed_ + 2000 + step, i);
            }
        }
        return q;
    }

    void fault(const char* what, int where, double got, double want) {
        if (++faults_ <= 4) std::printf("  %s: %s at position %d, %d: got %g, expected %g\n", test_.name, what, position_, where, got, want);
    }

    void compare_heads(const Oracle::Step& want, const std::vector<float>& q_pre) {
        const int dim = test_.shape.head_dim;
        const auto out = layer_.out.download(), ring_out = layer_.ring_out.download();
        const auto meta = layer_.meta.download();
        const auto keys = layer_.ring_query.download();
        const auto outcomes = layer_.outcomes.download();
        const auto mass = layer_.reused_mass.download();
        for (int h = 0; h < test_.shape.num_q_heads; ++h) {
            const double error = relative_error(out.data() + static_cast<size_t>(h) * dim, want.out[h].out);
            if (!(error <= kTolerance)) fault("output", h, error, 0);
            worst_ = error <= worst_ ? worst_ : error;
            if (outcomes[h] != want.outcomes[h]) fault("outcome", h, outcomes[h], want.outcomes[h]);
            const double mass_error = want.reused_mass[h] > 0 ? std::fabs(mass[h] / want.reused_mass[h] - 1) : std::fabs(mass[h]);
            if (!(mass_error <= (want.reused_mass[h] > 0 ? 1e-3 : 0.0))) fault("reused mass", h, mass[h], want.reused_mass[h]);
            worst_mass_ = std::max(worst_mass_, mass_error);
            const size_t row = static_cast<size_t>(h) * layer_.slots + position_ % layer_.slots;
            const Entry64& entry = oracle_.ring[h][position_ % layer_.slots];
            const RingMeta& m = meta[row];
            if (m.position != position_) fault("entry position", h, m.position, position_);
            if (m.depth != entry.depth) fault("depth", h, m.depth, entry.depth);
            if (!(std::fabs(m.distance - entry.distance) <= 1e-3 * (1 + entry.distance))) fault("distance", h, m.distance, entry.distance);
            const bool empty = entry.state.lse == -INFINITY;
            if (empty ? m.lse != -INFINITY : !(std::fabs(m.lse - entry.state.lse) <= 1e-3)) fault("entry lse", h, m.lse, entry.state.lse);
            if (!empty) worst_lse_ = std::max(worst_lse_, std::fabs(m.lse - entry.state.lse));
            const double entry_error = relative_error(ring_out.data() + row * dim, entry.state.out);
            if (!(entry_error <= kTolerance)) fault("entry output", h, entry_error, 0);
            for (int d = 0; d < dim; ++d) {
                if (to_float(keys[row * dim + d], Dtype::bf16) != q_pre[static_cast<size_t>(h) * dim + d]) fault("entry query", h, d, 0);
            }
            deepest_ = std::max(deepest_, m.depth);
        }
    }

    void compare_groups(const std::vector<unsigned char>& outcomes, bool resting) {
        const auto pauses = layer_.pauses.download();
        for (size_t g = 0; g < pauses.size(); ++g) {
            const Pause &got = pauses[g], &want = oracle_.pauses[g];
            if (got.remaining != want.remaining) fault("pause", g, got.remaining, want.remaining);
            if (got.length != want.length) fault("pause length", g, got.length, want.length);
            if (got.misses != want.misses) fault("misses", g, got.misses, want.misses);
        }
        if (resting) return;
        const auto words = layer_.decisions.download();
        bool repeated = true;  // by every group that had repeated itself before
        for (size_t g = 0; g < words.size(); ++g) {
            const bool read = outcomes[g * test_.shape.group()] != kReused;
            if (read_[g] == 0 || read_[g] == kHistory) repeated = repeated && read == (read_[g] & kRead);
            read_[g] = (read_[g] << 1 | read) & kHistory;
            const unsigned want = state_.download()[0].step << kDecisionShift | read_[g];
            if (words[g] != want) fault("decision", g, words[g], want);
        }
        if (!repeated) guessed_bytes_ += bytes_guessed(layer_);
    }

    void compare_counters() {
        const Counters got = layer_.counters.download()[0], want = oracle_.counters;
        // Whether the attend kernel looked before or after the decisions is a matter of timing.
        if (got.kv_bytes_read < want.kv_bytes_read || got.kv_bytes_read > want.kv_bytes_read + guessed_bytes_) fault("kv_bytes_read", -1, got.kv_bytes_read, want.kv_bytes_read + guessed_bytes_);
        if (got.kv_bytes_exact != want.kv_bytes_exact) fault("kv_bytes_exact", -1, got.kv_bytes_exact, want.kv_bytes_exact);
        if (test_.policy.prune ? got.ring_bytes > want.ring_bytes : got.ring_bytes != want.ring_bytes) fault("ring_bytes", -1, got.ring_bytes, want.ring_bytes);
        if (got.groups != want.groups || got.groups_reused != want.groups_reused) fault("groups_reused", -1, got.groups_reused, want.groups_reused);
        if (got.heads_matched != want.heads_matched) fault("heads_matched", -1, got.heads_matched, want.heads_matched);
        if (got.heads_reused != want.heads_reused) fault("heads_reused", -1, got.heads_reused, want.heads_reused);
    }

    const ReuseCase test_;
    const unsigned long long seed_;
    Layer layer_;
    const HostKv kv_;
    const std::vector<unsigned char> flags_;
    Oracle oracle_;
    Buffer<StepState> state_;
    int position_;
    std::vector<unsigned> read_;            // per group: its latest decisions, as its word holds them
    std::vector<float> place_;              // around which each head's queries lie
    std::vector<std::vector<float>> past_;  // queries of every step
    cudaStream_t stream_ = nullptr;
    cudaGraphExec_t searching_ = nullptr, resting_ = nullptr;
    unsigned long long guessed_bytes_ = 0;  // may have been read on wrong guesses
    int faults_ = 0;
    double worst_ = 0, worst_lse_ = 0, worst_mass_ = 0;
    unsigned deepest_ = 0;
};

}  // namespace

int check_reuse(const CheckScope& scope) {
    int failures = 0;
    const bool quick = scope.size != CheckSize::full;
    unsigned long long seed = 4242;
    const auto run = [&](const ReuseCase& test) { failures += Chain(test, seed += 17).run() != 0; };
    const int steps = scope.size == CheckSize::tiny ? 8 : quick ? 20 : 130;
    for (int dim : scope.dims) {
        for (Dtype dtype : scope.types) {
            const Policy search = paper(dim, 0.45f, 40, 0, false), pruned = paper(dim, 0.45f, 40, 0, true), pausing = paper(dim, 0.45f, 40, 4, true);
            // Early enough for prefixes, and so for hits, even in a short chain.
            const int start = quick ? 36 : 0;
            if (scope.size == CheckSize::tiny) {
                if (dtype == Dtype::bf16) run({"paper", {dtype, 8, 2, dim}, 48, 32, start, steps, search, 8, 0.1});
                else run({"forced heads, flipped, wide", {dtype, 24, 2, dim}, 64, 32, 44, 12, forced(kPatternHeads, 1), 2, 0.5, 0, 0, false, {}, true});
                continue;
            }
            run({"paper", {dtype, 8, 2, dim}, 48, 32, start, steps, search, 8, 0.1});
            run({"paper pruned", {dtype, 16, 2, dim}, 48, 32, start, steps, pruned, 8, 0.05});
            run({"paper wide group", {dtype, 16, 1, dim}, 100, 16, start, steps, search, 16, 0.02});
            run({"forced random, pauses", {dtype, 8, 4, dim}, 64, 48, quick ? 44 : 0, steps, forced(kPatternRandom, 64, 0.7, 11, 3), 4, 0.5});
            if (quick) continue;
            run({"paper group 1", {dtype, 5, 5, dim}, 33, 7, 0, steps, pruned, 4, 0.3});
            run({"paper pauses", {dtype, 12, 4, dim}, 64, 32, 30, steps, pausing, 2, 0.3});
            run({"paper pauses from 0", {dtype, 12, 4, dim}, 64, 32, 0, steps, paper(dim, 0.45f, 0, 4, true), 4, 0.3});
            run({"paper pauses, stored", {dtype, 12, 4, dim}, 64, 32, 30, steps, pausing, 2, 0.3, 0, 0, false, {5, 4, 7}});
            run({"paper, pause stored, off", {dtype, 12, 4, dim}, 64, 32, 30, steps, pruned, 2, 0.3, 0, 0, false, {5, 4, 7}});
            run({"paper, damaged", {dtype, 12, 4, dim}, 64, 32, 0, steps, search, 4, 0.1, 0, 0, true});
            run({"paper, rewound", {dtype, 8, 2, dim}, 48, 32, 0, steps, pausing, 8, 0.1, 20});
            run({"paper, resting", {dtype, 8, 2, dim}, 48, 32, 0, steps, pausing, 8, 0.1, 0, 3});
            run({"forced all", {dtype, 14, 2, dim}, 64, 48, 0, steps, forced(kPatternAll, 20), 8, 0.5});
            run({"forced random", {dtype, 8, 4, dim}, 64, 48, 0, steps, forced(kPatternRandom, 64, 0.9, 7), 1, 0.5});
            run({"forced heads", {dtype, 8, 4, dim}, 64, 48, 10, steps, forced(kPatternHeads, 1), 8, 0.5});
            run({"forced heads, flipped", {dtype, 8, 4, dim}, 64, 48, 10, steps, forced(kPatternHeads, 1), 8, 0.5, 0, 0, false, {}, true});
            run({"forced heads, pauses", {dtype, 24, 2, dim}, 48, 40, 10, steps, forced(kPatternHeads, 48, 0, 0, 8), 8, 0.5});
            run({"forced none", {dtype, 8, 4, dim}, 64, 48, 10, 20, forced(kPatternNone, 8), 8, 0.5});
            run({"forced none, pauses", {dtype, 8, 4, dim}, 64, 48, 10, 40, forced(kPatternNone, 8, 0, 0, 16), 8, 0.5});
        }
    }
    if (scope.size == CheckSize::tiny || !scope.has(128)) return failures;
    for (Dtype dtype : scope.types) {
        if (dtype == Dtype::f16) continue;
        for (int cluster : {8, 16}) {
            const int far = quick ? 3000 : 126970;
            run({"paper 127K", {dtype, 32, 8, 128}, 512, 256, far, 8, paper(128, 0.45f, 2048, 0, false), cluster, 0.01});
            run({"paper pruned 127K", {dtype, 32, 4, 128}, 512, 256, far, 8, paper(128, 0.45f, 2048, 16, true), cluster, 0.01});
            run({"forced heads 127K, flipped", {dtype, 32, 8, 128}, 512, 256, far, 14, forced(kPatternHeads, 64), cluster, 0.5, 0, 0, false, {}, true});
            run({"forced random 127K", {dtype, 32, 8, 128}, 512, 256, far, 8, forced(kPatternRandom, 64, 0.95, 3), cluster, 0.5});
        }
    }
    return failures;
}
