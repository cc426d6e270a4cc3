// The beginning of a step: the embedding row, and the angles of RoPE, once for all layers.

#include "launch.cuh"
#include "packed.cuh"

namespace {

template <int kType>
__device__ void embed_rows(const void* table, int vocab, int cols, const unsigned* tokens, float* x) {
    allow_next();
    wait_for_previous();
    const Values<kType> values(table, vocab, cols);
    const unsigned token = __ldcg(tokens + blockIdx.y);
    float* row = x + static_cast<size_t>(blockIdx.y) * cols;
    for (int col = (blockIdx.x * blockDim.x + threadIdx.x) * 8; col < cols; col += gridDim.x * blockDim.x * 8) {
        float x[8];
        if (token < static_cast<unsigned>(vocab)) {
            values.eight(token, col, x);
        } else {
            for (float& v : x) v = __int_as_float(0x7fffffff);
        }
        for (int i = 0; i < 2; ++i) *reinterpret_cast<float4*>(row + col + 4 * i) = *reinterpret_cast<const float4*>(x + 4 * i);
    }
}

}  // namespace

// x[i] = row tokens[i] of the table. Grid (any, rows).
#define EMBED(name, type)                                                                                                                  \
    extern "C" __global__ void embed_##name(const void* table, int vocab, int cols, const unsigned* tokens, float* x, int count) {         \
        if (static_cast<int>(blockIdx.y) < count) embed_rows<type>(table, vocab, cols, tokens, x);                                        \
    }

EMBED(f32, kF32)
EMBED(f16, kF16)
EMBED(bf16, kBf16)
EMBED(q8_0, kQ8_0)
EMBED(q4_0, kQ4_0)
EMBED(q4_1, kQ4_1)
EMBED(q5_0, kQ5_0)
EMBED(q5_1, kQ5_1)
EMBED(q4_k, kQ4_K)
EMBED(q5_k, kQ5_K)
EMBED(q6_k, kQ6_K)

// cos and sin, [count, half], of positions from *position (or `begin`) on. Angles in f64, as at 128K a float angle is off by 0.004.
extern "C" __global__ void rope_angles(const double* inv_freq, double factor, int half, const int* position, int begin, float* cos_out,
                                       float* sin_out, int count) {
    allow_next();
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const double freq = i < half * count ? inv_freq[i % half] : 0;
    wait_for_previous();
    if (i >= half * count) return;
    const int at = (position != nullptr ? __ldcg(position) : begin) + i / half;
    double sine, cosine;
    sincos(at * freq, &sine, &cosine);
    cos_out[i] = static_cast<float>(cosine * factor);
    sin_out[i] = static_cast<float>(sine * factor);
}
