// What 8 bits cost attention: the formats alone, in f64 on the host.
#include "check.h"

#include "inputs.h"
#include "kv_formats.h"
#include "oracle.h"

namespace {

// Attention of one query in f64.
std::vector<double> attention(const std::vector<float>& q, const std::vector<float>& k, const std::vector<float>& v, int dim) {
    const int tokens = static_cast<int>(k.size()) / dim;
    std::vector<double> score(tokens), out(dim, 0.0);
    double max = -INFINITY, sum = 0;
    for (int t = 0; t < tokens; ++t) {
        double dot = 0;
        for (int d = 0; d < dim; ++d) dot += static_cast<double>(q[d]) * k[static_cast<size_t>(t) * dim + d];
        score[t] = dot / std::sqrt(static_cast<double>(dim));
        max = std::max(max, score[t]);
    }
    for (int t = 0; t < tokens; ++t) {
        const double w = std::exp(score[t] - max);
        sum += w;
        for (int d = 0; d < dim; ++d) out[d] += w * v[static_cast<size_t>(t) * dim + d];
    }
    for (double& x : out) x /= sum;
    return out;
}

std::vector<float> through(const std::vector<float>& x, Dtype type) {
    std::vector<float> y(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
        if (type == Dtype::fp8) {
            y[i] = e4m3_value(e4m3_byte(x[i]));
        } else if (type == Dtype::q8) {
            const float scale = to_float(q8_scale_bits(x.data() + i / 32 * 32), Dtype::f16);
            y[i] = q8_value(q8_of(x[i], scale), scale);
        } else {
            y[i] = to_float(from_float(x[i], type), type);
        }
    }
    return y;
}

}  // namespace

void format_errors() {
    constexpr int kTokens = 8192, kDim = 128, kQueries = 32;
    struct Keys {
        const char* name;
        float times, plus;  // on 4 of 128 dimensions
        float query_scale;
    };
    std::printf("relative L2 error of attention over %d tokens, D %d, %d queries, against the same cache in bf16: root mean square (worst)\n", kTokens, kDim, kQueries);
    const Keys cases[] = {{"normal K and V", 1, 0, 1}, {"normal, queries x 2", 1, 0, 2}, {"4 dimensions of K x 20", 20, 0, 1}, {"4 dimensions of K + 20", 1, 20, 1},
                          {"4 dimensions of K + 100", 1, 100, 1}};
    for (const Keys& keys : cases) {
        std::vector<float> k = normals(static_cast<size_t>(kTokens) * kDim, 1, 1.0f);
        const std::vector<float> v = through(normals(k.size(), 2, 1.0f), Dtype::bf16);
        for (size_t i = 0; i < k.size(); ++i) {
            if (i % kDim % 32 == 5) k[i] = k[i] * keys.times + keys.plus;
        }
        k = through(k, Dtype::bf16);
        std::printf("%-26s", keys.name);
        for (Dtype type : {Dtype::fp8, Dtype::q8}) {
            const std::vector<float> packed_k = through(k, type), packed_v = through(v, type);
            std::vector<double> errors(kQueries);
            parallel(kQueries, [&](int i) {
                const std::vector<float> q = normals(kDim, 100 + i, keys.query_scale);
                const std::vector<double> got = attention(q, packed_k, packed_v, kDim);
                errors[i] = relative_error(std::vector<float>(got.begin(), got.end()).data(), attention(q, k, v, kDim));
            });
            double squares = 0, worst = 0;
            for (double e : errors) squares += e * e, worst = std::max(worst, e);
            std::printf("  %s %.4f (%.4f)", name_of(type), std::sqrt(squares / kQueries), worst);
        }
        std::printf("\n");
    }
}
