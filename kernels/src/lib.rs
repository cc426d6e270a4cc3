//! Decode and prefill attention that reuses earlier results where a past query was close enough.
//!
//! One decode step of one layer, after MAC-Attention (match, amend, complete; arXiv 2604.00235):
//!
//! ```text
//! match     nearest past query per head in the [`Ring`], before rotation
//! amend     stored prefix state ⊕ attention over the tokens that entered the prefix since
//! complete  ⊕ attention over the newest `band` tokens; the state before this merge goes into the ring
//! ```
//!
//! A KV group (the query heads that share one KV head) of which any head must be read is read once and
//! refreshes all its heads exactly. The crate knows shapes, tensors and threads: no model, file or window.
//!
//! Data flow: [`PrefillAttention::chunk`] attends a block of the prompt and seeds the ring;
//! [`DecodeAttention::step`] serves one token and returns [`Counters`] of bytes really touched;
//! [`reference`] is the same recurrence in f64 with plain loops, the oracle of every test.
//!
//! ```
//! use half::bf16;
//! use mac_attention::{
//!     AttentionShape, Counters, DecodeAttention, KvView, Paper, Policy, Query, Ring, RingLayout, Serial,
//! };
//!
//! # fn main() -> Result<(), mac_attention::KernelError> {
//! let shape = AttentionShape::new(4, 2, 64)?;
//! let layout = RingLayout::default();
//! let (k, v) = (vec![bf16::ONE; 2 * 64], vec![bf16::from_f32(0.5); 2 * 64]);
//! let kv = KvView::new(shape, &k, &v, 1, 1)?;
//! let q = [1.0; 4 * 64];
//! let (mut ring, mut out, mut counters) = (Ring::new(shape, layout)?, [0.0; 4 * 64], Counters::default());
//!
//! let query = Query { pre: &q, rot: &q };
//! let policy = Policy::Paper(Paper::default());
//! DecodeAttention::new(shape, layout.band).step(query, &kv, &mut ring, &policy, &mut out, &mut counters, &Serial)?;
//! assert_eq!(out, [0.5; 4 * 64]);
//! assert_eq!(counters.kv_bytes_read, counters.kv_bytes_exact);
//! # Ok(())
//! # }
//! ```

pub mod reference;

mod counters;
pub mod cpu;
pub mod cuda;
mod decode;
mod error;
mod kv;
mod pace;
mod parallel;
mod partial;
mod policy;
mod prefill;
mod ring;
mod shape;

pub use counters::{Counters, HeadOutcome};
pub use cpu::ThreadPool;
pub use cuda::{CudaDevice, CudaProbe, probe_cuda};
pub use decode::{Audit, DecodeAttention, Query};
pub use error::KernelError;
pub use kv::KvView;
pub use pace::{Pace, PaceCost, PaceStep};
pub use parallel::{Parallel, Serial};
pub use partial::PartialAttention;
pub use policy::{Backoff, Forced, Paper, Pattern, Policy};
pub use prefill::PrefillAttention;
pub use ring::{Ring, RingEntry, RingLayout};
pub use shape::AttentionShape;
