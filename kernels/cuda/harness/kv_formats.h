// The 8-bit formats of K and V on the host, written a second time: what a number becomes, and what a byte stands for.
#pragma once

#include <algorithm>

#include "random.h"

inline float e4m3_value(unsigned char byte) {
    const int exponent = byte >> 3 & 15, mantissa = byte & 7;
    float x = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9) : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
    if ((byte & 0x7f) == 0x7f) x = NAN;
    return byte & 0x80 ? -x : x;
}
// The nearest of all e4m3 numbers; of two equally near the one with the even byte. Infinity is taken for the greatest.
inline unsigned char e4m3_byte(float x) {
    if (std::isnan(x)) return 0x7f;
    const unsigned char sign = std::signbit(x) ? 0x80 : 0;
    const double magnitude = std::min(std::fabs(static_cast<double>(x)), 448.0);
    int below = 0;  // magnitudes grow with their bytes, to 448 at 0x7e
    for (int step = 64; step > 0; step /= 2) {
        if (below + step <= 0x7e && e4m3_value(static_cast<unsigned char>(below + step)) <= magnitude) below += step;
    }
    if (below == 0x7e) return sign | 0x7e;
    const double down = magnitude - e4m3_value(static_cast<unsigned char>(below)), up = e4m3_value(static_cast<unsigned char>(below + 1)) - magnitude;
    return sign | static_cast<unsigned char>(up < down || (up == down && below % 2 == 1) ? below + 1 : below);
}

inline float q8_value(unsigned char byte, float scale) { return static_cast<float>(static_cast<int>(byte) - 128) * scale; }
// f16 bits of the scale of 32 numbers.
inline unsigned short q8_scale_bits(const float* x) {
    float greatest = 0;
    for (int i = 0; i < 32; ++i) {
        if (std::isnan(x[i])) return from_float(NAN, Dtype::f16);
        greatest = std::max(greatest, std::fabs(x[i]));
    }
    return from_float(greatest / 127.0f, Dtype::f16);
}
inline unsigned char q8_of(float x, float scale) {
    if (!(scale > 0) || std::isinf(scale)) return 128;
    return static_cast<unsigned char>(128 + static_cast<int>(std::min(127.0f, std::max(-127.0f, std::nearbyintf(x / scale)))));
}
