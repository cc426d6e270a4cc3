//! What a benchmark varies, parsed once.

use std::fmt;
use std::str::FromStr;

use mac_attention::{Backoff, Forced, Paper, Pattern, Policy};
use reprise_engine::Attention;

/// One row of the attention benchmark.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Case {
    /// The whole KV is read, nothing is matched.
    Exact,
    /// Every head reuses.
    AllHit,
    /// Every head searches and none reuses.
    NoHit,
    /// Each head reuses with this probability, independently of the others.
    Hit(f32),
}

impl Case {
    /// The policy of one layer in one round; `seed` decides which heads hit, `max_pause` is for `no_hit` alone: paused
    /// searches would make dictated hits cheaper than real ones.
    pub(crate) fn policy(self, lag_tokens: usize, max_pause: u32, seed: u64) -> Policy {
        let (pattern, backoff) = match self {
            Self::Exact => return Policy::Exact,
            Self::AllHit => (Pattern::All, Backoff::Off),
            Self::NoHit if max_pause > 0 => (Pattern::None, Backoff::On { max_pause }),
            Self::NoHit => (Pattern::None, Backoff::Off),
            Self::Hit(rate) => (Pattern::Random { rate, seed }, Backoff::Off),
        };
        Policy::Forced(Forced { pattern, lag_tokens, backoff })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.write_str("exact"),
            Self::AllHit => f.write_str("all_hit"),
            Self::NoHit => f.write_str("no_hit"),
            Self::Hit(rate) => write!(f, "hit_{rate}"),
        }
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "exact" => Ok(Self::Exact),
            "all_hit" => Ok(Self::AllHit),
            "no_hit" => Ok(Self::NoHit),
            _ => text
                .strip_prefix("hit_")
                .and_then(rate)
                .map(Self::Hit)
                .ok_or_else(|| "exact, all_hit, no_hit or hit_RATE with a rate from 0 to 1".to_owned()),
        }
    }
}

/// How the steps of a decode benchmark attend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum DecodeAttentionMode {
    /// The whole KV is read.
    Exact,
    /// Natural matches under the default rule.
    Mac,
    /// Dictated hits at this rate.
    Forced(f32),
}

impl DecodeAttentionMode {
    /// For the executor, which gives each layer its own stream of hits.
    pub(crate) fn attention(self) -> Attention {
        let pattern = match self {
            Self::Exact => return Attention::Exact,
            Self::Mac => return Attention::Mac(Paper::default()),
            Self::Forced(rate) if rate >= 1.0 => Pattern::All,
            Self::Forced(rate) if rate <= 0.0 => Pattern::None,
            Self::Forced(rate) => Pattern::Random { rate, seed: 0 },
        };
        // The search is paid for at every step, as it is while heads hit.
        Attention::Forced(Forced { pattern, lag_tokens: FORCED_LAG, backoff: Backoff::Off })
    }
}

/// Distance of dictated hits in a decode benchmark, in tokens.
const FORCED_LAG: usize = 64;

impl fmt::Display for DecodeAttentionMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.write_str("exact"),
            Self::Mac => f.write_str("mac"),
            Self::Forced(rate) => write!(f, "forced:{rate}"),
        }
    }
}

impl FromStr for DecodeAttentionMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "exact" => Ok(Self::Exact),
            "mac" => Ok(Self::Mac),
            _ => text
                .strip_prefix("forced:")
                .and_then(rate)
                .map(Self::Forced)
                .ok_or_else(|| "exact, mac or forced:RATE with a rate from 0 to 1".to_owned()),
        }
    }
}

fn rate(text: &str) -> Option<f32> {
    text.parse().ok().filter(|rate| (0.0..=1.0).contains(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_round_trip() {
        for name in ["exact", "all_hit", "no_hit", "hit_0.95", "hit_0.5"] {
            assert_eq!(name.parse::<Case>().map(|c| c.to_string()), Ok(name.to_owned()));
        }
        for name in ["exact", "mac", "forced:0.9", "forced:1"] {
            assert_eq!(name.parse::<DecodeAttentionMode>().map(|c| c.to_string()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn rates_outside_a_share_are_refused() {
        for name in ["hit_1.5", "hit_NaN", "hit_", "hit", "all", ""] {
            assert!(name.parse::<Case>().is_err(), "{name:?} must be refused");
        }
        assert!("forced:-1".parse::<DecodeAttentionMode>().is_err());
    }
}
