// Kernels gemm_wgmma_<type>_<epilogue>; GEMM.md has arguments, tensor maps and launch sizes.
#include "gemm_wgmma.cuh"

using GemmWideTile = WgmmaTile<256, 2, 4>;
using GemmNarrowTile = WgmmaTile<128, 1, 6>;
static_assert(GemmWideTile::kSharedBytes == 197632 && GemmNarrowTile::kSharedBytes == 197632 && GemmWideTile::kThreads == 384);

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define BODY(element, tile, epilogue) gemm_wgmma<element, tile, epilogue>(args, &map_a, &map_w)
#else
#define BODY(element, tile, epilogue) __trap()
#endif
#define KERNEL(name, element, tile, epilogue)                                                                                                \
    extern "C" __global__ void __launch_bounds__(384, 1)                                                                                     \
        name(const __grid_constant__ GemmTensorMap map_a, const __grid_constant__ GemmTensorMap map_w, const __grid_constant__ GemmArgs args) { \
        BODY(element, tile, epilogue);                                                                                                       \
    }
#define KERNELS(family, tile)                                    \
    KERNEL(family##_bf16_store_bf16, GemmBf16, tile, kStoreBf16) \
    KERNEL(family##_bf16_store_f32, GemmBf16, tile, kStoreF32)   \
    KERNEL(family##_bf16_add_f32, GemmBf16, tile, kAddF32)       \
    KERNEL(family##_bf16_silu_bf16, GemmBf16, tile, kSiluBf16)   \
    KERNEL(family##_f16_store_bf16, GemmF16, tile, kStoreBf16)   \
    KERNEL(family##_f16_store_f32, GemmF16, tile, kStoreF32)     \
    KERNEL(family##_f16_add_f32, GemmF16, tile, kAddF32)         \
    KERNEL(family##_f16_silu_bf16, GemmF16, tile, kSiluBf16)
KERNELS(gemm_wgmma, GemmWideTile)
KERNELS(gemm_wgmma_narrow, GemmNarrowTile)
