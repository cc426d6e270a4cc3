// What only Hopper has: bulk tensor copies that complete on a barrier in shared memory, and products of a warpgroup (wgmma).
// Everything here is for sm_90a; elsewhere this file declares nothing.
#pragma once

#include <type_traits>

#include "element.cuh"
#include "load.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// Barriers in shared memory, 8 bytes each. A wait names the parity of the phase that must be over.
__device__ inline void barrier_init(uint32_t barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ inline void barrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ inline void barrier_expect(uint32_t barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ inline void barrier_wait(uint32_t barrier, int parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}\n" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

// Starts copying one box of a tensor of three dimensions.
__device__ inline void copy_box(uint32_t shared, const void* map, uint32_t barrier, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared),
                 "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z)
                 : "memory");
}

// Makes ordinary stores to shared memory visible to copies and products that begin after the next barrier.
__device__ inline void fence_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Barriers among some threads of the block: `sync` waits, `arrive` only counts.
__device__ inline void sync_threads(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
__device__ inline void arrive_threads(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

template <int kRegisters>
__device__ inline void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Where an operand lies in shared memory, in rows of kSwizzle bytes whose 16-byte units are permuted within groups of 8 rows.
// `columns` is the distance from one column of rows to the next, in bytes; it matters only where the rows run along the product's
// outer dimension.
template <int kSwizzle>
__device__ inline uint64_t operand(uint32_t shared, int columns) {
    static_assert(kSwizzle == 128 || kSwizzle == 64);
    const uint64_t mode = kSwizzle == 128 ? 1 : 2;
    return mode << 62 | static_cast<uint64_t>(8 * kSwizzle / 16) << 32 | static_cast<uint64_t>(columns / 16) << 16 | (shared / 16 & 0x3fff);
}
// The same place in the operand, `bytes` further.
__device__ inline uint64_t advance(uint64_t operand, int bytes) { return operand + bytes / 16; }

// Where byte `offset` of an array of such rows really is.
template <int kSwizzle>
__device__ inline int swizzled(int offset) {
    return offset ^ (offset >> 3 & (kSwizzle - 16));
}

// Products run asynchronously: begin, some products, commit; then wait until at most kPending committed groups are under way.
__device__ inline void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ inline void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from moving uses of accumulators across this point.
template <int kColumns>
__device__ inline void pin(float (&c)[kColumns][4]) {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) asm volatile("" : "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])::"memory");
}

// c[64, 8 * kColumns] += a[64, 16] * b[16, 8 * kColumns], f32 accumulation.
//   multiply: a and b in shared memory, both with the inner dimension along the rows; `add` 0 overwrites c
//   multiply_registers: a in registers, b in shared memory with the outer dimension along the rows; always adds
template <class E, int kColumns>
struct Wgmma;

#define WG_TEN(i) "%" #i "0, %" #i "1, %" #i "2, %" #i "3, %" #i "4, %" #i "5, %" #i "6, %" #i "7, %" #i "8, %" #i "9, "
#define WG_0_9 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, "
#define WG_0_29 WG_0_9 WG_TEN(1) WG_TEN(2)
#define WG_0_31 WG_0_29 "%30, %31"
#define WG_0_39 WG_0_29 "%30, %31, %32, %33, %34, %35, %36, %37, %38, %39"
#define WG_0_47 WG_0_29 WG_TEN(3) "%40, %41, %42, %43, %44, %45, %46, %47"
#define WG_0_59 WG_0_29 WG_TEN(3) WG_TEN(4) WG_TEN(5)
#define WG_0_63 WG_0_59 "%60, %61, %62, %63"
#define WG_0_71 WG_0_59 WG_TEN(6) "%70, %71"
#define WG_0_79 WG_0_59 WG_TEN(6) "%70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define WG_0_87 WG_0_59 WG_TEN(6) WG_TEN(7) "%80, %81, %82, %83, %84, %85, %86, %87"
#define WG_0_95 WG_0_59 WG_TEN(6) WG_TEN(7) WG_TEN(8) "%90, %91, %92, %93, %94, %95"
#define WG_0_127 WG_0_59 WG_TEN(6) WG_TEN(7) WG_TEN(8) WG_TEN(9) WG_TEN(10) WG_TEN(11) "%120, %121, %122, %123, %124, %125, %126, %127"

#define WG_OPEN(...) __VA_ARGS__
#define WG_C1(i) "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
#define WG_C4(i) WG_C1(i), WG_C1(i + 1), WG_C1(i + 2), WG_C1(i + 3)
#define WG_C8 WG_C4(0), WG_C4(4)
#define WG_C10 WG_C8, WG_C1(8), WG_C1(9)
#define WG_C12 WG_C8, WG_C4(8)
#define WG_C16 WG_C8, WG_C4(8), WG_C4(12)
#define WG_C18 WG_C16, WG_C1(16), WG_C1(17)
#define WG_C20 WG_C16, WG_C4(16)
#define WG_C22 WG_C20, WG_C1(20), WG_C1(21)
#define WG_C24 WG_C20, WG_C4(20)
#define WG_C32 WG_C16, WG_C4(16), WG_C4(20), WG_C4(24), WG_C4(28)

#define WG_SHARED(n, type, list, operands, p0, p1, p2)                                                                \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " p2 ", 0;\n"                                                  \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" list "}, " p0 ", " p1 ", add, 1, 1, 0, 0;\n}\n" \
                 : WG_OPEN operands                                                                                         \
                 : "l"(a), "l"(b), "r"(add))
#define WG_REGISTERS(n, type, list, operands, p0, p1, p2, p3, p4, p5)                                                 \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " p5 ", 0;\n"                                                  \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" list "}, {" p0 ", " p1 ", " p2 ", " p3 "}, " p4 ", add, 1, 1, 1;\n}\n" \
                 : WG_OPEN operands                                                                                         \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1))

#define WG_SHAPE(n, columns, list, operands, p0, p1, p2, p3, p4, p5)                                       \
    template <class E>                                                                                     \
    struct Wgmma<E, columns> {                                                                             \
        static __device__ inline void multiply(float (&c)[columns][4], uint64_t a, uint64_t b, int add) {  \
            if constexpr (std::is_same_v<E, Bf16>) {                                                       \
                WG_SHARED(n, "bf16", list, operands, p0, p1, p2);                                          \
            } else {                                                                                       \
                WG_SHARED(n, "f16", list, operands, p0, p1, p2);                                           \
            }                                                                                              \
        }                                                                                                  \
        static __device__ inline void multiply_registers(float (&c)[columns][4], const uint32_t (&a)[4], uint64_t b) { \
            if constexpr (std::is_same_v<E, Bf16>) {                                                       \
                WG_REGISTERS(n, "bf16", list, operands, p0, p1, p2, p3, p4, p5);                           \
            } else {                                                                                       \
                WG_REGISTERS(n, "f16", list, operands, p0, p1, p2, p3, p4, p5);                            \
            }                                                                                              \
        }                                                                                                  \
    };
WG_SHAPE(64, 8, WG_0_31, (WG_C8), "%32", "%33", "%34", "%35", "%36", "%37")
WG_SHAPE(80, 10, WG_0_39, (WG_C10), "%40", "%41", "%42", "%43", "%44", "%45")
WG_SHAPE(96, 12, WG_0_47, (WG_C12), "%48", "%49", "%50", "%51", "%52", "%53")
WG_SHAPE(128, 16, WG_0_63, (WG_C16), "%64", "%65", "%66", "%67", "%68", "%69")
WG_SHAPE(144, 18, WG_0_71, (WG_C18), "%72", "%73", "%74", "%75", "%76", "%77")
WG_SHAPE(160, 20, WG_0_79, (WG_C20), "%80", "%81", "%82", "%83", "%84", "%85")
WG_SHAPE(176, 22, WG_0_87, (WG_C22), "%88", "%89", "%90", "%91", "%92", "%93")
WG_SHAPE(192, 24, WG_0_95, (WG_C24), "%96", "%97", "%98", "%99", "%100", "%101")
WG_SHAPE(256, 32, WG_0_127, (WG_C32), "%128", "%129", "%130", "%131", "%132", "%133")

#endif
