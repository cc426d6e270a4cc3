// Products of random matrices against f64, with guarded outputs.
#include <algorithm>
#include <random>

#include "../../../../../kernels/cuda/harness/parallel.h"
#include "gemm_device.h"

extern "C" __global__ void gemm_bf16_to_f16(const uint4*, uint4*, unsigned long long);

namespace {

struct Case {
    Path path;
    Dtype dtype;
    GemmEpilogue epilogue;
    int m, n, k;
    int pad_a, pad_w, pad_c;  // elements beyond k, k, n in every row
    bool bias;
    uint64_t seed;
};

// All of a few, or the edges and a random choice of many.
std::vector<int> sample(int count, std::mt19937& random) {
    std::vector<int> chosen;
    if (count <= 600) {
        for (int i = 0; i < count; ++i) chosen.push_back(i);
        return chosen;
    }
    chosen = {0, 1, 127, 128, count - 129, count - 128, count - 2, count - 1};
    for (int i = 0; i < 40; ++i) chosen.push_back(static_cast<int>(random() % count));
    return chosen;
}

// C between two guard zones; every byte is known before the launch.
struct Output {
    static constexpr size_t kGuard = 4096;  // bytes
    size_t element, stride, rows, columns, bytes;
    Buffer<uint8_t> memory;
    std::vector<uint8_t> before, after;
    Output(const Case& c, size_t element)
        : element(element), stride(c.n + c.pad_c), rows(c.m), columns(c.n), bytes(((rows - 1) * stride + columns) * element), memory(bytes + 2 * kGuard),
          before(memory.count, 0xff) {
        if (c.epilogue == kAddF32) {
            for (size_t r = 0; r < rows; ++r) {
                for (size_t j = 0; j < columns; ++j) {
                    const float x = normal(c.seed + 3, r * columns + j);
                    std::memcpy(before.data() + offset(r, j), &x, 4);
                }
            }
        }
        memory.upload(before);
    }
    size_t offset(size_t row, size_t column) const { return kGuard + (row * stride + column) * element; }
    float value(const std::vector<uint8_t>& from, size_t row, size_t column) const {
        if (element == 2) {
            uint16_t bits;
            std::memcpy(&bits, from.data() + offset(row, column), 2);
            return to_float(bits, Dtype::bf16);
        }
        float x;
        std::memcpy(&x, from.data() + offset(row, column), 4);
        return x;
    }
    // Bytes outside of C that changed, plus elements of C that are not finite.
    size_t damage() const {
        size_t bad = std::memcmp(before.data(), after.data(), kGuard) != 0;
        bad += std::memcmp(before.data() + kGuard + bytes, after.data() + kGuard + bytes, kGuard) != 0;
        for (size_t r = 0; r < rows; ++r) {
            for (size_t j = 0; j < columns; ++j) bad += !std::isfinite(value(after, r, j));
            if (r + 1 < rows) bad += std::memcmp(before.data() + offset(r, columns), after.data() + offset(r, columns), (stride - columns) * element) != 0;
        }
        return bad;
    }
};

struct Sums {
    double value, magnitude;  // of the terms
};
Sums dot(const std::vector<uint16_t>& a, size_t at_a, const std::vector<uint16_t>& w, size_t at_w, int k, Dtype dtype) {
    Sums sums{};
    for (int i = 0; i < k; ++i) {
        const double term = static_cast<double>(to_float(a[at_a + i], dtype)) * to_float(w[at_w + i], dtype);
        sums.value += term, sums.magnitude += std::fabs(term);
    }
    return sums;
}

bool run(const Case& c) {
    const bool silu = c.epilogue == kSiluBf16, narrow = silu || c.epilogue == kStoreBf16;
    const int weight_rows = silu ? 2 * c.n : c.n;
    const Matrix a(c.m, c.k, c.k + c.pad_a, c.dtype, c.seed, 1.0f), w(weight_rows, c.k, c.k + c.pad_w, c.dtype, c.seed + 1, 1.5f / std::sqrt(static_cast<float>(c.k)));
    std::vector<float> bias(weight_rows, 0.0f);
    Buffer<float> bias_memory(weight_rows);
    for (int j = 0; c.bias && j < weight_rows; ++j) bias[j] = normal(c.seed + 2, j);
    bias_memory.upload(bias);
    Output out(c, narrow ? 2 : 4);
    const Product product{c.dtype, c.epilogue,
                          GemmArgs{a.elements.data, w.elements.data, c.bias ? bias_memory.data : nullptr, out.memory.data + Output::kGuard, workspace(), c.m, c.n, c.k,
                                   a.stride, w.stride, static_cast<int>(out.stride)},
                          map_of(a), map_of(w)};
    launch(c.path, product, nullptr);
    CHECK(cudaDeviceSynchronize());
    out.after = out.memory.download();

    std::mt19937 random(static_cast<unsigned>(c.seed));
    const std::vector<int> rows = sample(c.m, random), columns = sample(c.n, random);
    const auto host_a = a.elements.download(), host_w = w.elements.download();
    std::vector<double> error(rows.size(), 0.0), norm(rows.size(), 0.0);
    std::vector<size_t> wrong(rows.size(), 0);
    parallel(static_cast<int>(rows.size()), [&](int i) {
        for (const int column : columns) {
            const Sums first = dot(host_a, a.at(rows[i], 0), host_w, w.at(column, 0), c.k, c.dtype);
            double expected = first.value + bias[column], slack = 2e-6 * (first.magnitude + std::fabs(bias[column]));
            if (silu) {
                const Sums second = dot(host_a, a.at(rows[i], 0), host_w, w.at(c.n + column, 0), c.k, c.dtype);
                const double up = second.value + bias[c.n + column], gate = expected;
                expected = gate / (1 + std::exp(-gate)) * up;
                slack = 1.1 * slack * std::fabs(up) + 2e-6 * second.magnitude * std::fabs(gate) + 4e-6 * std::fabs(expected);
            }
            if (c.epilogue == kAddF32) {
                const double old = out.value(out.before, rows[i], column);
                expected += old, slack += 2e-7 * std::fabs(old);
            }
            // Half a unit in the last place of bf16 is at most 2^-8 of the value.
            if (narrow) slack += std::fabs(expected) / 256 * 1.01;
            const double difference = out.value(out.after, rows[i], column) - expected;
            error[i] += difference * difference, norm[i] += expected * expected;
            wrong[i] += !(std::fabs(difference) <= slack + 1e-30);
        }
    });
    double total_error = 0, total_norm = 0;
    size_t total_wrong = 0;
    for (size_t i = 0; i < rows.size(); ++i) total_error += error[i], total_norm += norm[i], total_wrong += wrong[i];
    const double relative = std::sqrt(total_error / std::max(total_norm, 1e-300));
    const size_t damage = out.damage();
    const bool good = relative <= (narrow ? 4e-3 : 1e-4) && total_wrong == 0 && damage == 0 && workspace_is_clean();
    if (!good || c.m > 600) {
        std::printf("%s %-5s %-4s %-10s m %5d n %5d k %5d pads %d %d %d bias %d: relative L2 %.2e, %zu beyond bounds, damage %zu\n", good ? "ok  " : "FAIL", name_of(c.path),
                    c.dtype == Dtype::bf16 ? "bf16" : "f16", name_of(c.epilogue), c.m, c.n, c.k, c.pad_a, c.pad_w, c.pad_c, c.bias, relative, total_wrong, damage);
    }
    return good;
}

// Every bf16 number, saturated; in place as well.
bool check_conversion() {
    std::vector<uint16_t> all(65536);
    for (int i = 0; i < 65536; ++i) all[i] = static_cast<uint16_t>(i);
    Buffer<uint16_t> memory(all.size());
    memory.upload(all);
    auto* words = reinterpret_cast<uint4*>(memory.data);
    gemm_bf16_to_f16<<<65536 / 2048, 256>>>(words, words, all.size());
    CHECK(cudaDeviceSynchronize());
    const auto got = memory.download();
    int wrong = 0;
    for (int i = 0; i < 65536; ++i) {
        const float x = to_float(all[i], Dtype::bf16);
        // A NaN stays wrong in its own way: the clamp turns it into a number.
        if (std::isnan(x)) continue;
        wrong += got[i] != __half_as_ushort(__float2half(std::fmin(std::fmax(x, -65504.0f), 65504.0f)));
    }
    if (wrong) std::printf("FAIL gemm_bf16_to_f16: %d of 65536\n", wrong);
    return wrong == 0;
}

}  // namespace

int check(bool quick) {
    int cases = 1, failures = check_conversion() ? 0 : 1;
    const int ms[] = {1, 2, 3, 17, 64, 65, 100, 127, 128, 129, 200, 255, 256, 257, 300, 513}, ns[] = {8, 24, 40, 64, 120, 128, 136, 248, 256, 264, 392, 520};
    const int ks[] = {8, 16, 24, 32, 40, 64, 72, 96, 128, 136, 200, 320, 576, 1032};
    const int pads[] = {0, 0, 8, 24, 64};
    std::random_device entropy;
    const uint64_t run_seed = entropy();
    std::printf("seed %llu\n", static_cast<unsigned long long>(run_seed));
    std::mt19937 random(static_cast<unsigned>(run_seed));
    const auto pick = [&](const auto& from) { return from[random() % (sizeof from / sizeof from[0])]; };
    for (const Path path : {Path::mma, Path::wgmma, Path::narrow, Path::few}) {
        for (const Dtype dtype : {Dtype::bf16, Dtype::f16}) {
            for (const GemmEpilogue epilogue : {kStoreBf16, kStoreF32, kAddF32, kSiluBf16}) {
                for (int i = 0; i < (quick ? 2 : 24); ++i, ++cases) {
                    failures += !run({path, dtype, epilogue, pick(ms), pick(ns), pick(ks), pick(pads), pick(pads), pick(pads), random() % 2 == 0, run_seed + cases});
                }
                // One of a model's sizes, sampled.
                if (!quick && dtype == Dtype::bf16) {
                    const int n = epilogue == kSiluBf16 ? 14336 : epilogue == kStoreBf16 ? 6144 : 4096, k = epilogue == kAddF32 ? 14336 : 4096;
                    for (const int m : {2000, 200, 290, 40}) {
                        failures += !run({path, dtype, epilogue, m + static_cast<int>(random() % 64), n, k, 0, 0, 0, false, run_seed + cases++});
                    }
                }
            }
        }
    }
    std::printf("%d cases, %d failures\n", cases, failures);
    return failures;
}
