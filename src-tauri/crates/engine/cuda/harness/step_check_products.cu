// Matrix times vector against f64. Dense weights: to the rounding of f32 sums. Block types: against f64 sums over the input as the
// kernel quantises it (which tests everything but that rounding), and against the unquantised input within what 8 bits allow.

#include <algorithm>

#include "step_check.h"

Matrix::Matrix(int type, int rows, int cols, unsigned seed)
    : type(type), rows(rows), cols(cols), raw(made_up_matrix(type, rows, cols, seed)), device(packed_bytes(type, rows, cols)) {
    device.poison();
    if (pick(type, "repack") == nullptr) {
        CHECK(cudaMemcpy(device.data, raw.data(), raw.size(), cudaMemcpyHostToDevice));
        return;
    }
    // In two goes, as an upload in pieces does.
    const int first = rows / 3;
    for (int go = 0; go < 2; ++go) {
        const int begin = go == 0 ? 0 : first, count = go == 0 ? first : rows - first;
        const size_t row = raw_row_bytes(type, cols);
        Buffer<unsigned char> staging(row * count);
        if (count > 0) CHECK(cudaMemcpy(staging.data, raw.data() + row * begin, row * count, cudaMemcpyHostToDevice));
        launch_with(pick(type, "repack"), dim3(200), 256, false, nullptr, static_cast<const void*>(staging.data), static_cast<void*>(device.data), rows, cols,
                    begin, count);
        CHECK(cudaDeviceSynchronize());
    }
}

namespace {

struct Case {
    std::vector<int> types, rows;
    int cols;
    bool norm, bias, accumulate, gated;
    int grid, threads;
};

// As the kernel rounds it: 8 bits per 32 elements.
std::vector<double> quantised(const std::vector<float>& x) {
    std::vector<double> out(x.size());
    for (size_t begin = 0; begin < x.size(); begin += 32) {
        float largest = 0;
        for (size_t i = begin; i < begin + 32; ++i) largest = std::max(largest, std::fabs(x[i]));
        const float scale = largest * (1.0f / 127), inverse = largest > 1e-30f ? 127 * (1 / largest) : 0;
        for (size_t i = begin; i < begin + 32; ++i) out[i] = static_cast<double>(scale) * (std::fmaf(x[i], inverse, 12582912.0f) - 12582912.0f);
    }
    return out;
}

std::string name_of(const Case& c) {
    std::string name;
    for (size_t i = 0; i < c.types.size(); ++i) name += std::string(type_name(c.types[i])) + " " + std::to_string(c.rows[i]) + " ";
    name += "x " + std::to_string(c.cols) + (c.norm ? " norm" : "") + (c.bias ? " bias" : "") + (c.accumulate ? " accumulate" : "") + (c.gated ? " gated" : "");
    return name + " grid " + std::to_string(c.grid) + " threads " + std::to_string(c.threads);
}

// What `case` should give on the input `x`, in f64.
std::vector<double> oracle(const Case& c, const std::vector<Matrix>& parts, const std::vector<double>& x, double scale, const std::vector<float>& bias,
                           const std::vector<float>& before) {
    std::vector<double> products;
    for (const Matrix& m : parts) {
        std::vector<double> y(m.rows);
        parallel(m.rows, [&](int row) {
            double sum = 0;
            for (int col = 0; col < m.cols; ++col) sum += static_cast<double>(m.at(row, col)) * x[col];
            y[row] = sum * scale;
        });
        products.insert(products.end(), y.begin(), y.end());
    }
    const size_t n = c.gated ? products.size() / 2 : products.size();
    std::vector<double> out(n);
    for (size_t i = 0; i < n; ++i) {
        out[i] = c.gated ? products[i] / (1 + std::exp(-products[i])) * products[n + i] : products[i];
        if (c.bias) out[i] += bias[i];
        if (c.accumulate) out[i] += before[i];
    }
    return out;
}

double worst_dense = 0, worst_exact = 0, worst_rounded = 0;

void run(Tally& tally, const Case& c, unsigned seed) {
    std::vector<Matrix> parts;
    size_t total = 0;
    MatvecArgs args{};
    for (size_t i = 0; i < c.types.size(); ++i) {
        parts.emplace_back(c.types[i], c.rows[i], c.cols, seed + i);
        args.parts[i] = {parts[i].device.data, c.types[i], c.rows[i], 0, 0, 0, 0};
        total += c.rows[i];
    }
    const size_t n = c.gated ? total / 2 : total, canary = 64;
    std::vector<float> x = normal_values(c.cols, seed + 10, 1.5f, 0.2f), norm = normal_values(c.cols, seed + 11, 0.2f, 1), bias = normal_values(n, seed + 12),
                       before = normal_values(n + canary, seed + 13);
    if (c.cols >= 96) std::fill(x.begin() + 32, x.begin() + 64, 0.0f);  // a group of zeros
    Buffer<float> dx(x), dnorm(norm), dbias(bias), out(n + canary);
    out.poison();
    if (c.accumulate) out.upload(before);
    args.num_parts = static_cast<int>(parts.size());
    args.x = dx.data, args.norm = c.norm ? dnorm.data : nullptr, args.bias = c.bias ? dbias.data : nullptr, args.out = out.data;
    args.add = c.accumulate ? out.data : nullptr, args.eps = 1e-5f, args.cols = c.cols, args.gated = c.gated;
    const int grid = share_blocks(args, c.grid);
    const bool same = std::all_of(c.types.begin(), c.types.end(), [&](int t) { return t == c.types[0]; });
    launch_matvec(same ? c.types[0] : kMixed, args, grid, c.threads, true, nullptr);
    CHECK(cudaGetLastError());
    std::vector<float> got = out.download();
    for (size_t i = n; i < n + canary; ++i) {
        const bool untouched = c.accumulate ? got[i] == before[i] : std::isnan(got[i]);
        tally.expect(untouched, "%s: wrote beyond the end, at %zu", name_of(c).c_str(), i);
        if (!untouched) break;
    }
    got.resize(n);

    double squares = 0;
    for (float v : x) squares += static_cast<double>(v) * v;
    const double scale = c.norm ? 1 / std::sqrt(squares / c.cols + static_cast<double>(1e-5f)) : 1;
    std::vector<float> weighted = x;
    if (c.norm)
        for (int i = 0; i < c.cols; ++i) weighted[i] = x[i] * norm[i];
    const std::vector<double> exact(weighted.begin(), weighted.end());
    const bool blocks = matvec_kernel(c.types[0]).quantised;
    const double error = relative_error(got, oracle(c, parts, blocks ? quantised(weighted) : exact, scale, bias, before));
    (blocks ? worst_exact : worst_dense) = std::max(blocks ? worst_exact : worst_dense, error);
    // What few rows give may nearly cancel.
    tally.expect(error < (n < 8 ? 2e-5 : 2e-6), "%s: error %.3g", name_of(c).c_str(), error);
    if (blocks && n >= 16) {
        // Rounding to 127 steps of a group's largest: about 0.7% of a normal vector's norm; a few rows may cancel to more.
        const double rounded = relative_error(got, oracle(c, parts, exact, scale, bias, before));
        worst_rounded = std::max(worst_rounded, rounded);
        tally.expect(rounded < 0.015, "%s: error %.3g against the input in full", name_of(c).c_str(), rounded);
    }
}

// One NaN in the input must reach every output, with and without a norm.
void check_nan(Tally& tally, int type, bool norm) {
    Matrix m(type, 64, 512, 7);
    std::vector<float> x = normal_values(512, 8), ones(512, 1.0f);
    x[300] = NAN;
    Buffer<float> dx(x), dn(ones), out(64);
    out.zero();
    MatvecArgs args{};
    args.x = dx.data, args.norm = norm ? dn.data : nullptr, args.out = out.data, args.eps = 1e-5f, args.cols = 512, args.num_parts = 1;
    args.parts[0] = {m.device.data, type, 64, 0, 0, 0, 0};
    launch_matvec(type, args, share_blocks(args, 16), 512, true, nullptr);
    for (float y : out.download()) tally.expect(std::isnan(y), "%s%s: NaN lost", type_name(type), norm ? " norm" : "");
}

// The same bits every time, alone and with launches that overlap: what was not there yet, or was overwritten, would show.
void check_repeats(Tally& tally, int type, int rows, int cols, bool gated) {
    constexpr int kRuns = 60;
    Matrix m(type, rows, cols, 31);
    const auto x = normal_values(cols, 8), ones = normal_values(cols, 9, 0.1f, 1);
    const int n = gated ? rows / 2 : rows;
    Buffer<float> dx(x), dn(ones), out(static_cast<size_t>(n) * kRuns);
    for (bool overlap : {false, true}) {
        out.zero();
        CHECK(cudaDeviceSynchronize());
        for (int run = 0; run < kRuns; ++run) {
            MatvecArgs args{};
            args.x = dx.data, args.norm = dn.data, args.out = out.data + static_cast<size_t>(n) * run, args.eps = 1e-5f, args.cols = cols, args.num_parts = 1;
            args.add = gated ? nullptr : args.out, args.gated = gated;
            args.parts[0] = {m.device.data, type, rows, 0, 0, 0, 0};
            launch_matvec(type, args, share_blocks(args, 132), 512, overlap, nullptr);
        }
        const auto got = out.download();
        int different = 0;
        for (int run = 1; run < kRuns; ++run) different += std::memcmp(&got[static_cast<size_t>(n) * run], got.data(), 4 * static_cast<size_t>(n)) != 0;
        tally.expect(different == 0, "%s %d x %d%s: %d of %d runs differ%s", type_name(type), rows, cols, gated ? " gated" : "", different, kRuns, overlap ? ", overlapping" : "");
    }
}

}  // namespace

void check_products(Tally& tally, bool quick) {
    const int types[] = {kF32, kF16, kBf16, kQ8_0, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ4_K, kQ5_K, kQ6_K};
    unsigned seed = 1000;
    for (int type : types) {
        const bool k = block_elements(type) == 256;
        const auto go = [&](int rows, int cols, int flags, int grid, int threads) {
            if (cols % block_elements(type) != 0 || (quick && static_cast<long long>(rows) * cols > 4000000)) return;
            run(tally, {{type}, {rows}, cols, (flags & 1) != 0, (flags & 2) != 0, (flags & 4) != 0, (flags & 8) != 0, grid, threads}, seed += 100);
        };
        const int narrow[] = {32, 64, 96, 160, 480, 896, 1184};
        for (int cols : narrow) go(77, cols, (cols / 32) & 7, 13, cols % 64 ? 512 : 256);
        for (int cols : {256, 512, 768, 1280, 2048, 2560}) go(k ? 133 : 131, cols, cols / 256 & 7, 132, 512);
        go(1, 512, 0, 1, 512), go(3, 1024, 5, 132, 512), go(132 * 3 + 1, 256, 1, 132, 256);
        go(2 * 101, 768, 9, 33, 512), go(2 * 1000, 2560, 9, 132, 512), go(2 * 64, 256, 8, 132, 256);
        go(1024, 4096, 1, 132, 512), go(2560, 2560, 4, 132, 512), go(2560, 9728, 4, 132, 512), go(600, 11008, 0, 132, 512);
        go(300, 14336, 4, 132, 512), go(64, 32768, 1, 64, 256), go(4096, 4096, 7, 132, 512), go(9000, 512, 1, 8, 512);
        go(77, 896, 3, 13, 64), go(2 * 101, 768, 9, 33, 64), go(300, 18944, 4, 132, 64), go(9000, 512, 1, 8, 64);
        for (bool norm : {false, true}) check_nan(tally, type, norm);
        if (!quick) check_repeats(tally, type, 4096, 4096, false), check_repeats(tally, type, 6000, 2560, true), check_repeats(tally, type, 1000, 14336, false);
    }
    const auto mix = [&](std::vector<int> of, std::vector<int> rows, int cols, bool norm, bool bias, int grid) {
        run(tally, {of, rows, cols, norm, bias, false, false, grid, 512}, seed += 100);
    };
    mix({kQ4_K, kQ6_K}, {640, 128}, 512, true, false, 132);
    mix({kQ4_K, kQ4_K, kQ6_K}, {2048, 512, 512}, 2048, true, true, 132);
    mix({kQ5_K, kQ8_0, kQ4_0}, {100, 33, 7}, 1280, false, true, 20);
    mix({kQ6_K, kQ4_K, kQ5_K}, {5, 5, 5}, 256, true, false, 3);
    mix({kQ5_0, kQ4_1, kQ5_1}, {896, 128, 128}, 896, true, true, 132);
    mix({kBf16, kBf16, kBf16}, {512, 128, 128}, 896, true, true, 132);
    mix({kQ4_K, kQ4_K}, {300, 100}, 1024, true, false, 132);
    std::printf("products: worst error dense %.2g, blocks %.2g, blocks against the input in full %.2g\n", worst_dense, worst_exact, worst_rounded);
}
