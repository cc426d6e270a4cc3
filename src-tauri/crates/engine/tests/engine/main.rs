//! The engine from the outside. One binary, as every test wants the same model, the same threads and a quiet clock.
//!
//! `golden`: the demo model against an independent float32 pass. `oracle`: the decoder against candle-transformers.
//! `generation`: caching, stopping, reuse, refusals. `bad_files`: damaged and hostile model files.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed; the lints know test functions, not what they share"
)]

mod bad_files;
mod generation;
mod golden;
mod oracle;
mod support;
