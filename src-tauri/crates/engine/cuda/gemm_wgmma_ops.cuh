// Hopper's asynchronous matrix product: descriptors of operands in shared memory, fences, and the instruction itself.
#pragma once

#include <cstdint>

#include "gemm_element.cuh"

// 64 elements (128 bytes) of K per row, rows 128 bytes apart, chunks of 16 bytes swizzled within 1024-byte groups of eight rows, as a
// tensor map with a 128-byte swizzle writes them. The address is a multiple of 1024, plus 32 bytes per 16 elements along K.
__device__ inline uint64_t wgmma_operand(uint32_t shared) {
    constexpr uint64_t kSwizzle128 = 1ull << 62, kGroupStride = 1024 >> 4, kUnused = 1;
    return kSwizzle128 | kGroupStride << 32 | kUnused << 16 | (shared & 0x3ffff) >> 4;
}

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most kPending of this warpgroup's newest groups are under way.
template <int kPending>
__device__ inline void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

#define SUMS(j) "+f"(sums[j][0]), "+f"(sums[j][1]), "+f"(sums[j][2]), "+f"(sums[j][3])
#define WGMMA_16(type)                                                   \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %10, 0;\n"            \
        "wgmma.mma_async.sync.aligned.m64n16k16.f32." type "." type " {" \
        "%0, %1, %2, %3, %4, %5, %6, %7"                                 \
        "}, %8, %9, p, 1, 1, 0, 0;\n}\n"                                 \
        : SUMS(0), SUMS(1)                                               \
        : "l"(a), "l"(b), "r"(accumulate))
#define WGMMA_32(type)                                                         \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"                  \
        "wgmma.mma_async.sync.aligned.m64n32k16.f32." type "." type " {"       \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15" \
        "}, %16, %17, p, 1, 1, 0, 0;\n}\n"                                     \
        : SUMS(0), SUMS(1), SUMS(2), SUMS(3)                                   \
        : "l"(a), "l"(b), "r"(accumulate))
#define WGMMA_64(type)                                                                   \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"                            \
        "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {"                 \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "         \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31" \
        "}, %32, %33, p, 1, 1, 0, 0;\n}\n"                                               \
        : SUMS(0), SUMS(1), SUMS(2), SUMS(3), SUMS(4), SUMS(5), SUMS(6), SUMS(7)         \
        : "l"(a), "l"(b), "r"(accumulate))
#define WGMMA_96(type)                                                                     \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %50, 0;\n"                              \
        "wgmma.mma_async.sync.aligned.m64n96k16.f32." type "." type " {"                   \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"   \
        "}, %48, %49, p, 1, 1, 0, 0;\n}\n"                                                 \
        : SUMS(0), SUMS(1), SUMS(2), SUMS(3), SUMS(4), SUMS(5), SUMS(6), SUMS(7),          \
          SUMS(8), SUMS(9), SUMS(10), SUMS(11)                                             \
        : "l"(a), "l"(b), "r"(accumulate))
#define WGMMA_128(type)                                                                    \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"                              \
        "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {"                  \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"   \
        "}, %64, %65, p, 1, 1, 0, 0;\n}\n"                                                 \
        : SUMS(0), SUMS(1), SUMS(2), SUMS(3), SUMS(4), SUMS(5), SUMS(6), SUMS(7),          \
          SUMS(8), SUMS(9), SUMS(10), SUMS(11), SUMS(12), SUMS(13), SUMS(14), SUMS(15)     \
        : "l"(a), "l"(b), "r"(accumulate))
#define WGMMA_160(type)                                                                    \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %82, 0;\n"                              \
        "wgmma.mma_async.sync.aligned.m64n160k16.f32." type "." type " {"                  \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"   \
        "}, %80, %81, p, 1, 1, 0, 0;\n}\n"                                                 \
        : SUMS(0), SUMS(1), SUMS(2), SUMS(3), SUMS(4), SUMS(5), SUMS(6), SUMS(7),          \
          SUMS(8), SUMS(9), SUMS(10), SUMS(11), SUMS(12), SUMS(13), SUMS(14), SUMS(15),    \
          SUMS(16), SUMS(17), SUMS(18), SUMS(19)                                           \
        : "l"(a), "l"(b), "r"(accumulate))
#define WGMMA_256(type)                                                                                  \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"                                           \
        "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {"                                \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                         \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "               \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "               \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "               \
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "               \
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "               \
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "   \
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127" \
        "}, %128, %129, p, 1, 1, 0, 0;\n}\n"                                                             \
        : SUMS(0), SUMS(1), SUMS(2), SUMS(3), SUMS(4), SUMS(5), SUMS(6), SUMS(7),                        \
          SUMS(8), SUMS(9), SUMS(10), SUMS(11), SUMS(12), SUMS(13), SUMS(14), SUMS(15),                  \
          SUMS(16), SUMS(17), SUMS(18), SUMS(19), SUMS(20), SUMS(21), SUMS(22), SUMS(23),                \
          SUMS(24), SUMS(25), SUMS(26), SUMS(27), SUMS(28), SUMS(29), SUMS(30), SUMS(31)                 \
        : "l"(a), "l"(b), "r"(accumulate))
#define WGMMA_CASE(n)                                        \
    if constexpr (kN == n && Element::kIsBf16) WGMMA_##n("bf16"); \
    if constexpr (kN == n && !Element::kIsBf16) WGMMA_##n("f16")

// sums[64, kN] (+)= a[64, 16] * b[kN, 16]^T; the old sums count only if `accumulate`.
template <class Element, int kN>
__device__ inline void wgmma(float (&sums)[kN / 8][4], uint64_t a, uint64_t b, int accumulate) {
    static_assert(kN == 16 || kN == 32 || kN == 64 || kN == 96 || kN == 128 || kN == 160 || kN == 256);
    WGMMA_CASE(16);
    WGMMA_CASE(32);
    WGMMA_CASE(64);
    WGMMA_CASE(96);
    WGMMA_CASE(128);
    WGMMA_CASE(160);
    WGMMA_CASE(256);
}
#undef WGMMA_CASE
#undef WGMMA_16
#undef WGMMA_32
#undef WGMMA_64
#undef WGMMA_96
#undef WGMMA_128
#undef WGMMA_160
#undef WGMMA_256
#undef SUMS
