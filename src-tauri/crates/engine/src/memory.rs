//! Memory is planned before it is taken.

use mac_attention::{Ring, RingLayout};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::exec::MAX_CHUNK_TOKENS;
use crate::model::ModelSpec;
use crate::{DeviceKind, EngineError, KvFormat};

/// Bytes that a model takes at some context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryPlan {
    /// Weights as held.
    pub weights_bytes: u64,
    /// K and V at the full context.
    pub kv_bytes: u64,
    /// Rings of all layers.
    pub ring_bytes: u64,
    /// Activations and kernel scratch.
    pub scratch_bytes: u64,
}

/// Contexts are offered in steps of this many tokens.
const CONTEXT_STEP: usize = 256;

impl MemoryPlan {
    /// What a model takes with `context_tokens` reserved.
    pub fn new(
        spec: &ModelSpec,
        weights_bytes: u64,
        context_tokens: usize,
        ring: RingLayout,
        format: KvFormat,
    ) -> Self {
        let rings = spec.attention_shape().map_or(0, |shape| Ring::bytes(shape, ring) * spec.layers);
        Self {
            weights_bytes,
            kv_bytes: spec.kv_bytes_per_token(format) * context_tokens as u64,
            ring_bytes: rings as u64,
            scratch_bytes: scratch_bytes(spec),
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights_bytes + self.kv_bytes + self.ring_bytes + self.scratch_bytes
    }
}

/// Activations of the longest chunk in f32, twice over for what the tensor library and the attention kernels hold
/// beside them, and the logits.
fn scratch_bytes(spec: &ModelSpec) -> u64 {
    let per_token = 2 * spec.d_model + 4 * spec.q_width() + 2 * spec.kv_width() + 3 * spec.d_ff;
    ((2 * MAX_CHUNK_TOKENS * per_token + 2 * spec.vocab) * size_of::<f32>()) as u64
}

/// Largest context, in tokens, whose plan fits into `free_bytes`; at most what the model claims.
pub fn context_that_fits(
    spec: &ModelSpec,
    weights_bytes: u64,
    ring: RingLayout,
    format: KvFormat,
    free_bytes: u64,
) -> usize {
    let per_token = spec.kv_bytes_per_token(format);
    fitting(spec, MemoryPlan::new(spec, weights_bytes, 0, ring, format), per_token, free_bytes)
}

fn fitting(spec: &ModelSpec, fixed: MemoryPlan, token_bytes: u64, free_bytes: u64) -> usize {
    let tokens = free_bytes.saturating_sub(fixed.total()) / token_bytes.max(1);
    let tokens = usize::try_from(tokens).unwrap_or(usize::MAX).min(spec.max_context_tokens);
    if tokens == spec.max_context_tokens { tokens } else { tokens / CONTEXT_STEP * CONTEXT_STEP }
}

/// The plan for a wanted context, or for a default one: the model's limit, or what half of the free memory holds,
/// whichever is less. Nothing is shrunk in silence: a wanted context that does not fit is an error.
pub fn plan(
    spec: &ModelSpec,
    weights_bytes: u64,
    wanted_tokens: Option<usize>,
    ring: RingLayout,
    format: KvFormat,
    free_bytes: u64,
) -> Result<(usize, MemoryPlan), EngineError> {
    let fixed = MemoryPlan::new(spec, weights_bytes, 0, ring, format);
    plan_beside(spec, fixed, cost_on_cpu(spec, format).token_bytes, wanted_tokens, free_bytes)
}

/// What a token of context adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBytes {
    /// To the KV cache.
    pub kv: u64,
    /// To what reading needs beside it.
    pub scratch: u64,
}

/// What contexts of a model take on a device, keys and values held in one way. Weights, rings and the rest of the scratch
/// depend on neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextCost {
    /// Where.
    pub device: DeviceKind,
    /// How keys and values are held.
    pub kv: KvFormat,
    /// What each token adds.
    pub token_bytes: TokenBytes,
    /// Scratch that goes with the format, however long the context is.
    pub scratch_bytes: u64,
}

impl ContextCost {
    /// All of it at that length.
    pub fn at(&self, context_tokens: usize) -> u64 {
        self.scratch_bytes + (self.token_bytes.kv + self.token_bytes.scratch) * context_tokens as u64
    }
}

pub(crate) fn cost_on_cpu(spec: &ModelSpec, format: KvFormat) -> ContextCost {
    let token_bytes = TokenBytes { kv: spec.kv_bytes_per_token(format), scratch: 0 };
    ContextCost { device: DeviceKind::Cpu, kv: format, token_bytes, scratch_bytes: 0 }
}

/// As [`plan`], with what does not depend on the context given.
pub(crate) fn plan_beside(
    spec: &ModelSpec,
    fixed: MemoryPlan,
    token_bytes: TokenBytes,
    wanted_tokens: Option<usize>,
    free_bytes: u64,
) -> Result<(usize, MemoryPlan), EngineError> {
    let context_tokens = match wanted_tokens {
        Some(0) => return Err(EngineError::InvalidRequest("a context of 0 tokens".into())),
        Some(tokens) if tokens > spec.max_context_tokens => {
            return Err(EngineError::InvalidRequest(format!(
                "a context of {tokens} tokens; the model's limit is {}",
                spec.max_context_tokens
            )));
        }
        Some(tokens) => tokens,
        None => {
            let half = fixed.total() + free_bytes.saturating_sub(fixed.total()) / 2;
            fitting(spec, fixed, token_bytes.kv + token_bytes.scratch, half)
        }
    };
    let plan = MemoryPlan {
        kv_bytes: token_bytes.kv * context_tokens as u64,
        scratch_bytes: fixed.scratch_bytes + token_bytes.scratch * context_tokens as u64,
        ..fixed
    };
    if context_tokens == 0 || plan.total() > free_bytes {
        let each = token_bytes.kv + token_bytes.scratch;
        let context_that_fits = fitting(spec, fixed, each, free_bytes);
        // By default half stays free, of the shortest context too.
        let shortest = 2 * each * CONTEXT_STEP.min(spec.max_context_tokens) as u64;
        let need_bytes = if context_tokens == 0 { fixed.total() + shortest } else { plan.total() };
        return Err(EngineError::OutOfMemory { need_bytes, free_bytes, context_that_fits });
    }
    Ok((context_tokens, plan))
}

/// Bytes the system can give without swapping, measured now; the limit of a container counts. `u64::MAX` where the
/// system does not tell.
pub fn available_bytes() -> u64 {
    let ram = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let Ok(system) = System::new_with_specifics(ram) else { return u64::MAX };
    let machine = system.available_memory();
    match system.cgroup_limits() {
        Some(limits) => machine.min(limits.free_memory),
        None => machine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::named_shape;

    const GB: u64 = 1 << 30;

    #[test]
    fn kv_of_an_8b_model_at_128k_is_16_gib() {
        let spec = named_shape("llama-3.1-8b").unwrap();
        let plan = MemoryPlan::new(&spec, 8 * GB, 131_072, RingLayout::default(), KvFormat::Bf16);
        assert_eq!(plan.kv_bytes, 16 * GB);
        let kv_bytes = |format| MemoryPlan::new(&spec, 8 * GB, 131_072, RingLayout::default(), format).kv_bytes;
        assert_eq!(kv_bytes(KvFormat::Fp8), 8 * GB);
        assert_eq!(kv_bytes(KvFormat::Q8_0), 8 * GB + GB / 2, "a scale for every 32 elements");
        assert_eq!(plan.total(), plan.weights_bytes + plan.kv_bytes + plan.ring_bytes + plan.scratch_bytes);
    }

    #[test]
    fn too_much_says_what_would_fit() {
        let spec = named_shape("llama-3.1-8b").unwrap();
        let ring = RingLayout::default();
        match plan(&spec, 8 * GB, Some(131_072), ring, KvFormat::Bf16, 20 * GB) {
            Err(EngineError::OutOfMemory { context_that_fits, need_bytes, free_bytes }) => {
                assert!(need_bytes > free_bytes && context_that_fits > 60_000);
                let (_, fitting) = plan(&spec, 8 * GB, Some(context_that_fits), ring, KvFormat::Bf16, 20 * GB).unwrap();
                assert!(fitting.total() <= 20 * GB);
            }
            other => panic!("{other:?}"),
        }
        match plan(&spec, 30 * GB, None, ring, KvFormat::Bf16, 20 * GB) {
            Err(EngineError::OutOfMemory { context_that_fits: 0, .. }) => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn more_is_needed_than_is_free_where_the_weights_alone_would_fit() {
        let spec = named_shape("llama-3.1-8b").unwrap();
        let (ring, each) = (RingLayout::default(), spec.kv_bytes_per_token(KvFormat::Bf16));
        let fixed = MemoryPlan::new(&spec, 8 * GB, 0, ring, KvFormat::Bf16).total();
        let default_in = |free| plan(&spec, 8 * GB, None, ring, KvFormat::Bf16, free);
        for (free, fits) in
            [(fixed, 0), (fixed + 255 * each, 0), (fixed + 256 * each, 256), (fixed + 512 * each - 1, 256)]
        {
            match default_in(free) {
                Err(EngineError::OutOfMemory { need_bytes, free_bytes, context_that_fits }) => {
                    assert!(need_bytes > free_bytes && free_bytes == free, "{need_bytes} B of {free_bytes} B");
                    assert_eq!(context_that_fits, fits);
                    assert_eq!(default_in(need_bytes).unwrap().0, 256, "what is told to be needed is enough");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_default_leaves_half_and_knows_the_limit() {
        let spec = named_shape("llama-3.1-8b").unwrap();
        let (tokens, plan) = plan(&spec, 8 * GB, None, RingLayout::default(), KvFormat::Bf16, 20 * GB).unwrap();
        assert!(plan.total() < 15 * GB && tokens > 30_000);
        let demo = named_shape("demo").unwrap();
        assert_eq!(
            super::plan(&demo, 60 << 20, None, RingLayout::default(), KvFormat::Bf16, 20 * GB).unwrap().0,
            131_072
        );
        assert!(super::plan(&demo, 60 << 20, Some(131_073), RingLayout::default(), KvFormat::Bf16, 20 * GB).is_err());
        assert!(super::plan(&demo, 60 << 20, Some(0), RingLayout::default(), KvFormat::Bf16, 20 * GB).is_err());
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(available_bytes() > 1 << 20);
    }
}
