// The 16-bit element types of A and W: packing, and the tensor-core products of each.
#pragma once

#include <cstdint>

struct GemmBf16 {
    static constexpr bool kIsBf16 = true;
    // c[16, 8] += a[16, 16] * b[16, 8], f32 accumulation.
    static __device__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};

struct GemmF16 {
    static constexpr bool kIsBf16 = false;
    static __device__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};

// Two floats rounded to one register, `first` in the low half.
__device__ inline uint32_t pack_bf16(float first, float second) {
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(second), "f"(first));
    return packed;
}
// As above in f16; what is too large becomes the largest finite number.
__device__ inline uint32_t pack_f16_saturating(float first, float second) {
    const float largest = 65504.0f;
    uint32_t packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;"
        : "=r"(packed)
        : "f"(fminf(fmaxf(second, -largest), largest)), "f"(fminf(fmaxf(first, -largest), largest)));
    return packed;
}
