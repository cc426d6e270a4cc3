//! Long texts in blocks: encoded side by side, and remembered, so that counting again after a keystroke costs the last
//! block alone.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::tokenizer::Encoded;
use crate::EngineError;

/// Bytes of text per block: small enough to spread, large enough that bookkeeping vanishes.
const BLOCK_BYTES: usize = 16 << 10;
/// Tokens remembered: 24 B each, so 48 MB; a 100K-token chat fills a twentieth.
const CACHED_TOKENS: usize = 2 << 20;

#[derive(Debug, PartialEq, Eq, Hash, Clone, Copy)]
struct Key {
    bytes: usize,
    hashes: [u64; 2],
}

impl Key {
    fn of(text: &str) -> Self {
        let hash = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            salt.hash(&mut hasher);
            text.hash(&mut hasher);
            hasher.finish()
        };
        Self { bytes: text.len(), hashes: [hash(0), hash(1)] }
    }
}

#[derive(Debug, Default)]
struct Remembered {
    blocks: HashMap<Key, Arc<Encoded>>,
    order: VecDeque<Key>,
    tokens: usize,
}

/// Blocks by their content.
#[derive(Debug, Default)]
pub(super) struct BlockCache(Mutex<Remembered>);

impl BlockCache {
    /// Appends the encoding of `text`, whose spans begin at `base`.
    pub(super) fn encode(
        &self,
        text: &str,
        base: usize,
        out: &mut Encoded,
        encode: &(dyn Fn(&str) -> Result<Encoded, EngineError> + Sync),
    ) -> Result<(), EngineError> {
        let blocks = blocks(text);
        if let [only] = blocks.as_slice()
            && only.len() < 256
        {
            out.append_shifted(&encode(text)?, base);
            return Ok(());
        }
        let keys: Vec<Key> = blocks.iter().map(|block| Key::of(&text[block.clone()])).collect();
        let mut found: Vec<Option<Arc<Encoded>>> = {
            let remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            keys.iter().map(|key| remembered.blocks.get(key).cloned()).collect()
        };
        let missing: Vec<usize> = (0..blocks.len()).filter(|i| found[*i].is_none()).collect();
        for (index, encoded) in encode_side_by_side(text, &blocks, &missing, encode)? {
            let encoded = Arc::new(encoded);
            self.remember(keys[index], &encoded);
            found[index] = Some(encoded);
        }
        for (block, encoded) in blocks.iter().zip(found.into_iter().flatten()) {
            out.append_shifted(&encoded, base + block.start);
        }
        Ok(())
    }

    fn remember(&self, key: Key, encoded: &Arc<Encoded>) {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.blocks.insert(key, Arc::clone(encoded)).is_none() {
            remembered.order.push_back(key);
            remembered.tokens += encoded.ids.len();
        }
        while remembered.tokens > CACHED_TOKENS
            && let Some(oldest) = remembered.order.pop_front()
        {
            if let Some(dropped) = remembered.blocks.remove(&oldest) {
                remembered.tokens -= dropped.ids.len();
            }
        }
    }
}

fn encode_side_by_side(
    text: &str,
    blocks: &[Range<usize>],
    missing: &[usize],
    encode: &(dyn Fn(&str) -> Result<Encoded, EngineError> + Sync),
) -> Result<Vec<(usize, Encoded)>, EngineError> {
    let one = |index: &usize| Ok((*index, encode(&text[blocks[*index].clone()])?));
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(missing.len());
    if threads <= 1 {
        return missing.iter().map(one).collect();
    }
    let share = missing.len().div_ceil(threads);
    std::thread::scope(|scope| {
        let workers: Vec<_> = missing
            .chunks(share)
            .map(|indices| scope.spawn(move || indices.iter().map(one).collect::<Result<Vec<_>, _>>()))
            .collect();
        let mut all = Vec::with_capacity(missing.len());
        for worker in workers {
            let part = worker.join().map_err(|_| EngineError::Internal("a tokenizer thread panicked".into()))?;
            all.extend(part?);
        }
        Ok(all)
    })
}

/// Cuts a text at the first safe place after every [`BLOCK_BYTES`].
fn blocks(text: &str) -> Vec<Range<usize>> {
    let mut blocks = Vec::with_capacity(text.len() / BLOCK_BYTES + 1);
    let mut begin = 0;
    while text.len() - begin > BLOCK_BYTES {
        let Some(cut) = (begin + BLOCK_BYTES..text.len()).find(|at| is_cut(text, *at)) else { break };
        blocks.push(begin..cut);
        begin = cut;
    }
    if begin < text.len() {
        blocks.push(begin..text.len());
    }
    blocks
}

/// All safe places.
pub(super) fn cuts(text: &str) -> impl Iterator<Item = usize> + '_ {
    (0..text.len()).filter(|at| is_cut(text, *at))
}

/// Between a single newline after something visible and a letter or digit no pre-tokenizer in use joins anything.
fn is_cut(text: &str, at: usize) -> bool {
    if at == 0 || text.as_bytes()[at - 1] != b'\n' {
        return false;
    }
    let visible = |c: char| !c.is_whitespace() && !c.is_control();
    text[..at - 1].chars().next_back().is_some_and(visible) && text[at..].starts_with(char::is_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_the_text_in_order() {
        let text = "line of text\n".repeat(10_000) + "\n\n   end";
        let blocks = blocks(&text);
        assert!(blocks.len() > 5);
        assert_eq!(blocks.iter().map(ExactSizeIterator::len).sum::<usize>(), text.len());
        assert!(blocks.windows(2).all(|w| w[0].end == w[1].start));
        assert_eq!(super::blocks(&"x".repeat(100_000)).len(), 1);
        for line in ["Строка текста.\n", "文の行。\n", "Zeile é\n"] {
            let text = line.repeat(10_000);
            let blocks = super::blocks(&text);
            assert!(blocks.len() > 5, "{line:?}: {} blocks", blocks.len());
            assert!(blocks.iter().all(|block| text[block.clone()].starts_with(line)));
        }
        assert!(super::blocks("").is_empty());
    }

    #[test]
    fn a_known_block_is_not_encoded_again() {
        let cache = BlockCache::default();
        let calls = std::sync::atomic::AtomicUsize::new(0);
        let encode = |text: &str| {
            calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok(Encoded { ids: vec![text.len() as u32], spans: vec![(0, text.len())] })
        };
        let text = "line of text\n".repeat(5_000);
        let mut first = Encoded::default();
        cache.encode(&text, 10, &mut first, &encode).unwrap();
        let once = calls.load(std::sync::atomic::Ordering::Relaxed);
        let mut second = Encoded::default();
        cache.encode(&(text.clone() + "x"), 10, &mut second, &encode).unwrap();
        assert_eq!(calls.load(std::sync::atomic::Ordering::Relaxed), once + 1);
        assert_eq!(first.spans[0].0, 10);
        assert_eq!(second.spans.last().unwrap().1, 10 + text.len() + 1);
    }
}
