// Rows of K and V from 8 bits to f16, for prefill, and from 16 bits to 8.
//
// Launch: 256 threads, any grid.
#include "element.cuh"
#include "expand_kv.cuh"
#include "kv_pack.cuh"

namespace {

// One of K and V of one KV head, shared by a team of blocks; with few blocks each goes through several.
template <class Work>
__device__ void for_each_plane(int num_kv_heads, Work work) {
    const int planes = 2 * num_kv_heads, grid = gridDim.x, block = blockIdx.x;
    for (int plane = block % planes; plane < planes; plane += grid) {
        const int team = grid < planes ? 1 : (grid - plane - 1) / planes + 1, rank = block / planes;
        work(plane / 2, plane % 2 == 1, rank * blockDim.x + threadIdx.x, team * blockDim.x);
    }
}

__device__ size_t scale_row(const KvCache& kv, int head, bool is_v, int token, int slots) {
    return ((static_cast<size_t>(head) * kv.capacity + token) * 2 + is_v) * slots;
}

// A thread reads 8 bytes and writes 16, several of each under way.
template <class E, int kDim>
__device__ void expand_rows(const ExpandKvArgs& args) {
    constexpr unsigned kRowUnits = kDim / 8, kBatch = 4;
    const int end = min((args.tokens + kExpandRows - 1) / kExpandRows * kExpandRows, args.stride);
    const unsigned filled = max(args.tokens - args.begin, 0) * kRowUnits, count = max(end - args.begin, 0) * kRowUnits;
    for_each_plane(args.num_kv_heads, [&](int head, bool is_v, unsigned first, unsigned stride) {
        const size_t row = static_cast<size_t>(head) * args.from.capacity + args.begin, row_out = static_cast<size_t>(head) * args.stride + args.begin;
        const uint2* const from = reinterpret_cast<const uint2*>(static_cast<const char*>(is_v ? args.from.v : args.from.k) + row * kDim);
        const __half* const scales = args.from.scales + scale_row(args.from, head, is_v, args.begin, scale_slots(kDim));
        uint4* const to = reinterpret_cast<uint4*>(static_cast<__half*>(is_v ? args.v : args.k) + row_out * kDim);
        for (unsigned base = first; base < count; base += kBatch * stride) {
            uint2 bytes[kBatch];
            __half2 scale[kBatch];
#pragma unroll
            for (unsigned j = 0; j < kBatch; ++j) {
                const unsigned unit = base + j * stride;
                scale[j] = __float2half2_rn(E::kUnit);
                if (unit >= filled) continue;
                bytes[j] = __ldcs(from + unit);
                if constexpr (E::kScaled) scale[j] = __half2half2(__ldg(scales + unit / kRowUnits * (2 * scale_slots(kDim)) + unit % kRowUnits / 4));
            }
#pragma unroll
            for (unsigned j = 0; j < kBatch; ++j) {
                const unsigned unit = base + j * stride;
                if (unit >= count) continue;
                uint4 out = make_uint4(0, 0, 0, 0);
                if (unit < filled) {
                    E::template widen<Pairs::adjacent>(bytes[j].x, out.x, out.y);
                    E::template widen<Pairs::adjacent>(bytes[j].y, out.z, out.w);
                    out = make_uint4(times(out.x, scale[j]), times(out.y, scale[j]), times(out.z, scale[j]), times(out.w, scale[j]));
                }
                to[unit] = out;
            }
        }
    });
}

template <class E>
__device__ void expand(const ExpandKvArgs& args) {
    switch (args.head_dim) {
        case 64: return expand_rows<E, 64>(args);
        case 96: return expand_rows<E, 96>(args);
        case 128: return expand_rows<E, 128>(args);
        case 256: return expand_rows<E, 256>(args);
    }
}

// One thread's 32 dimensions of a row.
template <bool kScaled>
__device__ void pack_block(const PackKvArgs& args, int head, bool is_v, int token, int block, int slots) {
    const size_t in = (static_cast<size_t>(head) * args.stride + token) * args.head_dim + block * kScaleBlock;
    const uint4* const from = reinterpret_cast<const uint4*>(static_cast<const unsigned short*>(is_v ? args.v : args.k) + in);
    float x[kScaleBlock];
    unsigned greatest = 0;
#pragma unroll
    for (int part = 0; part < 4; ++part) {
        const uint4 data = __ldcs(from + part);
        const uint32_t words[4] = {data.x, data.y, data.z, data.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const float2 two = args.bf16 ? Bf16::unpack(words[j]) : F16::unpack(words[j]);
            x[8 * part + 2 * j] = two.x, x[8 * part + 2 * j + 1] = two.y;
            greatest = max(greatest, max(q8_magnitude(two.x), q8_magnitude(two.y)));
        }
    }
    const __half scale = q8_scale(greatest);
    uint32_t bytes[kScaleBlock / 4] = {};
#pragma unroll
    for (int j = 0; j < kScaleBlock; ++j) {
        const unsigned byte = kScaled ? q8_byte(x[j], scale) : fp8_byte(x[j]);
        bytes[j / 4] |= byte << j % 4 * 8;
    }
    const size_t row = static_cast<size_t>(head) * args.to.capacity + token;
    uint4* const to = reinterpret_cast<uint4*>(static_cast<char*>(const_cast<void*>(is_v ? args.to.v : args.to.k)) + row * args.head_dim) + 2 * block;
    to[0] = make_uint4(bytes[0], bytes[1], bytes[2], bytes[3]);
    to[1] = make_uint4(bytes[4], bytes[5], bytes[6], bytes[7]);
    if constexpr (kScaled) const_cast<__half*>(args.to.scales)[scale_row(args.to, head, is_v, token, slots) + block] = scale;
}

template <bool kScaled>
__device__ void pack(const PackKvArgs& args) {
    const int slots = scale_slots(args.head_dim);
    const unsigned blocks = args.head_dim / kScaleBlock, count = max(args.tokens - args.begin, 0) * blocks;
    for_each_plane(args.num_kv_heads, [&](int head, bool is_v, unsigned first, unsigned stride) {
        for (unsigned i = first; i < count; i += stride) pack_block<kScaled>(args, head, is_v, args.begin + i / blocks, i % blocks, slots);
    });
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) expand_kv_fp8(const __grid_constant__ ExpandKvArgs args) { expand<Fp8>(args); }
extern "C" __global__ void __launch_bounds__(256) expand_kv_q8(const __grid_constant__ ExpandKvArgs args) { expand<Q8>(args); }
extern "C" __global__ void __launch_bounds__(256) pack_kv_fp8(const __grid_constant__ PackKvArgs args) { pack<false>(args); }
extern "C" __global__ void __launch_bounds__(256) pack_kv_q8(const __grid_constant__ PackKvArgs args) { pack<true>(args); }
