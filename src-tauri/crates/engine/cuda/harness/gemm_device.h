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

#include "../../../../../kernels/cuda/harness/buffer.h"
#include "../../../../../kernels/cuda/harness/random.h"
#include "../gemm.cuh"

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
