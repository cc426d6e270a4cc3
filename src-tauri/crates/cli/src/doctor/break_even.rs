//! From which context a step that reuses everything is faster than an exact one, measured.

use mac_attention::{AttentionShape, Parallel};

use crate::bench::cases::Case;
use crate::bench::layers::Layers;
use crate::failure::Failure;
use crate::figures::median;

/// Lengths tried, in tokens: the answer lies between two neighbours and is interpolated.
const LENGTHS: [usize; 8] = [320, 512, 768, 1024, 1536, 2048, 4096, 8192];
const ROUNDS: usize = 5;
/// Layers in turn: as many as a model has, so that the caches help here as much as they help there.
const LAYERS: usize = 32;
/// Distance of the reused entry, in tokens.
const LAG: usize = 64;

/// Times at one length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    pub(crate) context: usize,
    pub(crate) exact_s: f64,
    pub(crate) all_hit_s: f64,
}

/// Measures until reuse wins twice in a row.
pub(crate) fn measure(shape: AttentionShape, pool: &dyn Parallel) -> Result<Vec<Point>, Failure> {
    let mut points: Vec<Point> = Vec::new();
    for context in LENGTHS {
        let mut layers = Layers::build(shape, context, LAG, LAYERS, pool)?;
        let mut exact = Vec::new();
        let mut all_hit = Vec::new();
        for round in 0..=ROUNDS {
            let mut time = |case: Case| layers.pass(|layer| case.policy(LAG, 0, layer as u64), pool);
            let (e, h) = (time(Case::Exact)?.seconds, time(Case::AllHit)?.seconds);
            // The first round warms up.
            if round > 0 {
                exact.push(e);
                all_hit.push(h);
            }
        }
        points.push(Point { context, exact_s: median(&exact), all_hit_s: median(&all_hit) });
        if points.len() >= 2 && points.iter().rev().take(2).all(Point::reuse_wins) {
            break;
        }
    }
    Ok(points)
}

impl Point {
    fn reuse_wins(&self) -> bool {
        self.all_hit_s < self.exact_s
    }

    fn gain_s(&self) -> f64 {
        self.exact_s - self.all_hit_s
    }
}

/// The first length from which reuse wins and keeps winning, between measured points by a straight line; `None` if it
/// never does.
pub(crate) fn break_even(points: &[Point]) -> Option<usize> {
    let losing = points.iter().rposition(|p| !p.reuse_wins());
    let Some(last) = losing else { return points.first().map(|p| p.context) };
    let (before, after) = (points[last], *points.get(last + 1)?);
    let share = -before.gain_s() / (after.gain_s() - before.gain_s());
    Some(before.context + ((after.context - before.context) as f64 * share).ceil() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(context: usize, exact_s: f64, all_hit_s: f64) -> Point {
        Point { context, exact_s, all_hit_s }
    }

    #[test]
    fn the_crossing_is_interpolated() {
        let points = [point(512, 1.0, 2.0), point(1024, 3.0, 2.0), point(2048, 6.0, 2.0)];
        assert_eq!(break_even(&points), Some(768));
    }

    #[test]
    fn the_last_crossing_counts() {
        let noisy = [point(512, 2.1, 2.0), point(1024, 1.5, 2.0), point(2048, 2.5, 2.0)];
        assert_eq!(break_even(&noisy), Some(1536));
    }

    #[test]
    fn always_and_never_are_told_apart() {
        assert_eq!(break_even(&[point(320, 2.0, 1.0)]), Some(320));
        assert_eq!(break_even(&[point(320, 1.0, 2.0)]), None);
        assert_eq!(break_even(&[]), None);
    }
}
