//! Shapes by name or by numbers.

use std::str::FromStr;

use mac_attention::AttentionShape;
use reprise_engine::model::{ModelSpec, SHAPES, named_shape};

/// Far more than models have, and few enough that no size computed from them overflows.
const MOST_HEADS: usize = 4096;

/// Heads of an attention benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttentionChoice(pub(crate) AttentionShape);

impl FromStr for AttentionChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sizes = match named_shape(text) {
            Some(spec) => [spec.num_q_heads, spec.num_kv_heads, spec.head_dim],
            None => numbers(text).ok_or_else(|| {
                format!("query heads/KV heads/head dimension, for example 32/8/128, or one of {}", SHAPES.join(", "))
            })?,
        };
        if sizes[0] > MOST_HEADS {
            return Err(format!("at most {MOST_HEADS} query heads"));
        }
        AttentionShape::new(sizes[0], sizes[1], sizes[2]).map(Self).map_err(|e| e.to_string())
    }
}

fn numbers(text: &str) -> Option<[usize; 3]> {
    let parts: Vec<usize> = text.split('/').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    parts.try_into().ok()
}

/// A named model shape.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModelShape {
    /// As asked.
    pub(crate) name: String,
    /// Its sizes.
    pub(crate) spec: ModelSpec,
}

impl FromStr for ModelShape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match named_shape(text) {
            Some(spec) => Ok(Self { name: text.to_owned(), spec }),
            None => Err(format!("one of {}", SHAPES.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_come_by_number_and_by_name() {
        let demo: AttentionChoice = "demo".parse().unwrap();
        assert_eq!(demo, "8/2/64".parse().unwrap());
        let eight_b: AttentionChoice = "llama-3.1-8b".parse().unwrap();
        assert_eq!(eight_b, "32/8/128".parse().unwrap());
    }

    #[test]
    fn shapes_without_a_kernel_are_refused_with_what_is_supported() {
        let refusal = "32/8/80".parse::<AttentionChoice>().unwrap_err();
        assert!(refusal.contains("64, 96, 128"), "{refusal}");
        for wrong in ["", "32/8", "32/8/128/1", "gpt-5", "8/0/64", "8192/8192/128"] {
            assert!(wrong.parse::<AttentionChoice>().is_err(), "{wrong:?} must be refused");
        }
    }
}
