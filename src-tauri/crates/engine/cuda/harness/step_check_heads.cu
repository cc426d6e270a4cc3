// Head split, RoPE and what becomes of K and V in the cache, against f64.

#include <algorithm>

#include "kv_pack.cuh"
#include "step_check.h"

namespace {

struct HeadsCase {
    int q, kv, dim, tokens, position;
    bool norm, bias, from_state;
};

enum class Cache { kBf16, kQ8, kFp8 };

// How far a number may be from the nearest e4m3: half a step of its exponent, 3 bits of mantissa, the smallest of 2^-6.
double fp8_step(double x) {
    int exponent;
    std::frexp(x, &exponent);
    return std::ldexp(1.0, std::max(exponent - 1, -6) - 3);
}
double fp8_value(unsigned char code) {
    const int exponent = code >> 3 & 15, mantissa = code & 7;
    if (exponent == 15 && mantissa == 7) return NAN;
    const double size = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
    return code & 128 ? -size : size;
}

// K and V as a kernel left them, poisoned before.
struct Rows {
    Cache cache;
    int dim;
    std::vector<unsigned char> bytes;
    std::vector<uint16_t> scales;  // [rows, 2, slots]
    int plane;
    double scale(size_t row, int e) const { return f16_value(scales[(row * 2 + plane) * scale_slots(dim) + e / 32]); }
    // Whether element e of a row is as near to `want` as it can be held; `slack` is what f32 may be off before.
    bool near(size_t row, int e, double want, double slack) const {
        const size_t i = row * dim + e;
        if (cache == Cache::kFp8) {
            const double x = std::max(-448.0, std::min(448.0, want));
            return std::fabs(fp8_value(bytes[i]) - x) <= 0.5 * fp8_step(x) + slack;
        }
        if (cache == Cache::kQ8) return bytes[i] != 0 && std::fabs((bytes[i] - 128) * scale(row, e) - want) <= 0.5 * scale(row, e) * (1 + 1e-3) + slack;
        uint16_t bits;
        std::memcpy(&bits, &bytes[2 * i], 2);
        return std::fabs(bf16_value(bits) - want) <= kBf16Rounding * std::fabs(want) + slack;
    }
    // Scales of a row: the largest of each block over 127, to the rounding of f16, and as f32 may be off.
    size_t wrong_scales(size_t row, const std::vector<double>& want, double slack) const {
        size_t wrong = 0;
        for (int block = 0; cache == Cache::kQ8 && block < scale_slots(dim); ++block) {
            double largest = 0;
            for (int e = 32 * block; e < std::min(dim, 32 * block + 32); ++e) largest = std::max(largest, std::fabs(want[e]));
            const double x = largest / 127;
            wrong += !(std::fabs(scale(row, 32 * block) - x) <= x / 2048 + slack / 127 + 3e-8);
        }
        return wrong;
    }
};

template <class T>
void check_split(Tally& tally, const void* kernel, Cache cache, const HeadsCase& c) {
    const int half = c.dim / 2, width = (c.q + 2 * c.kv) * c.dim, capacity = c.position + c.tokens + 3;
    const auto values = Rounded<T>::of(normal_values(static_cast<size_t>(c.tokens) * width, 21, 2));
    const auto bias = normal_values(width, 22), q_norm = normal_values(c.dim, 23, 0.2f, 1), k_norm = normal_values(c.dim, 24, 0.2f, 1);
    std::vector<double> freq(half);
    for (int i = 0; i < half; ++i) freq[i] = std::pow(500000.0, -2.0 * i / c.dim);
    const double factor = 1.13;
    Buffer<T> qkv(values);
    Buffer<float> db(bias), dq(q_norm), dk(k_norm), cosine(static_cast<size_t>(c.tokens) * half), sine(cosine.count);
    Buffer<double> df(freq);
    Buffer<int> position(std::vector<int>{c.position});
    const int width_bytes = cache == Cache::kBf16 ? 2 : 1;
    const size_t rows = static_cast<size_t>(c.kv) * capacity;
    Buffer<uint16_t> pre(static_cast<size_t>(c.tokens) * c.q * c.dim), rot(pre.count), scales(cache == Cache::kQ8 ? rows * 2 * scale_slots(c.dim) : 0);
    Buffer<unsigned char> k(rows * c.dim * width_bytes), v(k.count);
    pre.poison(), rot.poison(), k.poison(), v.poison(), scales.poison();
    cosine.poison(), sine.poison();
    const int* at = c.from_state ? position.data : nullptr;
    launch_with(reinterpret_cast<const void*>(rope_angles), dim3((half * c.tokens + 127) / 128), 128, true, nullptr, static_cast<const double*>(df.data), factor, half, at,
                c.from_state ? -1 : c.position, cosine.data, sine.data, c.tokens);
    HeadsArgs args{qkv.data, c.bias ? db.data : nullptr, c.norm ? dq.data : nullptr, c.norm ? dk.data : nullptr, cosine.data, sine.data, at, pre.data, rot.data, k.data,
                   v.data, cache == Cache::kQ8 ? scales.data : nullptr, 1e-6f, c.from_state ? -1 : c.position, capacity, c.q, c.kv, c.dim, c.tokens, 0};
    launch_with(kernel, dim3((c.q + 2 * c.kv + 3) / 4, c.tokens), 128, true, nullptr, args);
    const auto got_pre = pre.download(), got_rot = rot.download();
    const Rows planes[] = {{cache, c.dim, k.download(), scales.download(), 0}, {cache, c.dim, v.download(), scales.download(), 1}};
    size_t wrong = 0, written = 0, scales_written = 0;
    for (int t = 0; t < c.tokens; ++t)
        for (int h = 0; h < c.q + 2 * c.kv; ++h) {
            const bool is_q = h < c.q, is_v = h >= c.q + c.kv;
            std::vector<double> x(c.dim), turned(c.dim);
            double squares = 0;
            for (int e = 0; e < c.dim; ++e) {
                x[e] = Rounded<T>::value(values[static_cast<size_t>(t) * width + h * c.dim + e]) + (c.bias ? bias[h * c.dim + e] : 0);
                squares += x[e] * x[e];
            }
            if (c.norm && !is_v)
                for (int e = 0; e < c.dim; ++e) x[e] *= (is_q ? q_norm : k_norm)[e] / std::sqrt(squares / c.dim + static_cast<double>(1e-6f));
            for (int e = 0; e < half; ++e) {
                const double angle = (c.position + t) * freq[e], cs = std::cos(angle) * factor, sn = std::sin(angle) * factor;
                turned[e] = x[e] * cs - x[e + half] * sn, turned[e + half] = x[e + half] * cs + x[e] * sn;
            }
            // Cancellation in the turn leaves errors of the size of f32 rounding of the terms.
            const auto slack = [&](int e) { return 1e-6 * std::hypot(x[e % half], x[e % half + half]) + 1e-6; };
            // Rotated queries have 16 bits of the type that K's products are made in: 8 or 11 of them count.
            const auto near_turned = [&](uint16_t got, int e) {
                if (cache == Cache::kBf16) return std::fabs(bf16_value(got) - turned[e]) <= kBf16Rounding * std::fabs(turned[e]) + slack(e);
                return std::fabs(f16_value(got) - turned[e]) <= 0.00049 * std::fabs(turned[e]) + slack(e);
            };
            const size_t row = static_cast<size_t>(h - c.q - (is_v ? c.kv : 0)) * capacity + c.position + t;
            double largest = 0;
            for (int e = 0; e < c.dim; ++e) {
                largest = std::max(largest, slack(e));
                if (is_q) {
                    const size_t i = (static_cast<size_t>(t) * c.q + h) * c.dim + e;
                    wrong += !near_bf16(got_pre[i], x[e]) + !near_turned(got_rot[i], e);
                } else {
                    wrong += !planes[is_v].near(row, e, is_v ? x[e] : turned[e], slack(e));
                }
            }
            if (!is_q) wrong += planes[is_v].wrong_scales(row, is_v ? x : turned, largest);
        }
    // Every byte of a row may be 0xff by right, so rows are counted by whether anything is there.
    for (const auto& plane : planes)
        for (size_t row = 0; row < rows; ++row) {
            const auto begin = plane.bytes.begin() + row * c.dim * width_bytes;
            written += std::any_of(begin, begin + c.dim * width_bytes, [](unsigned char byte) { return byte != 0xff; });
        }
    for (uint16_t bits : planes[0].scales) scales_written += bits != 0xffff;
    const size_t want_rows = static_cast<size_t>(c.tokens) * 2 * c.kv, want_scales = cache == Cache::kQ8 ? want_rows * scale_slots(c.dim) : 0;
    static const char* const names[] = {"bf16", "q8", "fp8"};
    tally.expect(wrong == 0 && written == want_rows && scales_written == want_scales, "split_heads %s %d/%d D %d, %d tokens at %d: %zu wrong, %zu rows and %zu scales written",
                 names[static_cast<int>(cache)], c.q, c.kv, c.dim, c.tokens, c.position, wrong, written, scales_written);
}

// A block with a NaN, one of zeros, one beyond every scale, one of plain numbers; in V, which nothing turns.
void check_special(Tally& tally, const void* kernel, Cache cache) {
    const int dim = 128, slots = scale_slots(dim);
    std::vector<float> row(3 * dim, 1);
    float* v = row.data() + 2 * dim;
    v[5] = NAN;
    for (int e = 32; e < 64; ++e) v[e] = 0;
    v[70] = -1e9f;
    for (int e = 96; e < 128; ++e) v[e] = e - 100.f;
    Buffer<float> qkv(row), cosine(std::vector<float>(dim / 2, 1)), sine(std::vector<float>(dim / 2, 0));
    Buffer<uint16_t> pre(dim), rot(dim), scales(2 * slots);
    Buffer<unsigned char> k(dim), to(dim);
    to.poison(), scales.poison();
    const HeadsArgs args{qkv.data, nullptr, nullptr, nullptr, cosine.data, sine.data, nullptr, pre.data, rot.data, k.data, to.data, scales.data, 1e-6f, 0, 1, 1, 1, dim, 1, 0};
    launch_with(kernel, dim3(1), 128, true, nullptr, args);
    const auto codes = to.download();
    const auto held = scales.download();
    const auto scale = [&](int block) { return f16_value(held[slots + block]); };
    if (cache == Cache::kFp8) {
        tally.expect(std::isnan(fp8_value(codes[5])) && fp8_value(codes[6]) == 1 && codes[40] == 0 && fp8_value(codes[70]) == -448 && fp8_value(codes[127]) == 28,
                     "split_heads fp8: special numbers %u %u %u %u %u", codes[5], codes[6], codes[40], codes[70], codes[127]);
        return;
    }
    tally.expect(!std::isfinite(scale(0)) && scale(1) == 0 && codes[40] == 128 && !std::isfinite(scale(2)) && codes[127] == 255 && codes[100] == 128,
                 "split_heads q8: special numbers, scales %g %g %g, codes %u %u %u", scale(0), scale(1), scale(2), codes[40], codes[127], codes[100]);
}

// Made-up rows are about normal.
void check_made_up(Tally& tally, Cache cache) {
    const int dim = 96, rows = 700, slots = scale_slots(dim);
    Buffer<unsigned char> k(static_cast<size_t>(rows) * dim);
    Buffer<uint16_t> scales(static_cast<size_t>(rows) * 2 * slots);
    k.poison(), scales.poison();
    launch_with(cache == Cache::kQ8 ? reinterpret_cast<const void*>(fill_kv_q8) : reinterpret_cast<const void*>(fill_kv_fp8), dim3(32), 256, false, nullptr, k.data,
                reinterpret_cast<unsigned short*>(scales.data + slots), rows, dim, 9ull);
    const Rows held{cache, dim, k.download(), scales.download(), 1};
    double sum = 0, squares = 0;
    for (int row = 0; row < rows; ++row)
        for (int e = 0; e < dim; ++e) {
            const unsigned char code = held.bytes[static_cast<size_t>(row) * dim + e];
            const double x = cache == Cache::kQ8 ? (code - 128) * held.scale(row, e) : fp8_value(code);
            sum += x, squares += x * x;
        }
    const double count = static_cast<double>(rows) * dim, mean = sum / count, deviation = std::sqrt(squares / count);
    tally.expect(std::fabs(mean) < 0.03 && std::fabs(deviation - 1) < 0.03, "made-up rows of 8 bits: mean %g, deviation %g", mean, deviation);
}

}  // namespace

void check_heads(Tally& tally) {
    const auto q8 = reinterpret_cast<const void*>(split_heads_f32_q8), fp8 = reinterpret_cast<const void*>(split_heads_f32_fp8);
    check_special(tally, q8, Cache::kQ8), check_special(tally, fp8, Cache::kFp8);
    check_made_up(tally, Cache::kQ8), check_made_up(tally, Cache::kFp8);
    const auto f32 = reinterpret_cast<const void*>(split_heads_f32);
    const auto bf16 = reinterpret_cast<const void*>(split_heads_bf16);
    const HeadsCase cases[] = {{32, 8, 128, 1, 1000, false, false, true}, {32, 8, 128, 1, 30, true, true, true}, {8, 2, 64, 9, 0, true, false, false},
                               {14, 2, 64, 5, 77, false, true, false},    {3, 1, 96, 2, 5, true, true, false},   {4, 4, 256, 3, 12, false, false, false},
                               {5, 1, 128, 1, 131071, true, false, true}, {9, 3, 32, 4, 3, true, true, false}};
    for (const auto& c : cases) {
        check_split<float>(tally, f32, Cache::kBf16, c), check_split<uint16_t>(tally, bf16, Cache::kBf16, c);
        check_split<float>(tally, q8, Cache::kQ8, c);
        check_split<float>(tally, fp8, Cache::kFp8, c);
    }
}
