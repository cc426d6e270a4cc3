// Times of products of the sizes of real models. Every launch takes another copy of the weights, so that L2 holds none of them.
#include <algorithm>
#include <functional>
#include <memory>

#include "gemm_lt.h"

extern "C" __global__ void gemm_silu_bf16(const uint4* gate_up, uint4* out, int n, unsigned long long count);

namespace {

struct Size {
    const char* model;
    const char* what;
    GemmEpilogue epilogue;
    int n, k;  // n: columns of C
};
constexpr Size kSizes[] = {
    {"llama-3.1-8b", "o", kAddF32, 4096, 4096},        {"llama-3.1-8b", "qkv", kStoreF32, 6144, 4096},   {"llama-3.1-8b", "gate+up", kSiluBf16, 14336, 4096},
    {"llama-3.1-8b", "down", kAddF32, 4096, 14336},    {"qwen3-4b", "o", kAddF32, 2560, 4096},            {"qwen3-4b", "qkv", kStoreF32, 6144, 2560},
    {"qwen3-4b", "gate+up", kSiluBf16, 9728, 2560},    {"qwen3-4b", "down", kAddF32, 2560, 9728},         {"llama-3.2-1b", "o", kAddF32, 2048, 2048},
    {"llama-3.2-1b", "qkv", kStoreF32, 3072, 2048},   {"llama-3.2-1b", "gate+up", kSiluBf16, 8192, 2048}, {"llama-3.2-1b", "down", kAddF32, 2048, 8192},
};
constexpr size_t kRotatedBytes = 200u << 20;  // several times the L2

// Median microseconds of one product, from replays of a graph of many, so that launching does not count.
double time_of(const std::function<void(int, cudaStream_t)>& launch, int copies, double target_ms) {
    cudaStream_t stream;
    cudaEvent_t begin, end;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK(cudaEventCreate(&begin));
    CHECK(cudaEventCreate(&end));
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    const int launches = std::max(copies, 20);
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < launches; ++i) launch(i % copies, stream);
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    const auto replay = [&] {
        CHECK(cudaEventRecord(begin, stream));
        CHECK(cudaGraphLaunch(exec, stream));
        CHECK(cudaEventRecord(end, stream));
        CHECK(cudaEventSynchronize(end));
        float ms;
        CHECK(cudaEventElapsedTime(&ms, begin, end));
        return static_cast<double>(ms) / launches;
    };
    replay();
    const int replays = std::max(3, static_cast<int>(target_ms / launches / replay()));
    std::vector<double> times;
    for (int i = 0; i < replays; ++i) times.push_back(replay());
    std::sort(times.begin(), times.end());
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaEventDestroy(begin));
    CHECK(cudaEventDestroy(end));
    CHECK(cudaStreamDestroy(stream));
    return times[times.size() / 2] * 1000;
}

// cuBLASLt: its first guess, and the best of its first eight. Gate and up go to bf16 on the way to `gemm_silu_bf16`, timed together.
template <class Report>
void bench_lt(const Size& size, const std::vector<Product>& products, const Report& report, double own) {
    const bool silu = size.epilogue == kSiluBf16;
    GemmArgs args = products[0].args;
    if (silu) args.n *= 2, args.ldc *= 2;
    const Buffer<uint16_t> gate_up(silu ? static_cast<size_t>(args.m) * args.n : 1);
    double first = 0, best = 1e9;
    int best_index = 0;
    for (int index = 0; index < 8; ++index) {
        const auto lt = LtProduct::find(Dtype::bf16, silu, size.epilogue == kAddF32, args, index);
        if (!lt) break;
        const auto work = [&](int i, cudaStream_t stream) {
            GemmArgs now = args;
            now.w = products[i].args.w;
            if (silu) now.c = gate_up.data;
            lt->launch(now, stream);
            const size_t count = static_cast<size_t>(args.m) * size.n;
            if (silu) gemm_silu_bf16<<<(count + 2047) / 2048, 256, 0, stream>>>(reinterpret_cast<const uint4*>(gate_up.data), static_cast<uint4*>(args.c), size.n, count);
        };
        const double us = index == 0 ? report("lt", work) : time_of(work, static_cast<int>(products.size()), 3);
        if (index == 0) first = us;
        if (us < best) best = us, best_index = index;
    }
    std::printf("  lt best #%d %.1f us | own/lt %.2f own/best %.2f", best_index, best, own / first, own / best);
}

void bench_size(const Size& size, int m, double target_ms, bool with_lt) {
    const bool silu = size.epilogue == kSiluBf16;
    const int rows = silu ? 2 * size.n : size.n;
    const size_t weight_bytes = static_cast<size_t>(rows) * size.k * 2;
    const int copies = static_cast<int>(kRotatedBytes / weight_bytes) + 1;
    const Matrix a(m, size.k, size.k, Dtype::bf16, 1, 1.0f);
    const Buffer<float> c(static_cast<size_t>(m) * size.n);
    CHECK(cudaMemset(c.data, 0, c.count * sizeof(float)));
    std::vector<std::unique_ptr<Matrix>> weights;
    std::vector<Product> products;
    const CUtensorMap map_a = map_of(a);
    for (int i = 0; i < copies; ++i) {
        weights.push_back(std::make_unique<Matrix>(rows, size.k, size.k, Dtype::bf16, 2 + i, 1.0f / std::sqrt(static_cast<float>(size.k))));
        products.push_back({Dtype::bf16, size.epilogue, GemmArgs{a.elements.data, weights.back()->elements.data, nullptr, c.data, workspace(), m, size.n, size.k, size.k, size.k, size.n}, map_a,
                            map_of(*weights.back())});
    }
    const double flop = 2.0 * m * rows * size.k;
    std::printf("%-12s %-8s m %d n %d k %d TFLOP/s:", size.model, size.what, m, rows, size.k);
    const auto report = [&](const char* name, const std::function<void(int, cudaStream_t)>& work) {
        const double us = time_of(work, copies, target_ms);
        std::printf("  %s %.1f us %.0f", name, us, flop / us * 1e-6);
        return us;
    };
    const auto own = [&](const char* name, Path path) {
        return report(name, [&](int i, cudaStream_t stream) { launch(path, products[i], stream); });
    };
    double best = own("wgmma", Path::wgmma);
    if (m <= 600) best = std::min(best, own("narrow", Path::narrow));
    if (m <= 1024) best = std::min(best, own("few", Path::few));
    if (with_lt) {
        bench_lt(size, products, report, best);
        // Again, for the card grows warm.
        own("wgmma", Path::wgmma);
    }
    own("mma", Path::mma);
    std::printf("\n");
}

}  // namespace

void bench(int only_m) {
    static const bool with_lt = lt_open();
    if (with_lt && only_m > 0) std::printf("cuBLASLt %zu\n", lt_version());
    if (only_m > 0) {
        for (const Size& size : kSizes) bench_size(size, only_m, 15, with_lt);
        return;
    }
    for (const int m : {2048, 4096, 300, 64}) bench(m);
}
