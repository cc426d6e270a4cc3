// What the checks share: counting failures, and errors in which NaN counts.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdarg>
#include <random>
#include <string>
#include <vector>

#include "../../../../../kernels/cuda/harness/parallel.h"
#include "step_blocks.h"
#include "step_device.h"

struct Tally {
    int cases = 0, failures = 0;
    // `good` false is printed with what it was about.
    void expect(bool good, const char* format, ...) {
        ++cases;
        if (good) return;
        ++failures;
        if (failures > 40) return;
        va_list list;
        va_start(list, format);
        std::printf("FAILED ");
        std::vprintf(format, list);
        std::printf("\n");
        va_end(list);
    }
};

// ‖got − want‖ / ‖want‖; infinite if anything is NaN.
template <class A, class B>
double relative_error(const std::vector<A>& got, const std::vector<B>& want) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < want.size(); ++i) {
        const double d = static_cast<double>(got[i]) - static_cast<double>(want[i]);
        difference += d * d, norm += static_cast<double>(want[i]) * static_cast<double>(want[i]);
    }
    const double error = std::sqrt(difference / (norm > 0 ? norm : 1));
    return std::isnan(error) ? INFINITY : error;
}

inline std::vector<float> normal_values(size_t count, unsigned seed, float std = 1, float mean = 0) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(mean, std);
    std::vector<float> values(count);
    for (auto& x : values) x = normal(random);
    return values;
}
inline float bf16_value(uint16_t bits) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float x;
    std::memcpy(&x, &wide, 4);
    return x;
}
inline uint16_t bf16_bits(float x) { return __bfloat16_as_ushort(__float2bfloat16(x)); }
inline float f16_value(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
inline uint16_t f16_bits(float x) { return __half_as_ushort(__float2half(x)); }

// bf16 outputs may round the other way where f32 and f64 differ in the last bits: half a unit of 8 bits, and a little.
constexpr double kBf16Rounding = 0.0039;

inline bool near_bf16(uint16_t got, double want) { return std::fabs(bf16_value(got) - want) <= kBf16Rounding * std::fabs(want) + 1e-6; }

// Inputs of a type, as the kernels read them.
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

// A matrix on the device in the kernels' layout, and on the host as in the file.
struct Matrix {
    int type, rows, cols;
    std::vector<unsigned char> raw;
    Buffer<unsigned char> device;
    Matrix(int type, int rows, int cols, unsigned seed);
    float at(int row, int col) const { return element_of(type, raw.data() + row * raw_row_bytes(type, cols), col); }
};

void check_products(Tally& tally, bool quick);
void check_chains(Tally& tally, bool quick);
void check_layouts(Tally& tally, bool quick);
void check_rows(Tally& tally);
void check_heads(Tally& tally);
void check_sample(Tally& tally, bool quick);
void bench(const std::string& what);
