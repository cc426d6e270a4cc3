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

// A matrix on the device in the kernels' layout, and on the host as in the file.
struct Matrix {
    int type, rows, cols;
    std::vector<unsigned char> raw;
    Buffer<unsigned char> device;
    Matrix(int type, int rows, int cols, unsigned seed);
    float at(int row, int col) const { return element_of(type, raw.data() + row * raw_row_bytes(type, cols), col); }
};

void check_products(Tally& tally, bool quick);
void check_layouts(Tally& tally, bool quick);
void check_rows(Tally& tally);
void check_heads(Tally& tally);
void check_sample(Tally& tally, bool quick);
void bench(bool brief);
