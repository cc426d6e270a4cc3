//! A reply's tokens to text, never half a character.

use tokenizers::Tokenizer;

use super::TextCodec;
use crate::EngineError;

/// Decodes one reply.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The tokens whose text was given last, then those whose text is not complete.
    ids: Vec<u32>,
    /// How many of `ids` were given.
    given: usize,
    /// Their text by itself: what comes new is what the text of all `ids` has behind it, as blanks and characters in pieces
    /// depend on what stands before.
    prefix: String,
}

impl std::fmt::Debug for TextStream<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TextStream")
    }
}

/// Last tokens of a text, to go on from: one, or the pieces of its last character.
const MOST_BEFORE: usize = 8;
/// Stands for bytes that are no character, or not one yet.
const BROKEN: char = char::REPLACEMENT_CHARACTER;
/// So many at the end may still become a character, which has four bytes at most.
const MOST_WAITING: usize = 3;

impl<'a> TextStream<'a> {
    pub(super) fn new(codec: &'a TextCodec) -> Self {
        Self { tokenizer: codec.tokenizer(), ids: Vec::new(), given: 0, prefix: String::new() }
    }

    /// A text that begins behind `before`.
    pub(super) fn after(codec: &'a TextCodec, before: &[u32]) -> Result<Self, EngineError> {
        let stream = Self::new(codec);
        for count in 1..=before.len().min(MOST_BEFORE) {
            let last = &before[before.len() - count..];
            let text = stream.decode(last)?;
            if !text.contains(BROKEN) {
                return Ok(Self { ids: last.to_vec(), given: count, prefix: text, ..stream });
            }
        }
        Ok(stream)
    }

    fn decode(&self, ids: &[u32]) -> Result<String, EngineError> {
        self.tokenizer.decode(ids, true).map_err(|e| EngineError::Tokenizer(e.to_string()))
    }

    /// The text that became complete with this token; empty while a character is in pieces.
    pub fn push(&mut self, id: u32) -> Result<String, EngineError> {
        self.ids.push(id);
        let whole = self.decode(&self.ids)?;
        let text = match whole.strip_prefix(self.prefix.as_str()) {
            Some(text) => text.to_string(),
            // Bytes that never become a character spoil those before them in the decoders of `SentencePiece`.
            None => self.decode(&self.ids[self.given..])?,
        };
        let waiting = text.chars().rev().take_while(|c| *c == BROKEN).count();
        if text.is_empty() || (1..=MOST_WAITING).contains(&waiting) {
            return Ok(String::new());
        }
        self.ids.drain(..self.given);
        self.given = self.ids.len();
        self.prefix = self.decode(&self.ids)?;
        Ok(text)
    }
}
