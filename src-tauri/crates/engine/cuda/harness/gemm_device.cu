#include "gemm_device.h"

#include <algorithm>

static __global__ void fill(uint16_t* elements, int rows, int columns, int stride, bool bf16, uint64_t seed, float scale) {
    const size_t count = static_cast<size_t>(rows - 1) * stride + columns;
    for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < count; i += static_cast<size_t>(gridDim.x) * blockDim.x) {
        const float x = i % stride < columns ? scale * normal(seed, i) : NAN;
        elements[i] = bf16 ? __bfloat16_as_ushort(__float2bfloat16(x)) : __half_as_ushort(__float2half(x));
    }
}

Matrix::Matrix(int rows, int columns, int stride, Dtype dtype, uint64_t seed, float scale)
    : rows(rows), columns(columns), stride(stride), dtype(dtype), elements(static_cast<size_t>(rows - 1) * stride + columns) {
    fill<<<2048, 256>>>(elements.data, rows, columns, stride, dtype == Dtype::bf16, seed, scale);
    CHECK(cudaGetLastError());
}

CUtensorMap map_of(const Matrix& matrix) {
    using Encode = CUresult(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                            const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
    static Encode* encode = [] {
        void* function = nullptr;
        cudaDriverEntryPointQueryResult found;
        CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found));
        if (found != cudaDriverEntryPointSuccess) std::printf("no cuTensorMapEncodeTiled\n"), std::exit(2);
        return reinterpret_cast<Encode*>(function);
    }();
    CUtensorMap map;
    const cuuint64_t extents[] = {static_cast<cuuint64_t>(matrix.columns), static_cast<cuuint64_t>(matrix.rows)};
    const cuuint64_t strides[] = {static_cast<cuuint64_t>(matrix.stride) * 2};
    const cuuint32_t box[] = {64, 64}, steps[] = {1, 1};
    const CUresult result =
        encode(&map, matrix.dtype == Dtype::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, matrix.elements.data,
               extents, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS) std::printf("cuTensorMapEncodeTiled: error %d\n", static_cast<int>(result)), std::exit(2);
    return map;
}

#define EACH_EPILOGUE(use, type) use(type, store_bf16) use(type, store_f32) use(type, add_f32) use(type, silu_bf16)
#define DECLARE(type, epilogue)                                                                                      \
    extern "C" __global__ void gemm_##type##_##epilogue(const GemmArgs);                                               \
    extern "C" __global__ void gemm_wgmma_##type##_##epilogue(const CUtensorMap, const CUtensorMap, const GemmArgs); \
    extern "C" __global__ void gemm_wgmma_narrow_##type##_##epilogue(const CUtensorMap, const CUtensorMap, const GemmArgs); \
    extern "C" __global__ void gemm_few_##type##_##epilogue(const CUtensorMap, const CUtensorMap, const GemmArgs);
EACH_EPILOGUE(DECLARE, bf16)
EACH_EPILOGUE(DECLARE, f16)
#define MMA(type, epilogue) reinterpret_cast<const void*>(gemm_##type##_##epilogue),
#define WGMMA(type, epilogue) reinterpret_cast<const void*>(gemm_wgmma_##type##_##epilogue),

#define NARROW(type, epilogue) reinterpret_cast<const void*>(gemm_wgmma_narrow_##type##_##epilogue),
#define FEW(type, epilogue) reinterpret_cast<const void*>(gemm_few_##type##_##epilogue),

// By path, type, epilogue.
static const void* const kernels[4][2][4] = {{{EACH_EPILOGUE(MMA, bf16)}, {EACH_EPILOGUE(MMA, f16)}},
                                             {{EACH_EPILOGUE(WGMMA, bf16)}, {EACH_EPILOGUE(WGMMA, f16)}},
                                             {{EACH_EPILOGUE(NARROW, bf16)}, {EACH_EPILOGUE(NARROW, f16)}},
                                             {{EACH_EPILOGUE(FEW, bf16)}, {EACH_EPILOGUE(FEW, f16)}}};
constexpr int kShared[] = {49152, 197632, 197632, 230400};
static int multiprocessors = 0;
static uint8_t* shared_workspace = nullptr;

void prepare_kernels() {
    CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
    const size_t bytes = kWorkspaceFlagBytes + static_cast<size_t>(multiprocessors) * kWorkspaceBlockBytes;
    CHECK(cudaMalloc(&shared_workspace, bytes));
    CHECK(cudaMemset(shared_workspace, 0xff, bytes));
    CHECK(cudaMemset(shared_workspace, 0, kWorkspaceFlagBytes));
    for (int path = 0; path < 4; ++path) {
        for (const auto& of_type : kernels[path]) {
            for (const void* kernel : of_type) CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared[path]));
        }
    }
}

void* workspace() { return shared_workspace; }

bool workspace_is_clean() {
    std::vector<uint8_t> flags(kWorkspaceFlagBytes);
    CHECK(cudaMemcpy(flags.data(), shared_workspace, flags.size(), cudaMemcpyDeviceToHost));
    return std::all_of(flags.begin(), flags.end(), [](uint8_t flag) { return flag == 0; });
}

static int tiles(int extent, int tile) { return (extent + tile - 1) / tile; }

void launch(Path path, const Product& product, cudaStream_t stream) {
    const GemmArgs& args = product.args;
    const int which = static_cast<int>(path);
    cudaLaunchAttribute attribute;
    cudaLaunchConfig_t config{};
    config.stream = stream;
    config.dynamicSmemBytes = kShared[which];
    config.blockDim = dim3(path == Path::mma ? 128 : 384);
    const bool silu = product.epilogue == kSiluBf16;
    const int tiles_128 = tiles(args.m, 128) * tiles(args.n, silu ? 64 : 128);
    const int cluster = path == Path::wgmma ? 2 : 1;
    config.gridDim = dim3(path == Path::narrow || path == Path::few ? multiprocessors : path == Path::wgmma ? multiprocessors / 2 * 2 : tiles_128);
    if (cluster > 1) {
        attribute.id = cudaLaunchAttributeClusterDimension;
        attribute.val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
        config.attrs = &attribute;
        config.numAttrs = 1;
    }
    void* wgmma_arguments[] = {const_cast<CUtensorMap*>(&product.map_a), const_cast<CUtensorMap*>(&product.map_w), const_cast<GemmArgs*>(&args)};
    void* mma_arguments[] = {const_cast<GemmArgs*>(&args)};
    CHECK(cudaLaunchKernelExC(&config, kernels[which][static_cast<int>(product.dtype)][product.epilogue], path == Path::mma ? mma_arguments : wgmma_arguments));
}
