// Matrix products of prefill: C[m, n] = A[m, k] * W[n, k]^T, f32 accumulation. What a launch is given, and how it is shaped;
// GEMM.md has the same for readers of the host side.
#pragma once

#include <cstdint>

// Row-major matrices; strides in elements. A and W have the kernel's 16-bit element type. W has n rows; for silu it has 2 n:
// gate rows, then up rows. Starts of A and W and their strides are multiples of 16 bytes; C starts at a multiple of 16 bytes
// and ldc is a multiple of 8 elements.
struct GemmArgs {
    const void* a;      // [m, k]   unused by gemm_wgmma_*, gemm_wgmma_narrow_* and gemm_few_*, which have tensor maps
    const void* w;      // [n, k]   likewise
    const float* bias;  // [n], added to every row; [2 n] for silu; or null; a multiple of 16 bytes
    void* c;            // [m, n]   bf16 or f32, as the kernel's name says
    void* workspace;    // of the same: kWorkspaceFlagBytes, zero before the first launch and left zero, then partial sums
    int m, n, k;        // n and k multiples of 8
    int lda, ldw, ldc;
};

// Flags: one word per block and warp. Then per block the sums of one tile that it began and another finishes. One launch at a time may
// use a workspace.
constexpr int kWorkspaceFlagBytes = 16384, kWorkspaceBlockBytes = 160 * 256 * 4;

// What becomes of a row's sums.
enum GemmEpilogue {
    kStoreBf16,  // c = bf16(a w^T + bias)
    kStoreF32,   // c = a w^T + bias
    kAddF32,     // c += a w^T + bias
    kSiluBf16,   // c = bf16(silu(gate) * up), gate = a w[0, n)^T, up = a w[n, 2 n)^T
};
