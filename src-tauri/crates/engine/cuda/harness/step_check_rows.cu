// Row kernels, head split and RoPE against f64.

#include "step_check.h"

namespace {

// bf16 outputs may round the other way where f32 and f64 differ in the last bits: half a unit of 8 bits, and a little.
constexpr double kBf16 = 0.0039;

bool near_bf16(uint16_t got, double want) { return std::fabs(bf16_value(got) - want) <= kBf16 * std::fabs(want) + 1e-6; }

template <class T>
struct Rounded;
template <>
struct Rounded<float> {
    static std::vector<float> of(const std::vector<float>& x) { return x; }
    static double value(float x) { return x; }
};
template <>
struct Rounded<uint16_t> {
    static std::vector<uint16_t> of(const std::vector<float>& x) {
        std::vector<uint16_t> out(x.size());
        for (size_t i = 0; i < x.size(); ++i) out[i] = bf16_bits(x[i]);
        return out;
    }
    static double value(uint16_t x) { return bf16_value(x); }
};

void check_norm(Tally& tally, int rows, int cols) {
    const auto x = normal_values(static_cast<size_t>(rows) * cols, 3, 2), weight = normal_values(cols, 4, 0.3f, 1);
    Buffer<float> dx(x), dw(weight);
    Buffer<uint16_t> out(x.size());
    out.poison();
    launch_with(reinterpret_cast<const void*>(rms_norm_rows), dim3(rows), 256, true, nullptr, static_cast<const float*>(dx.data), static_cast<const float*>(dw.data),
                1e-5f, reinterpret_cast<__nv_bfloat16*>(out.data), cols);
    const auto got = out.download();
    size_t wrong = 0;
    for (int r = 0; r < rows; ++r) {
        double squares = 0;
        for (int c = 0; c < cols; ++c) squares += static_cast<double>(x[static_cast<size_t>(r) * cols + c]) * x[static_cast<size_t>(r) * cols + c];
        const double scale = 1 / std::sqrt(squares / cols + static_cast<double>(1e-5f));
        for (int c = 0; c < cols; ++c) wrong += !near_bf16(got[static_cast<size_t>(r) * cols + c], x[static_cast<size_t>(r) * cols + c] * scale * weight[c]);
    }
    tally.expect(wrong == 0, "rms_norm_rows %d x %d: %zu wrong", rows, cols, wrong);
}

template <class T>
void check_silu(Tally& tally, const void* kernel, int rows, int width) {
    const auto values = Rounded<T>::of(normal_values(static_cast<size_t>(rows) * 2 * width, 5, 3));
    Buffer<T> in(values);
    for (int wide = 0; wide < 2; ++wide) {
        Buffer<float> out(static_cast<size_t>(rows) * width);
        out.poison();
        launch_with(kernel, dim3(30), 256, true, nullptr, in.data, width, static_cast<void*>(out.data), rows, wide);
        const auto got = out.download();
        size_t wrong = 0;
        for (int r = 0; r < rows; ++r)
            for (int c = 0; c < width; ++c) {
                const double g = Rounded<T>::value(values[static_cast<size_t>(r) * 2 * width + c]), u = Rounded<T>::value(values[static_cast<size_t>(r) * 2 * width + width + c]);
                const double want = g / (1 + std::exp(-g)) * u;
                const size_t at = static_cast<size_t>(r) * width + c;
                wrong += wide ? !(std::fabs(got[at] - want) <= 2e-6 * std::fabs(want) + 1e-9) : !near_bf16(reinterpret_cast<const uint16_t*>(got.data())[at], want);
            }
        tally.expect(wrong == 0, "silu_rows %zu-byte input, %s: %zu wrong", sizeof(T), wide ? "f32" : "bf16", wrong);
    }
}

template <class T>
void check_add(Tally& tally, const void* kernel, bool with_bias) {
    const int rows = 11, cols = 772;
    const auto x = normal_values(rows * cols, 6), bias = normal_values(cols, 8);
    const auto y = Rounded<T>::of(normal_values(rows * cols, 7));
    Buffer<float> dx(x), db(bias);
    Buffer<T> dy(y);
    launch_with(kernel, dim3(9), 256, true, nullptr, dx.data, dy.data, static_cast<const float*>(with_bias ? db.data : nullptr), cols, rows);
    const auto got = dx.download();
    size_t wrong = 0;
    for (int i = 0; i < rows * cols; ++i) {
        const double want = static_cast<double>(x[i]) + Rounded<T>::value(y[i]) + (with_bias ? bias[i % cols] : 0);
        wrong += !(std::fabs(got[i] - want) < 1e-6);
    }
    tally.expect(wrong == 0, "add_rows %zu-byte input: %zu wrong", sizeof(T), wrong);
}

void check_to_bf16(Tally& tally) {
    const auto x = normal_values(10004, 9, 100);
    Buffer<float> dx(x);
    Buffer<uint16_t> out(x.size());
    out.poison();
    launch_with(reinterpret_cast<const void*>(to_bf16), dim3(3), 256, true, nullptr, static_cast<const float*>(dx.data), reinterpret_cast<__nv_bfloat16*>(out.data),
                static_cast<long long>(x.size()));
    const auto got = out.download();
    size_t wrong = 0;
    for (size_t i = 0; i < x.size(); ++i) wrong += got[i] != bf16_bits(x[i]);
    tally.expect(wrong == 0, "to_bf16: %zu wrong", wrong);
}

struct HeadsCase {
    int q, kv, dim, tokens, position;
    bool norm, bias, from_state;
};

template <class T>
void check_split(Tally& tally, const void* kernel, const HeadsCase& c) {
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
    Buffer<uint16_t> pre(static_cast<size_t>(c.tokens) * c.q * c.dim), rot(pre.count), k(static_cast<size_t>(c.kv) * capacity * c.dim), v(k.count);
    for (auto* b : {&pre, &rot, &k, &v}) b->poison();
    cosine.poison(), sine.poison();
    const int* at = c.from_state ? position.data : nullptr;
    launch_with(reinterpret_cast<const void*>(rope_angles), dim3((half * c.tokens + 127) / 128), 128, true, nullptr, static_cast<const double*>(df.data), factor, half, at,
                c.from_state ? -1 : c.position, cosine.data, sine.data, c.tokens);
    HeadsArgs args{qkv.data, c.bias ? db.data : nullptr, c.norm ? dq.data : nullptr, c.norm ? dk.data : nullptr, cosine.data, sine.data, at, pre.data, rot.data, k.data,
                   v.data, 1e-6f, c.from_state ? -1 : c.position, capacity, c.q, c.kv, c.dim, c.tokens, 0};
    launch_with(kernel, dim3((c.q + 2 * c.kv + 3) / 4, c.tokens), 128, true, nullptr, args);
    const auto got_pre = pre.download(), got_rot = rot.download(), got_k = k.download(), got_v = v.download();
    size_t wrong = 0, written = 0;
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
            const auto near_turned = [&](uint16_t got, int e) {
                const double size = std::hypot(x[e % half], x[e % half + half]);
                return std::fabs(bf16_value(got) - turned[e]) <= kBf16 * std::fabs(turned[e]) + 1e-6 * size;
            };
            for (int e = 0; e < c.dim; ++e) {
                if (is_q) {
                    const size_t i = (static_cast<size_t>(t) * c.q + h) * c.dim + e;
                    wrong += !near_bf16(got_pre[i], x[e]) + !near_turned(got_rot[i], e);
                } else {
                    const size_t i = (static_cast<size_t>(h - c.q - (is_v ? c.kv : 0)) * capacity + c.position + t) * c.dim + e;
                    wrong += is_v ? !near_bf16(got_v[i], x[e]) : !near_turned(got_k[i], e);
                }
            }
        }
    for (size_t i = 0; i < got_k.size(); ++i) written += (got_k[i] != 0xffff) + (got_v[i] != 0xffff);
    tally.expect(wrong == 0 && written == static_cast<size_t>(c.tokens) * 2 * c.kv * c.dim, "split_heads %d/%d D %d, %d tokens at %d: %zu wrong, %zu written", c.q, c.kv,
                 c.dim, c.tokens, c.position, wrong, written);
}

}  // namespace

void check_rows(Tally& tally) {
    check_norm(tally, 5, 4096), check_norm(tally, 3, 896), check_norm(tally, 17, 32), check_norm(tally, 2, 20000);
    check_silu<float>(tally, reinterpret_cast<const void*>(silu_rows_f32), 7, 1540);
    check_silu<uint16_t>(tally, reinterpret_cast<const void*>(silu_rows_bf16), 7, 1540);
    for (bool bias : {false, true}) {
        check_add<float>(tally, reinterpret_cast<const void*>(add_rows_f32), bias);
        check_add<uint16_t>(tally, reinterpret_cast<const void*>(add_rows_bf16), bias);
    }
    check_to_bf16(tally);
}

void check_heads(Tally& tally) {
    const auto f32 = reinterpret_cast<const void*>(split_heads_f32);
    const auto bf16 = reinterpret_cast<const void*>(split_heads_bf16);
    const HeadsCase cases[] = {{32, 8, 128, 1, 1000, false, false, true}, {32, 8, 128, 1, 30, true, true, true}, {8, 2, 64, 9, 0, true, false, false},
                               {14, 2, 64, 5, 77, false, true, false},    {3, 1, 96, 2, 5, true, true, false},   {4, 4, 256, 3, 12, false, false, false},
                               {5, 1, 128, 1, 131071, true, false, true}, {9, 3, 32, 4, 3, true, true, false}};
    for (const auto& c : cases) check_split<float>(tally, f32, c), check_split<uint16_t>(tally, bf16, c);
}
