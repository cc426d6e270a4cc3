//! The engine from the outside. One binary, as every test wants the same model, the same threads and a quiet clock.
//!
//! `golden`: the demo model against an independent float32 pass. `oracle`: the decoder against candle-transformers.
//! `reading`: prompts read in parts of any size. `generation`: caching, stopping, reuse, refusals. `bad_files`: damaged
//! and hostile model files. `cuda`: the GPU against the processor, `soak`: thousands of steps on it, `fidelity`: what
//! 8-bit caches cost; without a GPU these say so and pass, unless `REPRISE_GPU_TESTS=required`.
//! `REPRISE_TEST_DEVICE=cuda` runs the others' demo model on the GPU, `REPRISE_TEST_KV=q8_0` with it over an 8-bit
//! cache.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed; the lints know test functions, not what they share"
)]

mod bad_files;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod fidelity;
mod generation;
mod golden;
mod oracle;
mod reading;
#[cfg(feature = "cuda")]
mod soak;
mod support;
mod tiny;
