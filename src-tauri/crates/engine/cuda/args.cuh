// What a launch is told. Shared with the host, so plain structs of fixed size.
#pragma once

#include <cstdint>

// Numbers as in GGUF files.
enum WeightType : int {
    kF32 = 0,
    kF16 = 1,
    kQ4_0 = 2,
    kQ4_1 = 3,
    kQ5_0 = 6,
    kQ5_1 = 7,
    kQ8_0 = 8,
    kQ4_K = 12,
    kQ5_K = 13,
    kQ6_K = 14,
    kBf16 = 30,
};

// One per sequence, in device memory, so that a captured graph replays unchanged. Begins as StepState of the attention
// kernels does.
struct DecodeState {
    int position;    // of the newest token, 0-based: the one that this step embeds
    unsigned step;   // counts every step ever made
    unsigned token;  // at `position`
    unsigned draws;  // uniform numbers drawn since the seed was set
};

// Some rows of one type, served by blocks of their own.
struct MatvecPart {
    const void* weights;  // dense [rows, cols], or packed planes (see packed.cuh); 256-byte aligned
    int type;             // WeightType
    int rows;
    int first_block;
    int blocks;
    int out;  // index of the first row's output
    int unused;
};

constexpr int kMatvecParts = 3;

// out = W · x, with what belongs before and after it.
//
// Values that pass from product to product within a launch carry a tag in their two lowest bits, by which readers know that they are there.
// A buffer that is ever awaited is only ever written with tags, each other than the one before; fresh from the host it is zero.
struct MatvecArgs {
    const float* x;     // [cols]
    const float* norm;  // [cols]  RMSNorm weight; nullptr: x as it is
    const float* bias;  // as out; nullptr: none
    const float* add;   // as out, and may be out; nullptr: nothing is added
    float* out;         // [rows of all parts]; gated: [rows / 2]
    float eps;          // of the norm
    int cols;
    int num_parts;
    int gated;    // 1: the one part holds gate rows, then as many up rows; out = silu(gate) * up
    int out_tag;  // 1, 2 or 3: what out is tagged with; 0: out is exact
    int x_tag;    // what x is awaited with; 0: x was there before the launch
    int add_tag;  // likewise
    int unused;
    MatvecPart parts[kMatvecParts];
};

constexpr int kMatvecChain = 4;

// Products one after another in one launch, each of which may read what those before it wrote.
struct MatvecChain {
    int count;
    int unused;
    MatvecArgs products[kMatvecChain];
};

// Head norm, RoPE, and appending to the KV cache, for `tokens` rows of [q | k | v].
struct HeadsArgs {
    const void* qkv;       // [tokens, q_width + 2 kv_width]  f32 or bf16, as the kernel's name says
    const float* bias;     // [q_width + 2 kv_width] or nullptr
    const float* q_norm;   // [head_dim] or nullptr
    const float* k_norm;   // [head_dim] or nullptr
    const float* cos;      // [tokens, head_dim / 2]
    const float* sin;      // [tokens, head_dim / 2]
    const int* position;   // of the first token; nullptr: `begin`
    uint16_t* q_pre;       // [tokens, num_q_heads, head_dim]  bf16
    uint16_t* q_rot;       // [tokens, num_q_heads, head_dim]  bf16; f16 if the cache has 8 bits
    void* k;               // [num_kv_heads, capacity, head_dim]  bf16, or as the kernel's name says; rotated
    void* v;               // [num_kv_heads, capacity, head_dim]  likewise
    uint16_t* scales;      // [num_kv_heads, capacity, 2 (K, V), slots]  f16, of q8 alone; slots: a power of two >= head_dim / 32
    float eps;
    int begin;
    int capacity;  // tokens
    int num_q_heads;
    int num_kv_heads;
    int head_dim;  // a multiple of 32, at most 256
    int tokens;
    int unused;
};

// Settings of a reply, in device memory so that they change without another capture.
struct SampleSettings {
    float temperature;     // 0 is greedy
    float top_p;           // 1 keeps all
    float min_p;           // 0 drops none
    float repeat_penalty;  // 1 is none
    int top_k;             // 0 keeps all
    int repeat_last_n;     // tokens looked back on
    unsigned long long seed;
};

enum SampleFlags : unsigned {
    kSampleNotFinite = 1,     // NaN among the logits, or the largest is infinite; the token is 0 and means nothing
    kSampleGridTooSmall = 2,  // the launch had too few blocks for the vocabulary; likewise
};

// What the host learns of a step, one 16-byte store.
struct TokenRecord {
    unsigned token;     // chosen, at position + 1
    unsigned flags;     // SampleFlags
    unsigned step;      // DecodeState.step of the step that chose it
    int position;       // DecodeState.position of the step that chose it
};

struct SampleArgs {
    const float* logits;  // [vocab]
    const SampleSettings* settings;
    DecodeState* state;    // token, position, step and draws move on to the next step
    unsigned* history;     // [history_len]  token of each position; the chosen one is entered
    TokenRecord* records;  // [num_records]  pinned host memory; entry step % num_records
    void* scratch;         // 128 KiB, for one vocabulary; zero before the first launch, every launch leaves it ready
    int vocab;
    int history_len;
    int num_records;
    int unused;
};
