// An attention state over some span of tokens and the algebra that joins spans.
#pragma once

#include <math_constants.h>

constexpr float kLn2 = 0.693147180559945309f;
constexpr float kLog2E = 1.442695040888963407f;

__device__ inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The weight e^(x - max) of a state with log-sum-exp (or running maximum) x, in base 2.
// Two empty states are legal; without the guard (-inf) - (-inf) turns the row to NaN.
__device__ inline float weight_log2(float x, float max) { return x == -CUDART_INF_F ? 0.0f : exp2_fast(x - max); }

// Log-sum-exp (natural) of a sum of weights over a base-2 reference. NaN must not pass for empty.
__device__ inline float natural_lse(float weight, float max) { return weight != 0.0f ? (max + __log2f(weight)) * kLn2 : -CUDART_INF_F; }

__device__ inline float4 operator*(float a, float4 b) { return make_float4(a * b.x, a * b.y, a * b.z, a * b.w); }
__device__ inline float4 operator+(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

// Normalised output and natural log-sum-exp of a span, for one element or four of one head.
template <class Value>
struct Partial {
    Value out;
    float lse;  // -inf = empty
};

// Multiplies `share` by what `a` weighs in the sum of both; not a number if one of them is not.
template <class Value>
__device__ inline Partial<Value> merge(const Partial<Value>& a, const Partial<Value>& b, float& share) {
    const float max = fmaxf(a.lse, b.lse) * kLog2E;
    const float weight_a = weight_log2(a.lse * kLog2E, max);
    const float weight_b = weight_log2(b.lse * kLog2E, max);
    const float weight = weight_a + weight_b;
    if (weight == 0.0f) return a;  // both empty
    const float inverse = __fdividef(1.0f, weight);
    share *= weight_a * inverse;
    return {inverse * (weight_a * a.out + weight_b * b.out), natural_lse(weight, max)};
}
template <class Value>
__device__ inline Partial<Value> merge(const Partial<Value>& a, const Partial<Value>& b) {
    float share = 1.0f;
    return merge(a, b, share);
}
