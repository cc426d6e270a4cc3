//! Tokenizer, chat template, streaming text.
//!
//! A chat becomes token ids in four steps: guard the contents (so that a control token spelled in one stays text),
//! render the template, find the control tokens that the template itself wrote, encode what lies between. The ids are
//! those of a plain encode of the rendered prompt, except where a content spells a control token.

mod blocks;
mod clock;
mod gguf;
mod guard;
mod hf;
mod stream;
mod template;
mod tokenizer;

pub(crate) use guard::goes_on;
pub use stream::TextStream;
pub use template::ChatTemplate;
pub use tokenizer::{Encoded, TextCodec};

use std::collections::BTreeSet;

use crate::engine::Prompt;
use crate::weights::GgufFile;
use crate::{EngineError, Message};

#[cfg(test)]
pub(crate) mod tests;

/// Everything between text and token ids.
#[derive(Debug)]
pub struct TextModel {
    codec: TextCodec,
    template: Option<ChatTemplate>,
    stops: BTreeSet<u32>,
}

/// Ends of a turn by the names that the served families use; eos settings come on top.
const TURN_ENDS: [&str; 6] =
    ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>"];

impl TextModel {
    /// From the metadata of a GGUF file.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, EngineError> {
        let codec = TextCodec::new(gguf::tokenizer(file)?)?;
        let template = match file.text("tokenizer.chat_template") {
            Some(source) => {
                let token = |key| gguf::token_text(file, key).unwrap_or_default();
                Some(ChatTemplate::new(
                    source.to_string(),
                    token("tokenizer.ggml.bos_token_id"),
                    token("tokenizer.ggml.eos_token_id"),
                )?)
            }
            None => None,
        };
        let stops = gguf::stop_ids(file);
        Ok(Self::assemble(codec, template, stops))
    }

    /// From `tokenizer.json` and its companions in a model folder.
    pub fn from_folder(folder: &std::path::Path) -> Result<Self, EngineError> {
        let codec = TextCodec::new(hf::tokenizer(folder)?)?;
        let settings = hf::Settings::read(folder)?;
        let template = match settings.template {
            Some(source) => Some(ChatTemplate::new(source, settings.bos_token, settings.eos_token.clone())?),
            None => None,
        };
        let mut stops = settings.stop_ids;
        stops.extend(codec.id(&settings.eos_token));
        Ok(Self::assemble(codec, template, stops))
    }

    fn assemble(codec: TextCodec, template: Option<ChatTemplate>, mut stops: BTreeSet<u32>) -> Self {
        stops.extend(TURN_ENDS.iter().filter_map(|name| codec.control_id(name)));
        Self { codec, template, stops }
    }

    /// Whether a token ends the turn.
    pub fn is_stop(&self, id: u32) -> bool {
        self.stops.contains(&id)
    }

    /// Ids that end the turn.
    pub fn stops(&self) -> impl Iterator<Item = u32> + '_ {
        self.stops.iter().copied()
    }

    /// The tokenizer.
    pub fn codec(&self) -> &TextCodec {
        &self.codec
    }

    /// Exact tokens of a text alone, control tokens in it taken as text.
    pub fn count(&self, text: &str) -> Result<usize, EngineError> {
        Ok(self.codec.encode_text(text)?.ids.len())
    }

    /// Renders and encodes a chat.
    pub fn prepare(&self, messages: &[Message], continue_reply: bool) -> Result<Prompt, EngineError> {
        let template = self.template.as_ref().ok_or_else(|| EngineError::Template("the model brings none".into()))?;
        let guarded = guard::guard(messages, continue_reply, &self.codec)?;
        let rendered = template.render(&guarded)?;
        let found = guard::unguard(&rendered, &guarded, &self.codec);
        let encoded = self.codec.encode_segments(&found.text, &found.segments)?;
        Ok(Prompt { ids: encoded.ids, spans: encoded.spans, text: found.text, message_starts: found.message_starts })
    }

    /// Decodes a reply token by token.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(&self.codec)
    }

    /// As [`Self::stream`], for a text that goes on where the tokens `before` end: its first blank is part of it.
    pub fn stream_after(&self, before: &[u32]) -> Result<TextStream<'_>, EngineError> {
        TextStream::after(&self.codec, before)
    }
}
