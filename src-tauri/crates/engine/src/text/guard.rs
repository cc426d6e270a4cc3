//! Keeps what people write apart from what the template writes.
//!
//! Before rendering, every control token spelled in a content gets a marker after its first character, and every
//! content a marker at its beginning. Markers are noncharacters that stand in none of the contents; they go through any
//! template untouched and are taken out again after rendering.

use super::TextCodec;
use super::tokenizer::{Added, Segment};
use crate::{EngineError, Message, Role};

/// Noncharacters: never part of a text that one program hands to another.
const NONCHARACTERS: std::ops::RangeInclusive<char> = '\u{FDD0}'..='\u{FDEF}';

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Markers {
    /// Inside a spelled control token.
    literal: char,
    /// Where a content begins.
    start: char,
    /// Where the reply to be continued ends.
    end: char,
}

/// Messages ready to render.
#[derive(Debug)]
pub(super) struct Guarded {
    pub(super) messages: Vec<Message>,
    pub(super) add_generation_prompt: bool,
    markers: Markers,
    /// Blanks after the last visible character of the reply to be continued.
    tail: String,
    /// Blanks before the first visible character of each content.
    leads: Vec<String>,
}

/// A rendered prompt without markers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) text: String,
    pub(super) segments: Vec<Segment>,
    pub(super) message_starts: Vec<usize>,
}

/// Whether the reply goes on behind what its message holds. Nothing written yet is the same as a new reply.
pub(crate) fn goes_on(messages: &[Message], continue_reply: bool) -> bool {
    continue_reply && messages.last().is_some_and(|last| !last.content.trim().is_empty())
}

pub(super) fn guard(messages: &[Message], continue_reply: bool, codec: &TextCodec) -> Result<Guarded, EngineError> {
    let Some(last) = messages.last() else {
        return Err(EngineError::InvalidRequest("a chat without messages".into()));
    };
    match (continue_reply, last.role) {
        (true, Role::Assistant) | (false, Role::User) => {}
        (true, _) => return Err(EngineError::InvalidRequest("only the assistant's message can be continued".into())),
        (false, _) => return Err(EngineError::InvalidRequest("the last message must be the user's".into())),
    }
    let unused = |c: &char| messages.iter().all(|m| !m.content.contains(*c));
    let mut free = NONCHARACTERS.filter(unused);
    let (Some(literal), Some(start), Some(end)) = (free.next(), free.next(), free.next()) else {
        return Err(EngineError::InvalidRequest("the text uses every Unicode noncharacter".into()));
    };
    let markers = Markers { literal, start, end };

    let continues = goes_on(messages, continue_reply);
    let kept = if continue_reply && !continues { &messages[..messages.len() - 1] } else { messages };
    let mut guarded: Vec<Message> = kept
        .iter()
        .map(|m| Message { role: m.role, content: guard_content(&m.content, m.role, markers, codec) })
        .collect();
    let mut tail = String::new();
    if continues && let Some(reply) = guarded.last_mut() {
        let visible = reply.content.trim_end().len();
        tail = reply.content.split_off(visible);
        reply.content.push(end);
    }
    let lead = |m: &Message| m.content[..m.content.len() - m.content.trim_start().len()].to_string();
    let leads = kept.iter().map(lead).collect();
    Ok(Guarded { messages: guarded, add_generation_prompt: !continues, markers, tail, leads })
}

fn guard_content(content: &str, role: Role, markers: Markers, codec: &TextCodec) -> String {
    // Templates look into the assistant's text for the marks of thinking, which are not special; it is the model's own.
    let forbidden = |a: &&Added| a.control && (a.token.special || role != Role::Assistant);
    let mut guarded = String::with_capacity(content.len() + 8);
    let visible = content.len() - content.trim_start().len();
    for (at, c) in content.char_indices() {
        if at == visible {
            guarded.push(markers.start);
        }
        guarded.push(c);
        if codec.added_at(content, at).any(|a| forbidden(&a)) {
            guarded.push(markers.literal);
        }
    }
    if visible == content.len() {
        guarded.push(markers.start);
    }
    guarded
}

/// Takes the markers out, cuts the end of a reply to be continued, and finds the control tokens of the template.
pub(super) fn unguard(rendered: &str, guarded: &Guarded, codec: &TextCodec) -> Found {
    let Markers { literal, start, end } = guarded.markers;
    let mut cut = String::new();
    let rendered = match rendered.find(end) {
        Some(at) => {
            cut.push_str(&rendered[..at]);
            cut.push_str(&guarded.tail);
            cut.as_str()
        }
        None => rendered,
    };

    let mut found =
        Found { text: String::with_capacity(rendered.len()), segments: Vec::new(), message_starts: Vec::new() };
    let mut segment_begin = 0;
    let mut at = 0;
    while let Some(c) = rendered[at..].chars().next() {
        if c == start {
            // Blanks that the template kept belong to the content.
            let lead = guarded.leads.get(found.message_starts.len()).map_or("", String::as_str);
            let kept = if found.text.ends_with(lead) { lead.len() } else { 0 };
            found.message_starts.push(found.text.len() - kept);
            at += c.len_utf8();
            continue;
        }
        if c == literal {
            at += c.len_utf8();
            continue;
        }
        let Some(added) = codec.added_at(rendered, at).find(|a| stands_alone(a, rendered, at)) else {
            found.text.push(c);
            at += c.len_utf8();
            continue;
        };
        let mut begin = found.text.len();
        if added.token.lstrip {
            begin = found.text.trim_end().len().max(segment_begin);
        }
        push_text(&mut found.segments, segment_begin, begin);
        found.text.push_str(&added.token.content);
        at += added.token.content.len();
        if added.token.rstrip {
            let blanks = rendered[at..].len() - rendered[at..].trim_start().len();
            found.text.push_str(&rendered[at..at + blanks]);
            at += blanks;
        }
        found.segments.push(Segment { range: begin..found.text.len(), id: Some(added.id) });
        segment_begin = found.text.len();
    }
    push_text(&mut found.segments, segment_begin, found.text.len());
    found
}

fn push_text(segments: &mut Vec<Segment>, begin: usize, end: usize) {
    if begin < end {
        segments.push(Segment { range: begin..end, id: None });
    }
}

fn stands_alone(added: &Added, text: &str, at: usize) -> bool {
    if !added.token.single_word {
        return true;
    }
    let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let end = at + added.token.content.len();
    !word(text[..at].chars().next_back()) && !word(text[end..].chars().next())
}
