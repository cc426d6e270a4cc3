// Joins what the splits of a prefill launch left: one warp per token and query head.
// Grid: any; prefill_tokens().count * num_q_heads warps do all at once.
#include "prefill_rows.cuh"

// E: element type of the output; not used with kSeed, whose results are ring entries.
template <class E, bool kSeed>
__device__ inline void prefill_combine(const PrefillArgs& args, int head_dim) {
    const PrefillTokens tokens = prefill_tokens(args, kSeed);
    const int heads = args.heads.num_kv_heads * args.heads.group, lane = threadIdx.x % 32;
    const int rows = tokens.count * heads, warps = gridDim.x * blockDim.x / 32;
    for (int row = (blockIdx.x * blockDim.x + threadIdx.x) / 32; row < rows; row += warps) {
        const int token = tokens.first + row / heads, head = row % heads;
        float max = -CUDART_INF_F, sum = 0.0f;
        for (int s = 0; s < args.splits; ++s) max = fmaxf(max, args.partial_lse[static_cast<size_t>(s) * rows + row] * kLog2E);
        for (int s = 0; s < args.splits; ++s) sum += weight_log2(args.partial_lse[static_cast<size_t>(s) * rows + row] * kLog2E, max);
        const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f, lse = natural_lse(sum, max);
        const size_t entry = kSeed ? ring_row(args.ring, head, args.first_pos + token) : 0;
        for (int dim = 4 * lane; dim < head_dim; dim += 128) {
            float4 out = make_float4(0, 0, 0, 0);
            for (int s = 0; s < args.splits; ++s) {
                const size_t place = static_cast<size_t>(s) * rows + row;
                const float weight = weight_log2(args.partial_lse[place] * kLog2E, max) * inverse;
                out = out + weight * *reinterpret_cast<const float4*>(args.partial_out + place * head_dim + dim);
            }
            if constexpr (kSeed) {
                *reinterpret_cast<float4*>(args.ring.out + entry * head_dim + dim) = out;
            } else {
                uint32_t* to = static_cast<uint32_t*>(args.out) + (static_cast<size_t>(token) * args.out_token_stride + head * head_dim + dim) / 2;
                *reinterpret_cast<uint2*>(to) = make_uint2(E::pack(out.x, out.y), E::pack(out.z, out.w));
            }
        }
        if constexpr (kSeed) {
            store_tags<32>(args, head_dim, token, head, lse, lane);
        } else if (args.lse != nullptr && lane == 0) {
            args.lse[static_cast<size_t>(head) * args.n + token] = lse;
        }
    }
}

#define PREFILL_COMBINE(name, element, seed)                                                                                             \
    extern "C" __global__ void __launch_bounds__(kPrefillCombineThreads) name(const __grid_constant__ PrefillArgs args, int head_dim) { \
        wait_for_previous();                                                                                                             \
        prefill_combine<element, seed>(args, head_dim);                                                                                  \
    }
PREFILL_COMBINE(prefill_combine_bf16, Bf16, false)
PREFILL_COMBINE(prefill_combine_f16, F16, false)
PREFILL_COMBINE(prefill_combine_seed, Bf16, true)
