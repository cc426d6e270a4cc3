// Packing, dequantising, embedding rows: bit for bit against the definition of the blocks. Fillers: size and spread.

#include "step_check.h"

namespace {

const int kTypes[] = {kF32, kF16, kBf16, kQ8_0, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ4_K, kQ5_K, kQ6_K};

void check_dequantise(Tally& tally, int type, int rows, int cols, unsigned seed) {
    const Matrix m(type, rows, cols, seed);
    const int first = rows / 4, some = rows - first;
    Buffer<uint16_t> out(static_cast<size_t>(some) * cols);
    out.poison();
    launch_with(pick(type, "dequantise"), dim3(100), 256, true, nullptr, static_cast<const void*>(m.device.data), reinterpret_cast<__nv_bfloat16*>(out.data),
                rows, cols, first, some);
    const auto got = out.download();
    size_t wrong = 0;
    for (int r = 0; r < some; ++r)
        for (int c = 0; c < cols; ++c) wrong += got[static_cast<size_t>(r) * cols + c] != bf16_bits(m.at(first + r, c));
    tally.expect(wrong == 0, "dequantise %s %d x %d: %zu elements differ", type_name(type), rows, cols, wrong);

    const std::vector<unsigned> tokens = {0u, static_cast<unsigned>(rows - 1), static_cast<unsigned>(rows / 2), static_cast<unsigned>(rows)};
    Buffer<unsigned> ids(tokens);
    Buffer<float> x(tokens.size() * cols + 1);
    x.poison();
    launch_with(pick(type, "embed"), dim3((cols + 2047) / 2048, 4), 256, true, nullptr, static_cast<const void*>(m.device.data), rows, cols,
                static_cast<const unsigned*>(ids.data), x.data, 4);
    const auto rows_got = x.download();
    wrong = 0;
    for (size_t i = 0; i < 3; ++i)
        for (int c = 0; c < cols; ++c) wrong += rows_got[i * cols + c] != m.at(static_cast<int>(tokens[i]), c);
    for (int c = 0; c < cols; ++c) wrong += !std::isnan(rows_got[3 * cols + c]);
    tally.expect(wrong == 0, "embed %s of %d: %zu elements differ", type_name(type), cols, wrong);
}

void check_fill(Tally& tally, int type, int rows, int cols) {
    const float std = 0.02f;
    Buffer<unsigned char> packed(packed_bytes(type, rows, cols));
    packed.poison();
    const long long count = static_cast<long long>(rows) * cols;
    if (block_elements(type) == 1) {
        launch_with(pick(type, "fill"), dim3(50), 256, true, nullptr, packed.data, count, 5ull, std);
    } else {
        launch_with(pick(type, "fill"), dim3(50), 256, true, nullptr, static_cast<void*>(packed.data), rows, cols, 5ull, std);
    }
    Buffer<uint16_t> out(count);
    out.poison();
    launch_with(pick(type, "dequantise"), dim3(100), 256, true, nullptr, static_cast<const void*>(packed.data), reinterpret_cast<__nv_bfloat16*>(out.data), rows,
                cols, 0, rows);
    double sum = 0, squares = 0;
    for (uint16_t bits : out.download()) {
        const double x = bf16_value(bits);
        sum += x, squares += x * x;
    }
    const double mean = sum / count, spread = std::sqrt(squares / count);
    // Q4_0 and Q5_0 have no minimum: quants from -8 to 7 have a mean of -0.11 deviations.
    tally.expect(std::fabs(mean) < (type == kQ4_0 || type == kQ5_0 ? 0.13 : 0.05) * std && std::fabs(spread / std - 1) < 0.03, "fill %s: mean %.3g, deviation %.3g", type_name(type), mean, spread);
}

void check_fill_ring(Tally& tally) {
    struct Meta {
        int position;
        float lse;
        unsigned depth;
        float distance;
    };
    const int heads = 3, slots = 48, dim = 64, length = 1000, band = 16;
    Buffer<uint16_t> query(static_cast<size_t>(heads) * slots * dim);
    Buffer<float> out(query.count);
    Buffer<Meta> meta(static_cast<size_t>(heads) * slots);
    query.poison(), out.poison(), meta.poison();
    launch_with(reinterpret_cast<const void*>(fill_ring), dim3(20), 256, true, nullptr, reinterpret_cast<__nv_bfloat16*>(query.data), out.data,
                static_cast<void*>(meta.data), heads, slots, dim, length, band, 9ull);
    const auto entries = meta.download();
    const auto outs = out.download();
    size_t wrong = 0;
    for (int h = 0; h < heads; ++h)
        for (int s = 0; s < slots; ++s) {
            const Meta& m = entries[h * slots + s];
            wrong += m.position < length - slots || m.position >= length || m.position % slots != s || m.depth != 0 || m.distance != 0 ||
                     !(std::fabs(m.lse - std::log(m.position + 1.0 - band)) < 1e-5);
        }
    for (float x : outs) wrong += std::isnan(x);
    for (uint16_t x : query.download()) wrong += std::isnan(bf16_value(x));
    tally.expect(wrong == 0, "fill_ring: %zu wrong", wrong);
}

}  // namespace

void check_layouts(Tally& tally, bool quick) {
    unsigned seed = 50;
    for (int type : kTypes) {
        for (int cols : {32, 96, 256, 768, 2560, 4864})
            if (cols % block_elements(type) == 0) check_dequantise(tally, type, quick ? 9 : 37, cols, ++seed);
        check_fill(tally, type, 64, 1280);
    }
    check_fill_ring(tally);
}
