//! How long reading will still take.

use std::time::{Duration, Instant};

use crate::PrefillProgress;

/// Chunks looked back on: enough to see the slope, few enough to follow a machine that slows down.
const CHUNKS: usize = 16;

/// Measures the chunks of one request.
#[derive(Debug)]
pub(super) struct ReadingClock {
    began: Instant,
    last: Instant,
    cached: usize,
    total: usize,
    done: usize,
    /// (depth in the middle of the chunk, seconds per token).
    chunks: Vec<(f64, f64)>,
}

impl ReadingClock {
    pub(super) fn start(cached: usize, total: usize) -> Self {
        let now = Instant::now();
        Self { began: now, last: now, cached, total, done: cached, chunks: Vec::new() }
    }

    /// The cache now holds `done` tokens.
    pub(super) fn chunk(&mut self, done: usize) {
        let now = Instant::now();
        let tokens = done.saturating_sub(self.done) as f64;
        if tokens > 0.0 {
            let depth = (self.done + done) as f64 / 2.0;
            self.chunks.push((depth, (now - self.last).as_secs_f64() / tokens));
            if self.chunks.len() > CHUNKS {
                self.chunks.remove(0);
            }
        }
        self.done = done;
        self.last = now;
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.last - self.began
    }

    pub(super) fn report(&self) -> PrefillProgress {
        let elapsed = self.elapsed();
        let read = self.done - self.cached;
        let measured = read > 0 && !elapsed.is_zero();
        PrefillProgress {
            done: self.done,
            total: self.total,
            cached: self.cached,
            elapsed,
            tokens_per_s: measured.then(|| read as f64 / elapsed.as_secs_f64()),
            remaining: self.remaining(),
        }
    }

    /// A token costs a part for the weights and a part that grows with its depth; both are fitted to the last chunks and
    /// summed over the tokens left.
    fn remaining(&self) -> Option<Duration> {
        let (base, slope) = fit(&self.chunks)?;
        let (from, to) = (self.done as f64, self.total as f64);
        let seconds = base * (to - from) + slope * (to * to - from * from) / 2.0;
        Some(Duration::from_secs_f64(seconds.clamp(0.0, 1e9)))
    }
}

/// Least squares of seconds per token over depth, the slope held at or above zero.
fn fit(chunks: &[(f64, f64)]) -> Option<(f64, f64)> {
    if chunks.is_empty() {
        return None;
    }
    let count = chunks.len() as f64;
    let mean_depth = chunks.iter().map(|c| c.0).sum::<f64>() / count;
    let mean_cost = chunks.iter().map(|c| c.1).sum::<f64>() / count;
    let spread: f64 = chunks.iter().map(|c| (c.0 - mean_depth).powi(2)).sum();
    let shared: f64 = chunks.iter().map(|c| (c.0 - mean_depth) * (c.1 - mean_cost)).sum();
    // Two chunks make a line of any slope out of noise.
    let slope = if chunks.len() < 4 || spread <= 0.0 { 0.0 } else { (shared / spread).max(0.0) };
    // A steep line through shallow chunks must not make the base negative.
    let slope = slope.min(mean_cost / mean_depth.max(1.0));
    Some((mean_cost - slope * mean_depth, slope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fit_finds_base_and_slope() {
        let chunks: Vec<(f64, f64)> =
            (0..8).map(|i| (f64::from(i) * 100.0, 1e-3 + f64::from(i) * 100.0 * 2e-7)).collect();
        let (base, slope) = fit(&chunks).unwrap();
        assert!((base - 1e-3).abs() < 1e-9 && (slope - 2e-7).abs() < 1e-12);
        assert!(fit(&[]).is_none());
        assert_eq!(fit(&[(10.0, 0.5), (20.0, 0.25)]).unwrap().1, 0.0);
        let falling: Vec<(f64, f64)> = (0..8).map(|i| (f64::from(i), 1.0 - f64::from(i) * 0.1)).collect();
        assert_eq!(fit(&falling).unwrap().1, 0.0);
    }

    #[test]
    fn nothing_is_claimed_before_the_first_chunk() {
        let mut clock = ReadingClock::start(10, 100);
        let report = clock.report();
        assert_eq!((report.done, report.cached, report.tokens_per_s, report.remaining), (10, 10, None, None));
        std::thread::sleep(Duration::from_millis(2));
        clock.chunk(100);
        let report = clock.report();
        assert!(report.tokens_per_s.unwrap() > 0.0);
        assert_eq!(report.remaining, Some(Duration::ZERO));
    }
}
