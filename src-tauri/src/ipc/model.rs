//! The model's status.

use serde::Serialize;
use specta::Type;
use specta_typescript::Number;
use tauri_specta::Event;

use super::error::UserError;

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
        info: ModelCard,
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
    /// Device in words.
    pub device: String,
    /// What the look for a GPU found, in words.
    pub gpu: String,
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
    /// Free memory, measured.
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
