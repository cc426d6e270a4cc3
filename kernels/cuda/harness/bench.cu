// Timing: one graph of `kLayers` layers, each with its own K, V and ring, so that L2 holds nothing useful.
#include "bench.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "device.h"
#include "pace.h"

namespace {

constexpr int kLayers = 32;
constexpr double kMegabytesPerUs = 4.24;  // what this device's memory gives, for Pace

__global__ void seed_ring(Ring ring, int num_q_heads, int position) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < num_q_heads * ring.slots; i += gridDim.x * blockDim.x) {
        const int slot = i % ring.slots;
        const int newest = position - 1 - (position - 1 - slot) % ring.slots;  // latest position before `position` in this slot
        ring.meta[i] = RingMeta{newest, 11.0f, 1, 0.5f};
    }
}
__global__ void fill_floats(float* x, size_t count) {
    const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
    for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < count; i += stride) x[i] = normal(5, i % 65536);
}
__global__ void sum_bytes(const uint4* data, size_t count, unsigned* result) {
    unsigned sum = 0;
    const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
    size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x;
    for (; i + 7 * stride < count; i += 8 * stride) {
        uint4 x[8];
#pragma unroll
        for (int j = 0; j < 8; ++j) x[j] = __ldcs(data + i + j * stride);
#pragma unroll
        for (int j = 0; j < 8; ++j) sum ^= x[j].x ^ x[j].y ^ x[j].z ^ x[j].w;
    }
    for (; i < count; i += stride) sum ^= data[i].x;
    if (sum == 12345) *result = sum;
}

// Microseconds per layer. The mean is what a chain of steps costs where they differ (back-off).
struct Timing {
    double median, best, mean;
};
constexpr int kWarmup = 8, kRepeats = 40, kPacedWarmup = 66, kPacedRepeats = 130;
constexpr int kReplays = kPacedWarmup + kPacedRepeats;

class Graph {
  public:
    Graph(const std::function<void(cudaStream_t)>& enqueue) {
        cudaGraph_t graph;
        CHECK(cudaStreamCreate(&stream_));
        CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal));
        enqueue(stream_);
        CHECK(cudaStreamEndCapture(stream_, &graph));
        CHECK(cudaGraphInstantiate(&exec_, graph, 0));
        CHECK(cudaGraphDestroy(graph));
        CHECK(cudaEventCreate(&begin_));
        CHECK(cudaEventCreate(&end_));
    }
    Graph(const Graph&) = delete;
    ~Graph() {
        cudaEventDestroy(begin_);
        cudaEventDestroy(end_);
        cudaGraphExecDestroy(exec_);
        cudaStreamDestroy(stream_);
    }
    // Microseconds of one replay.
    double replay() {
        CHECK(cudaEventRecord(begin_, stream_));
        CHECK(cudaGraphLaunch(exec_, stream_));
        CHECK(cudaEventRecord(end_, stream_));
        CHECK(cudaEventSynchronize(end_));
        float ms = 0;
        CHECK(cudaEventElapsedTime(&ms, begin_, end_));
        return ms * 1e3;
    }

  private:
    cudaStream_t stream_;
    cudaGraphExec_t exec_;
    cudaEvent_t begin_, end_;
};

// Times `repeats` calls after a warm-up, each of which gives microseconds for `layers` layers.
Timing timed(const std::function<double()>& once, int layers, int repeats = kRepeats, int warmup = kWarmup) {
    std::vector<double> times;
    double sum = 0;
    for (int i = 0; i < repeats + warmup; ++i) {
        const double time = once() / layers;
        if (i >= warmup) times.push_back(time), sum += time;
    }
    std::sort(times.begin(), times.end());
    return {times[times.size() / 2], times[0], sum / times.size()};
}

// kRest: attend alone, with the ring. kPaced: kBoth, kRest or kExact, as Pace says.
enum Mode { kBoth, kExact, kReuseOnly, kRest, kPaced };

struct Setting {
    const char* name;
    Policy policy;
    int cluster;
    bool overlap;
    Mode mode = kBoth;
    PaceCost cost = {};  // of kPaced
    int change = 0;      // every so many replays another group misses
};

class Bench {
  public:
    // All layers together must be far larger than L2.
    Bench(Shape shape, int tokens, int layers) : shape_(shape), tokens_(tokens), state_(1) {
        int count = 0;
        CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0));
        layers_.reserve(layers);
        for (int i = 0; i < layers; ++i) {
            Layer& layer = layers_.emplace_back(shape, tokens + kReplays, 512, 256, count);
            if (i == 0) {
                fill_kv(layer, 1, 0.0f);
            } else {
                CHECK(cudaMemcpyAsync(layer.k.data, layers_[0].k.data, layer.k.count, cudaMemcpyDeviceToDevice));
                CHECK(cudaMemcpyAsync(layer.v.data, layers_[0].v.data, layer.v.count, cudaMemcpyDeviceToDevice));
                CHECK(cudaMemcpyAsync(layer.scales.data, layers_[0].scales.data, layer.scales.count * 2, cudaMemcpyDeviceToDevice));
            }
            fill(layer.q_rot, 10 * i + 3, 1.0f, 0.0f, query_dtype(shape.dtype));
            fill(layer.q_pre, 10 * i + 4, 1.0f, 0.0f, Dtype::bf16);
            fill(layer.ring_query, 10 * i + 5, 1.0f, 0.0f, Dtype::bf16);
            fill_floats<<<512, 256>>>(layer.ring_out.data, layer.ring_out.count);
        }
        reuse_ = prepared(false, shape.dtype, shape.head_dim, shape.group());
        attend_ = prepared(true, shape.dtype, shape.head_dim, shape.group());
        CHECK(cudaDeviceSynchronize());
    }

    // All heads hit but the last one of a group.
    void miss_in(int group) {
        std::vector<unsigned char> flags(shape_.num_q_heads, 1);
        flags[(group + 1) * shape_.group() - 1] = 0;
        for (Layer& layer : layers_) layer.forced_heads.upload(flags);
    }

    // Times one setting; the positions advance with every replay.
    Timing run(const Setting& setting, bool print = true) {
        // The newest token is at tokens - 1 in the middle of the replays.
        const bool paced_long = setting.mode == kPaced && tokens_ <= 50000;  // where rests are long
        const int repeats = paced_long ? kPacedRepeats : kRepeats, warmup = paced_long ? kPacedWarmup : kWarmup;
        const int before = tokens_ - 1 - (repeats + warmup) / 2;
        state_.upload({StepState{before, 0}});
        miss_in(0);
        for (Layer& layer : layers_) {
            seed_ring<<<64, 256>>>(layer.ring(), shape_.num_q_heads, before + 1);
            layer.pauses.zero(), layer.counters.zero(), layer.decisions.zero();
        }
        CHECK(cudaDeviceSynchronize());
        Graph graph([&](cudaStream_t stream) { enqueue(setting, stream); });
        Setting other = setting;
        other.mode = kRest;
        Graph resting([&](cudaStream_t stream) { enqueue(other, stream); });
        other.mode = kExact;
        Graph exact([&](cudaStream_t stream) { enqueue(other, stream); });
        Pace pace{setting.cost};
        double searched = 0;
        int steps = 0;
        std::vector<double> before_reused = each(&Counters::groups_reused);
        const auto paced = [&] {
            ++steps;
            const Pace::Step step = pace.next_step(tokens_);
            if (step != Pace::kSearchStep) return step == Pace::kRestStep ? resting.replay() : exact.replay();
            ++searched;
            const double time = graph.replay();
            const std::vector<double> now = each(&Counters::groups_reused);
            std::vector<double> reused(now.size());
            for (size_t i = 0; i < now.size(); ++i) reused[i] = now[i] - before_reused[i];
            pace.searched(reused, shape_.num_kv_heads, tokens_);
            before_reused = now;
            return time;
        };
        const std::function<double()> once = setting.mode == kPaced ? std::function<double()>(paced) : [&] {
            if (setting.change > 0 && ++steps % setting.change == 0) miss_in(steps / setting.change % 2);
            return graph.replay();
        };
        const Timing time = timed(once, layers_.size(), repeats, warmup);
        if (!print) return time;
        const double reads = static_cast<double>(repeats + warmup) * layers_.size(), kv = total(&Counters::kv_bytes_read) / reads / 1e6,
                     ring = total(&Counters::ring_bytes) / reads / 1e6, groups = total(&Counters::groups);
        std::printf("%-4s %2d/%-2d D%-3d %6d %-22s c%-2d %-3s %7.2f us (mean %7.2f best %7.2f) kv %7.2f ring %5.2f MB %5.2f TB/s over4 %6.2f us reused %.3f", name_of(shape_.dtype), shape_.num_q_heads,
                    shape_.num_kv_heads, shape_.head_dim, tokens_, setting.name, setting.mode == kExact ? 0 : setting.cluster, setting.overlap ? "pdl" : "", time.median,
                    time.mean, time.best, kv, ring, (kv + ring) / time.median, time.median - (kv + ring) / 4, groups > 0 ? total(&Counters::groups_reused) / groups : 0.0);
        if (setting.mode == kPaced) std::printf(" searched %.2f", searched / steps);
        std::printf("\n");
        return time;
    }

    // The same bytes through a plain sum: what this device's memory gives.
    void plain_read() {
        const size_t vectors = static_cast<size_t>(shape_.num_kv_heads) * tokens_ * shape_.row_bytes() / 16;
        Buffer<unsigned> result(1);
        Graph graph([&](cudaStream_t stream) {
            for (Layer& layer : layers_) {
                sum_bytes<<<8 * layer.grid, 256, 0, stream>>>(reinterpret_cast<const uint4*>(layer.k.data), vectors, result.data);
                sum_bytes<<<8 * layer.grid, 256, 0, stream>>>(reinterpret_cast<const uint4*>(layer.v.data), vectors, result.data);
            }
        });
        const Timing time = timed([&] { return graph.replay(); }, layers_.size(), 20);
        std::printf("%2d/%-2d D%d %6d  plain sum, two launches: %.2f us, %.2f TB/s\n", shape_.num_q_heads, shape_.num_kv_heads, shape_.head_dim, tokens_, time.median,
                    vectors * 32 / time.median / 1e6);
    }

    // 8-bit K and V of every layer to f16, as before a prefill of one more chunk.
    void expand() {
        const size_t count = static_cast<size_t>(shape_.num_kv_heads) * tokens_ * shape_.head_dim;
        Buffer<unsigned short> k(count), v(count);
        Graph graph([&](cudaStream_t stream) {
            for (Layer& layer : layers_) {
                launch_expand(shape_.dtype, {layer.kv(), k.data, v.data, tokens_, 0, tokens_, shape_.head_dim, shape_.num_kv_heads}, 8 * layer.grid, stream);
            }
        });
        const Timing time = timed([&] { return graph.replay(); }, layers_.size(), 10);
        const double bytes = 4.0 * count + static_cast<double>(shape_.num_kv_heads) * tokens_ * shape_.token_bytes();
        std::printf("%-4s %2d/%-2d D%d %6d  expand to f16: %.2f us, %.2f TB/s\n", name_of(shape_.dtype), shape_.num_q_heads, shape_.num_kv_heads, shape_.head_dim, tokens_,
                    time.median, bytes / time.median / 1e6);
    }

  private:
    // One step of all layers.
    void enqueue(const Setting& setting, cudaStream_t stream) {
        const Attends attends = setting.mode == kExact ? Attends::exact : setting.mode == kRest ? Attends::resting : Attends::decided;
        advance_step<<<1, 1, 0, stream>>>(state_.data);
        for (size_t i = 0; i < layers_.size(); ++i) {
            Layer& layer = layers_[i];
            Policy policy = setting.policy;
            policy.seed += i;
            policy.forced_heads = layer.forced_heads.data;
            if (setting.mode != kExact && setting.mode != kRest) launch_reuse(reuse_, layer.reuse_args(state_.data, policy), setting.cluster, setting.overlap, stream);
            if (setting.mode != kReuseOnly) launch_attend(attend_, layer.attend_args(state_.data, attends), layer.grid, setting.overlap, stream);
        }
    }
    // One of the counters, of each layer and of all.
    std::vector<double> each(unsigned long long Counters::*which) const {
        std::vector<double> counts;
        for (const Layer& layer : layers_) counts.push_back(layer.counters.download()[0].*which);
        return counts;
    }
    double total(unsigned long long Counters::*which) const {
        const std::vector<double> counts = each(which);
        return std::accumulate(counts.begin(), counts.end(), 0.0);
    }

    Shape shape_;
    int tokens_;
    Buffer<StepState> state_;
    std::vector<Layer> layers_;
    Kernel reuse_{}, attend_{};
};

}  // namespace

// Every hit rate, with the same policy and pace as a model would run: never slower than exact, or by how much?
void bench_rates(const BenchOptions& options) {
    std::printf("shape,tokens,rate,exact_us,always_us,paced_us,paced_over_exact\n");
    for (int tokens : options.contexts) {
        for (const Shape& shape : options.shapes) {
            Bench bench(shape, tokens, tokens > 200000 ? 8 : tokens > 50000 ? 16 : kLayers);
            const int cluster = reuse_cluster(shape.num_kv_heads, 9);
            const PaceCost cost = PaceCost::cuda(shape.group(), shape.num_kv_heads, shape.head_dim, 1e6 * kMegabytesPerUs);
            const Setting exactly{"exact", forced(kPatternNone, 64), cluster, true, kExact};
            const double exact = std::min(bench.run(exactly, false).mean, bench.run(exactly, false).mean);
            for (double rate : {0.0, 0.5, 0.9, 0.95, 0.97, 1.0}) {
                const Policy policy = forced(kPatternRandom, 64, rate, 99, 16);
                const double always = bench.run({"always", forced(kPatternRandom, 64, rate, 99), cluster, true}, false).mean;
                const Setting pacing{"paced", policy, cluster, true, kPaced, cost};
                double paced = bench.run(pacing, false).mean;
                if (paced > 1.04 * exact) paced = std::min(paced, bench.run(pacing, false).mean);  // something else on the machine?
                std::printf("%d/%d D%d,%d,%.2f,%.2f,%.2f,%.2f,%.3f%s\n", shape.num_q_heads, shape.num_kv_heads, shape.head_dim, tokens, rate, exact, always, paced,
                            paced / exact, paced / exact > 1.05 ? " SLOWER" : "");
            }
        }
    }
}

void bench(const BenchOptions& options) {
    const Policy none = forced(kPatternNone, 64), all = forced(kPatternAll, 64);
    for (int tokens : options.contexts) {
        for (const Shape& shape : options.shapes) {
            Bench bench(shape, tokens, tokens > 200000 ? 8 : kLayers);
            const int cluster = reuse_cluster(shape.num_kv_heads, 9);
            if (options.plain) bench.plain_read();
            if (options.plain && is_byte(shape.dtype)) bench.expand();
            if (options.brief) {
                bench.run({"exact", none, cluster, true, kExact});
                bench.run({"resting", none, cluster, true, kRest});
                bench.run({"all hit, lag 64", all, cluster, true});
                bench.run({"one group missed", forced(kPatternHeads, 64), cluster, true});
                bench.run({"missed group changes", forced(kPatternHeads, 64), cluster, true, kBoth, {}, 8});
                bench.run({"95% of heads hit", forced(kPatternRandom, 64, 0.95, 99), cluster, true});
                bench.run({"none hits, forced", none, cluster, true});
                continue;
            }
            for (bool overlap : {false, true}) {
                bench.run({"exact", none, cluster, overlap, kExact});
                bench.run({"resting", none, cluster, overlap, kRest});
                bench.run({"all hit, lag 64", all, cluster, overlap});
                bench.run({"one group missed", forced(kPatternHeads, 64), cluster, overlap});
                bench.run({"95% of heads hit", forced(kPatternRandom, 64, 0.95, 99), cluster, overlap});
                bench.run({"none hits, forced", none, cluster, overlap});
            }
            bench.run({"all hit, lag 1", forced(kPatternAll, 1), cluster, true});
            bench.run({"all hit, lag 512", forced(kPatternAll, 512), cluster, true});
            bench.run({"all hit, paper", paper(shape.head_dim, -9.0f, 2048, 0, false), cluster, true});
            bench.run({"none hits, paper", paper(shape.head_dim, 1.0f, 2048, 0, false), cluster, true});
            bench.run({"none hits, paper pruned", paper(shape.head_dim, 1.0f, 2048, 0, true), cluster, true});
            for (int pause : {1, 4, 16}) bench.run({"none hits, paused", paper(shape.head_dim, 1.0f, 2048, pause, true), cluster, true});
            bench.run({"exact again", none, cluster, true, kExact});
        }
    }
}
