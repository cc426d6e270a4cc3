//! An attention state over some span of tokens, and the algebra that joins spans.

/// Normalised output and natural log-sum-exp over a span; an empty span is `lse = −∞`.
#[derive(Debug, Clone, PartialEq)]
pub struct PartialAttention {
    /// `[head_dim]`, normalised.
    pub out: Vec<f32>,
    /// ln Σ exp(scale · q · k).
    pub lse: f32,
}

impl PartialAttention {
    /// The state over no token: the identity of [`Self::merge`].
    pub fn empty(head_dim: usize) -> Self {
        Self { out: vec![0.0; head_dim], lse: f32::NEG_INFINITY }
    }

    /// The state over both spans, which must not overlap.
    ///
    /// ```
    /// use mac_attention::PartialAttention;
    ///
    /// let one = PartialAttention { out: vec![1.0], lse: 0.0 };
    /// let other = PartialAttention { out: vec![3.0], lse: 0.0 };
    /// let mut both = one.clone();
    /// both.merge(&other);
    /// assert_eq!(both, PartialAttention { out: vec![2.0], lse: 2.0_f32.ln() });
    /// both.merge(&PartialAttention::empty(1));
    /// assert_eq!(both.out, [2.0]);
    /// ```
    ///
    /// # Panics
    /// If the head dimensions differ.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.out.len(), other.out.len(), "states of different heads");
        merge(&mut self.out, &mut self.lse, &other.out, other.lse);
    }
}

/// Joins `other` into `out` and `lse`. The weights are f64: chains of thousands of merges would otherwise add up the
/// rounding of the log-sum-exp.
pub(crate) fn merge(out: &mut [f32], lse: &mut f32, other_out: &[f32], other_lse: f32) {
    // Two empty spans are legal, and (−∞) − (−∞) would be NaN.
    if other_lse == f32::NEG_INFINITY {
        return;
    }
    if *lse == f32::NEG_INFINITY {
        out.copy_from_slice(other_out);
        *lse = other_lse;
        return;
    }
    let (a, b) = (f64::from(*lse), f64::from(other_lse));
    let top = if a > b { a } else { b };
    let (wa, wb) = ((a - top).exp(), (b - top).exp());
    let total = wa + wb;
    let (keep, take) = ((wa / total) as f32, (wb / total) as f32);
    for (x, y) in out.iter_mut().zip(other_out) {
        *x = *x * keep + y * take;
    }
    *lse = (top + total.ln()) as f32;
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Attention of one-dimensional values with the given scores.
    fn attend(tokens: &[(f32, f32)]) -> PartialAttention {
        let mut state = PartialAttention::empty(1);
        for (score, value) in tokens {
            state.merge(&PartialAttention { out: vec![*value], lse: *score });
        }
        state
    }

    proptest! {
        #[test]
        fn merge_undoes_a_split(tokens in vec((-20.0f32..20.0, -1.0f32..1.0), 1..64), cut in 0usize..64) {
            let at = cut.min(tokens.len());
            let whole = attend(&tokens);
            let mut merged = attend(&tokens[..at]);
            merged.merge(&attend(&tokens[at..]));
            prop_assert!((merged.lse - whole.lse).abs() <= 4e-6 * whole.lse.abs().max(1.0));
            prop_assert!((merged.out[0] - whole.out[0]).abs() <= 2e-6);
        }

        #[test]
        fn the_order_of_two_spans_does_not_matter(a in (-80.0f32..80.0, -1.0f32..1.0), b in (-80.0f32..80.0, -1.0f32..1.0)) {
            prop_assert_eq!(attend(&[a, b]).lse, attend(&[b, a]).lse);
        }
    }

    #[test]
    fn empty_is_the_identity_and_two_of_them_are_empty() {
        let state = PartialAttention { out: vec![0.25, -3.0], lse: -7.5 };
        let mut left = PartialAttention::empty(2);
        left.merge(&state);
        assert_eq!(left, state);
        let mut right = state.clone();
        right.merge(&PartialAttention::empty(2));
        assert_eq!(right, state);
        let mut none = PartialAttention::empty(2);
        none.merge(&PartialAttention::empty(2));
        assert_eq!(none, PartialAttention::empty(2));
    }

    #[test]
    fn nan_is_never_hidden() {
        let mut state = PartialAttention { out: vec![1.0], lse: 0.0 };
        state.merge(&PartialAttention { out: vec![1.0], lse: f32::NAN });
        assert!(state.lse.is_nan() && state.out[0].is_nan());
    }
}
