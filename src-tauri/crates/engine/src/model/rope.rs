//! Rotary position embedding: frequencies in f64, tables in f32, halves rotated (the convention of all served models).

use std::f64::consts::PI;

use crate::EngineError;

/// Base and scaling rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How frequencies are stretched for long contexts.
    pub scaling: RopeScaling,
}

/// Context extension rules.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// All positions divided by a factor.
    Linear {
        /// Stretch.
        factor: f64,
    },
    /// Llama 3.1: low frequencies stretched, high ones kept, a ramp between.
    Llama3 {
        /// Stretch of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low` are stretched.
        low_freq_factor: f64,
        /// Wavelengths below `original / high` are kept.
        high_freq_factor: f64,
        /// Context the model was trained on.
        original_context_tokens: usize,
    },
    /// `YaRN`: a ramp by dimension, and a factor on cosine and sine.
    Yarn {
        /// Stretch.
        factor: f64,
        /// Multiplies cosine and sine.
        attention_factor: f64,
        /// Rotations at which a dimension is kept.
        beta_fast: f64,
        /// Rotations at which a dimension is stretched in full.
        beta_slow: f64,
        /// Context the model was trained on.
        original_context_tokens: usize,
        /// Ramp ends are rounded to whole dimensions.
        truncate: bool,
    },
    /// Per-frequency divisors from the file (`rope_freqs.weight`), `[head_dim / 2]`.
    Divisors(Vec<f32>),
}

impl Rope {
    /// Unscaled.
    pub fn plain(theta: f64) -> Self {
        Self { theta, scaling: RopeScaling::None }
    }

    pub(super) fn check(&self, head_dim: usize) -> Result<(), EngineError> {
        let bad = |why: &str| Err(EngineError::UnsupportedModel { why: format!("RoPE: {why}") });
        let positive = |x: f64| x.is_finite() && x > 0.0;
        if !(self.theta.is_finite() && self.theta > 1.0) {
            return bad("the base must be above 1");
        }
        match &self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } if positive(*factor) => Ok(()),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context_tokens }
                if positive(*factor)
                    && positive(*low_freq_factor)
                    && *high_freq_factor > *low_freq_factor
                    && *original_context_tokens > 0 =>
            {
                Ok(())
            }
            RopeScaling::Yarn { factor, attention_factor, beta_fast, beta_slow, original_context_tokens, .. }
                if positive(*factor)
                    && positive(*attention_factor)
                    && positive(*beta_fast)
                    && positive(*beta_slow)
                    && *original_context_tokens > 0 =>
            {
                Ok(())
            }
            RopeScaling::Divisors(d) if d.len() == head_dim / 2 && d.iter().all(|x| x.is_finite() && *x > 0.0) => {
                Ok(())
            }
            other => bad(&format!("scaling out of range: {other:?}")),
        }
    }

    /// Angle per position of each frequency, `[head_dim / 2]`.
    pub fn inv_freq(&self, head_dim: usize) -> Vec<f64> {
        let half = head_dim / 2;
        let plain = |i: usize| self.theta.powf(-((2 * i) as f64) / head_dim as f64);
        match &self.scaling {
            RopeScaling::None => (0..half).map(plain).collect(),
            RopeScaling::Linear { factor } => (0..half).map(|i| plain(i) / factor).collect(),
            RopeScaling::Divisors(divisors) => {
                divisors.iter().enumerate().map(|(i, d)| plain(i) / f64::from(*d)).collect()
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context_tokens } => {
                let original = *original_context_tokens as f64;
                let stretch = |freq: f64| {
                    let wavelength = 2.0 * PI / freq;
                    if wavelength < original / high_freq_factor {
                        freq
                    } else if wavelength > original / low_freq_factor {
                        freq / factor
                    } else {
                        let kept = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - kept) * freq / factor + kept * freq
                    }
                };
                (0..half).map(|i| stretch(plain(i))).collect()
            }
            RopeScaling::Yarn { factor, beta_fast, beta_slow, original_context_tokens, truncate, .. } => {
                let original = *original_context_tokens as f64;
                // The dimension that makes `rotations` turns over the trained context.
                let dimension = |rotations: f64| {
                    head_dim as f64 * (original / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
                };
                let (mut low, mut high) = (dimension(*beta_fast), dimension(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min((head_dim - 1) as f64));
                if low == high {
                    high += 0.001;
                }
                (0..half)
                    .map(|i| {
                        let stretched = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                        plain(i) / factor * stretched + plain(i) * (1.0 - stretched)
                    })
                    .collect()
            }
        }
    }

    /// Factor on cosine and sine.
    pub fn attention_factor(&self) -> f64 {
        match &self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => *attention_factor,
            _ => 1.0,
        }
    }
}

/// Cosines and sines of a run of positions, computed when needed: a table for 128K positions would cost more memory
/// than it saves time.
#[derive(Debug)]
pub struct RopeAngles {
    inv_freq: Vec<f64>,
    attention_factor: f64,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeAngles {
    /// For one model.
    pub fn new(rope: &Rope, head_dim: usize) -> Self {
        Self {
            inv_freq: rope.inv_freq(head_dim),
            attention_factor: rope.attention_factor(),
            cos: Vec::new(),
            sin: Vec::new(),
        }
    }

    /// Fills the tables for positions `begin..begin + tokens`.
    pub fn set_span(&mut self, begin: usize, tokens: usize) {
        self.cos.clear();
        self.sin.clear();
        for pos in begin..begin + tokens {
            for freq in &self.inv_freq {
                let (sin, cos) = (pos as f64 * freq).sin_cos();
                self.cos.push((cos * self.attention_factor) as f32);
                self.sin.push((sin * self.attention_factor) as f32);
            }
        }
    }

    /// Cosine and sine rows of the `row`-th position of the span, each `[head_dim / 2]`.
    pub fn row(&self, row: usize) -> (&[f32], &[f32]) {
        let half = self.inv_freq.len();
        (&self.cos[row * half..][..half], &self.sin[row * half..][..half])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_high_and_stretches_low_frequencies() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context_tokens: 8192,
        };
        let plain = Rope::plain(500_000.0).inv_freq(128);
        let scaled = Rope { theta: 500_000.0, scaling }.inv_freq(128);
        assert_eq!(plain[0], scaled[0]);
        assert!((plain[63] / scaled[63] - 8.0).abs() < 1e-12);
        assert!(scaled.windows(2).all(|w| w[0] > w[1]));
    }

    #[test]
    fn yarn_keeps_the_first_and_stretches_the_last_dimension() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            attention_factor: 1.138_629_436_111_989,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_context_tokens: 32768,
            truncate: true,
        };
        let rope = Rope { theta: 1e6, scaling };
        let plain = Rope::plain(1e6).inv_freq(128);
        let scaled = rope.inv_freq(128);
        assert_eq!(plain[0], scaled[0]);
        assert!((plain[63] / scaled[63] - 4.0).abs() < 1e-12);
        // Rotations 32 and 1 over 32,768 tokens fall at dimensions 23.6 and 39.7: ramp from 23 to 40.
        assert_eq!(plain[23], scaled[23]);
        assert!(scaled[24] < plain[24]);
        assert!((plain[40] / scaled[40] - 4.0).abs() < 1e-12);
    }

    #[test]
    fn angles_start_at_the_span() {
        let mut angles = RopeAngles::new(&Rope::plain(10_000.0), 64);
        angles.set_span(100_000, 2);
        let (cos, sin) = angles.row(1);
        assert_eq!(cos[0], 100_001f64.cos() as f32);
        assert_eq!(sin[0], 100_001f64.sin() as f32);
    }
}
