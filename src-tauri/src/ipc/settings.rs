//! What the page needs at start, and what the user can set.

use serde::{Deserialize, Serialize};
use specta::Type;
use specta_typescript::Number;

use super::chat::ChatRow;
use super::error::UserError;
use super::model::ModelStatus;

/// Everything the page needs to draw its first screen.
#[derive(Debug, Clone, PartialEq, Serialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct AppState {
    /// Version of the app.
    pub version: String,
    /// Sidebar rows, newest first.
    pub chats: Vec<ChatRow>,
    /// The chat to show first.
    pub open_chat: Option<i32>,
    /// Loading, loaded or failed.
    pub model: ModelStatus,
    /// Kept settings.
    pub settings: Settings,
    /// First start: the handbook is attached to the open chat.
    pub first_start: bool,
    /// Questions the handbook answers, shown while it is the chat's only document and nothing was asked.
    pub suggestions: Vec<String>,
    /// Set when chats cannot be saved (for example a damaged database): they live in memory until the app closes.
    pub storage_problem: Option<UserError>,
}

/// Reuse or exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Type)]
#[serde(rename_all = "camelCase")]
pub enum AttentionMode {
    /// Reuse.
    Mac,
    /// Exact attention.
    Exact,
}

/// Where models are to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Type)]
#[serde(rename_all = "camelCase")]
pub enum DeviceChoice {
    /// A GPU where one can serve and the model fits, else the processor.
    Auto,
    /// The processor.
    Cpu,
    /// A GPU, or an error.
    Gpu,
}

/// How the context is held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Type)]
pub enum KvFormat {
    /// 16 bits, on every device.
    #[serde(rename = "bf16")]
    Bf16,
    /// 8-bit blocks with a scale each; on a GPU.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// 8-bit floats; on a GPU.
    #[serde(rename = "fp8")]
    Fp8,
}

/// What the user can set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Type)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// `system`, `light` or `dark`.
    pub theme: Theme,
    /// Reuse or exact.
    pub attention: AttentionMode,
    /// Where models are to live; takes effect when one is loaded.
    pub device: DeviceChoice,
    /// How the context is to be held, where the device can; takes effect when a model is loaded.
    pub kv: KvFormat,
    /// Context to reserve; `None` lets the app choose.
    pub context_tokens: Option<u32>,
    /// Most tokens a reply may have.
    pub max_reply_tokens: u32,
    /// 0 is greedy.
    #[specta(type = Number)]
    pub temperature: f32,
    /// 0 keeps all.
    pub top_k: u32,
    /// 1 keeps all.
    #[specta(type = Number)]
    pub top_p: f32,
    /// 0 drops none.
    #[specta(type = Number)]
    pub min_p: f32,
    /// 1 is none.
    #[specta(type = Number)]
    pub repeat_penalty: f32,
    /// Seed of the draws.
    pub seed: u32,
    /// Standing instructions.
    pub system_prompt: String,
    /// The dashboard is open beside the chat.
    pub dashboard_open: bool,
}

/// Colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Type)]
#[serde(rename_all = "camelCase")]
pub enum Theme {
    /// As the desktop.
    System,
    /// Light.
    Light,
    /// Dark.
    Dark,
}
