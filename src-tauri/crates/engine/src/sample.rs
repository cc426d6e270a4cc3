//! From logits to a token.

use candle_core::{Device, Tensor};
use candle_transformers::utils::apply_repeat_penalty;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::EngineError;

/// How tokens are chosen. `temperature` 0 is greedy and ignores the rest except the penalty.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the k likeliest; 0 keeps all.
    pub top_k: usize,
    /// Keep the likeliest that sum to this probability; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens below this share of the likeliest one's probability; 0 drops none.
    pub min_p: f32,
    /// Divides positive logits of recent tokens (multiplies negative ones); 1 is none.
    pub repeat_penalty: f32,
    /// Tokens looked back on by the penalty.
    pub repeat_last_n: usize,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repeat_penalty: 1.0, repeat_last_n: 64, seed: 0 }
    }
}

impl Sampling {
    /// Refuses settings out of range, NaN included.
    pub fn check(&self) -> Result<(), EngineError> {
        let refuse = |what: &str, value: f32, range: &str| {
            Err(EngineError::InvalidRequest(format!("{what} is {value}, allowed is {range}")))
        };
        // Written so that NaN is refused.
        if !(0.0..=100.0).contains(&self.temperature) {
            return refuse("temperature", self.temperature, "0..=100");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("top_p", self.top_p, "above 0, at most 1");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return refuse("min_p", self.min_p, "0..=1");
        }
        if !(self.repeat_penalty > 0.0 && self.repeat_penalty <= 100.0) {
            return refuse("repeat_penalty", self.repeat_penalty, "above 0, at most 100");
        }
        Ok(())
    }
}

/// A seeded chooser for one reply.
#[derive(Debug)]
pub struct Sampler {
    settings: Sampling,
    rng: ChaCha8Rng,
    /// Candidates of a draw: (token, scaled logit, then weight); kept between draws.
    candidates: Vec<(u32, f32)>,
}

impl Sampler {
    /// Checks the settings.
    pub fn new(settings: Sampling) -> Result<Self, EngineError> {
        settings.check()?;
        let rng = ChaCha8Rng::seed_from_u64(settings.seed);
        Ok(Self { settings, rng, candidates: Vec::new() })
    }

    /// Chooses the next token. `history` is everything before it, oldest first.
    pub fn choose(&mut self, logits: &[f32], history: &[u32]) -> Result<u32, EngineError> {
        let recent = &history[history.len().saturating_sub(self.settings.repeat_last_n)..];
        let penalised;
        let logits = if self.settings.repeat_penalty == 1.0 || recent.is_empty() {
            logits
        } else {
            let tensor = Tensor::from_slice(logits, logits.len(), &Device::Cpu)?;
            penalised = apply_repeat_penalty(&tensor, self.settings.repeat_penalty, recent)?.to_vec1::<f32>()?;
            &penalised
        };
        if self.settings.temperature == 0.0 { likeliest(logits) } else { self.draw(logits) }
    }

    /// Temperature, then the k likeliest, then their share `top_p`, then `min_p`.
    fn draw(&mut self, logits: &[f32]) -> Result<u32, EngineError> {
        let best = logits[likeliest(logits)? as usize];
        let scale = 1.0 / self.settings.temperature;
        let candidates = &mut self.candidates;
        candidates.clear();
        // Weights relative to the likeliest, so its own is 1 and nothing overflows; written out, as the scale may be infinite.
        let weight = |x: f32| if x == best { 1.0 } else { ((x - best) * scale).exp() };
        candidates.extend(logits.iter().enumerate().map(|(id, x)| (id as u32, weight(*x))));
        candidates.retain(|(_, weight)| *weight > 0.0 && *weight >= self.settings.min_p);
        let by_weight = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let top_k = self.settings.top_k;
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, by_weight);
            candidates.truncate(top_k);
        }
        candidates.sort_unstable_by(by_weight);
        // In f64: in f32 the sum of a vocabulary is off by as much as its tail weighs, and the last candidate made up for it.
        let sum_of = |candidates: &[(u32, f32)]| candidates.iter().map(|c| f64::from(c.1)).sum::<f64>();
        let mut total = sum_of(candidates);
        if self.settings.top_p < 1.0 {
            let enough = total * f64::from(self.settings.top_p);
            let mut sum = 0.0;
            let below = candidates.iter().take_while(|c| {
                let wanted = sum < enough;
                sum += if wanted { f64::from(c.1) } else { 0.0 };
                wanted
            });
            let kept = below.count().max(1);
            candidates.truncate(kept);
            total = sum_of(candidates);
        }
        let mut left = self.rng.random::<f64>() * total;
        for (id, weight) in candidates.iter() {
            left -= f64::from(*weight);
            if left < 0.0 {
                return Ok(*id);
            }
        }
        // Rounding may leave a crumb beyond the last candidate.
        candidates.last().map(|c| c.0).ok_or_else(not_finite)
    }
}

pub(crate) fn not_finite() -> EngineError {
    EngineError::Internal("the model's output is not finite".into())
}

/// First of the largest; NaN anywhere is an error, as it means damaged weights.
fn likeliest(logits: &[f32]) -> Result<u32, EngineError> {
    let mut best: Option<(usize, f32)> = None;
    for (id, x) in logits.iter().enumerate() {
        if x.is_nan() {
            return Err(not_finite());
        }
        if best.is_none_or(|(_, largest)| *x > largest) {
            best = Some((id, *x));
        }
    }
    match best {
        Some((id, x)) if x.is_finite() => Ok(id as u32),
        _ => Err(not_finite()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(settings: Sampling, logits: &[f32], draws: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(settings).unwrap();
        let mut counts = vec![0; logits.len()];
        for _ in 0..draws {
            counts[sampler.choose(logits, &[]).unwrap() as usize] += 1;
        }
        counts
    }

    fn warm() -> Sampling {
        Sampling { temperature: 1.0, seed: 7, ..Sampling::default() }
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let mut sampler = Sampler::new(Sampling::default()).unwrap();
        assert_eq!(sampler.choose(&[0.0, 3.0, 3.0, -1.0], &[]).unwrap(), 1);
    }

    #[test]
    fn draws_follow_the_distribution() {
        // e^x: 1, 2, 4, 8 of 15.
        let logits = [0.0, 2f32.ln(), 4f32.ln(), 8f32.ln()];
        let got = counts(warm(), &logits, 30_000);
        for (count, weight) in got.iter().zip([1.0, 2.0, 4.0, 8.0]) {
            let expected: f64 = 30_000.0 * weight / 15.0;
            // Five standard deviations of a binomial count.
            let bound = 5.0 * (expected * (1.0 - weight / 15.0)).sqrt();
            assert!((*count as f64 - expected).abs() < bound, "{count} for {expected}");
        }
    }

    #[test]
    fn filters_keep_what_they_say() {
        let logits = [0.0, 2f32.ln(), 4f32.ln(), 8f32.ln()];
        let kept = |settings| counts(settings, &logits, 2_000).iter().map(|c| usize::from(*c > 0)).collect::<Vec<_>>();
        assert_eq!(kept(Sampling { top_k: 2, ..warm() }), [0, 0, 1, 1]);
        // 8/15 alone is below 0.6; with 4/15 it is 0.8.
        assert_eq!(kept(Sampling { top_p: 0.6, ..warm() }), [0, 0, 1, 1]);
        assert_eq!(kept(Sampling { top_p: 0.5, ..warm() }), [0, 0, 0, 1]);
        // Shares of the likeliest: 1/8, 1/4, 1/2, 1.
        assert_eq!(kept(Sampling { min_p: 0.3, ..warm() }), [0, 0, 1, 1]);
        assert_eq!(kept(Sampling { temperature: 0.01, ..warm() }), [0, 0, 0, 1]);
    }

    /// Weights near the rounding step of their sum: what they add up to must be what they are drawn from.
    #[test]
    fn a_long_flat_tail_is_drawn_evenly() {
        const TAIL: usize = 150_000;
        // 0.6 of the spacing of f32 from 1 to 2.
        let mut logits = vec![(0.6 * f32::EPSILON).ln(); TAIL + 1];
        logits[0] = 0.0;
        let got = counts(warm(), &logits, 2_000);
        // 1.06 % of the weight lies in the tail: 21 draws, six standard deviations are 28.
        assert!(got[1..].iter().sum::<usize>() < 50, "{}", got[1..].iter().sum::<usize>());
        assert!(got[1..].iter().all(|count| *count <= 2), "{:?} of one token", got[1..].iter().max());
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        let logits: Vec<f32> = (0..100).map(|i| (i as f32 * 0.7).sin()).collect();
        let draw = |seed| {
            let mut sampler = Sampler::new(Sampling { seed, ..warm() }).unwrap();
            (0..50).map(|_| sampler.choose(&logits, &[]).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn a_temperature_of_next_to_nothing_is_greedy() {
        let settings = Sampling { temperature: 1e-40, ..warm() };
        assert_eq!(counts(settings, &[0.0, 3.0, -1.0], 10), [0, 10, 0]);
    }

    #[test]
    fn the_penalty_sees_only_recent_tokens() {
        let settings = Sampling { repeat_penalty: 2.0, repeat_last_n: 2, ..Sampling::default() };
        let mut sampler = Sampler::new(settings).unwrap();
        assert_eq!(sampler.choose(&[3.0, 2.0, -1.0], &[0, 1, 2]).unwrap(), 0);
        assert_eq!(sampler.choose(&[3.0, 2.0, -1.0], &[1, 2, 0]).unwrap(), 1);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let base = Sampling::default();
        for bad in [
            Sampling { temperature: f32::NAN, ..base.clone() },
            Sampling { temperature: -0.1, ..base.clone() },
            Sampling { temperature: f32::INFINITY, ..base.clone() },
            Sampling { top_p: 0.0, ..base.clone() },
            Sampling { top_p: f32::NAN, ..base.clone() },
            Sampling { min_p: 1.5, ..base.clone() },
            Sampling { min_p: f32::NAN, ..base.clone() },
            Sampling { repeat_penalty: 0.0, ..base.clone() },
            Sampling { repeat_penalty: f32::NAN, ..base },
        ] {
            assert!(matches!(Sampler::new(bad.clone()), Err(EngineError::InvalidRequest(_))), "{bad:?}");
        }
    }

    #[test]
    fn broken_logits_are_an_error_not_a_token() {
        for logits in [vec![], vec![1.0, f32::NAN], vec![f32::INFINITY, 0.0], vec![f32::NEG_INFINITY; 3]] {
            for settings in [Sampling::default(), warm()] {
                assert!(Sampler::new(settings).unwrap().choose(&logits, &[]).is_err(), "{logits:?}");
            }
        }
    }
}
