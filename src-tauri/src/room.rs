//! What contexts take of a device's memory, and what there is for them.

use reprise_engine::{KvFormat as Held, ModelInfo, memory};

use crate::ipc::{ContextCost, KvFormat};

/// At least this much, or the share below if that is more, is not offered to a context on a GPU: what the engine keeps
/// back for the driver and for other programs (256 MiB and a 64th) is never more than either.
const KEPT_BACK_BYTES: u64 = 512 << 20;
/// A context is not offered the last 32nd of a GPU's memory.
const KEPT_BACK_SHARE: u64 = 32;

impl From<Held> for KvFormat {
    fn from(held: Held) -> Self {
        match held {
            Held::Bf16 => Self::Bf16,
            Held::Q8_0 => Self::Q8_0,
            Held::Fp8 => Self::Fp8,
        }
    }
}

impl From<KvFormat> for Held {
    fn from(format: KvFormat) -> Self {
        match format {
            KvFormat::Bf16 => Self::Bf16,
            KvFormat::Q8_0 => Self::Q8_0,
            KvFormat::Fp8 => Self::Fp8,
        }
    }
}

impl From<&memory::ContextCost> for ContextCost {
    fn from(cost: &memory::ContextCost) -> Self {
        Self {
            device: cost.device.into(),
            kv: cost.kv.into(),
            token_bytes: cost.token_bytes.kv as f64,
            scratch_bytes: cost.scratch_bytes as f64,
            scratch_token_bytes: cost.token_bytes.scratch as f64,
        }
    }
}

/// Bytes of the context that is reserved: its KV cache, and what reading needs for it.
pub(crate) fn context_bytes(info: &ModelInfo) -> u64 {
    let cost = info.context_costs.iter().find(|cost| cost.device == info.device_kind && cost.kv == info.kv);
    cost.map_or(info.memory.kv_bytes, |cost| cost.at(info.context_tokens))
}

/// Bytes of the model that neither its context nor how that is held changes.
pub(crate) fn fixed_bytes(info: &ModelInfo) -> u64 {
    info.memory.total().saturating_sub(context_bytes(info))
}

/// Bytes that a context could have if the model were loaded again where it is: the present one is given back then.
pub(crate) fn context_room(info: &ModelInfo) -> u64 {
    match info.device_memory {
        Some(gpu) => {
            let whole = gpu.free_bytes.saturating_add(gpu.used_bytes);
            let kept_back = KEPT_BACK_BYTES.max(whole / KEPT_BACK_SHARE);
            whole.saturating_sub(kept_back).saturating_sub(fixed_bytes(info))
        }
        None => memory::available_bytes().saturating_add(info.memory.kv_bytes),
    }
}

#[cfg(test)]
mod tests {
    use reprise_engine::memory::MemoryPlan;
    use reprise_engine::{DeviceKind, exec};

    use super::*;

    fn info(device_memory: Option<exec::DeviceMemory>) -> ModelInfo {
        let memory =
            MemoryPlan { weights_bytes: 4 << 30, kv_bytes: 2 << 30, ring_bytes: 1 << 30, scratch_bytes: 1 << 30 };
        let device_kind = match device_memory {
            Some(_) => DeviceKind::Cuda,
            None => DeviceKind::Cpu,
        };
        ModelInfo {
            name: "m".into(),
            architecture: "qwen3".into(),
            weights: "Q8_0".into(),
            parameters: 0,
            device: "d".into(),
            device_kind,
            fallback: None,
            kv: Held::Bf16,
            device_memory,
            context_tokens: 1024,
            max_context_tokens: 4096,
            layers: 1,
            num_q_heads: 1,
            num_kv_heads: 1,
            head_dim: 64,
            memory,
            context_costs: Vec::new(),
        }
    }

    #[test]
    fn the_room_for_a_context_is_that_of_the_device() {
        let gpu = exec::DeviceMemory { used_bytes: 6 << 30, free_bytes: 10 << 30, total_bytes: 24 << 30 };
        // 16 GiB are the model's or free, half a GiB is kept back, 6 GiB do not depend on the context.
        assert_eq!(context_room(&info(Some(gpu))), (19 << 30) / 2);
        let full = exec::DeviceMemory { used_bytes: 1 << 30, free_bytes: 0, ..gpu };
        assert_eq!(context_room(&info(Some(full))), 0);
        assert!(context_room(&info(None)) > 2 << 30, "the KV cache held now is given back");
    }

    #[test]
    fn scratch_that_goes_with_the_context_is_part_of_its_room() {
        let gpu = exec::DeviceMemory { used_bytes: 6 << 30, free_bytes: 10 << 30, total_bytes: 24 << 30 };
        let cost = |kv, token: u64, scratch: u64, fixed: u64| memory::ContextCost {
            device: DeviceKind::Cuda,
            kv,
            token_bytes: memory::TokenBytes { kv: token, scratch },
            scratch_bytes: fixed,
        };
        // 1024 tokens take 2 GiB of cache and, of the scratch of 1 GiB, a half.
        let costs = vec![cost(Held::Bf16, 4 << 20, 0, 0), cost(Held::Q8_0, 2 << 20, 1 << 18, 1 << 28)];
        let info = ModelInfo { kv: Held::Q8_0, context_costs: costs, ..info(Some(gpu)) };
        assert_eq!(fixed_bytes(&info), (11 << 30) / 2);
        assert_eq!(context_room(&info), 10 << 30);
    }
}
