//! How fast this machine reads, from what it has read: the base of the predicted reading time.

use std::collections::VecDeque;

use reprise_library::chats::ChatStore;
use serde::{Deserialize, Serialize};

/// Kept under this key and the model's name and device.
const KEY: &str = "reading_rate";
/// Observations kept; older ones were other loads of the machine.
const MOST: usize = 24;
/// A shorter stretch says more about the clock than about the machine.
const LEAST_TOKENS: u32 = 32;

/// A stretch of tokens that was read.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stretch {
    /// Tokens already in the context when it began.
    pub from: u32,
    /// Tokens read.
    pub tokens: u32,
    /// Time taken.
    pub seconds: f64,
}

impl Stretch {
    /// Context in the middle of the stretch: what its tokens attended to on average.
    fn depth(&self) -> f64 {
        f64::from(self.from) + f64::from(self.tokens) / 2.0
    }

    fn seconds_per_token(&self) -> f64 {
        self.seconds / f64::from(self.tokens)
    }
}

/// What was observed with one model on one device.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rates {
    stretches: VecDeque<Stretch>,
}

impl Rates {
    /// The kept observations.
    pub(crate) fn read(chats: &ChatStore, model: &str, device: &str) -> Self {
        let kept = chats.setting(&key(model, device)).ok().flatten();
        kept.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// Keeps them. Losing them costs a prediction, nothing more.
    pub(crate) fn keep(&self, chats: &ChatStore, model: &str, device: &str) {
        if let Ok(text) = serde_json::to_string(self) {
            let _ = chats.set_setting(&key(model, device), &text);
        }
    }

    /// Adds an observation.
    pub(crate) fn observe(&mut self, stretch: Stretch) {
        if stretch.tokens < LEAST_TOKENS || !stretch.seconds.is_finite() || stretch.seconds <= 0.0 {
            return;
        }
        if self.stretches.len() >= MOST {
            self.stretches.pop_front();
        }
        self.stretches.push_back(stretch);
    }

    /// Seconds to read `tokens` more from a context of `from`. A token's cost is taken as a constant plus a share
    /// that grows with the context it attends to; both by least squares, neither below zero.
    pub(crate) fn predict(&self, from: u32, tokens: u32) -> Option<f64> {
        let weight: f64 = self.stretches.iter().map(|seen| f64::from(seen.tokens)).sum();
        if weight <= 0.0 {
            return None;
        }
        let mean = |of: &dyn Fn(&Stretch) -> f64| {
            self.stretches.iter().map(|seen| f64::from(seen.tokens) * of(seen)).sum::<f64>() / weight
        };
        let depth = mean(&Stretch::depth);
        let cost = mean(&Stretch::seconds_per_token);
        let spread = mean(&|seen| (seen.depth() - depth).powi(2));
        let together = mean(&|seen| (seen.depth() - depth) * (seen.seconds_per_token() - cost));
        let steepest = if depth > 0.0 { cost / depth } else { 0.0 };
        let slope = if spread > 0.0 { (together / spread).clamp(0.0, steepest) } else { 0.0 };
        let asked = Stretch { from, tokens, seconds: 0.0 };
        Some(f64::from(tokens) * (cost + slope * (asked.depth() - depth)).max(0.0))
    }
}

fn key(model: &str, device: &str) -> String {
    format!("{KEY}: {model} on {device}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose token costs 1 ms and 1 µs more for each token of context.
    fn read(from: u32, tokens: u32) -> Stretch {
        let depth = f64::from(from) + f64::from(tokens) / 2.0;
        Stretch { from, tokens, seconds: f64::from(tokens) * (1e-3 + 1e-6 * depth) }
    }

    #[test]
    fn each_model_on_each_device_has_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let chats = ChatStore::open(&dir.path().join("chats.sqlite")).unwrap();
        let (cpu, gpu) = ("CPU, 7 threads, AVX-512", "NVIDIA H200, CUDA, sm_90a kernels");
        let mut seen = Rates::default();
        seen.observe(read(0, 512));
        seen.keep(&chats, "demo", cpu);
        assert_eq!(Rates::read(&chats, "demo", cpu), seen);
        assert_eq!(Rates::read(&chats, "demo", gpu), Rates::default());
        assert_eq!(Rates::read(&chats, "other", cpu), Rates::default());
    }

    #[test]
    fn nothing_seen_predicts_nothing() {
        assert_eq!(Rates::default().predict(0, 100), None);
    }

    #[test]
    fn the_growth_with_depth_is_found() {
        let mut rates = Rates::default();
        for from in [0, 512, 1024, 2048] {
            rates.observe(read(from, 512));
        }
        let want = read(3000, 4000).seconds;
        let got = rates.predict(3000, 4000).unwrap();
        assert!((got - want).abs() < 1e-6 * want, "{got} {want}");
    }

    #[test]
    fn one_depth_gives_one_rate() {
        let mut rates = Rates::default();
        rates.observe(Stretch { from: 0, tokens: 1000, seconds: 2.0 });
        assert!((rates.predict(5000, 100).unwrap() - 0.2).abs() < 1e-9);
    }

    #[test]
    fn noise_never_predicts_less_than_nothing() {
        let mut rates = Rates::default();
        rates.observe(Stretch { from: 0, tokens: 100, seconds: 10.0 });
        rates.observe(Stretch { from: 9000, tokens: 100, seconds: 0.1 });
        rates.observe(Stretch { from: 0, tokens: 1, seconds: f64::NAN });
        assert!(rates.predict(100_000, 100).unwrap() > 0.0);
        assert!(rates.predict(0, 100).unwrap() > 0.0);
    }

    #[test]
    fn only_the_newest_are_kept() {
        let mut rates = Rates::default();
        for n in 0..100 {
            rates.observe(Stretch { from: n, tokens: 64, seconds: 1.0 });
        }
        assert_eq!(rates.stretches.len(), MOST);
    }
}
