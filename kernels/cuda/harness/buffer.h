// Device memory, and calls that must not fail: what every harness stands on, those of the engine's kernels too.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cuda_runtime.h>
#include <vector>

#define CHECK(call)                                                                               \
    do {                                                                                          \
        const cudaError_t error = (call);                                                         \
        if (error != cudaSuccess) {                                                               \
            std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error)); \
            std::exit(2);                                                                         \
        }                                                                                         \
    } while (0)

template <class T>
struct Buffer {
    T* data = nullptr;
    size_t count = 0;
    explicit Buffer(size_t count) : count(count) { CHECK(cudaMalloc(&data, (count ? count : 1) * sizeof(T))); }
    explicit Buffer(const std::vector<T>& host) : Buffer(host.size()) { upload(host); }
    Buffer(const Buffer&) = delete;
    Buffer(Buffer&& other) noexcept : data(other.data), count(other.count) { other.data = nullptr; }
    ~Buffer() { cudaFree(data); }
    void zero() { CHECK(cudaMemset(data, 0, count * sizeof(T))); }
    // NaN in every floating-point type.
    void poison() { CHECK(cudaMemset(data, 0xff, count * sizeof(T))); }
    void upload(const std::vector<T>& host) { CHECK(cudaMemcpy(data, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice)); }
    std::vector<T> download() const {
        CHECK(cudaDeviceSynchronize());
        std::vector<T> host(count);
        CHECK(cudaMemcpy(host.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost));
        return host;
    }
};
