//! The model's status, and the device it lives on.

use serde::Serialize;
use specta::Type;
use specta_typescript::Number;
use tauri_specta::Event;

use super::error::UserError;
use super::settings::KvFormat;

/// Where a model lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub enum DeviceKind {
    /// The processor and the machine's memory.
    Cpu,
    /// An NVIDIA GPU and its memory.
    Gpu,
}

/// What a look for an NVIDIA GPU found.
#[derive(Debug, Clone, PartialEq, Serialize, Type)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum GpuView {
    /// There is none, or no driver that would show it.
    Missing {
        /// Why, in a sentence.
        why: String,
    },
    /// There is one that cannot serve.
    Unusable {
        /// Its name.
        name: String,
        /// Why, in a sentence or two.
        why: String,
    },
    /// There is one that can.
    Usable {
        /// Its name.
        name: String,
        /// All of its memory.
        #[specta(type = Number)]
        memory_bytes: f64,
    },
}

/// Memory of a GPU when the model was ready.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct GpuMemory {
    /// Taken by the model. Its KV cache takes more as a chat grows, up to the context reserved.
    #[specta(type = Number)]
    pub used_bytes: f64,
    /// Free.
    #[specta(type = Number)]
    pub free_bytes: f64,
    /// In all.
    #[specta(type = Number)]
    pub total_bytes: f64,
}

/// What a context of a model takes on a device, held in one way, beside the model's fixed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct ContextCost {
    /// Where.
    pub device: DeviceKind,
    /// How.
    pub kv: KvFormat,
    /// Bytes of a token.
    #[specta(type = Number)]
    pub token_bytes: f64,
    /// Bytes of scratch at any length.
    #[specta(type = Number)]
    pub scratch_bytes: f64,
    /// Bytes of scratch that a token adds.
    #[specta(type = Number)]
    pub scratch_token_bytes: f64,
}

/// The model, as the status line shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Type)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ModelStatus {
    /// Nothing is loaded.
    None,
    /// Being loaded.
    Loading {
        /// Its name.
        name: String,
        /// Share loaded, 0..=1.
        #[specta(type = Number)]
        share: f32,
    },
    /// Ready.
    Ready {
        /// What it is.
        info: Box<ModelCard>,
    },
    /// Could not be loaded.
    Failed {
        /// Why.
        error: UserError,
    },
}

/// A loaded model in figures.
#[derive(Debug, Clone, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct ModelCard {
    /// Name.
    pub name: String,
    /// For example `qwen3`.
    pub architecture: String,
    /// Weights type.
    pub weights: String,
    /// Parameters.
    #[specta(type = Number)]
    pub parameters: f64,
    /// Device and kernels in words: figures of equal ones may be compared.
    pub device: String,
    /// The device alone, for example `NVIDIA H200`.
    pub device_name: String,
    /// The path its kernels take, for example `CUDA, sm_90a kernels`.
    pub kernels: String,
    /// Processor or GPU.
    pub device_kind: DeviceKind,
    /// How its context is held.
    pub kv: KvFormat,
    /// How its context was to be held.
    pub kv_wished: KvFormat,
    /// Why the processor serves although a GPU would have been taken, and that the context is not held as wished, if so.
    pub fallback: Option<UserError>,
    /// Memory of the GPU; `None` on the processor.
    pub gpu_memory: Option<GpuMemory>,
    /// Context reserved.
    pub context_tokens: u32,
    /// The model's limit.
    pub max_context_tokens: u32,
    /// Layers.
    pub layers: u32,
    /// Query heads per layer.
    pub query_heads: u32,
    /// KV heads per layer.
    pub kv_heads: u32,
    /// Bytes of weights.
    #[specta(type = Number)]
    pub weights_bytes: f64,
    /// Bytes of KV cache at the full context.
    #[specta(type = Number)]
    pub kv_bytes: f64,
    /// Bytes of rings.
    #[specta(type = Number)]
    pub ring_bytes: f64,
    /// Bytes of scratch.
    #[specta(type = Number)]
    pub scratch_bytes: f64,
    /// Bytes that depend neither on the context nor on how it is held: weights, rings and the rest of the scratch.
    #[specta(type = Number)]
    pub fixed_bytes: f64,
    /// What contexts take, by device and by how they are held: all that there are.
    pub context_costs: Vec<ContextCost>,
    /// Most bytes that a context could have on this device, measured.
    #[specta(type = Number)]
    pub context_room_bytes: f64,
    /// Free memory of the machine, measured.
    #[specta(type = Number)]
    pub free_bytes: f64,
    /// It is the embedded demo model.
    pub demo: bool,
}

/// The model's status changed.
#[derive(Debug, Clone, PartialEq, Serialize, Type, Event)]
#[serde(rename_all = "camelCase")]
pub struct ModelEvent {
    /// Now.
    pub status: ModelStatus,
}
