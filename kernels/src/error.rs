//! What can go wrong before any arithmetic starts.

/// A request that the kernels refuse. Facts only; advice is the window's business.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The head layout is outside what [`crate::AttentionShape`] supports.
    #[error(
        "unsupported attention shape: {num_q_heads} query heads, {num_kv_heads} KV heads, head dimension {head_dim} (supported: head dimension 64, 96, 128 or 256, 1 to 16 query heads per KV head)"
    )]
    UnsupportedShape {
        /// Query heads asked for.
        num_q_heads: usize,
        /// KV heads asked for.
        num_kv_heads: usize,
        /// Elements per head asked for.
        head_dim: usize,
    },
    /// A slice is not as long as the shape says.
    #[error("{what}: expected {expected} elements, got {got}")]
    Length {
        /// Which argument.
        what: &'static str,
        /// Elements the shape asks for.
        expected: usize,
        /// Elements that came.
        got: usize,
    },
    /// A policy or ring setting outside its range.
    #[error("invalid setting {what}: {why}")]
    Setting {
        /// Which setting.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}
