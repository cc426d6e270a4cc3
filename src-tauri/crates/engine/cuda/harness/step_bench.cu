// Times products of whole models' matrices, each over copies that exceed L2 many times, and a step without attention. Graph replays,
// device events, medians. Prints bytes per second and the share of what a plain sum over the same memory reaches.

#include <algorithm>

#include "step_check.h"

namespace {

constexpr size_t kPool = 6ull << 30;

struct Graph {
    cudaGraphExec_t exec = nullptr;
    template <class Record>
    Graph(cudaStream_t stream, Record record) {
        cudaGraph_t graph;
        CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        record();
        CHECK(cudaStreamEndCapture(stream, &graph));
        CHECK(cudaGraphInstantiate(&exec, graph, 0));
        CHECK(cudaGraphDestroy(graph));
    }
    ~Graph() { cudaGraphExecDestroy(exec); }
    // Median microseconds of a replay.
    double time(cudaStream_t stream, int replays) {
        cudaEvent_t begin, end;
        CHECK(cudaEventCreate(&begin));
        CHECK(cudaEventCreate(&end));
        std::vector<float> times;
        for (int i = 0; i < replays + 3; ++i) {
            CHECK(cudaEventRecord(begin, stream));
            CHECK(cudaGraphLaunch(exec, stream));
            CHECK(cudaEventRecord(end, stream));
            CHECK(cudaEventSynchronize(end));
            float ms;
            CHECK(cudaEventElapsedTime(&ms, begin, end));
            if (i >= 3) times.push_back(ms * 1000);
        }
        CHECK(cudaEventDestroy(begin));
        CHECK(cudaEventDestroy(end));
        std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
        return times[times.size() / 2];
    }
};

__global__ void __launch_bounds__(512) plain_sum(const uint4* data, size_t count, unsigned* out) {
    const uint64_t policy = evict_first_policy();
    unsigned sum = 0;
    const size_t stride = static_cast<size_t>(gridDim.x) * 512;
    size_t i = blockIdx.x * 512ull + threadIdx.x;
    for (; i + 7 * stride < count; i += 8 * stride) {
        uint4 v[8];
#pragma unroll
        for (int j = 0; j < 8; ++j)
            asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
                         : "=r"(v[j].x), "=r"(v[j].y), "=r"(v[j].z), "=r"(v[j].w)
                         : "l"(data + i + j * stride), "l"(policy));
#pragma unroll
        for (int j = 0; j < 8; ++j) sum += v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
    if (sum == 0x12345678) out[0] = sum;
}

struct Spec {
    const char* name;
    int layers, d, q, kv, dim, ff, vocab;
};
const Spec kLlama8{"llama-3.1-8b", 32, 4096, 32, 8, 128, 14336, 128256};
const Spec kQwen4{"qwen3-4b", 36, 2560, 32, 8, 128, 9728, 151936};
const Spec kLlama1{"llama-3.2-1b", 16, 2048, 32, 8, 64, 8192, 128256};

class Bench {
    Buffer<unsigned char> pool_{kPool};
    Buffer<float> x_{1 << 18}, y_{1 << 18}, ones_{1 << 15};
    cudaStream_t stream_;
    int sms_;
    double plain_ = 0;
    int filled_ = -2;

  public:
    Bench() {
        CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
        CHECK(cudaDeviceGetAttribute(&sms_, cudaDevAttrMultiProcessorCount, 0));
        launch_with(reinterpret_cast<const void*>(fill_f32), dim3(512), 256, false, stream_, x_.data, 1ll << 18, 3ull, 1.0f);
        ones_.upload(std::vector<float>(1 << 15, 1.0f));
        fill(kBf16);
        for (int blocks : {sms_, 2 * sms_, 4 * sms_}) {
            Graph graph(stream_, [&] { plain_sum<<<blocks, 512, 0, stream_>>>(reinterpret_cast<const uint4*>(pool_.data), kPool / 16, reinterpret_cast<unsigned*>(y_.data)); });
            plain_ = std::max(plain_, kPool / graph.time(stream_, 9) / 1e3);
        }
        std::printf("plain sum over %.1f GB: %.0f GB/s, %d multiprocessors\n", kPool / 1e9, plain_, sms_);
    }
    // The whole pool with numbers that are sound in bf16 and f16 alike. Block types are filled matrix by matrix.
    void fill(int type) {
        if (filled_ == type) return;
        filled_ = type;
        const void* kernel = pick(type == kF16 ? kF16 : kBf16, "fill");
        launch_with(kernel, dim3(1024), 256, false, stream_, pool_.data, static_cast<long long>(kPool / 2), 1ull, 0.02f);
        CHECK(cudaStreamSynchronize(stream_));
    }
    void fill_matrix(int type, unsigned char* at, int rows, int cols, unsigned seed) {
        if (block_elements(type) == 1) return fill(type);
        filled_ = type;
        launch_with(pick(type, "fill"), dim3(1024), 256, false, stream_, static_cast<void*>(at), rows, cols, static_cast<unsigned long long>(seed), 0.02f);
    }
    MatvecArgs args(int cols, bool norm, bool accumulate, bool gated) {
        MatvecArgs a{};
        a.x = x_.data, a.norm = norm ? ones_.data : nullptr, a.out = y_.data, a.add = accumulate ? y_.data : nullptr, a.eps = 1e-5f, a.cols = cols, a.gated = gated;
        return a;
    }
    void one(int type, int rows, int cols, bool norm, bool accumulate, bool gated) {
        const size_t bytes = packed_bytes(type, rows, cols);
        const int copies = static_cast<int>(std::min<size_t>(48, kPool / bytes));
        for (int i = 0; i < copies; ++i) fill_matrix(type, pool_.data + i * bytes, rows, cols, i);
        double us[2];
        for (int overlap = 0; overlap < 2; ++overlap) {
            Graph graph(stream_, [&] {
                for (int i = 0; i < copies; ++i) {
                    MatvecArgs a = args(cols, norm, accumulate, gated);
                    a.num_parts = 1;
                    a.parts[0] = {pool_.data + i * bytes, type, rows, 0, 0, 0, 0};
                    launch_matvec(type, a, share_blocks(a, std::min(sms_, gated ? rows / 2 : rows)), 512, overlap != 0, stream_);
                }
            });
            us[overlap] = graph.time(stream_, 11) / copies;
        }
        const double rate = bytes / us[1] / 1e3;
        std::printf("  %-5s %6d x %5d%s %7.2f MB  %7.2f us (no pdl %7.2f)  %5.0f GB/s  %5.1f %%\n", type_name(type), rows, cols, gated ? " gated" : "      ", bytes / 1e6, us[1], us[0], rate,
                    100 * rate / plain_);
        std::fflush(stdout);
    }
    // Embedding to token, without attention: its place is taken by nothing, so the output projection reads the queries. The down projection
    // may be of another type than the rest, as in Q4_K_M files.
    void step(const Spec& s, int type, int down) {
        const int qkv = (s.q + 2 * s.kv) * s.dim, half = s.dim / 2, capacity = 1024;
        const struct {
            int type, rows, cols;
            bool norm, accumulate, gated;
        } products[4] = {{type, qkv, s.d, true, false, false}, {type, s.d, s.q * s.dim, false, true, false}, {type, 2 * s.ff, s.d, true, false, true}, {down, s.d, s.ff, false, true, false}};
        size_t offsets[5] = {};
        for (int i = 0; i < 4; ++i) offsets[i + 1] = offsets[i] + packed_bytes(products[i].type, products[i].rows, products[i].cols);
        const size_t layer = offsets[4], head = packed_bytes(type, s.vocab, s.d);
        const int layers = static_cast<int>(std::min<size_t>(s.layers, (kPool - head) / layer));
        for (int i = 0; i < layers; ++i)
            for (int j = 0; j < 4; ++j) fill_matrix(products[j].type, pool_.data + i * layer + offsets[j], products[j].rows, products[j].cols, i);
        unsigned char* table = pool_.data + layers * layer;
        fill_matrix(type, table, s.vocab, s.d, 77);
        // The residual stream as embedded, behind the output projection, and behind down.
        Buffer<float> embedded(s.d), middle(s.d), residual(s.d), row(qkv), hidden(s.ff), logits(s.vocab), cosine(half), sine(half);
        Buffer<double> freq(std::vector<double>(half, 0.01));
        Buffer<uint16_t> q_pre(s.q * s.dim), q_rot(s.q * s.dim), k(static_cast<size_t>(s.kv) * capacity * s.dim), v(k.count);
        Buffer<DecodeState> state(std::vector<DecodeState>{{3, 3, 5, 0}});
        Buffer<SampleSettings> settings(std::vector<SampleSettings>{{0, 1, 0, 1, 0, 64, 0}});
        Buffer<unsigned> history(capacity);
        Buffer<unsigned char> scratch(128 << 10);
        scratch.zero(), history.zero(), middle.zero(), residual.zero(), hidden.zero();
        TokenRecord* records;
        CHECK(cudaMallocHost(&records, 16 * sizeof(TokenRecord)));
        const auto stream_of = [&](int layer_index) { return layer_index == 0 ? embedded.data : residual.data; };
        // Each buffer's tags differ from one layer to the next, also from the last to the first.
        const auto tag_of = [&](int layer_index) { return layer_index == layers - 1 && layers % 2 == 1 ? 3 : 1 + layer_index % 2; };
        // Product `index` of a layer; 0 of the layer behind the last is the head.
        const auto product = [&](int layer_index, int index, bool chained) {
            const auto& p = products[index];
            const bool is_head = layer_index == layers;
            MatvecArgs a = args(p.cols, p.norm, false, p.gated);
            float* x = stream_of(layer_index);
            const int tag = tag_of(index == 0 ? layer_index - 1 : layer_index);
            a.x = index == 0 ? x : index == 1 ? row.data : index == 2 ? middle.data : hidden.data;
            a.add = index == 1 ? x : index == 3 ? middle.data : nullptr;
            a.out = is_head ? logits.data : index == 0 ? row.data : index == 1 ? middle.data : index == 2 ? hidden.data : residual.data;
            a.out_tag = index == 0 ? 0 : tag, a.x_tag = !chained || index == 1 ? 0 : tag, a.add_tag = chained && index == 3 ? tag : 0, a.num_parts = 1;
            a.parts[0] = {is_head ? table : pool_.data + layer_index * layer + offsets[index], is_head ? type : p.type, is_head ? s.vocab : p.rows, 0, 0, 0, 0};
            share_blocks(a, sms_);
            return a;
        };
        const int chain_type = type == down ? type : kMixed;
        const auto record = [&](bool overlap, bool chained) {
            launch_with(pick(type, "embed"), dim3((s.d + 2047) / 2048, 1), 256, false, stream_, static_cast<const void*>(table), s.vocab, s.d, static_cast<const unsigned*>(&state.data->token), embedded.data, 1);
            launch_with(reinterpret_cast<const void*>(rope_angles), dim3(1), 128, overlap, stream_, static_cast<const double*>(freq.data), 1.0, half, static_cast<const int*>(nullptr), 3, cosine.data, sine.data, 1);
            launch_matvec(type, product(0, 0, false), sms_, 512, overlap, stream_);
            for (int i = 0; i < layers; ++i) {
                const HeadsArgs heads{row.data, nullptr, nullptr, nullptr, cosine.data, sine.data, nullptr, q_pre.data, q_rot.data, k.data, v.data, nullptr, 1e-6f, 3, capacity, s.q, s.kv, s.dim, 1, 0};
                launch_with(reinterpret_cast<const void*>(split_heads_f32), dim3((s.q + 2 * s.kv + 3) / 4, 1), 128, overlap, stream_, heads);
                const MatvecChain chain{4, 0, {product(i, 1, chained), product(i, 2, chained), product(i, 3, chained), product(i + 1, 0, chained)}};
                if (chained) {
                    launch_chain(chain_type, chain, sms_, 512, overlap, stream_);
                } else {
                    for (const MatvecArgs& a : chain.products) launch_matvec(a.parts[0].type, a, sms_, 512, overlap, stream_);
                }
            }
            const SampleArgs sampling{logits.data, settings.data, state.data, history.data, records, scratch.data, s.vocab, capacity, 16, 0};
            launch_with(reinterpret_cast<const void*>(sample), dim3((s.vocab + 4095) / 4096), 512, overlap, stream_, sampling);
        };
        const double bytes = static_cast<double>(layer) * layers + head;
        // One by one without overlap; then graphs: one by one, chains, chains without overlap. All must give the very same logits, twice.
        const struct {
            bool overlap, chained;
        } ways[3] = {{true, true}, {true, false}, {false, true}};
        double us[3];
        std::vector<std::vector<float>> outputs;
        const auto reset = [&] {
            state.upload({{3, 3, 5, 0}});
            CHECK(cudaDeviceSynchronize());
        };
        reset();
        record(false, false);
        outputs.push_back(logits.download());
        for (int way = 0; way < 3; ++way) {
            Graph graph(stream_, [&] { record(ways[way].overlap, ways[way].chained); });
            for (int i = 0; i < 2; ++i) {
                reset();
                CHECK(cudaGraphLaunch(graph.exec, stream_));
                outputs.push_back(logits.download());
            }
            us[way] = graph.time(stream_, 15);
        }
        bool same = true;
        for (size_t i = 1; i < outputs.size(); ++i) {
            if (std::memcmp(outputs[0].data(), outputs[i].data(), 4 * s.vocab) == 0) continue;
            same = false;
            size_t count = 0;
            double worst = 0;
            for (int j = 0; j < s.vocab; ++j) count += outputs[0][j] != outputs[i][j], worst = std::max<double>(worst, std::fabs(outputs[0][j] - outputs[i][j]));
            std::printf("    run %zu against run 0: %zu logits differ, by at most %g of %g\n", i, count, worst, outputs[0][0]);
        }
        std::printf("  step %s %s%s%s, %d of %d layers: %.1f us (one by one %.1f, no pdl %.1f), %.2f GB, %.0f GB/s, %.1f %%; logits %s, %s\n", s.name, type_name(type), type == down ? "" : ", down ",
                    type == down ? "" : type_name(down), layers, s.layers, us[0], us[1], us[2], bytes / 1e9, bytes / us[0] / 1e3, 100 * bytes / us[0] / 1e3 / plain_, same ? "equal" : "DIFFER",
                    std::isfinite(outputs[0][0]) ? "finite" : "NOT FINITE");
        std::fflush(stdout);
        cudaFreeHost(records);
    }
    // What a launch costs that has next to nothing to read.
    void overheads() {
        for (int type : {kBf16, kQ4_K})
            for (int cols : {4096, 14336}) one(type, sms_, cols, cols == 4096, true, false);
        Buffer<float> row(6144), cosine(64), sine(64);
        Buffer<uint16_t> q_pre(4096), q_rot(4096), k(1 << 20), v(1 << 20), scales(1 << 16);
        const HeadsArgs heads{row.data, nullptr, nullptr, nullptr, cosine.data, sine.data, nullptr, q_pre.data, q_rot.data, k.data, v.data, scales.data, 1e-6f, 3, 1024, 32, 8, 128, 1, 0};
        const struct { const char* name; const void* function; } kernels[] = {{"", reinterpret_cast<const void*>(split_heads_f32)},
                                                                              {" q8", reinterpret_cast<const void*>(split_heads_f32_q8)},
                                                                              {" fp8", reinterpret_cast<const void*>(split_heads_f32_fp8)}};
        for (const auto& kernel : kernels)
            for (bool overlap : {false, true}) {
                Graph graph(stream_, [&] {
                    for (int i = 0; i < 50; ++i) launch_with(kernel.function, dim3(12, 1), 128, overlap, stream_, heads);
                });
                std::printf("  split_heads%s%s: %.2f us\n", kernel.name, overlap ? "" : " no pdl", graph.time(stream_, 11) / 50);
            }
    }
    // Q and K of one type, V of another, as in Q4_K_M files.
    void mixed(int rows, int rows_v, int cols) {
        const size_t first = packed_bytes(kQ4_K, rows, cols), bytes = first + packed_bytes(kQ6_K, rows_v, cols);
        const int copies = 48;
        for (int i = 0; i < copies; ++i) fill_matrix(kQ4_K, pool_.data + i * bytes, rows, cols, i), fill_matrix(kQ6_K, pool_.data + i * bytes + first, rows_v, cols, i);
        Graph graph(stream_, [&] {
            for (int i = 0; i < copies; ++i) {
                MatvecArgs a = args(cols, true, false, false);
                a.num_parts = 2;
                a.parts[0] = {pool_.data + i * bytes, kQ4_K, rows, 0, 0, 0, 0};
                a.parts[1] = {pool_.data + i * bytes + first, kQ6_K, rows_v, 0, 0, 0, 0};
                launch_matvec(kMixed, a, share_blocks(a, sms_), 512, true, stream_);
            }
        });
        const double us = graph.time(stream_, 11) / copies;
        std::printf("  q4_k %d, q6_k %d x %d: %.2f MB, %.2f us, %.0f GB/s, %.1f %%\n", rows, rows_v, cols, bytes / 1e6, us, bytes / us / 1e3, 100 * bytes / us / 1e3 / plain_);
    }
    void model(const Spec& s, int type) {
        std::printf("%s %s\n", s.name, type_name(type));
        one(type, (s.q + 2 * s.kv) * s.dim, s.d, true, false, false);
        one(type, s.d, s.q * s.dim, false, true, false);
        one(type, 2 * s.ff, s.d, true, false, true);
        one(type, s.d, s.ff, false, true, false);
        one(type, s.vocab, s.d, true, false, false);
    }
    void sampler(int vocab) {
        Buffer<float> logits(vocab);
        Buffer<DecodeState> state(std::vector<DecodeState>{{100, 3, 5, 0}});
        Buffer<unsigned> history(1 << 16);
        Buffer<unsigned char> scratch(128 << 10);
        scratch.zero(), history.zero();
        launch_with(reinterpret_cast<const void*>(fill_f32), dim3(512), 256, false, stream_, logits.data, static_cast<long long>(vocab), 3ull, 3.0f);
        TokenRecord* records;
        CHECK(cudaMallocHost(&records, 16 * sizeof(TokenRecord)));
        const struct {
            const char* name;
            SampleSettings s;
        } cases[] = {{"greedy", {0, 1, 0, 1, 0, 64, 0}}, {"temperature", {0.8f, 1, 0, 1, 0, 64, 0}}, {"top_p", {0.8f, 0.95f, 0, 1, 0, 64, 0}}, {"top_k, top_p, penalty", {0.8f, 0.95f, 0, 1.1f, 40, 64, 0}}};
        for (const auto& c : cases) {
            Buffer<SampleSettings> settings(std::vector<SampleSettings>{c.s});
            Graph graph(stream_, [&] {
                for (int i = 0; i < 20; ++i) {
                    const SampleArgs sampling{logits.data, settings.data, state.data, history.data, records, scratch.data, vocab, 1 << 16, 16, 0};
                    launch_with(reinterpret_cast<const void*>(sample), dim3((vocab + 4095) / 4096), 512, true, stream_, sampling);
                }
            });
            std::printf("  sample %d %s: %.2f us\n", vocab, c.name, graph.time(stream_, 11) / 20);
        }
        cudaFreeHost(records);
    }
};

}  // namespace

void bench(const std::string& what) {
    Bench b;
    if (what == "steps") {
        for (const Spec& s : {kLlama8, kQwen4, kLlama1})
            for (int type : {kBf16, kQ8_0, kQ4_K}) b.step(s, type, type);
        b.step(kLlama8, kQ4_K, kQ6_K);
        return;
    }
    for (int type : {kBf16, kQ4_K}) {
        b.model(kLlama8, type);
        b.step(kLlama8, type, type);
    }
    b.one(kQ6_K, 128256, 4096, true, false, false), b.one(kQ6_K, 4096, 14336, false, true, false), b.one(kQ8_0, 28672, 4096, true, false, true);
    b.one(kQ5_K, 28672, 4096, true, false, true), b.one(kQ4_0, 28672, 4096, true, false, true), b.one(kF16, 28672, 4096, true, false, true);
    b.one(kF32, 4096, 4096, true, false, true), b.one(kBf16, 1024, 4096, true, false, false), b.one(kQ6_K, 1024, 4096, true, false, false);
    b.mixed(5120, 1024, 4096);
    b.overheads();
    b.sampler(128256);
    if (what == "brief") return;
    for (const Spec& s : {kQwen4, kLlama1})
        for (int type : {kBf16, kQ8_0, kQ4_K}) b.model(s, type), b.step(s, type, type);
}
