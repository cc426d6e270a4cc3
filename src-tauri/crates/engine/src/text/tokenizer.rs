//! Text to ids and spans, with a cache for the long first message.

use std::ops::Range;

use tokenizers::tokenizer::{Model, NormalizedString, Normalizer, OffsetType, PreTokenizedString, PreTokenizer, Token};
use tokenizers::{AddedToken, NormalizerWrapper, Tokenizer};

use super::blocks::BlockCache;
use crate::EngineError;

/// Ids and the byte span of each in the text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Byte spans.
    pub spans: Vec<(usize, usize)>,
}

impl Encoded {
    pub(super) fn push(&mut self, id: u32, span: (usize, usize)) {
        self.ids.push(id);
        self.spans.push(span);
    }

    pub(super) fn append_shifted(&mut self, other: &Self, by: usize) {
        self.ids.extend_from_slice(&other.ids);
        self.spans.extend(other.spans.iter().map(|(begin, end)| (begin + by, end + by)));
    }
}

/// A stretch of text: a control token that the template wrote, or text to encode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) range: Range<usize>,
    pub(super) id: Option<u32>,
}

/// A token that stands outside the merges.
#[derive(Debug, Clone)]
pub(super) struct Added {
    pub(super) id: u32,
    pub(super) token: AddedToken,
    /// Steers the model (or looks as if it did): a content may not spell it.
    pub(super) control: bool,
}

/// A tokenizer and what is known about it.
pub struct TextCodec {
    tokenizer: Tokenizer,
    /// Added tokens by first byte, longest first: every character of a prompt asks.
    added: Box<[Vec<Added>; 256]>,
    /// Stretches may be encoded apart from each other, so blocks can be cached and encoded side by side.
    separable: bool,
    cache: BlockCache,
}

impl std::fmt::Debug for TextCodec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextCodec").field("separable", &self.separable).finish_non_exhaustive()
    }
}

fn failed(error: tokenizers::Error) -> EngineError {
    EngineError::Tokenizer(error.to_string())
}

impl TextCodec {
    /// Learns which tokens are control tokens, and whether blocks can be encoded on their own.
    pub fn new(tokenizer: Tokenizer) -> Result<Self, EngineError> {
        let mut added: Box<[Vec<Added>; 256]> = Box::new(std::array::from_fn(|_| Vec::new()));
        for (id, token) in tokenizer.get_added_tokens_decoder() {
            let text = token.content.as_str();
            let bracketed =
                (text.starts_with('<') && text.ends_with('>')) || (text.starts_with('[') && text.ends_with(']'));
            if let Some(first) = text.bytes().next() {
                let control = token.special || bracketed;
                added[usize::from(first)].push(Added { id, token, control });
            }
        }
        for list in added.iter_mut() {
            list.sort_by_key(|a| (std::cmp::Reverse(a.token.content.len()), a.id));
        }
        let mut codec = Self { tokenizer, added, separable: false, cache: BlockCache::default() };
        codec.separable = codec.blocks_are_separable()?;
        Ok(codec)
    }

    pub(super) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// The id of a control token.
    pub fn control_id(&self, token: &str) -> Option<u32> {
        let list = &self.added[usize::from(*token.as_bytes().first()?)];
        list.iter().find(|a| a.control && a.token.content == token).map(|a| a.id)
    }

    /// Added tokens that begin at `at`, longest first.
    pub(super) fn added_at<'a>(&'a self, text: &'a str, at: usize) -> impl Iterator<Item = &'a Added> {
        let list = text.as_bytes().get(at).map(|first| &self.added[usize::from(*first)]);
        list.into_iter().flatten().filter(move |a| text.as_bytes()[at..].starts_with(a.token.content.as_bytes()))
    }

    /// Encodes a text in which nothing is a control token.
    pub fn encode_text(&self, text: &str) -> Result<Encoded, EngineError> {
        self.encode_segments(text, &[Segment { range: 0..text.len(), id: None }])
    }

    /// Encodes segments that cover `text` in order.
    pub(super) fn encode_segments(&self, text: &str, segments: &[Segment]) -> Result<Encoded, EngineError> {
        if !self.separable {
            return self.encode_joint(text, segments);
        }
        let mut encoded = Encoded::default();
        for Segment { range, id } in segments {
            match id {
                Some(id) => encoded.push(*id, (range.start, range.end)),
                None => {
                    self.cache.encode(&text[range.clone()], range.start, &mut encoded, &|t| self.encode_plain(t))?;
                }
            }
        }
        Ok(encoded)
    }

    /// One text, no control tokens, no cache.
    pub(super) fn encode_plain(&self, text: &str) -> Result<Encoded, EngineError> {
        self.encode_joint(text, &[Segment { range: 0..text.len(), id: None }])
    }

    /// All segments in one pass: what a tokenizer does that treats the beginning of the text apart.
    fn encode_joint(&self, text: &str, segments: &[Segment]) -> Result<Encoded, EngineError> {
        if text.is_empty() {
            return Ok(Encoded::default());
        }
        let mut pieces = PreTokenizedString::from(text);
        if segments.iter().any(|s| s.id.is_some()) {
            pieces.split(|_, whole| split_at(&whole, segments)).map_err(failed)?;
        }
        if let Some(normalizer) = self.tokenizer.get_normalizer() {
            // Composing changes nothing in ASCII, and aligning costs more than the rest of the encode.
            if !(matches!(normalizer, NormalizerWrapper::NFC(_)) && text.is_ascii()) {
                pieces.normalize(|s| normalizer.normalize(s)).map_err(failed)?;
            }
        }
        if let Some(pre_tokenizer) = self.tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(failed)?;
        }
        self.tokenizer.get_model().tokenize_in_pretokenized(&mut pieces, None).map_err(failed)?;
        let encoding = pieces.into_encoding(None, 0, OffsetType::Byte).map_err(failed)?;
        Ok(Encoded { ids: encoding.get_ids().to_vec(), spans: encoding.get_offsets().to_vec() })
    }

    /// Tries it: a text cut at every place where [`super::blocks`] would cut must give the ids of the whole.
    fn blocks_are_separable(&self) -> Result<bool, EngineError> {
        const SAMPLE: &str = "Title\nHello world;\nnext line 123\nfn foo() {\nbar(x);\n\n    baz\nqux's\n'tis 1.5\nÄrger, wo?\n9 \
                              lives\nA\n- item\n日本\nx\n«Слово»\nЕщё слово\nи。\n私\n";
        let whole = self.encode_plain(SAMPLE)?.ids;
        for cut in super::blocks::cuts(SAMPLE) {
            let mut parts = self.encode_plain(&SAMPLE[..cut])?.ids;
            parts.extend(self.encode_plain(&SAMPLE[cut..])?.ids);
            if parts != whole {
                return Ok(false);
            }
        }
        // A prefix blank that each stretch would get anew.
        let joined = self.encode_plain("x\ny")?;
        Ok(joined.ids.len() > 1)
    }
}

fn split_at(
    whole: &NormalizedString,
    segments: &[Segment],
) -> tokenizers::Result<Vec<(NormalizedString, Option<Vec<Token>>)>> {
    let mut parts = Vec::with_capacity(segments.len());
    for Segment { range, id } in segments {
        let slice = whole
            .slice(tokenizers::normalizer::Range::Original(range.clone()))
            .ok_or_else(|| tokenizers::Error::from("a segment outside its text"))?;
        let tokens = id.map(|id| vec![Token::new(id, slice.get().to_string(), (0, slice.get().len()))]);
        parts.push((slice, tokens));
    }
    Ok(parts)
}
