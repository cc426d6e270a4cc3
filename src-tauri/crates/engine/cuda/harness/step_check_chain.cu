// Chains of products in one launch against the same products launched one by one, bit for bit.

#include <algorithm>
#include <array>
#include <cstring>

#include "step_check.h"

namespace {

// Types of the output projection, of gate and up, of down, and of the parts of Q, K, V.
struct ChainCase {
    int types[6];
    int d, q, kv, ff;
    int grid, threads, count;
};

class Layer {
    ChainCase case_;
    Matrix output_, gate_up_, down_, q_, k_, v_;
    Buffer<float> norm_, bias_, attended_;

  public:
    Layer(const ChainCase& c, unsigned seed)
        : case_(c), output_(c.types[0], c.d, c.q, seed), gate_up_(c.types[1], 2 * c.ff, c.d, seed + 1), down_(c.types[2], c.d, c.ff, seed + 2),
          q_(c.types[3], c.q, c.d, seed + 3), k_(c.types[4], c.kv, c.d, seed + 4), v_(c.types[5], c.kv, c.d, seed + 5), norm_(normal_values(c.d, seed + 6, 0.2f, 1)),
          bias_(normal_values(c.q + 2 * c.kv, seed + 7)), attended_(normal_values(c.q, seed + 8)) {}

    // Streams: as it was, behind the output projection, behind down. `tag` 0: each product alone.
    MatvecChain products(const float* x, float* middle, float* end, float* hidden, float* row, int tag, bool chained) {
        MatvecChain chain{};
        const auto add = [&](std::vector<const Matrix*> parts, const float* in, const float* added, float* out, bool norm, bool gated) {
            MatvecArgs a{};
            a.x = in, a.norm = norm ? norm_.data : nullptr, a.bias = parts.size() > 1 ? bias_.data : nullptr, a.add = added, a.out = out, a.eps = 1e-5f;
            a.cols = parts[0]->cols, a.gated = gated, a.num_parts = static_cast<int>(parts.size());
            a.out_tag = out == row ? 0 : tag, a.x_tag = chained && chain.count > 0 ? tag : 0, a.add_tag = chained && chain.count > 0 && added != nullptr ? tag : 0;
            int rows = 0;
            for (size_t i = 0; i < parts.size(); ++i) a.parts[i] = {parts[i]->device.data, parts[i]->type, parts[i]->rows, 0, 0, 0, 0}, rows += parts[i]->rows;
            share_blocks(a, std::min(case_.grid, gated ? rows / 2 : rows));
            chain.products[chain.count++] = a;
        };
        add({&output_}, attended_.data, x, middle, false, false);
        add({&gate_up_}, middle, nullptr, hidden, true, true);
        add({&down_}, hidden, middle, end, false, false);
        add({&q_, &k_, &v_}, end, nullptr, row, true, false);
        return chain;
    }
};

void check_chain(Tally& tally, const ChainCase& c, unsigned seed) {
    constexpr int kRuns = 24;
    Layer layer(c, seed);
    const auto start = normal_values(c.d, seed + 9);
    const size_t width = c.q + 2 * c.kv;
    Buffer<float> x(c.d), middle(c.d), end(c.d), hidden(c.ff), row(width * kRuns);
    const auto kernel_of = [&](const MatvecArgs& a) {
        for (int i = 1; i < a.num_parts; ++i)
            if (a.parts[i].type != a.parts[0].type) return kMixed;
        return a.parts[0].type;
    };
    std::vector<float> wanted[4];
    // One by one; then as a chain, with and without overlap; each step adds to the residual stream that the one before left.
    for (int way = 0; way < 3; ++way) {
        x.upload(start);
        middle.zero(), end.zero(), hidden.zero(), row.poison();
        CHECK(cudaDeviceSynchronize());
        for (int run = 0; run < kRuns; ++run) {
            MatvecChain chain = layer.products(run == 0 ? x.data : c.count > 2 ? end.data : middle.data, middle.data, end.data, hidden.data, row.data + width * run, 1 + run % 2, way != 0);
            if (way == 0) {
                for (int p = 0; p < c.count; ++p) {
                    const MatvecArgs& a = chain.products[p];
                    launch_matvec(kernel_of(a), a, a.parts[a.num_parts - 1].first_block + a.parts[a.num_parts - 1].blocks, c.threads, false, nullptr);
                }
                continue;
            }
            int kernel = kernel_of(chain.products[0]);
            for (int p = 1; p < c.count; ++p) kernel = kernel_of(chain.products[p]) == kernel ? kernel : kMixed;
            chain.count = c.count;
            launch_chain(kernel, chain, c.grid, c.threads, way == 2, nullptr);
        }
        CHECK(cudaGetLastError());
        const std::vector<float> got[4] = {middle.download(), hidden.download(), end.download(), row.download()};
        const bool written[4] = {true, true, c.count > 2, c.count > 3};
        for (int i = 0; i < 4; ++i) {
            if (way == 0) {
                wanted[i] = got[i];
                const bool finite = std::all_of(got[i].begin(), got[i].end(), [](float v) { return std::isfinite(v); });
                tally.expect(!written[i] || finite, "chain: %s not finite", type_name(c.types[0]));
            } else {
                tally.expect(std::memcmp(got[i].data(), wanted[i].data(), 4 * got[i].size()) == 0, "chain of %d, %s, %s, %s, %d %d %d %d, grid %d, %d threads%s: output %d differs",
                             c.count, type_name(c.types[0]), type_name(c.types[1]), type_name(c.types[2]), c.d, c.q, c.kv, c.ff, c.grid, c.threads, way == 2 ? ", overlapping" : "", i);
            }
        }
    }
}

}  // namespace

void check_chains(Tally& tally, bool quick) {
    unsigned seed = 70000;
    for (int type : {kF32, kF16, kBf16, kQ8_0, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ4_K, kQ5_K, kQ6_K}) {
        const auto go = [&](int d, int q, int kv, int ff, int grid, int threads, int count) {
            check_chain(tally, {{type, type, type, type, type, type}, d, q, kv, ff, grid, threads, count}, seed += 100);
        };
        go(512, 768, 256, 1280, 132, 512, 4), go(256, 256, 256, 256, 7, 256, 4), go(1024, 512, 256, 2816, 132, 256, 2), go(512, 768, 256, 1280, 132, 64, 4);
        if (!quick) go(2048, 2048, 512, 8192, 132, 512, 4), go(2560, 4096, 1024, 9728, 132, 512, 3), go(256, 512, 256, 512, 3, 512, 4), go(768, 256, 256, 14336, 100, 512, 4);
        if (block_elements(type) == 32) go(96, 160, 32, 480, 132, 512, 4);
    }
    const auto mix = [&](std::array<int, 6> t, int d, int q, int kv, int ff, int grid, int threads, int count) {
        check_chain(tally, {{t[0], t[1], t[2], t[3], t[4], t[5]}, d, q, kv, ff, grid, threads, count}, seed += 100);
    };
    mix({kQ4_K, kQ4_K, kQ6_K, kQ4_K, kQ4_K, kQ6_K}, 1024, 1024, 256, 2816, 132, 512, 4);
    mix({kQ6_K, kQ8_0, kQ4_0, kQ5_K, kQ5_0, kQ5_1}, 512, 768, 256, 1280, 132, 512, 4);
    mix({kQ8_0, kQ5_1, kQ4_1, kQ8_0, kQ8_0, kQ8_0}, 96, 160, 32, 480, 20, 256, 4);
    mix({kQ5_K, kQ6_K, kQ4_K, kQ6_K, kQ4_K, kQ8_0}, 256, 256, 256, 256, 132, 512, 4);
    if (!quick) mix({kQ4_K, kQ4_K, kQ6_K, kQ4_K, kQ4_K, kQ6_K}, 2048, 2048, 512, 8192, 132, 512, 4);
}
