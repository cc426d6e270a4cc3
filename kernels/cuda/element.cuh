// The element types of K and V, and the tensor-core product for each. Queries and weights have 16 bits: bf16 beside bf16, f16
// beside all others.
#pragma once

#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

struct Bf16 {
    static constexpr int kBytes = 2;
    static constexpr bool kScaled = false;
    static constexpr float kUnit = 1.0f;  // what a 1 in a product stands for
    // Two floats rounded to one register, `first` in the low half.
    static __device__ uint32_t pack(float first, float second) {
        uint32_t packed;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(second), "f"(first));
        return packed;
    }
    static __device__ float2 unpack(uint32_t packed) {
        return make_float2(__uint_as_float(packed << 16), __uint_as_float(packed & 0xffff0000u));
    }
    // c[16, 8] += a[16, 16] * b[16, 8], f32 accumulation.
    static __device__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};

struct F16 {
    static constexpr int kBytes = 2;
    static constexpr bool kScaled = false;
    static constexpr float kUnit = 1.0f;
    static __device__ uint32_t pack(float first, float second) {
        uint32_t packed;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(second), "f"(first));
        return packed;
    }
    static __device__ float2 unpack(uint32_t packed) {
        return __half22float2(*reinterpret_cast<const __half2*>(&packed));
    }
    static __device__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};

// Two f16 times the two of `scale`.
__device__ inline uint32_t times(uint32_t pair, __half2 scale) {
    const __half2 product = __hmul2(*reinterpret_cast<const __half2*>(&pair), scale);
    return *reinterpret_cast<const uint32_t*>(&product);
}

// The order in which the four bytes of a register become two pairs of f16: (0, 1), (2, 3), or (0, 2), (1, 3).
enum class Pairs { adjacent, alternate };

// e4m3. Before sm_89, which converts, a byte's bits are moved to where f16 has them, which gives the value times 2^-8, subnormals
// too, and makes 480 of NaN.
struct Fp8 : F16 {
    static constexpr int kBytes = 1;
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 890 || defined(FP8_BY_BITS))
    static constexpr float kUnit = 256.0f;
    static __device__ uint32_t widen_pair(uint32_t bytes, uint32_t selector) {
        const uint32_t high = __byte_perm(bytes, 0, selector);
        return (high & 0x80008000u) | (high >> 1 & 0x3f803f80u);
    }
    template <Pairs kPairs>
    static __device__ void widen(uint32_t bytes, uint32_t& first, uint32_t& second) {
        first = widen_pair(bytes, kPairs == Pairs::adjacent ? 0x1404 : 0x2404);
        second = widen_pair(bytes, kPairs == Pairs::adjacent ? 0x3424 : 0x3414);
    }
#else
    template <Pairs kPairs>
    static __device__ void widen(uint32_t bytes, uint32_t& first, uint32_t& second) {
        if constexpr (kPairs == Pairs::alternate) bytes = __byte_perm(bytes, 0, 0x3120);
        asm("{ .reg .b16 low, high; mov.b32 {low, high}, %2; cvt.rn.f16x2.e4m3x2 %0, low; cvt.rn.f16x2.e4m3x2 %1, high; }"
            : "=r"(first), "=r"(second)
            : "r"(bytes));
    }
#endif
};

// A byte becomes the f16 1024 + byte by putting it below 0x64; the difference to 1152 is exact.
struct Q8 : F16 {
    static constexpr int kBytes = 1;
    static constexpr bool kScaled = true;
    static __device__ uint32_t widen_pair(uint32_t bytes, uint32_t selector) {
        const uint32_t shifted = __byte_perm(bytes, 0x64646464u, selector), zero = 0x64806480u;
        const __half2 q = __hsub2(*reinterpret_cast<const __half2*>(&shifted), *reinterpret_cast<const __half2*>(&zero));
        return *reinterpret_cast<const uint32_t*>(&q);
    }
    template <Pairs kPairs>
    static __device__ void widen(uint32_t bytes, uint32_t& first, uint32_t& second) {
        first = widen_pair(bytes, kPairs == Pairs::adjacent ? 0x4140 : 0x4240);
        second = widen_pair(bytes, kPairs == Pairs::adjacent ? 0x4342 : 0x4341);
    }
};
