//! Text that nobody wrote, for prompts of any length: real words, so that a tokenizer treats them as usual.

use std::fmt::Write;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SUBJECTS: [&str; 12] = [
    "the harbour",
    "a printer",
    "the archive",
    "our compiler",
    "the north wind",
    "a clerk",
    "the index",
    "every ledger",
    "the orchard",
    "a small engine",
    "the scheduler",
    "an old map",
];
const VERBS: [&str; 12] = [
    "keeps",
    "returns",
    "measures",
    "forgets",
    "sorts",
    "carries",
    "repairs",
    "describes",
    "compares",
    "opens",
    "counts",
    "follows",
];
const OBJECTS: [&str; 12] = [
    "the missing page",
    "nine lamps",
    "a narrow bridge",
    "the first token",
    "an empty buffer",
    "the tide table",
    "a copper wire",
    "the second draft",
    "three letters",
    "a longer route",
    "the cache line",
    "a quiet street",
];

/// At least `bytes` bytes of sentences, the same for the same seed.
pub(crate) fn sentences(bytes: usize, seed: u64) -> String {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut text = String::with_capacity(bytes + 64);
    while text.len() < bytes {
        let mut pick = |words: &[&'static str]| words[rng.random_range(0..words.len())];
        let sentence = format!("{} {} {}", pick(&SUBJECTS), pick(&VERBS), pick(&OBJECTS));
        let number = rng.random_range(2..500);
        // Writing to a string cannot fail.
        let _ = write!(text, "On day {number}, {sentence}. ");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_text() {
        assert_eq!(sentences(1000, 1), sentences(1000, 1));
        assert_ne!(sentences(1000, 1), sentences(1000, 2));
        assert!((1000..1100).contains(&sentences(1000, 1).len()));
    }
}
