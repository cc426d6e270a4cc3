//! Tokens, weights, decoder, executors and generation: the headless engine of Reprise.
//!
//! One thread owns the model (its KV cache, rings and scratch). Commands go in, events come out; Stop is looked at
//! between chunks, layers and steps. The window and the terminal are two clients of the same [`Engine`].
//!
//! ```text
//! messages → template → token ids → longest common prefix with the live KV → truncate → prefill in chunks
//!          → loop { decode → sample → stop check → text delta } → Event
//! ```
//!
//! Deliberately absent: wire formats, windows, wording for users, document parsing, the network.

pub mod exec;
pub mod memory;
pub mod model;
pub mod sample;
pub mod text;
pub mod weights;

mod engine;
mod error;
mod event;
mod kv_format;
mod request;

pub use engine::{Device, DeviceKind, Engine, Generation, LoadOptions, ModelInfo, Prompt, StopHandle};
pub use error::EngineError;
pub use event::{AuditSummary, Event, PrefillProgress, StepStats, StopReason, Summary, TokenEvent};
pub use kv_format::KvFormat;
pub use request::{Attention, Message, Request, Role};
pub use sample::Sampling;
