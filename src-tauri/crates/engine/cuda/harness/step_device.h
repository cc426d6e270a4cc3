// Device memory and launches of the step kernels, as the host side of the engine does them.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <vector>

#include <cuda_runtime.h>

#include "../../../../../kernels/cuda/harness/buffer.h"
#include "../matvec.cuh"

#define EACH_BLOCK_TYPE(use) use(q8_0, kQ8_0) use(q4_0, kQ4_0) use(q4_1, kQ4_1) use(q5_0, kQ5_0) use(q5_1, kQ5_1) use(q4_k, kQ4_K) use(q5_k, kQ5_K) use(q6_k, kQ6_K)
#define EACH_TYPE(use) use(f32, kF32) use(f16, kF16) use(bf16, kBf16) EACH_BLOCK_TYPE(use)

#define DECLARE_TYPE(name, type)                                                                  \
    extern "C" __global__ void matvec_##name(const MatvecChain);                                   \
    extern "C" __global__ void dequantise_##name(const void*, __nv_bfloat16*, int, int, int, int); \
    extern "C" __global__ void embed_##name(const void*, int, int, const unsigned*, float*, int);
#define DECLARE_BLOCK_TYPE(name, type)                                               \
    extern "C" __global__ void repack_##name(const void*, void*, int, int, int, int); \
    extern "C" __global__ void fill_##name(void*, int, int, unsigned long long, float);
EACH_TYPE(DECLARE_TYPE)
EACH_BLOCK_TYPE(DECLARE_BLOCK_TYPE)
extern "C" __global__ void matvec_mixed(const MatvecChain);
extern "C" __global__ void fill_f32(float*, long long, unsigned long long, float);
extern "C" __global__ void fill_f16(__half*, long long, unsigned long long, float);
extern "C" __global__ void fill_bf16(__nv_bfloat16*, long long, unsigned long long, float);
extern "C" __global__ void fill_ring(__nv_bfloat16*, float*, void*, int, int, int, int, int, unsigned long long);
extern "C" __global__ void rope_angles(const double*, double, int, const int*, int, float*, float*, int);
extern "C" __global__ void split_heads_f32(const HeadsArgs);
extern "C" __global__ void split_heads_bf16(const HeadsArgs);
extern "C" __global__ void split_heads_f32_q8(const HeadsArgs);
extern "C" __global__ void split_heads_f32_fp8(const HeadsArgs);
extern "C" __global__ void fill_kv_q8(unsigned char*, unsigned short*, int, int, unsigned long long);
extern "C" __global__ void fill_kv_fp8(unsigned char*, unsigned short*, int, int, unsigned long long);
extern "C" __global__ void rms_norm_rows(const float*, const float*, float, __nv_bfloat16*, int);
extern "C" __global__ void silu_rows_f32(const float*, int, void*, int, int);
extern "C" __global__ void silu_rows_bf16(const __nv_bfloat16*, int, void*, int, int);
extern "C" __global__ void f16_to_bf16(__half2*, long long);
extern "C" __global__ void sample(const SampleArgs);

inline const char* type_name(int type) {
    switch (type) {
#define NAME(name, number) \
    case number: return #name;
        EACH_TYPE(NAME)
    }
    return "mixed";
}
struct MatvecKernel {
    const void* function;
    int ring;
    bool quantised;
};
inline MatvecKernel matvec_kernel(int type) {
    switch (type) {
#define PICK(name, number) \
    case number: return {reinterpret_cast<const void*>(matvec_##name), ring_bytes<number>(), Unit<number>::kQuantisedInput};
        EACH_TYPE(PICK)
    }
    return {reinterpret_cast<const void*>(matvec_mixed), ring_bytes<kMixed>(), true};
}

// The formula of the README.
inline size_t matvec_shared(const MatvecKernel& kernel, const MatvecChain& chain, int threads) {
    size_t rows = 0, input = 0;
    for (int p = 0; p < chain.count; ++p) {
        const MatvecArgs& args = chain.products[p];
        for (int i = 0; i < args.num_parts; ++i) {
            const MatvecPart& part = args.parts[i];
            const size_t here = args.gated ? 2 * ((part.rows / 2 + part.blocks - 1) / part.blocks) : (part.rows + part.blocks - 1) / part.blocks;
            rows = here > rows ? here : rows;
        }
        const size_t bytes = kernel.quantised ? padded(args.cols, 1024) / 4 * 5 + 256 : 4 * padded(args.cols, 256);
        input = bytes > input ? bytes : input;
    }
    return static_cast<size_t>(threads) / 32 * kernel.ring + input + 4 * rows + 3072;
}

// Blocks are shared out by bytes, at least one per part.
inline int share_blocks(MatvecArgs& args, int grid) {
    double all = 0, done = 0;
    const auto bytes = [&](const MatvecPart& part) { return static_cast<double>(packed_bytes(part.type, part.rows, args.cols)); };
    for (int i = 0; i < args.num_parts; ++i) all += bytes(args.parts[i]);
    int next = 0, out = 0;
    for (int i = 0; i < args.num_parts; ++i) {
        MatvecPart& part = args.parts[i];
        done += bytes(part);
        const int last = args.num_parts - 1 - i;  // parts still to come
        int end = static_cast<int>(grid * done / all + 0.5);
        end = end < next + 1 ? next + 1 : end > grid - last ? grid - last : end;
        part.first_block = next, part.blocks = end - next, part.out = out;
        next = end, out += part.rows;
    }
    return next;
}

inline void launch(const void* function, dim3 grid, int threads, size_t shared, bool overlap, cudaStream_t stream, void** args) {
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = grid, config.blockDim = dim3(threads), config.dynamicSmemBytes = shared, config.stream = stream;
    config.attrs = &attribute, config.numAttrs = overlap ? 1 : 0;
    // The same division of L1 for all, or a multiprocessor would have to drain between them.
    CHECK(cudaFuncSetAttribute(function, cudaFuncAttributePreferredSharedMemoryCarveout, 100));
    CHECK(cudaLaunchKernelExC(&config, function, args));
}
template <class... Args>
void launch_with(const void* function, dim3 grid, int threads, bool overlap, cudaStream_t stream, Args... args) {
    void* pointers[] = {&args...};
    launch(function, grid, threads, 0, overlap, stream, pointers);
}

inline void launch_chain(int type, const MatvecChain& chain, int grid, int threads, bool overlap, cudaStream_t stream) {
    const MatvecKernel kernel = matvec_kernel(type);
    const size_t shared = matvec_shared(kernel, chain, threads);
    CHECK(cudaFuncSetAttribute(kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
    MatvecChain copy = chain;
    void* pointers[] = {&copy};
    launch(kernel.function, dim3(grid), threads, shared, overlap, stream, pointers);
}
inline void launch_matvec(int type, const MatvecArgs& args, int grid, int threads, bool overlap, cudaStream_t stream) {
    MatvecChain chain{};
    chain.count = 1, chain.products[0] = args;
    launch_chain(type, chain, grid, threads, overlap, stream);
}

inline const void* pick(int type, const char* what) {
    const std::string kind = what;
#define PICK_ANY(name, number)                                                               \
    if (type == number && kind == "dequantise") return reinterpret_cast<const void*>(dequantise_##name); \
    if (type == number && kind == "embed") return reinterpret_cast<const void*>(embed_##name); \
    if (type == number && kind == "fill") return reinterpret_cast<const void*>(fill_##name);
    EACH_TYPE(PICK_ANY)
#define PICK_BLOCK(name, number) \
    if (type == number && kind == "repack") return reinterpret_cast<const void*>(repack_##name);
    EACH_BLOCK_TYPE(PICK_BLOCK)
    return nullptr;
}
