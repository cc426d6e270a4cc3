// K and V of one KV head in memory, and a tile of it in shared memory.
#pragma once

#include "element.cuh"
#include "load.cuh"
#include "step.cuh"

constexpr int kTileTokens = 16;  // rows of a product

// Where one KV head's K and V begin, [tokens, kDim].
template <class E, int kDim>
struct HeadKv {
    static constexpr int kRowBytes = E::kBytes * kDim;
    static constexpr int kScaleBytes = E::kScaled ? 2 * scale_slots(kDim) * static_cast<int>(sizeof(__half)) : 0;  // of a token
    static constexpr int kTokenBytes = 2 * kRowBytes + kScaleBytes;
    const char *k, *v, *scales;

    __device__ HeadKv(const KvCache& kv, int kv_head) {
        const size_t token = static_cast<size_t>(kv_head) * kv.capacity;
        k = static_cast<const char*>(kv.k) + token * kRowBytes;
        v = static_cast<const char*>(kv.v) + token * kRowBytes;
        scales = reinterpret_cast<const char*>(kv.scales) + token * kScaleBytes;
    }
};

// Shared-memory layout: K rows, then V rows, each row 16 bytes longer than its data, so that the 8 rows of a matrix
// load start in 8 different bank groups. A token's scales fill that gap of its K row, or at 256 dimensions of both its rows.
template <class E, int kDim, int kTokens>
struct TileLayout {
    static constexpr int kRow = E::kBytes * kDim;      // bytes
    static constexpr int kPitch = kRow + 16;
    static constexpr int kPartBytes = kTileTokens * kPitch;
    static constexpr int kValues = kTokens * kPitch;   // offset of V
    static constexpr int kBytes = 2 * kTokens * kPitch;
    static constexpr int kScaleBytes = HeadKv<E, kDim>::kScaleBytes;
    static constexpr int kKeyScales = kRow;            // offset from the token's K row
    static constexpr int kValueScales = kRow + (kScaleBytes > 16 ? kValues : kScaleBytes / 2);
};
// Bytes from one query to the next, in shared memory.
__host__ __device__ constexpr int query_pitch(int dim) { return 2 * dim + 16; }

// Starts the copies of the scales of tokens token..token + kTokens - 1; those from `end` on become zeros.
template <class E, int kDim, int kTokens>
__device__ inline void load_scales(uint32_t tile, const char* scales, int token, int end, uint64_t policy) {
    using Layout = TileLayout<E, kDim, kTokens>;
    constexpr int kPieces = Layout::kScaleBytes > 16 ? 2 : 1, kPiece = Layout::kScaleBytes / kPieces;  // of a token; bytes
    const char* const from = scales + static_cast<size_t>(token) * Layout::kScaleBytes;
#pragma unroll
    for (int base = 0; base < kTokens * kPieces; base += 32) {
        const int piece = base + threadIdx.x % 32, row = piece / kPieces;
        if (kTokens * kPieces % 32 != 0 && piece >= kTokens * kPieces) break;
        const int bytes = token + row < end ? kPiece : 0;
        const uint32_t place = tile + piece % kPieces * Layout::kValues + row * Layout::kPitch + Layout::kRow;
        if constexpr (kPiece == 8) copy_async_8(place, from + piece * kPiece, bytes);
        else copy_async(place, from + piece * kPiece, bytes, policy);
    }
}

// Starts the copies of tokens token..token + kTokens - 1 of one KV head; tokens from `end` on become zeros.
template <class E, int kDim, int kTokens>
__device__ inline void load_tile(uint32_t tile, const HeadKv<E, kDim>& from, int token, int end, uint64_t policy) {
    using Layout = TileLayout<E, kDim, kTokens>;
    constexpr int kRowChunks = Layout::kRow / 16;  // 16 bytes each
    const int lane = threadIdx.x % 32;
    const size_t offset = static_cast<size_t>(token) * Layout::kRow;
    const int valid = (end - token) * Layout::kRow;  // bytes
#pragma unroll
    for (int i = 0; i < kTokens * kRowChunks / 32; ++i) {
        const int chunk = i * 32 + lane;
        const int bytes = chunk * 16 < valid ? 16 : 0;
        const uint32_t place = tile + chunk / kRowChunks * Layout::kPitch + chunk % kRowChunks * 16;
        copy_async(place, from.k + offset + chunk * 16, bytes, policy);
        copy_async(place + Layout::kValues, from.v + offset + chunk * 16, bytes, policy);
    }
    if constexpr (E::kScaled) load_scales<E, kDim, kTokens>(tile, from.scales, token, end, policy);
}

// Copies the rotated queries of one group to shared memory, [kHeads, query_pitch], in the order of `Products`; missing heads
// become zeros. q: [group, kDim]. Called by `threads` threads, numbered by `thread`, which synchronise afterwards.
template <class E, int kDim, int kHeads>
__device__ inline void load_queries(unsigned char* shared, const char* q, int group, int thread, int threads) {
    constexpr int kRowChunks = kDim / 8;
    for (int chunk = thread; chunk < kHeads * kRowChunks; chunk += threads) {
        uint4 data = make_uint4(0, 0, 0, 0);
        if (chunk < group * kRowChunks) data = __ldcg(reinterpret_cast<const uint4*>(q) + chunk);
        const int at = chunk % kRowChunks;
        unsigned char* const row = shared + chunk / kRowChunks * query_pitch(kDim);
        if constexpr (E::kBytes == 2) {
            *reinterpret_cast<uint4*>(row + at * 16) = data;
        } else {
            // Of each 16 dimensions: 0 1, 4 5, 8 9, 12 13, then 2 3, 6 7, 10 11, 14 15.
            unsigned char* const half = row + at / 2 * 32 + at % 2 * 8;
            *reinterpret_cast<uint2*>(half) = make_uint2(data.x, data.z);
            *reinterpret_cast<uint2*>(half + 16) = make_uint2(data.y, data.w);
        }
    }
}
