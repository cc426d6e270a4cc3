// Random inputs of the checks.
#pragma once

#include "device.h"

constexpr double kTolerance = 2e-3;

inline int multiprocessors() {
    int count = 0;
    CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0));
    return count;
}

inline void set_position(Buffer<StepState>& state, int position) { state.upload({StepState{position, 0}}); }

inline std::vector<float> upload_query(Buffer<unsigned short>& buffer, const std::vector<float>& q, Dtype dtype) {
    std::vector<unsigned short> bits(q.size());
    std::vector<float> rounded(q.size());
    for (size_t i = 0; i < q.size(); ++i) bits[i] = from_float(q[i], dtype), rounded[i] = to_float(bits[i], dtype);
    buffer.upload(bits);
    return rounded;
}

inline std::vector<float> normals(size_t count, unsigned long long seed, float scale) {
    std::vector<float> x(count);
    for (size_t i = 0; i < count; ++i) x[i] = scale * normal(seed, i);
    return x;
}
