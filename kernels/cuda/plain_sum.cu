// The yardstick of every kernel that reads: a plain sum over the same bytes.
#include <cstdint>

// Adds the sum of `vectors` 16-byte pieces, taken as 32-bit words, to *total. Any grid of any block size.
extern "C" __global__ void plain_sum(const uint4* __restrict__ data, unsigned long long vectors, unsigned* total) {
    constexpr int kLoads = 8;  // in flight per thread
    const unsigned long long threads = static_cast<unsigned long long>(gridDim.x) * blockDim.x;
    unsigned long long i = blockIdx.x * static_cast<unsigned long long>(blockDim.x) + threadIdx.x;
    unsigned sum = 0;
    for (; i + (kLoads - 1) * threads < vectors; i += kLoads * threads) {
        uint4 part[kLoads];
#pragma unroll
        for (int j = 0; j < kLoads; ++j) part[j] = __ldcs(data + i + j * threads);
#pragma unroll
        for (int j = 0; j < kLoads; ++j) sum += part[j].x + part[j].y + part[j].z + part[j].w;
    }
    for (; i < vectors; i += threads) {
        const uint4 part = __ldcs(data + i);
        sum += part.x + part.y + part.z + part.w;
    }
    sum = __reduce_add_sync(0xffffffffu, sum);
    if (threadIdx.x % 32 == 0) atomicAdd(total, sum);
}
