// check [quick] [name]    prefill kernels against the f64 oracle; the exit status says whether it held
// bench [brief] [name]    their times; name: parts of variants' names, separated by |, such as "wgmma bf16|D256"
#include <cstring>
#include <cuda.h>

#include "prefill.h"

#define PREFILL_DECLARE_ONE(type, dim)                                             \
    extern "C" __global__ void prefill_##type##_d##dim(const PrefillArgs);         \
    extern "C" __global__ void prefill_seed_##type##_d##dim(const PrefillArgs);
#define PREFILL_DECLARE(dim) PREFILL_DECLARE_ONE(bf16, dim) PREFILL_DECLARE_ONE(f16, dim)
PREFILL_DECLARE(64)
PREFILL_DECLARE(96)
PREFILL_DECLARE(128)
PREFILL_DECLARE(256)

extern "C" __global__ void prefill_combine_bf16(const PrefillArgs, int);
extern "C" __global__ void prefill_combine_f16(const PrefillArgs, int);
extern "C" __global__ void prefill_combine_seed(const PrefillArgs, int);
#define PREFILL_DECLARE_WGMMA(type, dim)                                                \
    extern "C" __global__ void prefill_wgmma_##type##_d##dim(const PrefillWgmmaArgs);   \
    extern "C" __global__ void prefill_wgmma_seed_##type##_d##dim(const PrefillWgmmaArgs);
#define PREFILL_DECLARE_BOTH(dim) PREFILL_DECLARE_WGMMA(bf16, dim) PREFILL_DECLARE_WGMMA(f16, dim)
PREFILL_DECLARE_BOTH(64)
PREFILL_DECLARE_BOTH(96)
PREFILL_DECLARE_BOTH(128)
PREFILL_DECLARE_BOTH(256)

namespace {

template <int kDim>
PrefillVariant plain(Dtype dtype, const void* attend, const void* seed) {
    const std::string name = std::string("mma.sync ") + (dtype == Dtype::bf16 ? "bf16" : "f16") + " D" + std::to_string(kDim);
    return {name, dtype, kDim, attend, seed, kPrefillTileRows<kDim>, kPrefillThreads, prefill_shared_bytes<kDim>(),
            kPrefillTileRows<kDim>, kPrefillThreads, prefill_shared_bytes<kDim>(), 0, 0, 0};
}

template <int kDim>
PrefillVariant hopper(Dtype dtype, const void* attend, const void* seed) {
    using Main = PrefillWgmmaShape<kDim, false>;
    using Seed = PrefillWgmmaShape<kDim, true>;
    const std::string name = std::string("wgmma ") + (dtype == Dtype::bf16 ? "bf16" : "f16") + " D" + std::to_string(kDim);
    return {name, dtype, kDim, attend, seed, Main::kRows, Main::kThreads, Main::kSharedBytes, Seed::kRows, Seed::kThreads, Seed::kSharedBytes,
            Main::kTokens, Seed::kTokens, Main::kColumns};
}

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*, const cuuint32_t*, const cuuint32_t*,
                            CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

Encode driver_encode() {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found));
    return reinterpret_cast<Encode>(function);
}

PrefillTensorMap tensor_map(const PrefillArgs& args, const void* base, Dtype dtype, int dim, int tokens, int columns) {
    static const Encode encode = driver_encode();
    const cuuint64_t extents[] = {static_cast<cuuint64_t>(dim), static_cast<cuuint64_t>(args.first_pos + args.n), static_cast<cuuint64_t>(args.heads.num_kv_heads)};
    const cuuint64_t strides[] = {2ull * dim, 2ull * dim * args.kv.capacity};
    const cuuint32_t box[] = {static_cast<cuuint32_t>(columns), static_cast<cuuint32_t>(tokens), 1}, steps[] = {1, 1, 1};
    CUtensorMap map;
    const CUresult result = encode(&map, dtype == Dtype::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 3, const_cast<void*>(base), extents,
                                   strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, columns == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
                                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS) std::printf("cuTensorMapEncodeTiled: %d\n", result), std::exit(2);
    PrefillTensorMap copy;
    static_assert(sizeof copy == sizeof map);
    std::memcpy(&copy, &map, sizeof map);
    return copy;
}

}  // namespace

#define PREFILL_PLAIN(type, dim) \
    plain<dim>(Dtype::type, reinterpret_cast<const void*>(prefill_##type##_d##dim), reinterpret_cast<const void*>(prefill_seed_##type##_d##dim))
#define PREFILL_PLAIN_BOTH(dim) PREFILL_PLAIN(bf16, dim), PREFILL_PLAIN(f16, dim)

#define PREFILL_HOPPER(type, dim) \
    hopper<dim>(Dtype::type, reinterpret_cast<const void*>(prefill_wgmma_##type##_d##dim), reinterpret_cast<const void*>(prefill_wgmma_seed_##type##_d##dim))
#define PREFILL_HOPPER_BOTH(dim) PREFILL_HOPPER(bf16, dim), PREFILL_HOPPER(f16, dim)
std::vector<PrefillVariant> prefill_variants() {
    return {PREFILL_PLAIN_BOTH(64), PREFILL_PLAIN_BOTH(96), PREFILL_PLAIN_BOTH(128), PREFILL_PLAIN_BOTH(256),
            PREFILL_HOPPER_BOTH(64), PREFILL_HOPPER_BOTH(96), PREFILL_HOPPER_BOTH(128), PREFILL_HOPPER_BOTH(256)};
}

int multiprocessors() {
    int count = 0;
    CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0));
    return count;
}

void launch_prefill(const PrefillVariant& variant, bool seed, const PrefillArgs& args, cudaStream_t stream) {
    const void* const kernel = seed ? variant.seed : variant.attend;
    const int threads = seed ? variant.seed_threads : variant.threads, shared = seed ? variant.seed_shared_bytes : variant.shared_bytes;
    const int tiles = prefill_tiles(args, seed, seed ? variant.seed_tile_rows : variant.tile_rows), blocks = tiles * args.heads.num_kv_heads * args.splits;
    if (tiles == 0) return;
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    if (variant.columns == 0) {
        void* arguments[] = {const_cast<PrefillArgs*>(&args)};
        CHECK(cudaLaunchKernel(kernel, dim3(blocks), dim3(threads), arguments, shared, stream));
    } else {
        const int tokens = seed ? variant.seed_tensor_tokens : variant.tensor_tokens;
        PrefillWgmmaArgs all{tensor_map(args, args.kv.k, variant.dtype, variant.head_dim, tokens, variant.columns),
                             tensor_map(args, args.kv.v, variant.dtype, variant.head_dim, tokens, variant.columns), args};
        void* arguments[] = {&all};
        CHECK(cudaLaunchKernel(kernel, dim3(std::min(blocks, multiprocessors())), dim3(threads), arguments, shared, stream));
    }
    if (args.splits > 1) {
        const int rows = prefill_tokens(args, seed).count * args.heads.num_kv_heads * args.heads.group;
        const auto combine = seed ? prefill_combine_seed : variant.dtype == Dtype::bf16 ? prefill_combine_bf16 : prefill_combine_f16;
        combine<<<std::min((rows + 3) / 4, 8 * multiprocessors()), kPrefillCombineThreads, 0, stream>>>(args, variant.head_dim);
        CHECK(cudaGetLastError());
    }
}

int main(int argc, char** argv) {
    setvbuf(stdout, nullptr, _IOLBF, 0);
    bool brief = false;
    std::string choice;
    for (int i = 2; i < argc; ++i) {
        if (!std::strcmp(argv[i], "brief") || !std::strcmp(argv[i], "quick")) brief = true;
        else choice = argv[i];
    }
    if (argc > 1 && !std::strcmp(argv[1], "bench")) {
        bench_prefill(choice, brief);
        return 0;
    }
    const int failures = check_prefill(choice, brief);
    std::printf("prefill check: %d failures\n", failures);
    return failures != 0;
}
