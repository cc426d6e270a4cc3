//! The fast kernels against the f64 oracle.
#![expect(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod decode_exact;
mod decode_reuse;
mod layer;
mod prefill;
