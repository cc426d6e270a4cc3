//! A reply's tokens to text, never half a character.

use tokenizers::tokenizer::DecodeStream;
use tokenizers::{DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};

use super::TextCodec;
use crate::EngineError;

type Stream<'a> =
    DecodeStream<'a, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// Decodes one reply.
pub struct TextStream<'a> {
    stream: Stream<'a>,
}

impl std::fmt::Debug for TextStream<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TextStream")
    }
}

impl<'a> TextStream<'a> {
    pub(super) fn new(codec: &'a TextCodec) -> Self {
        Self { stream: codec.tokenizer().decode_stream(true) }
    }

    /// The text that became complete with this token; empty while a character is in pieces.
    pub fn push(&mut self, id: u32) -> Result<String, EngineError> {
        let text = self.stream.step(id).map_err(|e| EngineError::Tokenizer(e.to_string()))?;
        Ok(text.unwrap_or_default())
    }
}
