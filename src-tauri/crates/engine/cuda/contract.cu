// What the host reckons with (src/exec/cuda), asserted where it is defined: sizes of argument structs and of shared memory.
#include "args.cuh"
#include "gemm.cuh"
#include "matvec_ring.cuh"

static_assert(sizeof(DecodeState) == 16 && sizeof(MatvecPart) == 32 && sizeof(MatvecArgs) == 168, "");
static_assert(sizeof(MatvecChain) == 8 + 4 * 168, "");
static_assert(sizeof(HeadsArgs) == 128 && sizeof(SampleSettings) == 32 && sizeof(TokenRecord) == 16, "");
static_assert(sizeof(SampleArgs) == 64 && sizeof(GemmArgs) == 64, "");

static_assert(ring_bytes<kF32>() == 9216 && ring_bytes<kF16>() == 9216 && ring_bytes<kBf16>() == 9216, "");
static_assert(ring_bytes<kQ8_0>() == 8704 && ring_bytes<kQ4_0>() == 9216 && ring_bytes<kQ4_1>() == 7680, "");
static_assert(ring_bytes<kQ5_0>() == 8448 && ring_bytes<kQ5_1>() == 7680 && ring_bytes<kQ4_K>() == 9216, "");
static_assert(ring_bytes<kQ5_K>() == 8448 && ring_bytes<kQ6_K>() == 8480 && ring_bytes<kMixed>() == 8480, "");
