// Kernels gemm_<type>_<epilogue>; GEMM.md has arguments and launch sizes.
#include "gemm_mma.cuh"

using GemmMmaTile = MmaTile<32, 3>;
static_assert(GemmMmaTile::kSharedBytes == 49152 && GemmMmaTile::kThreads == 128);

#define KERNEL(name, element, epilogue)                                                                                   \
    extern "C" __global__ void __launch_bounds__(GemmMmaTile::kThreads, 2) name(const __grid_constant__ GemmArgs args) { \
        gemm_mma<element, epilogue, GemmMmaTile>(args);                                                                  \
    }
KERNEL(gemm_bf16_store_bf16, GemmBf16, kStoreBf16)
KERNEL(gemm_bf16_store_f32, GemmBf16, kStoreF32)
KERNEL(gemm_bf16_add_f32, GemmBf16, kAddF32)
KERNEL(gemm_bf16_silu_bf16, GemmBf16, kSiluBf16)
KERNEL(gemm_f16_store_bf16, GemmF16, kStoreBf16)
KERNEL(gemm_f16_store_f32, GemmF16, kStoreF32)
KERNEL(gemm_f16_add_f32, GemmF16, kAddF32)
KERNEL(gemm_f16_silu_bf16, GemmF16, kSiluBf16)

// Activations for f16 weights; count is a multiple of 8, and `from` may be `to`.
extern "C" __global__ void __launch_bounds__(256) gemm_bf16_to_f16(const uint4* from, uint4* to, unsigned long long count) {
    const size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x;
    wait_for_earlier_kernels();
    if (i * 8 >= count) return;
    const uint4 in = from[i];
    const auto convert = [](uint32_t x) { return pack_f16_saturating(__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000u)); };
    to[i] = make_uint4(convert(in.x), convert(in.y), convert(in.z), convert(in.w));
}

// Rows [gate | up] of 2 n columns become silu(gate) * up; n is a multiple of 8, count = rows * n.
extern "C" __global__ void __launch_bounds__(256) gemm_silu_bf16(const uint4* gate_up, uint4* out, int n, unsigned long long count) {
    const size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x, eighths = n / 8;
    wait_for_earlier_kernels();
    if (i * 8 >= count) return;
    const uint4* gates = gate_up + i / eighths * 2 * eighths + i % eighths;
    const uint4 gate = gates[0], up = gates[eighths];
    const auto low = [](uint32_t x) { return __uint_as_float(x << 16); };
    const auto high = [](uint32_t x) { return __uint_as_float(x & 0xffff0000u); };
    const auto gated = [&](uint32_t g, uint32_t u) { return pack_bf16(silu(low(g)) * low(u), silu(high(g)) * high(u)); };
    out[i] = make_uint4(gated(gate.x, up.x), gated(gate.y, up.y), gated(gate.z, up.z), gated(gate.w, up.w));
}
