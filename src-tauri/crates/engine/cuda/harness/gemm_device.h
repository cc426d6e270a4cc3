// Device memory, random matrices, tensor maps and launches for the harness of the matrix products.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "../gemm.cuh"

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
    Buffer(const Buffer&) = delete;
    Buffer(Buffer&& other) noexcept : data(other.data), count(other.count) { other.data = nullptr; }
    ~Buffer() { cudaFree(data); }
    void upload(const std::vector<T>& host) { CHECK(cudaMemcpy(data, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice)); }
    std::vector<T> download() const {
        std::vector<T> host(count);
        CHECK(cudaMemcpy(host.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost));
        return host;
    }
};

enum class Dtype { bf16, f16 };

inline float to_float(uint16_t bits, Dtype dtype) {
    if (dtype == Dtype::f16) return __half2float(__ushort_as_half(bits));
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float x;
    std::memcpy(&x, &wide, 4);
    return x;
}

// Counter-based normal numbers.
__device__ __host__ inline uint32_t hash_u32(uint64_t seed, uint64_t i) {
    uint64_t x = seed * 0xd1342543de82ef95ull + i * 0x9e3779b97f4a7c15ull + 0x632be59bd9b4e019ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return static_cast<uint32_t>((x ^ x >> 31) >> 32);
}
__device__ __host__ inline float normal(uint64_t seed, uint64_t i) {
    const float u = (hash_u32(seed, 2 * i) + 0.5f) * 2.3283064e-10f, v = hash_u32(seed, 2 * i + 1) * 2.3283064e-10f;
    return sqrtf(-2.0f * logf(u < 1e-12f ? 1e-12f : u)) * cosf(6.2831853f * v);
}

// [rows, columns] of normal numbers times `scale` with `stride` elements per row; NaN beyond the columns. No element after the
// last row's last column is allocated.
struct Matrix {
    int rows, columns, stride;
    Dtype dtype;
    Buffer<uint16_t> elements;
    Matrix(int rows, int columns, int stride, Dtype dtype, uint64_t seed, float scale);
    size_t at(int row, int column) const { return static_cast<size_t>(row) * stride + column; }
};

// Rows of 16-bit elements in boxes of 64 rows and 64 columns, as the kernels expect them.
CUtensorMap map_of(const Matrix& matrix);

struct Product {
    Dtype dtype;
    GemmEpilogue epilogue;
    GemmArgs args;
    CUtensorMap map_a, map_w;
};
enum class Path { mma, wgmma, narrow, few };

// Sets the kernels' limits and allocates the workspace that all launches share; before everything else.
void prepare_kernels();
void* workspace();
// Whether every flag was taken back.
bool workspace_is_clean();
void launch(Path path, const Product& product, cudaStream_t stream);

int check(bool quick);
void bench(int only_m);

inline const char* name_of(GemmEpilogue epilogue) {
    constexpr const char* names[] = {"store_bf16", "store_f32", "add_f32", "silu_bf16"};
    return names[epilogue];
}
inline const char* name_of(Path path) {
    constexpr const char* names[] = {"mma", "wgmma", "narrow", "few"};
    return names[static_cast<int>(path)];
}
