// Sums of a tile that one block begins and another finishes, passed through the workspace thread by thread: the thread with the
// same index in the other block continues them.
#pragma once

#include "gemm.cuh"
#include "gemm_tma.cuh"

template <int kGroups>
class Partial {
    static_assert(kGroups * 256 * 16 <= kWorkspaceBlockBytes);

public:
    // `consumer`: thread among the block's 256 that hold sums.
    __device__ Partial(const GemmArgs& args, int block, int consumer)
        : flag_(static_cast<unsigned*>(args.workspace) + block * 8 + consumer / 32),
          slot_(reinterpret_cast<float4*>(static_cast<uint8_t*>(args.workspace) + kWorkspaceFlagBytes + static_cast<size_t>(block) * (kGroups * 256 * 16)) + consumer),
          leader_(consumer % 32 == 0) {}
    // The warp leaves its sums.
    __device__ void give(const float (&sums)[kGroups][4]) const {
#pragma unroll
        for (int j = 0; j < kGroups; ++j) __stcg(slot_ + j * 256, make_float4(sums[j][0], sums[j][1], sums[j][2], sums[j][3]));
        __syncwarp();
        if (leader_) publish_word(flag_, 1);
    }
    // One lane waits for them; after a __syncwarp all may read. The flag is ready for the next launch.
    __device__ void await() const {
        while (observe_word(flag_) == 0) {
        }
        *flag_ = 0;
    }
    __device__ void add_to(float (&sums)[kGroups][4]) const {
        constexpr int kBatch = kGroups % 8 == 0 ? 8 : 4;  // loads in flight
#pragma unroll
        for (int block = 0; block < kGroups; block += kBatch) {
            float4 other[kBatch];
#pragma unroll
            for (int j = 0; j < kBatch; ++j) other[j] = __ldcg(slot_ + (block + j) * 256);
#pragma unroll
            for (int j = 0; j < kBatch; ++j) {
                sums[block + j][0] += other[j].x, sums[block + j][1] += other[j].y;
                sums[block + j][2] += other[j].z, sums[block + j][3] += other[j].w;
            }
        }
    }

private:
    unsigned* flag_;
    float4* slot_;
    bool leader_;
};

// Adds what the `parts` clusters of `cluster` blocks before this one have left for this block.
template <int kGroups>
__device__ inline void take_parts(const GemmArgs& args, float (&sums)[kGroups][4], int parts, int cluster, int consumer) {
    const auto left_by = [&](int part) { return Partial<kGroups>(args, static_cast<int>(blockIdx.x) - (part + 1) * cluster, consumer); };
    // The lanes wait for all of them at once.
    for (int part = static_cast<int>(threadIdx.x) % 32; part < parts; part += 32) left_by(part).await();
    __syncwarp();
    for (int part = 0; part < parts; ++part) left_by(part).add_to(sums);
}
