// Rows of a prefill launch: which query, which tokens it sees, where its result goes. Common to both kinds of kernel.
#pragma once

#include "element.cuh"
#include "load.cuh"
#include "partial.cuh"
#include "prefill_args.cuh"
#include "ring.cuh"

// The rows of one KV head. With kSeed they see 0..position + 1 - band and end in the ring.
template <bool kSeed>
struct PrefillRows {
    const PrefillArgs& args;
    PrefillTokens tokens;
    int kv_head;
    int count;

    __device__ PrefillRows(const PrefillArgs& args, int kv_head)
        : args(args), tokens(prefill_tokens(args, kSeed)), kv_head(kv_head), count(tokens.count * args.heads.group) {}

    __device__ int token(int row) const { return tokens.first + min(row, count - 1) / args.heads.group; }  // of the chunk
    __device__ int head(int row) const { return kv_head * args.heads.group + row % args.heads.group; }
    // Tokens that the row sees. Rows that only pad see what the last one does.
    __device__ int limit(int row) const {
        const int position = args.first_pos + token(row);
        return kSeed ? prefix_end(position, args.ring.band) : position + 1;
    }
    // Tiles of `tokens` tokens that one split of the rows up to `last` must see.
    struct Span {
        int begin, end;
    };
    __device__ Span span(int last, int tokens, int split) const {
        const int count = (limit(last) + tokens - 1) / tokens;
        const auto place = [&](int i) { return static_cast<int>(static_cast<long long>(count) * i / args.splits); };
        return {place(split), place(split + 1)};
    }
    template <int kDim>
    __device__ const char* query(int row) const {
        return static_cast<const char*>(args.q) + 2 * (static_cast<size_t>(token(row)) * args.q_token_stride + head(row) * kDim);
    }
};

// Running softmax of a row that several lanes share: scores of their own columns, in base 2 against a common reference, the
// highest score so far. Only tiles with a higher one need an exchange of maxima and a rescale. A looser reference would need them
// still less often, but leave the weight of a token that dominates a row to be rounded: +0.4 % of error in bf16.
struct RowSum {
    float max;  // reference, base 2
    float sum;  // this lane's columns

    // The reference as something to subtract: a row that has seen nothing has only scores of -inf.
    __device__ float reference() const { return max == -CUDART_INF_F ? 0.0f : max; }

    // Moves the reference up to `top` (this lane's; the quad's is taken); returns the factor for what was summed so far.
    __device__ float raise(float top) {
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        top = fmaxf(top, max);
        const float factor = weight_log2(max, top);
        max = top;
        sum *= factor;
        return factor;
    }

    // Sum over the quad.
    __device__ float total() const {
        const float pair = sum + __shfl_xor_sync(0xffffffffu, sum, 1);
        return pair + __shfl_xor_sync(0xffffffffu, pair, 2);
    }
};

// Scores of 16 rows and 8 * kColumns tokens as tensor cores leave them in a warp: score[c][2 * half + j] is of row
// lane / 4 + 8 * half, column 8 * c + 2 * (lane % 4) + j. Outputs likewise.

// Hides tokens from `limit[half]` on; limits relative to the tile.
template <int kColumns>
__device__ inline void mask_scores(float (&score)[kColumns][4], const int (&limit)[2]) {
    const int column = 2 * (threadIdx.x % 4);
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (8 * c + i % 2 >= limit[i / 2] - column) score[c][i] = -CUDART_INF_F;
        }
    }
}

// Moves the references if some score of the tile is above; then says true, to the whole warp, and by how much outputs must shrink.
template <int kColumns>
__device__ inline bool raise_references(RowSum (&rows)[2], const float (&score)[kColumns][4], float scale_log2, float (&factor)[2]) {
    float top[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float even = score[0][2 * half], odd = score[0][2 * half + 1];
#pragma unroll
        for (int c = 1; c < kColumns; ++c) {
            even = fmaxf(even, score[c][2 * half]);
            odd = fmaxf(odd, score[c][2 * half + 1]);
        }
        top[half] = fmaxf(even, odd) * scale_log2;
    }
    const bool raise = top[0] > rows[0].max || top[1] > rows[1].max;
    if (!__any_sync(0xffffffffu, raise)) return false;
    factor[0] = rows[0].raise(top[0]);
    factor[1] = rows[1].raise(top[1]);
    return true;
}

template <int kColumns>
__device__ inline void rescale(float (&out)[kColumns][4], const float (&factor)[2]) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[c][i] *= factor[i / 2];
    }
}

// Turns scores into weights.
template <int kColumns>
__device__ inline void weigh(RowSum (&rows)[2], float (&score)[kColumns][4], float scale_log2) {
    const float reference[2] = {rows[0].reference(), rows[1].reference()};
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            score[c][i] = exp2_fast(fmaf(score[c][i], scale_log2, -reference[i / 2]));
            sum[i] += score[c][i];
        }
    }
    rows[0].sum += sum[0] + sum[1];
    rows[1].sum += sum[2] + sum[3];
}

// Weights of 16 tokens (two columns of scores) as the left operand of a product: 16-bit, and with kSplit what rounding lost.
// A ring state feeds many later steps, so for it the weights enter as the sum of two 16-bit numbers: one alone costs 1.6e-3 of
// relative error, as much as rounding the output does.
template <class E, bool kSplit>
__device__ inline void pack_weights(const float (&first)[4], const float (&second)[4], uint32_t (&high)[4], uint32_t (&low)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float x = (i < 2 ? first : second)[i % 2 * 2], y = (i < 2 ? first : second)[i % 2 * 2 + 1];
        high[i] = E::pack(x, y);
        if constexpr (kSplit) {
            const float2 rounded = E::unpack(high[i]);
            low[i] = E::pack(x - rounded.x, y - rounded.y);
        }
    }
}

// Copies a row's query into its ring entry and writes the tags; `kLanes` lanes share that.
template <int kLanes>
__device__ inline void store_tags(const PrefillArgs& args, int head_dim, int token, int head, float lse, int lane) {
    const int position = args.first_pos + token;
    const size_t place = ring_row(args.ring, head, position);
    const uint4* from = reinterpret_cast<const uint4*>(args.q_pre + static_cast<size_t>(token) * args.q_pre_token_stride + head * head_dim);
    uint4* to = reinterpret_cast<uint4*>(args.ring.query + place * head_dim);
    for (int c = lane; c < head_dim / 8; c += kLanes) to[c] = from[c];
    if (lane == 0) args.ring.meta[place] = RingMeta{position, lse, 0u, 0.0f};
}

// Writes one row's result. A quad of lanes holds the row; lane i of it has columns 8 * c + 2 * i + {0, 1} in value(c, 0 and 1).
template <class E, int kDim, bool kSeed, class Value>
__device__ inline void store_row(const PrefillRows<kSeed>& rows, int row, int split, const RowSum& state, Value value) {
    const float total = state.total();
    const float inverse = total > 0.0f ? 1.0f / total : 0.0f;
    if (row >= rows.count) return;
    const PrefillArgs& args = rows.args;
    const int lane = threadIdx.x % 4, token = rows.token(row), head = rows.head(row);
    const float lse = natural_lse(total, state.max);
    const auto store_floats = [&](float* out) {
#pragma unroll
        for (int c = 0; c < kDim / 8; ++c) *reinterpret_cast<float2*>(out + 8 * c + 2 * lane) = make_float2(value(c, 0) * inverse, value(c, 1) * inverse);
    };
    if (args.splits > 1) {
        const size_t place = (static_cast<size_t>(split) * rows.tokens.count + token - rows.tokens.first) * args.heads.num_kv_heads * args.heads.group + head;
        store_floats(args.partial_out + place * kDim);
        if (lane == 0) args.partial_lse[place] = lse;
    } else if constexpr (kSeed) {
        store_floats(args.ring.out + ring_row(args.ring, head, args.first_pos + token) * kDim);
        store_tags<4>(args, kDim, token, head, lse, lane);
    } else {
        uint32_t* out = static_cast<uint32_t*>(args.out) + (static_cast<size_t>(token) * args.out_token_stride + head * kDim) / 2 + lane;
#pragma unroll
        for (int c = 0; c < kDim / 8; ++c) out[4 * c] = E::pack(value(c, 0) * inverse, value(c, 1) * inverse);
        if (args.lse != nullptr && lane == 0) args.lse[static_cast<size_t>(head) * args.n + token] = lse;
    }
}
