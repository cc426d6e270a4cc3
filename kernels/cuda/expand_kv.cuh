// What the kernels of expand_kv.cu are told. Shared with the host.
#pragma once

#include "step.cuh"

// 8-bit K and V to f16: tokens begin..tokens. Rows from `tokens` up to the next multiple of kExpandRows (below `stride`)
// become zeros.
struct ExpandKvArgs {
    KvCache from;
    void* k;           // [num_kv_heads, stride, head_dim]  f16
    void* v;           // [num_kv_heads, stride, head_dim]
    int stride;        // tokens
    int begin, tokens;
    int head_dim;
    int num_kv_heads;
};
constexpr int kExpandRows = 256;

// 16-bit K and V to 8 bits: tokens begin..tokens.
struct PackKvArgs {
    const void* k;     // [num_kv_heads, stride, head_dim]
    const void* v;     // [num_kv_heads, stride, head_dim]
    KvCache to;        // written
    int stride;        // tokens
    int begin, tokens;
    int head_dim;
    int num_kv_heads;
    int bf16;          // 1: bf16 rows, 0: f16
};
