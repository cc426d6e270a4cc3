// Timing: one graph of `kLayers` layers, each with its own K, V and ring, so that L2 holds nothing useful.
#include "bench.h"

#include <algorithm>
#include <functional>

#include "device.h"

namespace {

constexpr int kLayers = 32;

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

struct Timing {
    double median, best;  // microseconds per layer
};

Timing replay(const std::function<void(cudaStream_t)>& enqueue, int layers, int repeats = 40) {
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t begin, end;
    CHECK(cudaStreamCreate(&stream));
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    enqueue(stream);
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    CHECK(cudaEventCreate(&begin));
    CHECK(cudaEventCreate(&end));
    std::vector<double> times;
    for (int i = 0; i < repeats + 5; ++i) {
        CHECK(cudaEventRecord(begin, stream));
        CHECK(cudaGraphLaunch(exec, stream));
        CHECK(cudaEventRecord(end, stream));
        CHECK(cudaEventSynchronize(end));
        float ms = 0;
        CHECK(cudaEventElapsedTime(&ms, begin, end));
        if (i >= 5) times.push_back(ms * 1e3 / layers);
    }
    std::sort(times.begin(), times.end());
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaStreamDestroy(stream));
    return {times[times.size() / 2], times[0]};
}

enum Mode { kBoth, kExact, kReuseOnly };

struct Setting {
    const char* name;
    Policy policy;
    int cluster;
    bool overlap;
    Mode mode = kBoth;
};

class Bench {
  public:
    Bench(Shape shape, int tokens) : shape_(shape), tokens_(tokens), state_(1) {
        int count = 0;
        CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0));
        layers_.reserve(kLayers);
        for (int i = 0; i < kLayers; ++i) {
            Layer& layer = layers_.emplace_back(shape, tokens + 256, 512, 256, count);
            fill(layer.k, 10 * i + 1, 1.0f, 0.0f, shape.dtype);
            fill(layer.v, 10 * i + 2, 1.0f, 0.0f, shape.dtype);
            fill(layer.q_rot, 10 * i + 3, 1.0f, 0.0f, shape.dtype);
            fill(layer.q_pre, 10 * i + 4, 1.0f, 0.0f, Dtype::bf16);
            fill(layer.ring_query, 10 * i + 5, 1.0f, 0.0f, Dtype::bf16);
            fill_floats<<<512, 256>>>(layer.ring_out.data, layer.ring_out.count);
            // All but one head of the first group hit.
            std::vector<unsigned char> flags(shape.num_q_heads, 1);
            flags[1 % shape.num_q_heads] = 0;
            layer.forced_heads.upload(flags);
        }
        reuse_ = prepared(false, shape.dtype, shape.head_dim, shape.group());
        attend_ = prepared(true, shape.dtype, shape.head_dim, shape.group());
        CHECK(cudaDeviceSynchronize());
    }

    // Microseconds per layer; the positions advance with every replay.
    double run(const Setting& setting) {
        // The newest token is at tokens - 1 in the middle of the replays.
        state_.upload({StepState{tokens_ - 24, 0}});
        for (Layer& layer : layers_) {
            seed_ring<<<64, 256>>>(layer.ring(), shape_.num_q_heads, tokens_ - 23);
            layer.pauses.zero(), layer.counters.zero();
        }
        CHECK(cudaDeviceSynchronize());
        const Timing time = replay(
            [&](cudaStream_t stream) {
                advance_step<<<1, 1, 0, stream>>>(state_.data);
                for (size_t i = 0; i < layers_.size(); ++i) {
                    Layer& layer = layers_[i];
                    Policy policy = setting.policy;
                    policy.seed += i;
                    policy.forced_heads = layer.forced_heads.data;
                    if (setting.mode == kBoth || setting.mode == kReuseOnly) launch_reuse(reuse_, layer.reuse_args(state_.data, policy), setting.cluster, setting.overlap, stream);
                    if (setting.mode != kReuseOnly) launch_attend(attend_, layer.attend_args(state_.data, setting.mode == kExact), layer.grid, setting.overlap, stream);
                }
            },
            kLayers);
        double kv = 0, ring = 0, exact = 0, reused = 0, groups = 0;
        for (const Layer& layer : layers_) {
            const Counters c = layer.counters.download()[0];
            kv += c.kv_bytes_read, ring += c.ring_bytes, exact += c.kv_bytes_exact, reused += c.groups_reused, groups += c.groups;
        }
        const double steps = 45.0 * kLayers, bytes = (kv + ring) / steps;
        std::printf("%2d/%-2d D%d %6d  %-24s cluster %2d %-4s %8.2f us (best %7.2f)  kv %8.2f MB ring %6.2f MB  %5.2f TB/s  bytes@4TB/s %7.2f us  over %6.2f us  reused %.4f\n",
                    shape_.num_q_heads, shape_.num_kv_heads, shape_.head_dim, tokens_, setting.name, setting.mode == kExact ? 0 : setting.cluster, setting.overlap ? "pdl" : "",
                    time.median, time.best, kv / steps / 1e6, ring / steps / 1e6, bytes / time.median / 1e6, bytes / 4e6, time.median - bytes / 4e6,
                    groups > 0 ? reused / groups : 0.0);
        return time.median;
    }

    // The same bytes through a plain sum: what this device's memory gives.
    void plain_read() {
        const size_t vectors = static_cast<size_t>(shape_.num_kv_heads) * tokens_ * shape_.head_dim / 8;
        Buffer<unsigned> result(1);
        const Timing time = replay(
            [&](cudaStream_t stream) {
                for (Layer& layer : layers_) {
                    sum_bytes<<<132 * 8, 256, 0, stream>>>(reinterpret_cast<const uint4*>(layer.k.data), vectors, result.data);
                    sum_bytes<<<132 * 8, 256, 0, stream>>>(reinterpret_cast<const uint4*>(layer.v.data), vectors, result.data);
                }
            },
            kLayers, 20);
        std::printf("%2d/%-2d D%d %6d  plain sum, two launches: %.2f us, %.2f TB/s\n", shape_.num_q_heads, shape_.num_kv_heads, shape_.head_dim, tokens_, time.median,
                    vectors * 32 / time.median / 1e6);
    }

  private:
    Shape shape_;
    int tokens_;
    Buffer<StepState> state_;
    std::vector<Layer> layers_;
    Kernel reuse_{}, attend_{};
};

}  // namespace

void bench(const BenchOptions& options) {
    const Policy none = forced(kPatternNone, 64), all = forced(kPatternAll, 64);
    for (int tokens : options.contexts) {
        for (const Shape& shape : options.shapes) {
            Bench bench(shape, tokens);
            const int cluster = reuse_cluster(shape.num_kv_heads, 9);
            if (options.plain) bench.plain_read();
            if (options.brief) {
                bench.run({"exact", none, cluster, true, kExact});
                bench.run({"all hit, lag 64", all, cluster, true});
                bench.run({"95% of heads hit", forced(kPatternRandom, 64, 0.95, 99), cluster, true});
                bench.run({"none hits, forced", none, cluster, true});
                continue;
            }
            for (bool overlap : {false, true}) {
                bench.run({"exact", none, cluster, overlap, kExact});
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
