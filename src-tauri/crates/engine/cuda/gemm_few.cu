// Kernels gemm_few_<type>_<epilogue>; GEMM.md has arguments, tensor maps and launch sizes.
#include "gemm_few.cuh"

static_assert(FewTile::kSharedBytes == 230400 && FewTile::kThreads == 384);

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define BODY(element, epilogue) gemm_few<element, epilogue>(args, &map_a, &map_w)
#else
#define BODY(element, epilogue) __trap()
#endif
#define KERNEL(name, element, epilogue)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(FewTile::kThreads, 1)                                                                       \
        name(const __grid_constant__ GemmTensorMap map_a, const __grid_constant__ GemmTensorMap map_w, const __grid_constant__ GemmArgs args) { \
        BODY(element, epilogue);                                                                                                             \
    }
KERNEL(gemm_few_bf16_store_bf16, GemmBf16, kStoreBf16)
KERNEL(gemm_few_bf16_store_f32, GemmBf16, kStoreF32)
KERNEL(gemm_few_bf16_add_f32, GemmBf16, kAddF32)
KERNEL(gemm_few_bf16_silu_bf16, GemmBf16, kSiluBf16)
KERNEL(gemm_few_f16_store_bf16, GemmF16, kStoreBf16)
KERNEL(gemm_few_f16_store_f32, GemmF16, kStoreF32)
KERNEL(gemm_few_f16_add_f32, GemmF16, kAddF32)
KERNEL(gemm_few_f16_silu_bf16, GemmF16, kSiluBf16)
