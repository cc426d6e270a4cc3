//! The binary itself, run as a user runs it, with the demo model.
//!
//! [`chat`]: the JSON stream and its figures. [`talk`]: conversations and Ctrl-C. [`terminal`]: what a person sees. [`wrong`]: bad input and its exit
//! codes. [`measure`]: doctor and the benchmarks.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

mod chat;
mod measure;
mod run;
mod talk;
mod terminal;
mod wrong;
