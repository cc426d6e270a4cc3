//! The structs of `kernels/cuda/step.cuh`, field by field. `kernels/cuda/contract.cu` asserts the same sizes and offsets
//! on the other side.

use bytemuck::{Pod, Zeroable};

use super::super::TensorMap;

/// Scalars of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct StepState {
    /// Of the newest token, 0-based; −1 before the first.
    pub(super) position: i32,
    /// Counts every step ever made.
    pub(super) step: u32,
}

/// Tags of a ring slot.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C, align(16))]
pub(super) struct RingMeta {
    /// −1: never written.
    pub(super) position: i32,
    pub(super) lse: f32,
    pub(super) depth: u32,
    pub(super) distance: f32,
}

impl RingMeta {
    pub(super) const EMPTY: Self = Self { position: -1, lse: f32::NEG_INFINITY, depth: 0, distance: 0.0 };
}

/// One layer's ring; all zero: no ring.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct RingArgs {
    pub(super) query: u64,
    pub(super) out: u64,
    pub(super) meta: u64,
    pub(super) slots: i32,
    pub(super) band: i32,
}

/// One layer's K and V.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct KvArgs {
    pub(super) k: u64,
    pub(super) v: u64,
    /// 0 where the format has none.
    pub(super) scales: u64,
    pub(super) capacity: i32,
}

/// Which query heads read which KV head.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct HeadArgs {
    pub(super) num_kv_heads: i32,
    pub(super) group: i32,
    /// Softmax scale · log2(e).
    pub(super) scale_log2: f32,
}

/// Running totals of one layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Totals {
    pub(super) kv_bytes_read: u64,
    pub(super) kv_bytes_exact: u64,
    pub(super) ring_bytes: u64,
    pub(super) groups: u64,
    pub(super) groups_reused: u64,
    pub(super) heads_matched: u64,
    pub(super) heads_reused: u64,
}

/// A group's decision is a word: the step from this bit on, and in bit 0 whether the group must be read.
pub(super) const DECISION_SHIFT: u32 = 5;

pub(super) const PAPER: i32 = 1;
pub(super) const FORCED: i32 = 2;

pub(super) const PATTERN_ALL: i32 = 0;
pub(super) const PATTERN_NONE: i32 = 1;
pub(super) const PATTERN_RANDOM: i32 = 2;
pub(super) const PATTERN_HEADS: i32 = 3;

/// When a head may reuse a stored state.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub(super) struct PolicyArgs {
    pub(super) kind: i32,
    pub(super) radius_sq: f32,
    pub(super) min_context: i32,
    pub(super) max_pause: i32,
    pub(super) prune: i32,
    pub(super) pattern: i32,
    pub(super) rate: f32,
    pub(super) lag: i32,
    pub(super) seed: u64,
    pub(super) forced_heads: u64,
}

/// Back-off of one KV head's search.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct PauseArgs {
    pub(super) remaining: u32,
    pub(super) length: u32,
    pub(super) misses: u32,
}

/// Of `attend`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct AttendArgs {
    pub(super) state: u64,
    pub(super) q_rot: u64,
    pub(super) q_pre: u64,
    pub(super) kv: KvArgs,
    pub(super) heads: HeadArgs,
    pub(super) ring: RingArgs,
    pub(super) decisions: u64,
    pub(super) outcomes: u64,
    pub(super) reused_mass: u64,
    pub(super) out: u64,
    pub(super) partial_out: u64,
    pub(super) partial_lse: u64,
    pub(super) arrivals: u64,
    pub(super) counters: u64,
}

/// Of `reuse`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct ReuseArgs {
    pub(super) state: u64,
    pub(super) q_rot: u64,
    pub(super) q_pre: u64,
    pub(super) kv: KvArgs,
    pub(super) heads: HeadArgs,
    pub(super) ring: RingArgs,
    pub(super) policy: PolicyArgs,
    pub(super) pauses: u64,
    pub(super) decisions: u64,
    pub(super) outcomes: u64,
    pub(super) reused_mass: u64,
    pub(super) out: u64,
    pub(super) counters: u64,
}

/// Of `expand_kv`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct ExpandArgs {
    pub(super) from: KvArgs,
    pub(super) k: u64,
    pub(super) v: u64,
    pub(super) stride: i32,
    pub(super) begin: i32,
    pub(super) tokens: i32,
    pub(super) head_dim: i32,
    pub(super) num_kv_heads: i32,
}

/// Of the prefill kernels (`prefill_args.cuh`).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct PrefillArgs {
    pub(super) q: u64,
    pub(super) q_pre: u64,
    pub(super) out: u64,
    pub(super) lse: u64,
    pub(super) kv: KvArgs,
    pub(super) ring: RingArgs,
    pub(super) heads: HeadArgs,
    pub(super) q_token_stride: i32,
    pub(super) q_pre_token_stride: i32,
    pub(super) out_token_stride: i32,
    pub(super) first_pos: i32,
    pub(super) n: i32,
    pub(super) seed_from: i32,
    pub(super) splits: i32,
    pub(super) partial_out: u64,
    pub(super) partial_lse: u64,
}

/// Of the prefill kernels of compute capability 9.0.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct PrefillWgmmaArgs {
    pub(super) k: TensorMap,
    pub(super) v: TensorMap,
    pub(super) chunk: PrefillArgs,
}

const _: () = {
    assert!(size_of::<PrefillArgs>() == 152 && std::mem::offset_of!(PrefillArgs, heads) == 96);
    assert!(std::mem::offset_of!(PrefillArgs, partial_out) == 136);
    assert!(size_of::<TensorMap>() == 128 && std::mem::offset_of!(PrefillWgmmaArgs, chunk) == 256);
    assert!(size_of::<StepState>() == 8);
    assert!(size_of::<RingMeta>() == 16);
    assert!(size_of::<RingArgs>() == 32);
    assert!(size_of::<KvArgs>() == 32 && std::mem::offset_of!(KvArgs, capacity) == 24);
    assert!(size_of::<HeadArgs>() == 12);
    assert!(size_of::<Totals>() == 56);
    assert!(size_of::<PolicyArgs>() == 48 && std::mem::offset_of!(PolicyArgs, seed) == 32);
    assert!(size_of::<PauseArgs>() == 12);
    assert!(size_of::<AttendArgs>() == 168 && std::mem::offset_of!(AttendArgs, ring) == 72);
    assert!(size_of::<ReuseArgs>() == 200 && std::mem::offset_of!(ReuseArgs, policy) == 104);
    assert!(size_of::<ExpandArgs>() == 72 && std::mem::offset_of!(ExpandArgs, stride) == 48);
};
