// 8-bit K and V: packing and expanding against the host's definition, bit for bit.
#include "check.h"

#include "inputs.h"
#include "kv_formats.h"

namespace {

struct PackCase {
    Dtype to, rows;  // rows: bf16 or f16
    int head_dim, num_kv_heads, capacity, stride, begin, tokens;
    int grid;  // of the expansion
};

// Numbers of every kind that a block may hold: what differs is told by the block's place.
float special(int block, int d, float random) {
    switch (block % 12) {
        case 0: return d % 2 == 0 ? 0.0f : -0.0f;
        case 1: return random * 1e-6f;                                     // below e4m3's least, and scales that f16 rounds to few bits
        case 2: return random * 1e-9f;                                     // scale 0
        case 3: return (d % 16 - 8) * 0.0009765625f;                       // ties between e4m3's subnormals
        case 4: return random * 300.0f;                                    // to e4m3's greatest, and beyond
        case 5: return d == 7 ? -60000.0f : random;
        case 6: return d == 31 ? NAN : random;
        case 7: return d == 0 ? (block % 24 < 12 ? INFINITY : -INFINITY) : random;
        case 8: return d == 0 ? 127.0f : d - 15.5f;                        // scale 1: ties between integers
        case 9: return 17.0f + d;                                          // ties of e4m3's mantissa
        default: return random;
    }
}

bool same(unsigned short got, unsigned short want) {
    return got == want || (std::isnan(to_float(got, Dtype::f16)) && std::isnan(to_float(want, Dtype::f16)));
}

// K or V of a case: the rows given, what became of them, and what was made of that again.
struct Plane {
    std::vector<unsigned short> in;      // [num_kv_heads, stride, head_dim]
    std::vector<unsigned char> bytes;    // [num_kv_heads, capacity, head_dim]
    std::vector<unsigned short> wide;    // [num_kv_heads, stride_out, head_dim]
};

// Numbers of one row that were not packed as they should. scales: of the row, as the device wrote them.
int wrong_in_row(const PackCase& test, const unsigned short* in, const unsigned char* bytes, const unsigned short* scales) {
    int wrong = 0;
    for (int d = 0; d < test.head_dim; ++d) {
        float block[kScaleBlock];
        for (int i = 0; i < kScaleBlock; ++i) block[i] = to_float(in[d / kScaleBlock * kScaleBlock + i], test.rows);
        const float x = block[d % kScaleBlock];
        if (test.to == Dtype::fp8) {
            wrong += std::isnan(x) ? (bytes[d] & 0x7f) != 0x7f : bytes[d] != e4m3_byte(x);
            continue;
        }
        const unsigned short scale = q8_scale_bits(block);
        wrong += bytes[d] != q8_of(x, to_float(scale, Dtype::f16));
        wrong += !same(scales[d / kScaleBlock], scale);
    }
    return wrong;
}

// f16 bits that expanding gives.
unsigned short expanded(const PackCase& test, unsigned char byte, unsigned short scale) {
    return from_float(test.to == Dtype::fp8 ? e4m3_value(byte) : q8_value(byte, to_float(scale, Dtype::f16)), Dtype::f16);
}

int wrong_in_plane(const PackCase& test, const Plane& plane, bool is_v, const std::vector<unsigned short>& scales, int stride_out) {
    const size_t dim = test.head_dim, slots = scale_slots(test.head_dim);
    const int zeros_end = std::min(stride_out, (test.tokens + kExpandRows - 1) / kExpandRows * kExpandRows);
    int wrong = 0;
    for (size_t head = 0; head < static_cast<size_t>(test.num_kv_heads); ++head) {
        const auto scale_row = [&](int token) { return scales.data() + ((head * test.capacity + token) * 2 + is_v) * slots; };
        const auto row = [&](int token) { return plane.bytes.data() + (head * test.capacity + token) * dim; };
        for (int token = 0; token < test.capacity; ++token) {
            const bool written = token >= test.begin && token < test.tokens;
            if (written) wrong += wrong_in_row(test, plane.in.data() + (head * test.stride + token) * dim, row(token), scale_row(token));
            for (size_t d = 0; d < dim && !written; ++d) wrong += row(token)[d] != 0xff;  // as it was
        }
        for (int token = 0; token < stride_out; ++token) {
            for (size_t d = 0; d < dim; ++d) {
                const bool written = token >= test.begin && token < test.tokens, cleared = token >= test.tokens && token < zeros_end;
                const unsigned short want = written ? expanded(test, row(token)[d], scale_row(token)[d / kScaleBlock]) : cleared ? 0 : 0xffff;
                wrong += !same(plane.wide[(head * stride_out + token) * dim + d], want);
            }
        }
    }
    return wrong;
}

int pack_case(const PackCase& test, unsigned long long seed) {
    const size_t rows = static_cast<size_t>(test.num_kv_heads) * test.capacity;
    const int stride_out = test.stride + 3;
    Plane planes[2];
    for (int which = 0; which < 2; ++which) {
        std::vector<unsigned short>& in = planes[which].in;
        in.resize(static_cast<size_t>(test.num_kv_heads) * test.stride * test.head_dim);
        for (size_t i = 0; i < in.size(); ++i) {
            in[i] = from_float(special(static_cast<int>(i / kScaleBlock + 5 * which), i % kScaleBlock, normal(seed + which, i)), test.rows);
        }
    }
    const Buffer<unsigned short> k(planes[0].in), v(planes[1].in);
    Buffer<unsigned char> packed_k(rows * test.head_dim), packed_v(packed_k.count);
    Buffer<unsigned short> scales(rows * 2 * scale_slots(test.head_dim)), wide_k(static_cast<size_t>(test.num_kv_heads) * stride_out * test.head_dim), wide_v(wide_k.count);
    packed_k.poison(), packed_v.poison(), scales.poison(), wide_k.poison(), wide_v.poison();
    const KvCache cache{packed_k.data, packed_v.data, reinterpret_cast<const __half*>(scales.data), test.capacity};
    launch_pack(test.to, {k.data, v.data, cache, test.stride, test.begin, test.tokens, test.head_dim, test.num_kv_heads, test.rows == Dtype::bf16});
    launch_expand(test.to, {cache, wide_k.data, wide_v.data, stride_out, test.begin, test.tokens, test.head_dim, test.num_kv_heads}, test.grid);
    planes[0].bytes = packed_k.download(), planes[1].bytes = packed_v.download();
    planes[0].wide = wide_k.download(), planes[1].wide = wide_v.download();
    const auto scale_bits = scales.download();
    int wrong = 0;
    for (int which = 0; which < 2; ++which) wrong += wrong_in_plane(test, planes[which], which == 1, scale_bits, stride_out);
    std::printf("%-4s pack and expand %-3s from %-4s D%-3d %d heads, tokens %d..%d of %d and %d: %d numbers differ\n", wrong ? "FAIL" : "ok", name_of(test.to),
                name_of(test.rows), test.head_dim, test.num_kv_heads, test.begin, test.tokens, test.capacity, test.stride, wrong);
    return wrong != 0;
}

}  // namespace

int check_formats() {
    int failures = 0;
    for (Dtype to : {Dtype::fp8, Dtype::q8}) {
        for (Dtype rows : {Dtype::bf16, Dtype::f16}) {
            for (int dim : {64, 96, 128, 256}) failures += pack_case({to, rows, dim, 3, 341, 337, 5, 300, 37}, 7 + dim);
            failures += pack_case({to, rows, 128, 1, 512, 512, 0, 512, 1}, 1) + pack_case({to, rows, 64, 2, 300, 290, 256, 257, 3}, 2) + pack_case({to, rows, 96, 1, 600, 700, 1, 513, 500}, 3);
        }
    }
    return failures;
}
