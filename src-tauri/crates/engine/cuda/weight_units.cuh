// What one warp reads and multiplies at a time: 512 bytes of a row's quants (16 per lane) and the scales that go with them.
#pragma once

#include "launch.cuh"
#include "packed.cuh"

constexpr int kUnitBytes = 512;

// The input vector in shared memory. f32 for dense weights; for block types 8 bits and a scale per group, where both halves of a
// group lie in planes of their own, so that lanes of a unit read side by side.
struct QuantisedGroup {
    float scale;
    short sum, sum_low;  // of the quants, and of those of elements 0..15
};

struct Input {
    const float4* dense;
    const uint4* low;  // elements 0..15 of every group
    const uint4* high;
    const QuantisedGroup* groups;
};

__host__ __device__ constexpr int rounded_up(int n, int to) { return (n + to - 1) / to * to; }
__host__ __device__ constexpr int dense_input_bytes(int cols) { return 4 * rounded_up(cols, 256); }
// The two planes are shifted against each other by half of the banks, for Q8_0 whose lanes read from both.
__host__ __device__ constexpr int high_plane(int cols) { return rounded_up(cols, 1024) / 2 + 64; }
__host__ __device__ constexpr int group_plane(int cols) { return rounded_up(cols, 1024) + 128; }
__host__ __device__ constexpr int quantised_input_bytes(int cols) { return group_plane(cols) + rounded_up(cols, 1024) / 4; }

// A plane of a unit of one row: bytes from unit to unit, where it lies in the slot, and bytes there (0: there is none).
struct UnitPlane {
    int plane, step, slot, bytes;
};
// The quants come first.
__device__ inline UnitPlane plane_among(int index, UnitPlane one = {}, UnitPlane two = {}, UnitPlane three = {}) {
    return index == 0 ? UnitPlane{0, kUnitBytes, 0, kUnitBytes} : index == 1 ? one : index == 2 ? two : three;
}

__device__ inline float scale_of(unsigned short bits) { return __half2float(__ushort_as_half(bits)); }
__device__ inline int dot4(unsigned a, unsigned b, int sum) { return __dp4a(static_cast<int>(a), static_cast<int>(b), sum); }

// What a lane needs of the input for one unit; it serves two rows.
struct QuantisedPiece {
    uint4 low, high;
    float scale;
    int sum, sum_low;
};
__device__ inline QuantisedPiece quantised_piece(const Input& x, int group) {
    const uint2 g = *reinterpret_cast<const uint2*>(x.groups + group);
    return {x.low[group], x.high[group], __uint_as_float(g.x), static_cast<short>(g.y & 0xffff), static_cast<int>(g.y) >> 16};
}

template <class T>
__device__ T shared_at(const unsigned char* slot, int offset) {
    return *reinterpret_cast<const T*>(slot + offset);
}

// 16 quants in the low and 16 in the high halves of 16 bytes, against one group of the input.
__device__ inline int dot_group_4(uint4 q, const QuantisedPiece& x) {
    const unsigned words[4] = {q.x, q.y, q.z, q.w};
    const unsigned lows[4] = {x.low.x, x.low.y, x.low.z, x.low.w}, highs[4] = {x.high.x, x.high.y, x.high.z, x.high.w};
    int low = 0, high = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        low = dot4(words[i] & 0x0f0f0f0f, lows[i], low);
        // As bytes without sign, 16 times too large.
        asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(high) : "r"(words[i] & 0xf0f0f0f0), "r"(highs[i]));
    }
    return low + (high >> 4);
}

// The same with further bits from `low_bits(i)`, `high_bits(i)`, and a sum of its own for each half.
template <class LowBits, class HighBits>
__device__ void dot_group(uint4 q, const QuantisedPiece& x, LowBits low_bits, HighBits high_bits, int& sum_low, int& sum_high) {
    const unsigned words[4] = {q.x, q.y, q.z, q.w};
    const unsigned lows[4] = {x.low.x, x.low.y, x.low.z, x.low.w}, highs[4] = {x.high.x, x.high.y, x.high.z, x.high.w};
    sum_low = sum_high = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        sum_low = dot4((words[i] & 0x0f0f0f0f) | low_bits(i), lows[i], sum_low);
        sum_high = dot4((words[i] >> 4 & 0x0f0f0f0f) | high_bits(i), highs[i], sum_high);
    }
}

template <int kType>
struct Unit;

template <>
struct Unit<kF32> {
    static constexpr int kElements = 128, kSideBytes = 0, kDepth = 9;
    static constexpr int kPlanes = 1;
    static __device__ UnitPlane plane(int index) { return plane_among(index); }
    static constexpr bool kQuantisedInput = false;
    using Piece = float4;
    static __device__ Piece piece(const Input& x, int unit, int lane) { return x.dense[unit * 32 + lane]; }
    static __device__ float dot(const unsigned char* slot, const Piece& x, int lane) {
        const float4 w = shared_at<float4>(slot, lane * 16);
        return fmaf(w.x, x.x, fmaf(w.y, x.y, fmaf(w.z, x.z, w.w * x.w)));
    }
    static __device__ int input_place(int quad) { return quad; }
};

// bf16 and f16: 8 elements of a lane meet two quads of the input, which lie 32 quads apart.
struct Unit16 {
    static constexpr int kElements = 256, kSideBytes = 0, kDepth = 9;
    static constexpr int kPlanes = 1;
    static __device__ UnitPlane plane(int index) { return plane_among(index); }
    static constexpr bool kQuantisedInput = false;
    struct Piece {
        float4 a, b;
    };
    static __device__ Piece piece(const Input& x, int unit, int lane) { return {x.dense[unit * 64 + lane], x.dense[unit * 64 + 32 + lane]}; }
    static __device__ int input_place(int quad) { return (quad & ~63) | (quad & 1) << 5 | (quad & 63) >> 1; }
};

template <>
struct Unit<kBf16> : Unit16 {
    static __device__ float dot(const unsigned char* slot, const Piece& x, int lane) {
        const uint4 w = shared_at<uint4>(slot, lane * 16);
        const auto even = [](unsigned pair) { return __uint_as_float(pair << 16); };
        const auto odd = [](unsigned pair) { return __uint_as_float(pair & 0xffff0000u); };
        const float first = fmaf(even(w.x), x.a.x, fmaf(odd(w.x), x.a.y, fmaf(even(w.y), x.a.z, odd(w.y) * x.a.w)));
        const float second = fmaf(even(w.z), x.b.x, fmaf(odd(w.z), x.b.y, fmaf(even(w.w), x.b.z, odd(w.w) * x.b.w)));
        return first + second;
    }
};

template <>
struct Unit<kF16> : Unit16 {
    static __device__ float dot(const unsigned char* slot, const Piece& x, int lane) {
        const uint4 w = shared_at<uint4>(slot, lane * 16);
        const auto pair = [](unsigned bits) { return __half22float2(*reinterpret_cast<const __half2*>(&bits)); };
        const float2 p = pair(w.x), q = pair(w.y), r = pair(w.z), s = pair(w.w);
        const float first = fmaf(p.x, x.a.x, fmaf(p.y, x.a.y, fmaf(q.x, x.a.z, q.y * x.a.w)));
        const float second = fmaf(r.x, x.b.x, fmaf(r.y, x.b.y, fmaf(s.x, x.b.z, s.y * x.b.w)));
        return first + second;
    }
};

template <>
struct Unit<kQ8_0> {
    static constexpr int kElements = 512, kSideBytes = 32, kDepth = 8;
    static constexpr int kPlanes = 2;
    static __device__ UnitPlane plane(int index) { return plane_among(index, {1, 32, kUnitBytes, 32}); }
    static constexpr bool kQuantisedInput = true;
    struct Piece {
        uint4 quants;
        float scale;
    };
    static __device__ Piece piece(const Input& x, int unit, int lane) {
        const int group = unit * 16 + lane / 2;
        return {(lane % 2 ? x.high : x.low)[group], x.groups[group].scale};
    }
    static __device__ float dot(const unsigned char* slot, const Piece& x, int lane) {
        const uint4 q = shared_at<uint4>(slot, lane * 16);
        const int sum = dot4(q.x, x.quants.x, dot4(q.y, x.quants.y, dot4(q.z, x.quants.z, dot4(q.w, x.quants.w, 0))));
        return scale_of(shared_at<unsigned short>(slot, kUnitBytes + lane / 2 * 2)) * x.scale * sum;
    }
};

// One group per lane.
struct Unit4 {
    static constexpr int kElements = 1024;
    static constexpr bool kQuantisedInput = true;
    using Piece = QuantisedPiece;
    static __device__ Piece piece(const Input& x, int unit, int lane) { return quantised_piece(x, unit * 32 + lane); }
};

template <>
struct Unit<kQ4_0> : Unit4 {
    static constexpr int kSideBytes = 64, kDepth = 8;
    static constexpr int kPlanes = 2;
    static __device__ UnitPlane plane(int index) { return plane_among(index, {1, 64, kUnitBytes, 64}); }
    static __device__ float dot(const unsigned char* slot, const Piece& x, int lane) {
        const int sum = dot_group_4(shared_at<uint4>(slot, lane * 16), x);
        return scale_of(shared_at<unsigned short>(slot, kUnitBytes + lane * 2)) * x.scale * (sum - 8 * x.sum);
    }
};

template <>
struct Unit<kQ4_1> : Unit4 {
    static constexpr int kSideBytes = 128, kDepth = 6;
    static constexpr int kPlanes = 2;
    static __device__ UnitPlane plane(int index) { return plane_among(index, {1, 128, kUnitBytes, 128}); }
    static __device__ float dot(const unsigned char* slot, const Piece& x, int lane) {
        const int sum = dot_group_4(shared_at<uint4>(slot, lane * 16), x);
        const float2 d = __half22float2(shared_at<__half2>(slot, kUnitBytes + lane * 4));
        return x.scale * fmaf(d.x, sum, d.y * x.sum);
    }
};

// The fifth bits of a group as Q5_0, Q5_1 and Q5_K have them.
__device__ inline void dot_group_5(const unsigned char* slot, int bits_at, const QuantisedPiece& x, int lane, int& low, int& high) {
    const unsigned bits = shared_at<unsigned>(slot, kUnitBytes + bits_at + lane * 4);
    dot_group(
        shared_at<uint4>(slot, lane * 16), x, [&](int i) { return bits << (4 - i) & 0x10101010; }, [&](int i) { return bits >> i & 0x10101010; }, low, high);
}

template <>
struct Unit<kQ5_0> : Unit4 {
    static constexpr int kSideBytes = 64 + 128, kDepth = 6;
    static constexpr int kPlanes = 3;
    static __device__ UnitPlane plane(int index) { return plane_among(index, {1, 64, kUnitBytes, 64}, {2, 128, kUnitBytes + 64, 128}); }
    static __device__ float dot(const unsigned char* slot, const Piece& x, int lane) {
        int low, high;
        dot_group_5(slot, 64, x, lane, low, high);
        return scale_of(shared_at<unsigned short>(slot, kUnitBytes + lane * 2)) * x.scale * (low + high - 16 * x.sum);
    }
};

template <>
struct Unit<kQ5_1> : Unit4 {
    static constexpr int kSideBytes = 128 + 128, kDepth = 5;
    static constexpr int kPlanes = 3;
    static __device__ UnitPlane plane(int index) { return plane_among(index, {1, 128, kUnitBytes, 128}, {2, 128, kUnitBytes + 128, 128}); }
    static __device__ float dot(const unsigned char* slot, const Piece& x, int lane) {
        int low, high;
        dot_group_5(slot, 128, x, lane, low, high);
        const float2 d = __half22float2(shared_at<__half2>(slot, kUnitBytes + lane * 4));
        return x.scale * fmaf(d.x, low + high, d.y * x.sum);
    }
};

// scale * d * <q, x> - minimum * dmin * sum x, with the head of the lane's block.
__device__ inline float k_scaled(uint4 head, int lane, int sum, const QuantisedPiece& x) {
    const int shift = lane % 8 * 4;
    const float2 d = __half22float2(*reinterpret_cast<const __half2*>(&head.x));
    const unsigned high = head.w >> shift;
    const int scale = (head.y >> shift & 15) | (high << 4 & 0x30), minimum = (head.z >> shift & 15) | (high << 2 & 0x30);
    return x.scale * fmaf(d.x, scale * sum, -(d.y * (minimum * x.sum)));
}

template <>
struct Unit<kQ4_K> : Unit4 {
    static constexpr int kSideBytes = 64, kDepth = 8;
    static constexpr int kPlanes = 2;
    static __device__ UnitPlane plane(int index) { return plane_among(index, {1, 64, kUnitBytes, 64}); }
    static __device__ float dot(const unsigned char* slot, const Piece& x, int lane) {
        const int sum = dot_group_4(shared_at<uint4>(slot, lane * 16), x);
        return k_scaled(shared_at<uint4>(slot, kUnitBytes + lane / 8 * 16), lane, sum, x);
    }
};

template <>
struct Unit<kQ5_K> : Unit4 {
    static constexpr int kSideBytes = 64 + 128, kDepth = 6;
    static constexpr int kPlanes = 3;
    static __device__ UnitPlane plane(int index) { return plane_among(index, {1, 64, kUnitBytes, 64}, {2, 128, kUnitBytes + 64, 128}); }
    static __device__ float dot(const unsigned char* slot, const Piece& x, int lane) {
        int low, high;
        dot_group_5(slot, 64, x, lane, low, high);
        return k_scaled(shared_at<uint4>(slot, kUnitBytes + lane / 8 * 16), lane, low + high, x);
    }
};

template <>
struct Unit<kQ6_K> : Unit4 {
    // Behind the quants: 256 bytes of high bits, 64 of scales, and d of this unit and a neighbour, 8 bytes each.
    static constexpr int kSideBytes = 256 + 64 + 16, kDepth = 5;
    static constexpr int kPlanes = 4;
    static __device__ UnitPlane plane(int index) {
        return plane_among(index, {1, 256, kUnitBytes, 256}, {2, 64, kUnitBytes + 256, 64}, {3, 8, kUnitBytes + 320, 16});
    }
    struct Piece : QuantisedPiece {
        int d_at;
    };
    static __device__ Piece piece(const Input& x, int unit, int lane) {
        return {quantised_piece(x, unit * 32 + lane), kUnitBytes + 320 + unit % 2 * 8 + lane / 8 * 2};
    }
    static __device__ float dot(const unsigned char* slot, const Piece& x, int lane) {
        const uint2 bits = shared_at<uint2>(slot, kUnitBytes + lane * 8);
        const auto two = [](unsigned word, int i) { return (i < 2 ? word << (4 - 2 * i) : word >> (2 * i - 4)) & 0x30303030; };
        int low, high;
        dot_group(
            shared_at<uint4>(slot, lane * 16), x, [&](int i) { return two(bits.x, i); }, [&](int i) { return two(bits.y, i); }, low, high);
        const char2 scales = shared_at<char2>(slot, kUnitBytes + 256 + lane * 2);
        const float d = scale_of(shared_at<unsigned short>(slot, x.d_at));
        return d * x.scale * (scales.x * (low - 32 * x.sum_low) + scales.y * (high - 32 * (x.sum - x.sum_low)));
    }
};

template <int kType>
__host__ __device__ constexpr int slot_bytes() {
    return kUnitBytes + Unit<kType>::kSideBytes;
}
// A stage is the same unit of two rows, which share the input; `kDepth` stages are a warp's ring.
constexpr int kStageRows = 2;
template <int kType>
__host__ __device__ constexpr int stage_bytes() {
    return kStageRows * slot_bytes<kType>();
}
