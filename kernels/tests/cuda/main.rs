//! The CUDA kernels against the CPU kernels and the f64 oracle, through the crate's own launches. Without a device every
//! test says so and passes, unless `REPRISE_REQUIRE_GPU=1`.
#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, reason = "a failure here is a failed test")]
#![expect(clippy::print_stdout, reason = "figures, for `--show-output`")]

mod embedded;
mod exact;
mod layer;
mod owned;
mod pair;
mod prefill;
mod replay;
mod reuse;
mod state;

use std::io::Write as _;

use mac_attention::cuda::{FATBINS, Gpu};

/// The first device, or `None` with a line on standard error.
fn gpu() -> Option<Gpu> {
    let required = std::env::var("REPRISE_REQUIRE_GPU").is_ok_and(|value| value == "1");
    let found = Gpu::open(0).map_err(|error| error.to_string());
    match found {
        Ok(gpu) if !FATBINS.is_empty() => Some(gpu),
        other => {
            let why = other.err().unwrap_or_else(|| "no kernels are embedded".to_owned());
            assert!(!required, "REPRISE_REQUIRE_GPU is set, but {why}");
            // Not `eprintln`, which the test harness swallows.
            let _ = writeln!(std::io::stderr(), "no GPU: skipped ({why})");
            None
        }
    }
}
