//! The structs of `cuda/args.cuh` and `cuda/gemm.cuh`, field by field.

use bytemuck::{Pod, Zeroable};

/// Types that weights are held in on the device; the numbers are those of GGUF files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum WeightType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q4K = 12,
    Q5K = 13,
    Q6K = 14,
    Bf16 = 30,
}

/// Cursor, token and draws, in device memory. As words: the host writes some of them alone.
pub(super) mod decode_state {
    pub(in super::super) const POSITION: usize = 0;
    pub(in super::super) const TOKEN: usize = 2;
    pub(in super::super) const DRAWS: usize = 3;
    pub(in super::super) const WORDS: usize = 4;
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct MatvecPart {
    pub(super) weights: u64,
    pub(super) weight_type: i32,
    pub(super) rows: i32,
    pub(super) first_block: i32,
    pub(super) blocks: i32,
    pub(super) out: i32,
    pub(super) unused: i32,
}

pub(super) const MATVEC_PARTS: usize = 3;

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct MatvecArgs {
    pub(super) x: u64,
    pub(super) norm: u64,
    pub(super) bias: u64,
    pub(super) add: u64,
    pub(super) out: u64,
    pub(super) eps: f32,
    pub(super) cols: i32,
    pub(super) num_parts: i32,
    pub(super) gated: i32,
    pub(super) out_tag: i32,
    pub(super) x_tag: i32,
    pub(super) add_tag: i32,
    pub(super) unused: i32,
    pub(super) parts: [MatvecPart; MATVEC_PARTS],
}

pub(super) const MATVEC_CHAIN: usize = 4;

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct MatvecChain {
    pub(super) count: i32,
    pub(super) unused: i32,
    pub(super) products: [MatvecArgs; MATVEC_CHAIN],
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct HeadsArgs {
    pub(super) qkv: u64,
    pub(super) bias: u64,
    pub(super) q_norm: u64,
    pub(super) k_norm: u64,
    pub(super) cos: u64,
    pub(super) sin: u64,
    pub(super) position: u64,
    pub(super) q_pre: u64,
    pub(super) q_rot: u64,
    pub(super) k: u64,
    pub(super) v: u64,
    pub(super) scales: u64,
    pub(super) eps: f32,
    pub(super) begin: i32,
    pub(super) capacity: i32,
    pub(super) num_q_heads: i32,
    pub(super) num_kv_heads: i32,
    pub(super) head_dim: i32,
    pub(super) tokens: i32,
    pub(super) unused: i32,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct SampleSettings {
    pub(super) temperature: f32,
    pub(super) top_p: f32,
    pub(super) min_p: f32,
    pub(super) repeat_penalty: f32,
    pub(super) top_k: i32,
    pub(super) repeat_last_n: i32,
    pub(super) seed: u64,
}

/// Among the logits is a NaN, or the largest is infinite.
pub(super) const SAMPLE_NOT_FINITE: u32 = 1;

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct TokenRecord {
    pub(super) token: u32,
    pub(super) flags: u32,
    pub(super) step: u32,
    pub(super) position: i32,
}

pub(super) const SAMPLE_SCRATCH_BYTES: usize = 128 << 10;

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct SampleArgs {
    pub(super) logits: u64,
    pub(super) settings: u64,
    pub(super) state: u64,
    pub(super) history: u64,
    pub(super) records: u64,
    pub(super) scratch: u64,
    pub(super) vocab: i32,
    pub(super) history_len: i32,
    pub(super) num_records: i32,
    pub(super) unused: i32,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct GemmArgs {
    pub(super) a: u64,
    pub(super) w: u64,
    pub(super) bias: u64,
    pub(super) c: u64,
    pub(super) workspace: u64,
    pub(super) m: i32,
    pub(super) n: i32,
    pub(super) k: i32,
    pub(super) lda: i32,
    pub(super) ldw: i32,
    pub(super) ldc: i32,
}

const _: () = {
    assert!(size_of::<MatvecPart>() == 32);
    assert!(size_of::<MatvecArgs>() == 72 + 3 * 32);
    assert!(size_of::<MatvecChain>() == 8 + 4 * size_of::<MatvecArgs>());
    assert!(size_of::<HeadsArgs>() == 12 * 8 + 32);
    assert!(size_of::<SampleSettings>() == 32);
    assert!(size_of::<TokenRecord>() == 16);
    assert!(size_of::<SampleArgs>() == 64);
    assert!(size_of::<GemmArgs>() == 64);
};
