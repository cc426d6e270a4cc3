// Row kernels against f64.

#include "step_check.h"

namespace {

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

void check_f16_to_bf16(Tally& tally) {
    const auto x = normal_values(10006, 10, 50);
    std::vector<uint16_t> bits(x.size());
    for (size_t i = 0; i < x.size(); ++i) bits[i] = f16_bits(x[i]);
    Buffer<uint16_t> data(bits);
    launch_with(reinterpret_cast<const void*>(f16_to_bf16), dim3(3), 256, true, nullptr, reinterpret_cast<__half2*>(data.data), static_cast<long long>(x.size()));
    const auto got = data.download();
    size_t wrong = 0;
    for (size_t i = 0; i < x.size(); ++i) wrong += got[i] != bf16_bits(static_cast<float>(f16_value(bits[i])));
    tally.expect(wrong == 0, "f16_to_bf16: %zu wrong", wrong);
}

}  // namespace

void check_rows(Tally& tally) {
    check_norm(tally, 5, 4096), check_norm(tally, 3, 896), check_norm(tally, 17, 32), check_norm(tally, 2, 20000);
    check_silu<float>(tally, reinterpret_cast<const void*>(silu_rows_f32), 7, 1540);
    check_silu<uint16_t>(tally, reinterpret_cast<const void*>(silu_rows_bf16), 7, 1540);
    check_f16_to_bf16(tally);
}
