// Device memory, random data, threads: what the prefill harness stands on.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda_runtime.h>
#include <functional>
#include <thread>
#include <vector>

#include "step.cuh"

#define CHECK(call)                                                                                       \
    do {                                                                                                  \
        const cudaError_t error = (call);                                                                 \
        if (error != cudaSuccess) {                                                                       \
            std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error));         \
            std::exit(2);                                                                                 \
        }                                                                                                 \
    } while (0)

enum class Dtype { bf16, f16 };

struct Shape {
    Dtype dtype;
    int num_q_heads, num_kv_heads, head_dim;
    int group() const { return num_q_heads / num_kv_heads; }
    Heads heads() const { return {num_kv_heads, group(), 1.44269504f / std::sqrt(static_cast<float>(head_dim))}; }
};

template <class T>
struct Buffer {
    T* data = nullptr;
    size_t count = 0;
    explicit Buffer(size_t count) : count(count) { CHECK(cudaMalloc(&data, (count ? count : 1) * sizeof(T))); }
    Buffer(const Buffer&) = delete;
    ~Buffer() { cudaFree(data); }
    void poison() { CHECK(cudaMemset(data, 0xff, count * sizeof(T))); }
    std::vector<T> download() const {
        std::vector<T> host(count);
        CHECK(cudaMemcpy(host.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost));
        return host;
    }
};

// Counter-based random numbers.
__device__ __host__ inline unsigned hash_u32(unsigned long long seed, unsigned long long i) {
    unsigned long long x = seed * 0xd1342543de82ef95ull + i * 0x9e3779b97f4a7c15ull + 0x632be59bd9b4e019ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return static_cast<unsigned>((x ^ x >> 31) >> 32);
}
__device__ inline float normal(unsigned long long seed, unsigned long long i) {
    const float u = (hash_u32(seed, 2 * i) + 0.5f) * 2.3283064e-10f, v = hash_u32(seed, 2 * i + 1) * 2.3283064e-10f;
    return sqrtf(-2.0f * logf(fmaxf(u, 1e-12f))) * cosf(6.2831853f * v);
}
static __global__ void fill_normal(unsigned short* x, size_t count, unsigned long long seed, float scale, float shift, bool bf16) {
    for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < count; i += static_cast<size_t>(gridDim.x) * blockDim.x) {
        const float value = shift + scale * normal(seed, i);
        x[i] = bf16 ? __bfloat16_as_ushort(__float2bfloat16(value)) : __half_as_ushort(__float2half(value));
    }
}
inline void fill(Buffer<unsigned short>& x, unsigned long long seed, float scale, float shift, Dtype dtype) {
    fill_normal<<<2048, 256>>>(x.data, x.count, seed, scale, shift, dtype == Dtype::bf16);
    CHECK(cudaGetLastError());
}

inline float to_float(unsigned short bits, Dtype dtype) {
    if (dtype == Dtype::bf16) {
        const unsigned wide = static_cast<unsigned>(bits) << 16;
        float x;
        std::memcpy(&x, &wide, 4);
        return x;
    }
    static const std::vector<float> halves = [] {
        std::vector<float> table(65536);
        for (int i = 0; i < 65536; ++i) table[i] = __half2float(__ushort_as_half(static_cast<unsigned short>(i)));
        return table;
    }();
    return halves[bits];
}

inline void parallel(int count, const std::function<void(int)>& task) {
    std::vector<std::thread> threads;
    const int workers = std::min<int>(count, std::max(1u, std::thread::hardware_concurrency()));
    for (int w = 0; w < workers; ++w) {
        threads.emplace_back([&, w] {
            for (int i = w; i < count; i += workers) task(i);
        });
    }
    for (auto& thread : threads) thread.join();
}
